//! Detects which workers a directory needs: only what its files say, without guessing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file larger than this (in bytes) does not describe how to start a program.
const LARGEST: u64 = 1 << 20;

/// Where systemd looks for programs; others are written with their whole path.
const SYSTEM_PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Characters that make a shell do more than start a program.
const SHELLS_OWN: &str = "$`&|;<>()*?[]{}~#!\n";

const PLACEHOLDERS: [&str; 4] = ["{pool}", "{slot}", "{generation}", "{rotad}"];

/// A pool to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) command: Vec<String>,
    /// Where it was found, for people.
    pub(super) origin: &'static str,
    /// It takes its socket from descriptor 3.
    listens: bool,
    /// It binds a port itself, so two of them at the same time would conflict.
    binds: bool,
    /// Its port comes from the variable PORT.
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

    /// The command that was typed.
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

    /// As a table of the configuration.
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
            text.push_str("count = 1                        # \"cpus\": as many as there are\n");
        }
        if self.port {
            text.push_str("env = { PORT = \"8000\" }\n");
        }
        if self.binds {
            text.push_str(&format!(
                "\n# It binds its port by itself: the old one ends before the new one starts, and in between nobody \
                 answers.\n# No request is lost with a socket from the master (`listen`), or with `ports` and a proxy \
                 in front.\n[pool.{}.reload]\nsurge = 0\n",
                self.name
            ));
        }
        text
    }
}

/// It names descriptor 3 (`fd://3`, `--fd 3`), or is gunicorn, which finds it by `LISTEN_FDS`. If gunicorn were also
/// given the descriptor, it would take it twice and fail.
fn takes_socket(command: &[String]) -> bool {
    let program = command
        .first()
        .and_then(|program| Path::new(program).file_name());
    let told = command
        .iter()
        .any(|word| word.contains("fd://3") || word == "--fd=3");
    told || program.is_some_and(|name| name == "gunicorn")
        || command
            .windows(2)
            .any(|two| two[0] == "--fd" && two[1] == "3")
}

/// The pools of a directory: the command that was typed, else what its files say; none if nothing is certain.
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

/// A program of the user's PATH that is not in systemd's.
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

/// `NAME: COMMAND` lines. `web` gets a port by PORT, as elsewhere; `release` is not a process that stays.
fn procfile(here: &Path) -> Option<Vec<Pool>> {
    let text = read(&here.join("Procfile"))?;
    let line = |line: &str| {
        let (name, command) = line.split_once(':')?;
        let (name, command) = (name.trim(), command.trim());
        let fit = |c: u8| c.is_ascii_alphanumeric() || b"_-".contains(&c);
        (!name.is_empty()
            && name.len() <= 64
            && name.bytes().all(fit)
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

/// A Python application with one of the usual names, if gunicorn is there to run it.
fn gunicorn(here: &Path) -> Option<Vec<Pool>> {
    let own = [".venv/bin/gunicorn", "venv/bin/gunicorn"]
        .into_iter()
        .find(|path| executable(&here.join(path)));
    let program = own
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
    Some(vec![Pool::new(
        "web",
        vec![program, target],
        " (found by its files)",
    )])
}

/// `PROJECT/wsgi.py` beside manage.py, if there is exactly one.
fn django(here: &Path, assigns: impl Fn(&Path, &str) -> bool) -> Option<String> {
    if !here.join("manage.py").is_file() {
        return None;
    }
    let folders = fs::read_dir(here).ok()?.flatten();
    let projects: Vec<String> = folders
        .filter(|folder| assigns(&folder.path().join("wsgi.py"), "application"))
        .filter_map(|folder| folder.file_name().into_string().ok())
        .collect();
    match &projects[..] {
        [project] => Some(format!("{project}.wsgi:application")),
        _ => None,
    }
}

/// `scripts.start` of package.json. Its program is started directly if that is all it says, since npm does not pass
/// signals on well.
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

/// A line as words; run by a shell if it needs one.
fn words(line: &str) -> Vec<String> {
    plain(line).unwrap_or_else(|| {
        // A single program replaces the shell, so that signals reach it.
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
    let simple = !line.contains(|c| SHELLS_OWN.contains(c)) && !assignment(line);
    shell_words::split(line)
        .ok()
        .filter(|words| simple && !words.is_empty())
}

fn assignment(line: &str) -> bool {
    line.split_whitespace()
        .next()
        .is_some_and(|word| word.contains('='))
}

/// Braces belong to placeholders, so literal ones are doubled.
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
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            if name.contains("bin/") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        pools(folder.path(), &[])
    }

    fn commands(files: &[(&str, &str)]) -> Vec<String> {
        of(files)
            .iter()
            .map(|pool| format!("{}: {}", pool.name, pool.command.join(" ")))
            .collect()
    }

    #[test]
    fn what_a_folder_says() {
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
    fn who_takes_the_socket() {
        let listens = |line: &str| Pool::of_command(&words(line)).listens;
        let takers = [
            "/opt/venv/bin/gunicorn app:app",
            "uvicorn --fd 3 app:app",
            "daphne --fd=3 app:app",
            "x -b fd://3",
        ];
        assert!(takers.into_iter().all(listens));
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
    fn a_start_script() {
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
    fn words_stay_what_they_are() {
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
