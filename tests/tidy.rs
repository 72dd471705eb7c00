//! What the compiler does not hold: where `unsafe` may stand, who imports whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a directory, as path relative to the project and text.
fn sources(dir: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)
            .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
            .flatten()
        {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((relative(&path), fs::read_to_string(&path).expect("a text")));
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {dir}");
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root())
        .expect("a path of the project")
        .display()
        .to_string()
}

/// The code of a line: without its comment and its strings.
fn code(line: &str) -> String {
    let mut out = String::new();
    let mut letters = line.chars().peekable();
    let mut quoted = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if quoted => {
                letters.next();
            }
            '\'' if !quoted && letters.peek() == Some(&'"') => {
                letters.next();
            }
            '"' => quoted = !quoted,
            '/' if !quoted && letters.peek() == Some(&'/') => break,
            _ if !quoted => out.push(letter),
            _ => {}
        }
    }
    out
}

/// The word stands in the code as a word of its own.
fn has_word(code: &str, word: &str) -> bool {
    let part = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].chars().next_back().is_some_and(part)
            && !code[at + word.len()..].chars().next().is_some_and(part)
    })
}

fn report(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// `unsafe_code` is denied; it is allowed again under src/sys, and in the tests in the worker, and nowhere else. Clippy
/// wants a SAFETY comment before each block.
#[test]
fn unsafe_has_one_place() {
    let allowed = [
        "src/sys/mod.rs",
        "tests/support/testworker.rs",
        "tests/tidy.rs",
    ];
    let attribute = |line: &str| has_word(line, "unsafe_code") && !line.contains("forbid(");
    let mut wrong = Vec::new();
    for (path, text) in [sources("src"), sources("tests"), sources("config")].concat() {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| attribute(line)) {
            if !allowed.contains(&path.as_str()) {
                wrong.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report("unsafe", wrong);
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    assert!(
        ["unsafe_code", "undocumented_unsafe_blocks"]
            .iter()
            .all(|lint| {
                manifest.lines().any(|line| {
                    line.strip_prefix(lint)
                        .is_some_and(|rest| rest.starts_with(" = \"deny\""))
                })
            })
    );
}

/// println! and its kin panic on a full disk or a closed pipe; in the verbs alone may something of the kind stand.
#[test]
fn nothing_prints_but_the_verbs() {
    find(
        "src",
        &["println!", "eprintln!", "print!", "eprint!", "dbg!"],
        |path| path.starts_with("src/cli/"),
    );
}

/// Tests wait for events, never for time; what polls for a condition stands in tests/support.
#[test]
fn tests_do_not_sleep() {
    let allowed = |path: &str| path.starts_with("tests/support/") || path == "tests/tidy.rs";
    find("tests", &["sleep("], allowed);
}

#[test]
fn nothing_is_left_for_later() {
    let mut found = Vec::new();
    for (path, text) in [sources("src"), sources("tests")].concat() {
        if path == "tests/tidy.rs" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if ["TODO", "FIXME", "XXX", "todo!", "unimplemented!"]
                .iter()
                .any(|word| has_word(line, word))
            {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report("left for later", found);
}

fn find(dir: &str, words: &[&str], allowed: impl Fn(&str) -> bool) {
    let mut found = Vec::new();
    for (path, text) in sources(dir).into_iter().filter(|(path, _)| !allowed(path)) {
        for (number, line) in text.lines().enumerate() {
            let code = code(line);
            if words.iter().any(|word| {
                let part = |letter: char| letter.is_alphanumeric() || letter == '_';
                code.match_indices(word)
                    .any(|(at, _)| !code[..at].chars().next_back().is_some_and(part))
            }) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report("not here", found);
}

/// What a module may import of the others, as prefixes of `crate::…` and `rotad_core`; the module of a file is its first
/// directory (or its name). Read it as an edge list: what is not here must not be. Each is above those that it imports.
const MODULES: [(&str, &[&str]); 21] = [
    ("exit_code", &[]),
    ("plan", &["rotad_core"]),
    ("config", &["rotad_core", "plan"]),
    ("import", &["config"]),
    ("observe", &["rotad_core", "plan"]),
    ("control", &["rotad_core", "exit_code", "observe", "sys"]),
    ("sys", &["rotad_core"]),
    ("event_loop", &["rotad_core", "plan", "sys"]),
    (
        "guardian",
        &["rotad_core", "exit_code", "sys", "event_loop"],
    ),
    ("saved_state", &["guardian"]),
    ("upgrade", &["observe", "sys"]),
    ("notify_socket", &["rotad_core", "plan", "sys"]),
    ("process", &["rotad_core", "plan", "sys", "event_loop"]),
    (
        "log",
        &["rotad_core", "plan", "observe", "sys", "event_loop"],
    ),
    ("watch", &["rotad_core", "plan", "sys", "event_loop"]),
    (
        "probe",
        &[
            "rotad_core",
            "plan",
            "observe",
            "sys",
            "event_loop",
            "process",
        ],
    ),
    ("listener", &["plan", "sys", "process", "probe::accept"]),
    (
        "daemon",
        &[
            "exit_code",
            "plan",
            "observe",
            "sys",
            "event_loop",
            "listener",
        ],
    ),
    (
        "runtime_dir",
        &[
            "rotad_core",
            "exit_code",
            "plan",
            "control::protocol",
            "sys",
            "event_loop::clock",
            "guardian::is_guardian",
            "process",
            "log",
        ],
    ),
    (
        "supervisor",
        &[
            "rotad_core",
            "exit_code",
            "plan",
            "observe",
            "control::pool_names",
            "control::protocol",
            "control::server",
            "sys",
            "event_loop",
            "guardian",
            "saved_state",
            "upgrade",
            "notify_socket",
            "process",
            "log",
            "watch",
            "probe",
            "listener",
            "daemon",
            "runtime_dir",
        ],
    ),
    // The verbs.
    (
        "cli",
        &[
            "exit_code",
            "config",
            "import",
            "plan",
            "control",
            "observe",
            "sys",
            "event_loop",
            "process::cgroup",
            "process::procfs",
            "daemon",
            "guardian",
            "runtime_dir",
            "supervisor",
            "upgrade",
        ],
    ),
];

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
        let room = inner.split('/').next().expect("a room");
        let rules = MODULES
            .iter()
            .find(|(name, _)| *name == room)
            .map(|(_, rules)| *rules);
        for (number, line) in text.lines().enumerate() {
            for import in imports(&code(line)) {
                let allowed = match (room, rules) {
                    // Its tests are users of it, and a crate of their own.
                    ("console", _) => import.starts_with("crate::"),
                    ("core", _) => {
                        import.starts_with("crate::") || path.starts_with("src/core/tests/")
                    }
                    // Tests in a file of their own are users as well.
                    _ if inner.ends_with("/tests") => true,
                    ("main" | "lib", None) => true,
                    (_, None) => false,
                    (_, Some(rules)) => {
                        let path = import.trim_start_matches("crate::");
                        let under =
                            |rule: &&str| path == *rule || path.starts_with(&format!("{rule}::"));
                        under(&room) || rules.iter().any(under)
                    }
                };
                if !allowed {
                    wrong.push(format!("{path}:{}: {import}", number + 1));
                }
            }
        }
    }
    report("imports that the list does not have", wrong);
}

/// `impl Supervisor` blocks in several files call each other without an import that would show it. A file's methods may
/// call those of files below; no way leads back.
#[test]
fn the_supervisor_calls_one_way() {
    let methods = |text: &str| -> String {
        let mut inside = false;
        let mut found = String::new();
        for line in text.lines() {
            inside |= line == "impl Supervisor {";
            if inside {
                found.push_str(&code(line));
                found.push('\n');
            }
            inside &= line != "}";
        }
        found
    };
    let files: Vec<(String, String)> = sources("src/supervisor")
        .into_iter()
        .map(|(path, text)| (path, methods(&text)))
        .collect();
    let word = |text: &str| -> String {
        let part = |letter: &char| letter.is_alphanumeric() || *letter == '_';
        text.chars().take_while(part).collect()
    };
    let mut defined: BTreeMap<String, &str> = BTreeMap::new();
    for (path, text) in &files {
        for line in text.lines().filter(|line| line.starts_with("    ")) {
            if let Some((before, name)) = line.split_once("fn ")
                && (before.trim().is_empty() || before.trim().starts_with("pub"))
            {
                defined.insert(word(name), path);
            }
        }
    }
    assert!(defined.len() > 50, "methods of the supervisor: {defined:?}");
    let calls = |path: &str, text: &str| -> BTreeSet<String> {
        let joined: String = text.split_whitespace().collect();
        let names = joined.split("self.").skip(1).filter_map(|after| {
            let name = word(after);
            let is_call = after[name.len()..].starts_with('(');
            is_call.then(|| defined.get(&name)).flatten()
        });
        names
            .filter(|other| **other != path)
            .map(|other| (*other).to_owned())
            .collect()
    };
    let calls = files
        .iter()
        .map(|(path, text)| (path.clone(), calls(path, text)));
    report("files that call each other", circle(calls.collect()));
}

/// Of files and the others that each needs, those that need each other.
fn circle(mut left: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    // Those that need none of the others, or are needed by none, go, until nothing does any more: what is left stands
    // in a circle, or between two of them.
    loop {
        let needed: BTreeSet<&String> = left.values().flatten().collect();
        let ends: Vec<String> = left
            .iter()
            .filter(|(path, others)| {
                !needed.contains(path) || !others.iter().any(|other| left.contains_key(other))
            })
            .map(|(path, _)| path.clone())
            .collect();
        if ends.is_empty() {
            break;
        }
        left.retain(|path, _| !ends.contains(path));
    }
    let others = |others: &BTreeSet<String>| -> Vec<String> {
        let others = others.iter().filter(|other| left.contains_key(*other));
        others.cloned().collect()
    };
    left.iter()
        .map(|(path, needed)| format!("{path} needs {:?}", others(needed)))
        .collect()
}

/// What a type is made of stands in files below its own: between the files of the engine, of the configuration and
/// of the supervisor, imports go one way. A file with an `impl` block of a type from another file extends that type, so that
/// import does not count; `the_supervisor_calls_one_way` looks at what such blocks call.
#[test]
fn files_import_one_way() {
    for (root, dir) in [
        ("src/core/", "src/core"),
        ("src/", "src/config"),
        ("src/", "src/supervisor"),
    ] {
        let modules: BTreeMap<String, Module> = sources(dir)
            .iter()
            .filter(|(path, _)| {
                let tests = ["/tests/", "/tests.rs", "/stories.rs"];
                !tests.iter().any(|part| path.contains(part))
            })
            .map(|(path, text)| (module_path(path, root), Module::of(text)))
            .collect();
        assert!(modules.len() > 20, "files below {dir}");
        let imports = |name: &String, module: &Module| {
            let paths = module.paths.iter().filter(|path| {
                let last = path.rsplit("::").next().unwrap_or_default();
                !module.extends.contains(last)
            });
            let files = paths.filter_map(|path| file_of(&modules, name, path));
            files.filter(|file| file != name).collect()
        };
        let graph: BTreeMap<String, BTreeSet<String>> = modules
            .iter()
            .map(|(name, module)| (name.clone(), imports(name, module)))
            .collect();
        let found: usize = graph.values().map(BTreeSet::len).sum();
        assert!(found > 50, "imports below {dir}: {graph:?}");
        report("files that import each other", circle(graph));
    }
}

/// `supervisor::health::ports`; empty for the root of the crate.
fn module_path(path: &str, root: &str) -> String {
    let path = path.trim_start_matches(root).trim_end_matches(".rs");
    let path = path.trim_end_matches("/mod");
    if path == "lib" {
        return String::new();
    }
    path.replace('/', "::")
}

#[derive(Debug, Default)]
struct Module {
    /// The paths in its code, `use` declarations taken apart.
    paths: BTreeSet<String>,
    /// The names that it re-exports, each with the path.
    exports: BTreeMap<String, String>,
    /// The types that it has `impl` blocks of.
    extends: BTreeSet<String>,
}

impl Module {
    fn of(text: &str) -> Self {
        let mut module = Self::default();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            // What only tests and documentation need.
            if ["#[cfg(test)]", "#[cfg(doc)]"].contains(&line.trim()) {
                match lines.next() {
                    Some("mod tests {") => break,
                    _ => continue,
                }
            }
            let mut code = code(line);
            let declared = code.trim_start();
            let is_export = declared.starts_with("pub") && declared.contains(" use ");
            if declared.starts_with("use ") || is_export {
                while !code.contains(';') {
                    let Some(next) = lines.next() else { break };
                    code.push_str(&self::code(next));
                }
                let path = code.split_once("use ").expect("a use").1;
                let mut paths = Vec::new();
                take_apart(path.trim_end().trim_end_matches(';'), &mut paths);
                if is_export {
                    let name = |path: &String| path.rsplit("::").next().map(str::to_owned);
                    let named = paths
                        .iter()
                        .filter_map(|path| Some((name(path)?, path.clone())));
                    module.exports.extend(named);
                }
                module.paths.extend(paths);
                continue;
            }
            let part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
            if let Some(of) = code.strip_prefix("impl ")
                && !code.contains(" for ")
            {
                module
                    .extends
                    .extend(of.split(|letter| !part(letter)).next().map(str::to_owned));
            }
            let paths = code
                .split(|letter| !part(letter))
                .filter(|word| word.contains("::"));
            module
                .paths
                .extend(paths.map(|path| path.trim_end_matches(':').to_owned()));
        }
        module
    }
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d` and `a::c::e`.
fn take_apart(path: &str, into: &mut Vec<String>) {
    let Some((before, inner)) = path.split_once('{') else {
        let path = path.split(" as ").next().unwrap_or_default();
        return into.push(path.trim().trim_end_matches("::self").to_owned());
    };
    let mut depth = 0;
    let inner = inner.trim_end().trim_end_matches('}');
    let parts = inner.split(|letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        letter == ',' && depth == 0
    });
    for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
        take_apart(&format!("{}{part}", before.trim()), into);
    }
}

/// The file of ours in which stands what a path in the module `from` names.
fn file_of(modules: &BTreeMap<String, Module>, from: &str, path: &str) -> Option<String> {
    let mut at: Vec<&str> = from.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts = path.split("::").peekable();
    match *parts.peek()? {
        "crate" => at.clear(),
        "super" | "self" => {}
        child => {
            modules.get(&[&at[..], &[child]].concat().join("::"))?;
        }
    }
    while let Some(above) = parts.next_if(|part| ["crate", "super", "self"].contains(part)) {
        if above == "super" {
            at.pop();
        }
    }
    let mut found = modules.contains_key(&at.join("::")).then(|| at.join("::"));
    for part in parts {
        at.push(part);
        let name = at.join("::");
        if modules.contains_key(&name) {
            found = Some(name);
            continue;
        }
        let file = found?;
        return match modules[&file].exports.get(part) {
            Some(path) => file_of(modules, &file, path),
            None => Some(file),
        };
    }
    found
}

/// The paths of our own that a line of code names: `crate::…` with up to two parts, or `rotad_core`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
        let path: String = code[at + start.len()..]
            .chars()
            .take_while(|letter| part(*letter))
            .collect();
        let parts: Vec<&str> = path
            .split("::")
            .filter(|part| !part.is_empty())
            .take(2)
            .collect();
        if !parts.is_empty() {
            found.push(format!("crate::{}", parts.join("::")));
        }
    }
    for foreign in ["rotad_core", "rotad::"] {
        if has_word(code, foreign.trim_end_matches(':')) && !code.contains("name") {
            found.push(foreign.trim_end_matches(':').to_string());
        }
    }
    found.retain(|path| path != "rotad");
    found
}

/// The core reads no clock, file, environment or random number, by the compiler's own hand.
#[test]
fn the_core_is_alone() {
    let manifest =
        fs::read_to_string(root().join("src/core/Cargo.toml")).expect("the core's manifest");
    let dependencies = manifest.split("[dependencies]\n").nth(1).unwrap_or("");
    let needed = dependencies
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.trim().is_empty() && !line.contains("optional = true"));
    assert_eq!(needed.count(), 0, "the core has dependencies");
    assert!(
        !manifest.contains("default = ["),
        "the core has no features by default"
    );
    let lib = fs::read_to_string(root().join("src/core/lib.rs")).expect("the core");
    assert!(
        lib.contains("#![no_std]") || lib.contains("no_std"),
        "the core is no_std"
    );
    assert!(
        lib.contains("forbid(unsafe_code)") || manifest.contains("workspace = true"),
        "no unsafe in the core"
    );
}

/// The pages for those who change rotad name files and directories that exist.
#[test]
fn pages_name_paths_that_exist() {
    let mut missing = Vec::new();
    for page in ["CONTRIBUTING.md", "SECURITY.md"] {
        let text =
            fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        let quoted = text.split('`').skip(1).step_by(2);
        let ours = |word: &&str| {
            let first = word.split('/').next().unwrap_or_default();
            word.contains('/')
                && !word.contains([' ', '*'])
                && ["src", "tests", "docs", "config", "systemd", "packaging"].contains(&first)
        };
        let paths = quoted
            .filter(ours)
            .filter(|path| !root().join(path).exists());
        missing.extend(paths.map(|path| format!("{page}: {path}")));
    }
    report("paths that do not exist", missing);
}

/// Every promise of docs/promises.md and docs/specification.md names tests, and every test that they name exists.
#[test]
fn promises_name_their_tests() {
    let mut missing = Vec::new();
    for page in ["docs/promises.md", "docs/specification.md"] {
        let text =
            fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        let named = text.split('`').skip(1).step_by(2);
        for piece in named.filter(|piece| piece.contains("::")) {
            let (file, function) = piece.split_once("::").expect("a file and a function");
            let path = root().join("tests").join(format!("{file}.rs"));
            let there = fs::read_to_string(&path)
                .is_ok_and(|text| text.contains(&format!("fn {function}(")));
            if !there {
                missing.push(format!("{page}: {piece}"));
            }
        }
        for number in 1..=13 {
            let section = text
                .lines()
                .find(|line| line.starts_with(&format!("| {number} |")))
                .unwrap_or_default();
            assert!(
                section.contains("::"),
                "{page}: promise {number} names no test"
            );
        }
    }
    report("tests that are named and are not there", missing);
}
