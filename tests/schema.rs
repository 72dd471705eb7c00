//! The JSON schema of the configuration: real validators (jsonschema of Python, taplo) judge configurations by it as the
//! parser does.

mod support;

use rotad::config;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::example::{node_modules, node_package, python, venv};
use support::site::finish;
use support::{Run, rotad};

/// Values of all kinds, right for some key and wrong for others.
const VALUES: [&str; 64] = [
    "true",
    "0",
    "1",
    "-1",
    "3000",
    "70000",
    "999999999",
    "1.5",
    "0o22",
    "0o7777",
    "\"\"",
    "\"x\"",
    "\"a b\"",
    "\"10s\"",
    "\" 1h 30min\"",
    "\"1h30m\"",
    "\"1.5s\"",
    "\"1 0s\"",
    "\"10\"",
    "\"1 fortnight\"",
    "\"1000us\"",
    "\"1M\"",
    "\"64MiB\"",
    "\"1.5 k\"",
    "\".5GB\"",
    "\"1500\"",
    "\"12 parsecs\"",
    "\"022\"",
    "\"0o0640\"",
    "\"00777\"",
    "\"8\"",
    "\"25%\"",
    "\"+25 %\"",
    "\"101%\"",
    "\"cpus\"",
    "\"exit\"",
    "\"none\"",
    "\"unlimited\"",
    "\"null\"",
    "\"master\"",
    "\"inherit\"",
    "\"stdout\"",
    "\"stderr\"",
    "\"listen:a\"",
    "\"TERM\"",
    "\"3000-3004\"",
    "\" 3000 - +3004\"",
    "\"3000-\"",
    "\"04:00\"",
    "\"4:00\"",
    "\"23:59:59\"",
    "\"..\"",
    "[]",
    "[0]",
    "[256]",
    "[\"a\"]",
    "[\"A_B\", \"C*\"]",
    "[\"a\", 1]",
    "{}",
    "{ A = \"b\" }",
    "{ a = 1 }",
    "{ after = \"1s\" }",
    "{ connect = \"127.0.0.1:1\", http = \"127.0.0.1:1/\" }",
    "[{ signal = \"sigterm\", wait = \"1s\", to = \"tree\" }, { wait = \"1s\" }]",
];

/// Values of keys that a table lists, or that stand in a table within a value.
const INNER: [(&str, &str); 12] = [
    (
        "limits",
        "{ nofile = 1024, core = \"unlimited\", stack = { soft = \"1MiB\", hard = \"8MiB\" } }",
    ),
    ("limits", "{ nofiles = 1024 }"),
    ("limits", "{ nofile = { soft = 1 } }"),
    ("limits", "{ nofile = \"many\" }"),
    (
        "ready",
        "{ http = \"127.0.0.1:1/\", headers = { Host = \"a\" } }",
    ),
    ("ready", "{ htpp = \"127.0.0.1:1/\" }"),
    (
        "ready",
        "{ http = \"127.0.0.1:1/\", headers = { \"Content-length\" = \"a\" } }",
    ),
    (
        "stop",
        "[{ signal = \"RTMIN+3\", wait = \"1s\" }, { signal = \"RTMAX-1\", wait = \"0s\" }]",
    ),
    ("stop", "[{ signal = \"TREM\", wait = \"1s\" }]"),
    ("stop", "[{ signal = \"TERM\" }]"),
    ("env", "{ LISTEN_FDS = \"1\" }"),
    ("env", "{ 1A = \"1\" }"),
];

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn schema() -> String {
    let mut command = Command::new(rotad());
    command.arg("schema");
    let Run { code, out, err, .. } = finish(command, 20);
    assert_eq!((code, err.as_str()), (0, ""));
    out
}

/// What the schema finds in each of these; none where it finds nothing.
fn judged(texts: &[String]) -> Vec<Option<String>> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("schema.json");
    fs::write(&file, schema()).expect("the schema");
    let mut validator = Command::new(venv().join("bin/python"))
        .arg(project("tests/schema/validate.py"))
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    let input = serde_json::to_vec(texts).expect("JSON");
    validator
        .stdin
        .take()
        .expect("stdin")
        .write_all(&input)
        .expect("the texts");
    let output = validator.wait_with_output().expect("its end");
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn has_jsonschema() -> bool {
    python("jsonschema")
}

/// The errors of the parser.
fn errors(text: &str) -> Vec<String> {
    let text = text.as_bytes().to_vec();
    let Err(report) = config::check(Path::new("/nonexistent/rotad.toml"), text) else {
        return Vec::new();
    };
    let errors = report
        .findings()
        .iter()
        .filter(|finding| finding.severity == config::Severity::Error);
    errors.map(|finding| finding.message.clone()).collect()
}

/// Whether a message is about a value by itself, as far as a schema can tell.
fn is_about_the_value(message: &str) -> bool {
    // 18 and 0o22 are the same to a schema.
    let octal = message.starts_with("expected a string of octal digits")
        && message.contains("found the number");
    let telling = [
        "expected ",
        "unknown key",
        "unknown value",
        "unknown limit",
        "unknown way",
        "unknown signal",
        "a pool of 0 workers",
        "a variable's value",
    ];
    telling.iter().any(|word| message.starts_with(word)) && !octal
}

/// Blocks of TOML in the documentation.
fn documented() -> Vec<String> {
    let mut paths = vec![project("docs"), project("README.md")];
    let mut blocks = Vec::new();
    while let Some(path) = paths.pop() {
        if let Ok(entries) = fs::read_dir(&path) {
            paths.extend(entries.flatten().map(|entry| entry.path()));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).expect("a page");
            let parts = text.split("\n```toml\n").skip(1);
            blocks.extend(parts.filter_map(|part| Some(part.split_once("\n```")?.0.to_owned())));
        }
    }
    blocks
}

/// All configurations below a directory.
fn configurations(dir: &str) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(project(dir)).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(
                [path.join("rotad.toml")]
                    .into_iter()
                    .filter(|path| path.exists()),
            );
        } else if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files
        .iter()
        .map(|file| fs::read_to_string(file).expect("a configuration"))
        .collect()
}

#[test]
fn every_example_is_valid_and_every_mistake_is_one() {
    if !has_jsonschema() {
        return;
    }
    let examples = configurations("config");
    for (text, fault) in examples.iter().zip(judged(&examples)) {
        assert_eq!(fault, None, "{text}");
    }
    assert!(examples.len() > 20);
    // What the parser accepts, wherever it is written.
    let others = [configurations("tests/config"), documented()].concat();
    let mut refused = 0;
    for (text, fault) in others.iter().zip(judged(&others)) {
        if let Some(fault) = fault {
            assert!(!errors(text).is_empty(), "{fault}\n{text}");
            refused += 1;
        }
    }
    assert!(
        others.len() >= 50 && refused >= 15,
        "{} {refused}",
        others.len()
    );
}

/// What the parser accepts, the schema accepts; a value that the parser refuses by its looks, the schema refuses: for each
/// key, with values of all kinds.
#[test]
fn every_key_is_judged_as_the_parser_judges_it() {
    if !has_jsonschema() {
        return;
    }
    let mut texts = Vec::new();
    for section in config::reference() {
        let pool = "[pool.web]\ncommand = [\"true\"]\n";
        let head = match section.table {
            "" => String::new(),
            "[listen.NAME]" => format!("{pool}listen = \"a\"\n[listen.a]\n"),
            table if table.starts_with("[pool.NAME") => {
                let table = table.replace("NAME", "web");
                let file = if table == "[pool.web.log]" {
                    "stdout = \"x.log\"\n"
                } else {
                    ""
                };
                if table == "[pool.web]" {
                    pool.to_owned()
                } else {
                    format!("{pool}{table}\n{file}")
                }
            }
            table => format!("{pool}{table}\n"),
        };
        let tail = if head.is_empty() {
            "[pool.web]\ncommand = [\"true\"]\n"
        } else {
            ""
        };
        for row in &section.rows {
            let head = head.replace(&format!("\n{} = [\"true\"]", row.name), "");
            let head = match section.table {
                "[pool.NAME.log]" if row.name == "stdout" => {
                    head.replace("stdout = \"x.log\"\n", "")
                }
                "[listen.NAME]" if row.name != "address" => {
                    head + "address = \"unix:/run/x/a.sock\"\n"
                }
                _ => head,
            };
            let inner = INNER
                .iter()
                .filter(|(key, _)| *key == row.name && section.table == "[pool.NAME]");
            for value in VALUES.iter().chain(inner.map(|(_, value)| value)) {
                texts.push(format!("{head}{} = {value}\n{tail}", row.name));
            }
            texts.push(format!("{head}{}x = 1\n{tail}", row.name));
        }
    }
    let (mut accepted, mut refused) = (0, 0);
    let mut wrong = Vec::new();
    for (text, fault) in texts.iter().zip(judged(&texts)) {
        let errors = errors(text);
        match fault {
            Some(fault) if errors.is_empty() => wrong.push(format!("refused: {fault}\n{text}")),
            None if errors.iter().any(|message| is_about_the_value(message)) => {
                wrong.push(format!("accepted, though {errors:?}\n{text}"));
            }
            Some(_) => refused += 1,
            None => accepted += 1,
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        texts.len(),
        wrong.join("\n")
    );
    assert!(accepted > 300 && refused > 3000, "{accepted} {refused}");
}

/// `init` and `import` write the line where there is a schema whose path is the same for all who have the project: beside
/// the configuration, in the npm package, or below the prefix of the program (here: of a virtual environment).
#[test]
fn a_written_configuration_names_a_schema_that_is_there() {
    let dir = tempfile::Builder::new()
        .prefix("rt.")
        .tempdir_in("/tmp")
        .expect("a directory");
    let program = dir.path().join(".venv/bin/rotad");
    fs::create_dir_all(program.parent().expect("a directory")).expect("a directory");
    fs::copy(rotad(), &program).expect("a program");
    let first_line = |verb: &[&str]| {
        let mut command = Command::new(&program);
        command.args(verb).current_dir(dir.path());
        let run = finish(command, 20);
        assert_eq!(run.code, 0, "{}", run.text());
        let text = fs::read_to_string(dir.path().join("rotad.toml")).expect("a configuration");
        assert!(errors(&text).is_empty(), "{text}");
        for file in ["rotad.toml", "rotad.service"] {
            fs::remove_file(dir.path().join(file)).ok();
        }
        text.lines().next().expect("a line").to_owned()
    };
    let init = ["init", "--", "sleep", "1"];
    assert!(first_line(&init).starts_with("# "), "none is there");
    for path in [
        ".venv/share/rotad/rotad.schema.json",
        "node_modules/rotad/rotad.schema.json",
        "rotad.schema.json",
    ] {
        let file = dir.path().join(path);
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        fs::write(&file, "{}").expect("a schema");
        assert_eq!(first_line(&init), format!("#:schema ./{path}"));
    }
    fs::write(dir.path().join("Procfile"), "web: sleep 1\n").expect("a Procfile");
    assert_eq!(
        first_line(&["import", "Procfile"]),
        "#:schema ./rotad.schema.json"
    );
}

/// taplo, which Even Better TOML and others are made of, finds the schema by the line at the top of a file, whose path may
/// be relative or absolute, and marks the place of a mistake.
#[test]
fn an_editor_finds_the_schema_by_the_first_line() {
    if !node_package("@taplo/cli") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("a file");
    write("rotad.schema.json", &schema());
    let pool = "[pool.web]\ncommand = \"app\"\nstop = \"7s\"\n";
    let absolute = format!("#:schema {}/rotad.schema.json\n", dir.path().display());
    write(
        "relative.toml",
        &format!("#:schema ./rotad.schema.json\n{pool}"),
    );
    write("absolute.toml", &format!("{absolute}{pool}"));
    write("wrong.toml", &format!("{absolute}{pool}nice = 30\n"));
    let mut taplo = Command::new(node_modules().join(".bin/taplo"));
    taplo
        .args(["lint", "relative.toml", "absolute.toml", "wrong.toml"])
        .current_dir(dir.path());
    let run = finish(taplo, 60);
    assert_ne!(run.code, 0, "{}", run.text());
    assert!(run.err.contains("wrong.toml:5:8"), "{}", run.err);
    for right in ["relative.toml", "absolute.toml"] {
        assert!(!run.err.contains(right), "{}", run.err);
    }
}
