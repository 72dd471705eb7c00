//! Detects which workers a project's directory describes: Procfile, Python application with gunicorn, package.json. It uses
//! only what the files say and does not guess.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A larger file, in bytes, is not read: it does not describe how to start a program.
const LARGEST: u64 = 1 << 20;

/// The directories in which systemd looks for programs (systemd.exec(5)); programs elsewhere are written with their whole
/// path.
const SYSTEM_PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Characters that make a shell do more than start a program.
const SHELL_SYNTAX: &str = "$`&|;<>()*?[]{}~#!\n";

const PLACEHOLDERS: [&str; 4] = ["{pool}", "{slot}", "{generation}", "{rotad}"];

/// A pool to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) command: Vec<String>,
    /// Where it was found, as a suffix for people; empty if it was typed.
    pub(super) origin: &'static str,
    /// It takes its listening socket from descriptor 3.
    listens: bool,
    /// It binds a port itself, so two workers cannot run at the same time.
    binds: bool,
    /// It takes its port from the variable PORT.
    port: bool,
}

impl Pool {
    fn new(name: &str, command: Vec<String>, origin: &'static str) -> Self {
        let listens = takes_socket(&command);
        Self {
            name: name.to_owned(),
            command,
            origin,
            listens,
            binds: false,
            port: false,
        }
    }

    /// The pool of a command that was typed.
    pub(super) fn of_command(command: &[String]) -> Self {
        let pool = Self::new("app", command.to_vec(), "");
        if pool.listens {
            Self {
                name: "web".to_owned(),
                ..pool
            }
        } else {
            pool
        }
    }

    /// The pool as a table of the configuration.
    pub(super) fn toml(&self) -> String {
        let words: Vec<String> = self
            .command
            .iter()
            .map(|word| string(&template(word)))
            .collect();
        let mut text = format!("[pool.{}]\ncommand = [{}]\n", self.name, words.join(", "));
        if self.listens {
            text.push_str(
                "listen = \"127.0.0.1:8000\"        # opened by the master: file descriptor 3 of every worker\ncount = \
                 2\n",
            );
        } else {
            text.push_str("count = 1                        # \"cpus\": one for each CPU\n");
        }
        if self.port {
            text.push_str("env = { PORT = \"8000\" }\n");
        }
        if self.binds {
            text.push_str(&format!(
                "\n# It binds its port itself, so the old worker must end before the new one starts: in between, requests are \
                 refused.\n# To lose no request, let the master open the socket (`listen`), or use `ports` and a proxy \
                 in front.\n[pool.{}.reload]\nsurge = 0\n",
                self.name
            ));
        }
        text
    }
}

/// Whether the command takes a listening socket: it names descriptor 3 (`fd://3`, `--fd 3`), or is gunicorn, which finds
/// the socket by `LISTEN_FDS`. (A gunicorn that is given the descriptor as well takes it twice and fails.)
fn takes_socket(command: &[String]) -> bool {
    let program = command
        .first()
        .and_then(|program| Path::new(program).file_name());
    let names_it = command
        .iter()
        .any(|word| word.contains("fd://3") || word == "--fd=3");
    names_it
        || program.is_some_and(|name| name == "gunicorn")
        || command
            .windows(2)
            .any(|two| two[0] == "--fd" && two[1] == "3")
}

/// The pools for a directory: the command that was typed, or else what the files say. Empty if they say nothing certain.
pub(super) fn pools(here: &Path, command: &[String]) -> Vec<Pool> {
    if !command.is_empty() {
        let mut pool = Pool::of_command(command);
        name_whole_path(here, &mut pool);
        return vec![pool];
    }
    let mut pools = procfile(here)
        .or_else(|| gunicorn(here))
        .or_else(|| node(here))
        .unwrap_or_default();
    pools
        .iter_mut()
        .for_each(|pool| name_whole_path(here, pool));
    pools
}

/// Writes the whole path of a program that is in the user's PATH and not in systemd's.
fn name_whole_path(here: &Path, pool: &mut Pool) {
    let Some(program) = pool
        .command
        .first_mut()
        .filter(|program| !program.contains('/'))
    else {
        return;
    };
    if let Some(path) =
        found(here, program).filter(|path| !SYSTEM_PATH.iter().any(|dir| path.starts_with(dir)))
    {
        *program = path.to_string_lossy().into_owned();
    }
}

fn found(here: &Path, program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| here.join(dir).join(program))
        .find(|path| executable(path))
}

fn executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn read(path: &Path) -> Option<String> {
    path.metadata()
        .ok()
        .filter(|meta| meta.is_file() && meta.len() <= LARGEST)?;
    fs::read_to_string(path).ok()
}

/// `NAME: COMMAND` lines. `web` gets its port in PORT, as on other platforms; `release` is skipped, since it is not a
/// process that keeps running.
fn procfile(here: &Path) -> Option<Vec<Pool>> {
    let text = read(&here.join("Procfile"))?;
    let line = |line: &str| {
        let (name, command) = line.split_once(':')?;
        let (name, command) = (name.trim(), command.trim());
        let valid = |c: u8| c.is_ascii_alphanumeric() || b"_-".contains(&c);
        (!name.is_empty()
            && name.len() <= 64
            && name.bytes().all(valid)
            && name != "release"
            && !command.is_empty())
        .then(|| {
            let pool = Pool::new(name, words(command), " (Procfile)");
            let binds = name == "web" && !pool.listens;
            Pool {
                binds,
                port: binds,
                ..pool
            }
        })
    };
    let mut pools: Vec<Pool> = text
        .lines()
        .filter(|text| !text.starts_with('#'))
        .filter_map(line)
        .collect();
    let mut names = std::collections::BTreeSet::new();
    pools.retain(|pool| names.insert(pool.name.clone()));
    (!pools.is_empty()).then_some(pools)
}

/// A Python application with one of the usual names, if gunicorn is installed.
fn gunicorn(here: &Path) -> Option<Vec<Pool>> {
    let in_venv = [".venv/bin/gunicorn", "venv/bin/gunicorn"]
        .into_iter()
        .find(|path| executable(&here.join(path)));
    let program = in_venv
        .map(str::to_owned)
        .or_else(|| found(here, "gunicorn").map(|_| "gunicorn".to_owned()))?;
    let assigns = |file: &Path, name: &str| {
        let names = |line: &str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.trim_start().starts_with(['=', ':']))
        };
        read(file).is_some_and(|text| text.lines().any(names))
    };
    let target = [
        ("wsgi", "application"),
        ("wsgi", "app"),
        ("app", "app"),
        ("main", "app"),
    ]
    .into_iter()
    .find(|(module, name)| assigns(&here.join(format!("{module}.py")), name))
    .map(|(module, name)| format!("{module}:{name}"))
    .or_else(|| django(here, assigns))?;
    Some(vec![Pool::new("web", vec![program, target], " (detected)")])
}

/// `PROJECT/wsgi.py` beside manage.py, if there is exactly one.
fn django(here: &Path, assigns: impl Fn(&Path, &str) -> bool) -> Option<String> {
    if !here.join("manage.py").is_file() {
        return None;
    }
    let directories = fs::read_dir(here).ok()?.flatten();
    let projects: Vec<String> = directories
        .filter(|directory| assigns(&directory.path().join("wsgi.py"), "application"))
        .filter_map(|directory| directory.file_name().into_string().ok())
        .collect();
    match &projects[..] {
        [project] => Some(format!("{project}.wsgi:application")),
        _ => None,
    }
}

/// `scripts.start` of package.json. A script that only starts node is started directly, since npm does not pass signals
/// on reliably.
fn node(here: &Path) -> Option<Vec<Pool>> {
    let package: serde_json::Value =
        serde_json::from_str(&read(&here.join("package.json"))?).ok()?;
    let start = package.get("scripts")?.get("start")?.as_str()?;
    let direct =
        plain(start).filter(|words| words.first().is_some_and(|program| program == "node"));
    let command = direct.unwrap_or_else(|| ["npm", "start"].map(str::to_owned).to_vec());
    let pool = Pool::new("web", command, " (package.json)");
    Some(vec![Pool {
        binds: !pool.listens,
        ..pool
    }])
}

/// The words of a command line. A line that needs a shell becomes `sh -c LINE`.
fn words(line: &str) -> Vec<String> {
    plain(line).unwrap_or_else(|| {
        // With `exec`, a single program replaces the shell, so that signals reach it.
        let one = !line.contains(['&', '|', ';', '(', '\n']) && !assignment(line);
        let line = if one {
            format!("exec {line}")
        } else {
            line.to_owned()
        };
        vec!["sh".to_owned(), "-c".to_owned(), line]
    })
}

fn plain(line: &str) -> Option<Vec<String>> {
    let simple = !line.contains(|c| SHELL_SYNTAX.contains(c)) && !assignment(line);
    shell_words::split(line)
        .ok()
        .filter(|words| simple && !words.is_empty())
}

fn assignment(line: &str) -> bool {
    line.split_whitespace()
        .next()
        .is_some_and(|word| word.contains('='))
}

/// Doubles braces that are not part of a placeholder, as the configuration expects.
fn template(word: &str) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some(letter) = rest.chars().next() {
        if let Some(known) = PLACEHOLDERS
            .into_iter()
            .find(|known| rest.starts_with(known))
        {
            text.push_str(known);
            rest = &rest[known.len()..];
            continue;
        }
        text.push(letter);
        if matches!(letter, '{' | '}') {
            text.push(letter);
        }
        rest = &rest[letter.len_utf8()..];
    }
    text
}

fn string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Vec<Pool> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            if name.contains("bin/") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        pools(directory.path(), &[])
    }

    fn commands(files: &[(&str, &str)]) -> Vec<String> {
        of(files)
            .iter()
            .map(|pool| format!("{}: {}", pool.name, pool.command.join(" ")))
            .collect()
    }

    #[test]
    fn pools_are_detected_from_files() {
        let gunicorn = (".venv/bin/gunicorn", "");
        let target = |files: &[(&str, &str)]| commands(&[&[gunicorn], files].concat());
        let web = |target: &str| vec![format!("web: .venv/bin/gunicorn {target}")];
        assert_eq!(
            target(&[("app.py", "import flask\napp = flask.Flask(__name__)\n")]),
            web("app:app")
        );
        assert_eq!(
            target(&[("wsgi.py", "application: App = make()\n")]),
            web("wsgi:application")
        );
        let django = [
            ("manage.py", ""),
            ("shop/wsgi.py", "application = x\n"),
            ("other/a.py", ""),
        ];
        assert_eq!(target(&django), web("shop.wsgi:application"));
        assert_eq!(target(&[("app.py", "application_of = 1\n")]), [""; 0]);
        assert_eq!(commands(&[("x.py", "")]), [""; 0]);
        let procfile = "# ours\nrelease: ./migrate\nweb: ./serve --port $PORT\nmail: ./mail 'a b'\nweb: again\n";
        assert_eq!(
            commands(&[("Procfile", procfile)]),
            ["web: sh -c exec ./serve --port $PORT", "mail: ./mail a b"]
        );
        let both = "jobs: cd jobs && A=1 ./run\n";
        assert_eq!(
            commands(&[("Procfile", both)]),
            ["jobs: sh -c cd jobs && A=1 ./run"]
        );
    }

    #[test]
    fn commands_that_take_a_socket_get_one() {
        let listens = |line: &str| Pool::of_command(&words(line)).listens;
        let commands = [
            "/opt/venv/bin/gunicorn app:app",
            "uvicorn --fd 3 app:app",
            "daphne --fd=3 app:app",
            "x -b fd://3",
        ];
        assert!(commands.into_iter().all(listens));
        assert!(
            ![
                "uvicorn --fd 4 app:app",
                "uv run gunicorn app:app",
                "3 --fd"
            ]
            .into_iter()
            .any(listens)
        );
    }

    #[test]
    fn a_start_script_is_run_directly_or_by_npm() {
        let start = |script: &str| {
            let text = format!("{{\"scripts\": {{\"start\": \"{script}\"}}}}");
            let pools = of(&[("package.json", &text)]);
            assert!(pools[0].toml().contains("surge = 0"));
            let program = Path::new(&pools[0].command[0])
                .file_name()
                .unwrap()
                .to_owned();
            format!(
                "{} {}",
                program.to_string_lossy(),
                pools[0].command[1..].join(" ")
            )
        };
        assert_eq!(start("node server.js --x"), "node server.js --x");
        assert_eq!(start("next start -p $PORT"), "npm start");
        assert!(of(&[("package.json", "{\"scripts\": {}}"), ("rubbish", "")]).is_empty());
        assert!(of(&[("package.json", "{")]).is_empty());
    }

    #[test]
    fn words_survive_toml_and_placeholders() {
        let words = ["sh", "-c", "x=\"{a}\"; echo {slot} '{' \\ \t ü"].map(str::to_owned);
        let text = Pool::of_command(&words).toml();
        let table: toml::Table = toml::from_str(&text).unwrap();
        let command = table["pool"]["app"]["command"].as_array().unwrap();
        assert_eq!(
            command[2].as_str().unwrap(),
            "x=\"{{a}}\"; echo {slot} '{{' \\ \t ü"
        );
    }
}
