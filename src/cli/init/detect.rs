//! Detects which workers a command or a project's directory describes. It uses only what the command and the files say; what
//! is not certain is said on the screen and in the configuration.

use super::pool::{Address, Pool, Socket};
use super::project::Project;
use super::{node, php, python, ruby};
use crate::import::{self, Imported, Options};
use std::path::Path;

/// What `init` writes for a directory.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Empty if the files say nothing certain.
    pub(super) pools: Vec<Pool>,
    /// Further files that a pool needs: name and text.
    pub(super) files: Vec<(&'static str, String)>,
    /// What else there is, and is not used.
    pub(super) notes: Vec<String>,
    /// The configuration of another process manager that is taken over, and what was made of it.
    pub(super) imported: Option<(&'static str, Imported)>,
}

impl From<Vec<Pool>> for Found {
    fn from(pools: Vec<Pool>) -> Self {
        Self {
            pools,
            ..Self::default()
        }
    }
}

/// The pools for a directory: the command that was typed, or else what the files say.
pub(super) fn find(here: &Path, command: &[String]) -> Found {
    let project = Project::new(here);
    let mut found = if command.is_empty() {
        of_files(project)
    } else {
        vec![of_command(project, command)].into()
    };
    for pool in &mut found.pools {
        if let Some(program) = pool.command.first_mut() {
            *program = project.whole_path(program);
        }
    }
    found
}

/// Files of other process managers that can be read without running anything.
const SOURCES: [&str; 4] = [
    "Procfile",
    "supervisord.conf",
    "ecosystem.config.json",
    "ecosystem.json",
];

/// Files of pm2 that only node can read, by running them.
const SCRIPTS: [&str; 3] = [
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
];

/// A configuration that was written by hand for these processes comes before anything that can be concluded.
fn of_files(project: Project<'_>) -> Found {
    let mut notes = Vec::new();
    if let Some(name) = project.first(&SOURCES) {
        let options = Options {
            base: project.root().to_owned(),
            ..Options::default()
        };
        match import::import(&[project.root().join(name)], &options) {
            Ok(imported) => {
                return Found {
                    imported: Some((name, imported)),
                    ..Found::default()
                };
            }
            Err(error) => notes.push(format!("{name} is not taken over: {error}")),
        }
    }
    if let Some(name) = project.first(&SCRIPTS) {
        notes.push(format!(
            "{name} is here: `rotad import {name}` takes it over (node runs the file, so init does not)"
        ));
    }
    let mut found = of_sources(project);
    found.notes.splice(0..0, notes);
    found
}

fn of_sources(project: Project<'_>) -> Found {
    let node = node::web(project);
    let mut found = if let Some(pools) = ruby::pools(project) {
        Found::from(pools)
    } else if let Some(php) = php::find(project) {
        Found {
            files: php
                .fpm_conf
                .map(|text| (php::FPM_CONF, text))
                .into_iter()
                .collect(),
            ..Found::from(php.pools)
        }
    } else {
        let mut pools: Vec<Pool> = python::web(project).into_iter().collect();
        pools.extend(python::tasks(project));
        Found::from(pools)
    };
    if found.pools.is_empty() {
        return node.into_iter().collect::<Vec<_>>().into();
    }
    let starts = project
        .json("package.json")
        .is_some_and(|package| package.pointer("/scripts/start").is_some());
    if node.is_some() && starts {
        found
            .notes
            .push("package.json has a start script, too: no pool was made of it".to_owned());
    }
    found
}

/// The last part of a program's path.
fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// The word of the program itself: behind `bundle exec` and `python -m`, which become it.
fn program_at(words: &[String]) -> usize {
    let first = base(&words[0]);
    let second = words.get(1).map(String::as_str);
    let leads = (first == "bundle" && second == Some("exec"))
        || (first.starts_with("python") && second == Some("-m"));
    if leads && words.len() > 2 { 2 } else { 0 }
}

/// The value of an option: `--port 80`, `--port=80`, `-p 80`.
fn option<'w>(words: &'w [String], names: &[&str]) -> Option<&'w str> {
    words.iter().enumerate().find_map(|(at, word)| {
        if names.contains(&word.as_str()) {
            return words.get(at + 1).map(String::as_str);
        }
        let (name, value) = word.split_once('=')?;
        names.contains(&name).then_some(value)
    })
}

/// The words without these options and their values.
fn without(words: &[String], names: &[&str]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if names.contains(&word.as_str()) {
            words.next();
        } else if !word
            .split_once('=')
            .is_some_and(|(name, _)| names.contains(&name))
        {
            kept.push(word.clone());
        }
    }
    kept
}

/// Whether the command names descriptor 3 as its socket.
fn names_descriptor(words: &[String]) -> bool {
    words
        .iter()
        .any(|word| word.contains("fd://3") || word == "--fd=3")
        || words
            .windows(2)
            .any(|two| two[0] == "--fd" && two[1] == "3")
}

/// The pool of a command that was typed. The command stays as it is, except where its program takes a socket by an option.
fn of_command(project: Project<'_>, words: &[String]) -> Pool {
    let mut pool = recognised(project, words);
    pool.name = match (&pool.socket, pool.task) {
        (_, true) => "jobs",
        (Socket::None, false) => "app",
        _ => "web",
    }
    .to_owned();
    pool
}

fn recognised(project: Project<'_>, words: &[String]) -> Pool {
    let at = program_at(words);
    let (head, rest) = words.split_at(at + 1);
    let program = base(&words[at]);
    let typed = || Pool::new("app", words, "");
    let has = |word: &str| rest.iter().any(|it| it == word);
    match program {
        "gunicorn" => {
            let bind = option(rest, &["-b", "--bind"]);
            let address = bind
                .and_then(Address::parse)
                .unwrap_or_else(|| Address::local(8000));
            let mut pool = typed().inherits(address);
            if python::has_control_socket(project, &words[at]) && !has("--no-control-socket") {
                pool = pool.note(python::CONTROL_SOCKET_NOTE);
            }
            match bind {
                Some(bind) if bind.starts_with("fd://") => pool.note(
                    "gunicorn finds rotad's socket by itself, and fails if it is given the descriptor as well: leave out --bind",
                ),
                Some(_) => pool.note("gunicorn finds rotad's socket by itself; its --bind is ignored"),
                None => pool,
            }
        }
        _ if names_descriptor(words) => typed().inherits(Address::local(8000)),
        "uvicorn" if option(rest, &["--fd", "--uds"]).is_none() => {
            let address = Address::of(
                option(rest, &["--host"]).unwrap_or("127.0.0.1"),
                option(rest, &["--port"]).unwrap_or("8000"),
            );
            let added = ["--fd", "3"].into_iter();
            let added = if option(rest, &["--timeout-graceful-shutdown", "--backlog"]).is_some() {
                added.chain([].iter().copied())
            } else {
                added.chain(python::UVICORN.iter().copied())
            };
            with_socket(head, added, &without(rest, &["--host", "--port"]), address, typed)
                .note(python::UVICORN_NOTE)
        }
        "hypercorn" if !has("--config") => {
            let bind = option(rest, &["-b", "--bind"]).unwrap_or("127.0.0.1:8000");
            let added = ["--bind", "fd://3"].into_iter();
            let rest = without(rest, &["-b", "--bind"]);
            with_socket(head, added, &rest, Address::parse(bind), typed).note(python::DRAIN_NOTE)
        }
        "daphne" if option(rest, &["--fd", "-u", "-e", "--endpoint"]).is_none() => {
            let address = Address::of(
                option(rest, &["-b", "--bind"]).unwrap_or("127.0.0.1"),
                option(rest, &["-p", "--port"]).unwrap_or("8000"),
            );
            let added = ["--fd", "3"].into_iter();
            let rest = without(rest, &["-b", "--bind", "-p", "--port"]);
            with_socket(head, added, &rest, address, typed).note(python::DRAIN_NOTE)
        }
        "puma" => {
            let address = option(rest, &["-p", "--port"])
                .and_then(|port| Address::of("0.0.0.0", port))
                .or_else(|| Address::parse(option(rest, &["-b", "--bind"])?.strip_prefix("tcp://")?))
                .or_else(|| Some(Address::local(9292)));
            let added = (!rest.iter().any(|word| word.starts_with("--bind-to-activated")))
                .then_some(ruby::PUMA);
            with_socket(head, added.into_iter(), rest, address, typed).note(ruby::PUMA_NOTE)
        }
        "celery" if has("beat") => {
            typed().task().alone("two schedulers side by side would send each job twice")
        }
        "celery" if has("worker") => {
            let named = option(rest, &["-n", "--hostname"]).is_some();
            let added = if named { &[][..] } else { &["-n", "{pool}-{slot}-{generation}@%h"] };
            let words = words.iter().cloned().chain(added.iter().map(|word| (*word).to_owned()));
            Pool::new("app", words, "").task()
        }
        "rq" | "rqworker" | "sidekiq" | "celery" => typed().task(),
        "php" => of_php(rest, typed()),
        "node" => node::of_node(project, words, ""),
        "next" if has("start") => node::of_next(project, rest),
        "npm" | "npx" | "yarn" | "pnpm" | "bunx" => typed().binds(None, node::NPM_INSTEAD),
        "granian" => typed().binds(
            Address::of(
                option(rest, &["--host"]).unwrap_or("127.0.0.1"),
                option(rest, &["--port"]).unwrap_or("8000"),
            ),
            python::GRANIAN_INSTEAD,
        ),
        "waitress-serve" => typed().binds(
            Address::parse(option(rest, &["--listen"]).unwrap_or("0.0.0.0:8080")),
            "gunicorn takes rotad's socket and loses none",
        ),
        "flask" | "django-admin" => typed().binds(
            None,
            "a server for development; gunicorn takes rotad's socket and loses none (docs/programs/python.md)",
        ),
        _ if has("runserver") => typed().binds(
            None,
            "a server for development; gunicorn takes rotad's socket and loses none (docs/programs/python.md)",
        ),
        "rails" if has("server") || has("s") => typed().binds(
            None,
            "puma itself takes rotad's socket and loses none (docs/programs/ruby.md)",
        ),
        name if name.starts_with("php-fpm") => typed().binds(
            None,
            "with FPM_SOCKETS php-fpm takes rotad's socket and loses none (docs/programs/php.md)",
        ),
        _ => typed().alone(
            "nothing is known of this program. If it opens a port or a file of its own, two of it cannot run side by side, so \
             the old worker ends before the new one starts; if two can, take this line out, and a roll has no gap",
        ),
    }
}

/// A program that takes the socket by options which are added. Without an address that `listen` can have, it stays as typed.
fn with_socket<'w>(
    head: &[String],
    added: impl Iterator<Item = &'w str>,
    rest: &[String],
    address: Option<Address>,
    typed: impl Fn() -> Pool,
) -> Pool {
    let Some(address) = address else {
        return typed().binds(
            None,
            "with `listen` and its option for a descriptor it loses none",
        );
    };
    let added: Vec<String> = added.map(str::to_owned).collect();
    let note = format!("added to the command: {} (rotad's socket)", added.join(" "));
    let words = head.iter().chain(&added).chain(rest).cloned();
    let pool = Pool::new("web", words, "").inherits(address);
    if added.is_empty() {
        pool
    } else {
        pool.note(note)
    }
}

fn of_php(rest: &[String], typed: Pool) -> Pool {
    let word = |at: usize| rest.get(at).map_or("", |word| base(word));
    match (word(0), word(1)) {
        ("-S", _) => typed.binds(
            rest.get(1).and_then(|address| Address::parse(address)),
            "a server for development; php-fpm takes rotad's socket and loses none (docs/programs/php.md)",
        ),
        ("artisan", "queue:work" | "queue:listen") => php::queue_work(typed),
        ("artisan", "horizon") | ("console", "messenger:consume") => typed.task(),
        ("artisan", "schedule:work") => {
            typed.task().alone("two schedulers side by side would start each job twice")
        }
        ("artisan", "serve" | "octane:start") => {
            let address = Address::of(
                option(rest, &["--host"]).unwrap_or("127.0.0.1"),
                option(rest, &["--port"]).unwrap_or("8000"),
            );
            typed.binds(
                address,
                "php-fpm takes rotad's socket and loses none (docs/programs/php.md)",
            )
        }
        _ => typed.alone(
            "nothing is known of this script. If it opens a port or a file of its own, two of it cannot run side by side, so the \
             old worker ends before the new one starts; if two can, take this line out, and a roll has no gap",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::project::tests::directory;
    use super::*;

    fn commands(files: &[(&str, &str)]) -> Vec<String> {
        let directory = directory(files);
        find(directory.path(), &[])
            .pools
            .iter()
            .map(|pool| format!("{}: {}", pool.name, pool.command.join(" ")))
            .collect()
    }

    fn words(line: &str) -> Vec<String> {
        shell_words::split(line).unwrap()
    }

    fn typed(line: &str) -> Pool {
        let directory = directory(&[]);
        of_command(Project::new(directory.path()), &words(line))
    }

    #[test]
    fn a_typed_gunicorn_with_a_control_socket_is_told_of_it() {
        let notes = |version: &str, line: &str| {
            let info =
                format!(".venv/lib/python3.11/site-packages/gunicorn-{version}.dist-info/METADATA");
            let directory = directory(&[(".venv/bin/gunicorn", ""), (&info, "")]);
            of_command(Project::new(directory.path()), &words(line)).notes
        };
        let told =
            |version, line| notes(version, line).contains(&python::CONTROL_SOCKET_NOTE.to_owned());
        assert!(told("27.0.1", ".venv/bin/gunicorn app:app"));
        assert!(!told("25.0.3", ".venv/bin/gunicorn app:app"));
        assert!(!told(
            "27.0.1",
            ".venv/bin/gunicorn --no-control-socket app:app"
        ));
    }

    #[test]
    fn a_project_of_several_languages_is_the_server_side_one() {
        let files = [
            ("app.py", "app = Flask(__name__)\n"),
            (
                "package.json",
                "{\"scripts\": {\"start\": \"webpack serve\"}}",
            ),
        ];
        let directory = directory(&files);
        let found = find(directory.path(), &[]);
        assert_eq!(found.pools.len(), 1);
        assert!(found.pools[0].command.last().unwrap() == "app:app");
        assert!(found.notes[0].contains("package.json"), "{found:?}");
        assert_eq!(commands(&[("readme.txt", "")]), [""; 0]);
    }

    #[test]
    fn commands_that_take_a_socket_get_one() {
        let listens = |line: &str| matches!(typed(line).socket, Socket::Inherited(_));
        let commands = [
            "/opt/venv/bin/gunicorn app:app",
            "uvicorn --fd 3 app:app",
            "daphne --fd=3 app:app",
            "x -b fd://3",
            "python3 -m uvicorn app:app",
            "bundle exec puma",
        ];
        for line in commands {
            assert!(listens(line), "{line}");
        }
        for line in [
            "uvicorn --fd 4 app:app",
            "uv run gunicorn app:app",
            "3 --fd",
        ] {
            assert!(!listens(line), "{line}");
            assert!(typed(line).toml().contains("surge = 0"), "{line}");
        }
    }

    #[test]
    fn a_port_that_was_typed_becomes_rotads() {
        for (line, command, address) in [
            (
                "uvicorn main:app --host 0.0.0.0 --port=8080",
                "uvicorn --fd 3 --timeout-graceful-shutdown 25 --backlog 4096 main:app",
                "0.0.0.0:8080",
            ),
            (
                "hypercorn -b 127.0.0.1:9001 m:app",
                "hypercorn --bind fd://3 m:app",
                "127.0.0.1:9001",
            ),
            (
                "daphne -p 9002 m:app",
                "daphne --fd 3 m:app",
                "127.0.0.1:9002",
            ),
            (
                "gunicorn -b :9003 m:app",
                "gunicorn -b :9003 m:app",
                "0.0.0.0:9003",
            ),
            (
                "puma -p 9004 config.ru",
                "puma --bind-to-activated-sockets=only -p 9004 config.ru",
                "0.0.0.0:9004",
            ),
        ] {
            let pool = typed(line);
            assert_eq!(pool.command.join(" "), command);
            assert_eq!(
                pool.socket,
                Socket::Inherited(Address::parse(address).unwrap()),
                "{line}"
            );
        }
        let named = typed("uvicorn m:app --host shop.example --port 80");
        assert_eq!(
            named.command.join(" "),
            "uvicorn m:app --host shop.example --port 80"
        );
        assert_eq!(named.socket, Socket::Own(None));
    }

    #[test]
    fn programs_that_bind_by_themselves_are_replaced_one_after_the_other() {
        for line in [
            "php -S 127.0.0.1:8000",
            "npm start",
            "flask run",
            "python3 manage.py runserver",
            "bin/rails server",
            "granian m:app",
            "php artisan serve",
            "./unknown",
            "celery -A x beat",
            "php artisan schedule:work",
        ] {
            let pool = typed(line);
            assert!(pool.toml().contains("surge = 0"), "{line}");
            assert!(!pool.remarks().is_empty(), "{line}");
            assert_eq!(pool.command, words(line));
        }
    }

    #[test]
    fn programs_for_jobs_are_tasks() {
        for line in [
            "celery -A x worker",
            "rq worker",
            "sidekiq",
            "php artisan queue:work --max-jobs=5",
            "php bin/console messenger:consume async",
        ] {
            let pool = typed(line);
            assert!(pool.task && pool.name == "jobs", "{line}");
        }
        assert!(
            typed("celery -A x worker")
                .command
                .join(" ")
                .ends_with("-n {pool}-{slot}-{generation}@%h")
        );
        assert!(
            !typed("celery -A x worker -n me")
                .command
                .join(" ")
                .contains("{pool}")
        );
    }
}
