//! What `rotad import` makes of the files of other process managers: shapes of real files with what is written and said.

mod support;

use rotad::import::Options;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::site::finish;
use support::{Run, rotad};

/// A directory below tests/import/shapes, and how it is imported.
const SHAPES: &[(&str, &[&str])] = &[
    ("01-tornado", &["supervisord.conf"]),
    ("02-media", &["supervisord.conf"]),
    ("03-browser", &["node.conf"]),
    ("04-bench", &["supervisor.conf"]),
    ("05-django", &["Procfile"]),
    ("06-rails", &["Procfile"]),
    (
        "07-cluster",
        &["ecosystem.config.js", "--env", "production"],
    ),
    ("08-pnpm", &["ecosystem.config.cjs"]),
    ("09-chaussette", &["circus.ini"]),
    ("10-streaming", &["streaming@.service"]),
    (
        "11-unit",
        &[
            "shop.socket",
            "shop.service",
            "shop-worker.service",
            "shop-clean.service",
        ],
    ),
    ("12-compose", &["process-compose.yaml"]),
    ("13-horust", &["api.toml", "database.toml"]),
    ("14-fcgi", &["asgi.conf"]),
    ("15-einhorn", &["run.sh"]),
    ("16-starter", &["start.sh"]),
    ("17-laravel", &["supervisord.conf"]),
    ("18-pm2-json", &["process.json"]),
    ("19-pm2-yaml", &["pm2.yml", "--env", "staging"]),
];

fn shape(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/import/shapes")
        .join(name)
}

fn import_in(dir: &Path, arguments: &[&str]) -> Run {
    let mut command = Command::new(rotad());
    command.arg("import").args(arguments).current_dir(dir);
    for (name, value) in [
        ("DB_PASSWORD", "not to be seen"),
        ("FRONTEND", "front"),
        ("START_XVFB", "true"),
        ("DATABASE_URL", "not to be seen"),
        ("CACHE_HOST", "not to be seen"),
        ("APP_HOME", "/srv"),
        ("PWD", dir.to_str().expect("a path")),
    ] {
        command.env(name, value);
    }
    command.env_remove("ROTAD_CONFIG");
    finish(command, 60)
}

/// How many warnings there are depends on the programs and users of the machine.
fn without_counts(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let counted = line.strip_prefix("`rotad check` has ");
        match counted.and_then(|rest| rest.split_once(" warning")) {
            Some(_) => out += "`rotad check` has warnings about the result\n",
            None => out = out + line + "\n",
        }
    }
    out
}

/// Compares a file of a shape with what is there; UPDATE_EXPECT=1 writes it.
fn compare(path: &Path, found: &str) {
    let found = &*without_counts(found);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, found).expect("an expectation");
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == found,
        "{}: UPDATE_EXPECT=1 cargo test --test import\n{found}",
        path.display()
    );
}

#[test]
fn every_shape_gives_a_valid_configuration_and_says_what_differs() {
    let host = nix::unistd::gethostname().expect("a name");
    let host = host.to_string_lossy().into_owned();
    for (name, arguments) in SHAPES.iter().copied() {
        let dir = shape(name);
        let run = import_in(&dir, &[arguments, &["-o", "-"]].concat());
        assert_eq!(run.code, 0, "{name}: {run:?}");
        assert!(!run.text().contains("not to be seen"), "{name}: {run:?}");
        compare(
            &dir.join("expected.toml"),
            &run.out.replace(&format!("\"{host}\""), "\"HOST\""),
        );
        compare(&dir.join("expected.txt"), &run.err);
    }
}

/// The counts at the end are those of the keys that stand in the files.
#[test]
fn every_key_of_a_shape_is_counted() {
    for (name, arguments) in SHAPES.iter().copied() {
        let dir = shape(name);
        let run = import_in(&dir, &[arguments, &["-o", "-"]].concat());
        let counts = run.err.lines().last().expect("the counts");
        let number = |word: &str| -> usize {
            let before = counts.split(word).next().expect("a number before it");
            let number = before.trim().rsplit([' ', ':']).next().expect("a number");
            number
                .parse()
                .unwrap_or_else(|_| panic!("{word}: {counts}"))
        };
        let sum = number("taken") + number("otherwise") + number("lost") + number("not needed");
        assert_eq!(sum, number("key"), "{name}: {counts}");
    }
}

#[test]
fn nothing_is_overwritten_and_strict_writes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("Procfile"), "web: sleep 1000\n").expect("a file");
    let first = import_in(dir.path(), &["Procfile"]);
    assert_eq!(first.code, 0, "{first:?}");
    let written = fs::read_to_string(path("rotad.toml")).expect("a configuration");
    assert!(written.contains("[pool.web]"), "{written}");
    let again = import_in(dir.path(), &["Procfile"]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(
        again.err.contains("already exists") && again.err.contains("-o"),
        "{again:?}"
    );
    assert_eq!(
        fs::read_to_string(path("rotad.toml")).expect("a configuration"),
        written
    );
    let other = import_in(dir.path(), &["Procfile", "-o", "other.toml"]);
    assert_eq!(other.code, 0, "{other:?}");
    assert_eq!(
        fs::read_to_string(path("other.toml")).expect("a configuration"),
        written
    );

    let conf = "[program:a]\ncommand=sleep 1000\nunknown_key=1\n";
    fs::write(path("a.conf"), conf).expect("a file");
    let strict = import_in(dir.path(), &["a.conf", "-o", "strict.toml", "--strict"]);
    assert_eq!(strict.code, 1, "{strict:?}");
    assert!(
        strict.err.contains("1 lost") && strict.err.contains("a.conf:3:1"),
        "{strict:?}"
    );
    assert!(!path("strict.toml").exists());
    let lax = import_in(dir.path(), &["a.conf", "-o", "strict.toml"]);
    assert_eq!(lax.code, 0, "{lax:?}");
    // No draft of it is left beside it.
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .expect("the directory")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "Procfile",
            "a.conf",
            "other.toml",
            "rotad.toml",
            "strict.toml"
        ]
    );
}

#[test]
fn what_cannot_be_read_is_78_with_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let cases = [
        ("x.txt", "hello\n", "known are"),
        (
            "supervisord.conf",
            "[supervisord]\nwhat\n",
            "supervisord.conf:2:1",
        ),
        ("Procfile", "web: a\nnonsense\n", "Procfile:2:1"),
        ("pm2.json", "{ \"apps\": [ }", "pm2.json:1:"),
        ("pm2.yml", "apps:\n  - {script: a\n", "pm2.yml:"),
        (
            "ecosystem.config.js",
            "module.exports = { apps: nothing };\n",
            "ReferenceError",
        ),
        ("empty.conf", "[supervisord]\n", "no program"),
        ("empty.service", "[Service]\nType=oneshot\n", "no program"),
    ];
    for (name, text, said) in cases {
        fs::write(dir.path().join(name), text).expect("a file");
        let run = import_in(dir.path(), &[name]);
        assert_eq!(run.code, 78, "{name}: {run:?}");
        assert!(run.err.contains(said), "{name}: {run:?}");
        assert!(!dir.path().join("rotad.toml").exists(), "{name}");
    }
    let missing = import_in(dir.path(), &["nosuch.conf"]);
    assert_eq!(missing.code, 78, "{missing:?}");
    // `--from` decides, whatever the file is called.
    let forced = import_in(dir.path(), &["x.txt", "--from", "procfile"]);
    assert_eq!(forced.code, 78, "{forced:?}");
    assert!(forced.err.contains("NAME: COMMAND"), "{forced:?}");
}

#[test]
fn paths_are_relative_to_where_the_result_lies() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    fs::create_dir_all(path("etc/sub")).expect("a directory");
    let conf = "[program:a]\ncommand=sleep 1000\ndirectory=sub\n";
    fs::write(path("etc/a.conf"), conf).expect("a file");
    let run = import_in(dir.path(), &["etc/a.conf"]);
    assert_eq!(run.code, 0, "{run:?}");
    let text = fs::read_to_string(path("rotad.toml")).expect("a configuration");
    assert!(text.contains("working_directory = \"etc/sub\""), "{text}");
    let elsewhere = import_in(&path("etc/sub"), &["../a.conf"]);
    assert_eq!(elsewhere.code, 0, "{elsewhere:?}");
    let text = fs::read_to_string(path("etc/sub/rotad.toml")).expect("a configuration");
    assert!(!text.contains("working_directory"), "{text}");
}

#[test]
fn values_of_variables_are_never_printed() {
    let dir = tempfile::tempdir().expect("a directory");
    let cases = [
        (
            "pm2.json",
            "{\"apps\":[{\"script\":\"a.js\",\"env\":{\"P\":\"hunter2\"},\"max_restarts\":3}]}",
        ),
        (
            "ecosystem.config.js",
            "const a = 1;\nmodule.exports = { apps: [{ script: 'a.js', env: {\n P: 'hunter2' }, max_restarts: a }] };\n",
        ),
        (
            "pm2.yml",
            "apps:\n  - {script: a.js, env: {P: hunter2}, max_restarts: 3}\n",
        ),
        (
            "circus.ini",
            "[watcher:a]\ncmd = a\nmax_retry = 3\n[env:a]\nP = hunter2 $(circus.wid)\n",
        ),
        (
            "supervisord.conf",
            "[program:a]\ncommand=a\nstartretries=3\nenvironment=P=\"hunter2\",H=%(host_node_name)s\n",
        ),
        ("Procfile", "web: P=hunter2 serve $PORT\n"),
        (
            "a.service",
            "[Service]\nExecStart=/bin/a\nEnvironment=\"P=hunter2 %H\"\nStartLimitBurst=3\n",
        ),
    ];
    for (name, text) in cases {
        fs::write(dir.path().join(name), text).expect("a file");
        let run = import_in(dir.path(), &[name, "-o", "-"]);
        assert_eq!(run.code, 0, "{name}: {run:?}");
        assert!(run.out.contains("hunter2"), "{name}: {run:?}");
        assert!(!run.err.contains("hunter2"), "{name}: {run:?}");
        assert!(run.err.contains("otherwise: "), "{name}: {run:?}");
    }
}

#[test]
fn a_command_line_is_a_source() {
    let dir = tempfile::tempdir().expect("a directory");
    let line = [
        "-o",
        "-",
        "--",
        "start_server",
        "--port=8080",
        "--",
        "plackup",
        "-s",
        "Starlet",
    ];
    let run = import_in(dir.path(), &line);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.out.contains("command = \"plackup -s Starlet\""),
        "{run:?}"
    );
    assert!(
        run.out.contains("SERVER_STARTER_PORT = \"8080={fd:web}\""),
        "{run:?}"
    );
    let unknown = import_in(dir.path(), &["-o", "-", "--", "serve", "--port=8080"]);
    assert_eq!(unknown.code, 78, "{unknown:?}");
}

/// What only systemd can do goes to a drop-in beside the configuration, which is not overwritten either.
#[test]
fn what_holds_for_a_unit_is_in_a_drop_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let unit = "[Unit]\nAfter=redis.service\n[Service]\nExecStart=/bin/sleep 1000\nMemoryMax=2G\n";
    fs::write(dir.path().join("a.service"), unit).expect("a file");
    let run = import_in(dir.path(), &["a.service"]);
    assert_eq!(run.code, 0, "{run:?}");
    let path = dir.path().join("rotad.service.d/imported.conf");
    let text = fs::read_to_string(&path).expect("a drop-in");
    assert_eq!(
        text,
        "[Unit]\nAfter=redis.service\n\n[Service]\nMemoryMax=2G\n"
    );
    assert!(run.err.contains("rotad.service.d/imported.conf"), "{run:?}");
    let again = import_in(dir.path(), &["a.service", "-o", "other.toml"]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(!dir.path().join("other.toml").exists());
    let printed = import_in(dir.path(), &["a.service", "-o", "-"]);
    assert!(printed.out.contains("# MemoryMax=2G\n"), "{printed:?}");
}

/// Whatever a file is cut down to: a configuration or a fault with its place, and never an end of the program.
#[test]
fn a_file_that_was_cut_off_is_read_or_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        base: dir.path().to_owned(),
        ..Options::default()
    };
    let (mut read, mut refused) = (0, 0);
    for (name, arguments) in SHAPES {
        for file in arguments
            .iter()
            .filter(|word| word.contains('.') || **word == "Procfile")
        {
            // Node would run what is left of it.
            if file.ends_with("js") {
                continue;
            }
            let text = fs::read_to_string(shape(name).join(file)).expect("a file of the shape");
            let path = dir.path().join(file);
            for end in (0..text.len())
                .step_by(11)
                .filter(|end| text.is_char_boundary(*end))
            {
                fs::write(&path, &text[..end]).expect("a file");
                match rotad::import::import(std::slice::from_ref(&path), &options) {
                    Ok(imported) => {
                        read += 1;
                        let counts = imported.account.counts();
                        assert_eq!(counts.all(), imported.account.entries().len());
                    }
                    Err(fault) => {
                        refused += 1;
                        assert!(fault.to_string().contains(file), "{fault}");
                    }
                }
            }
        }
    }
    assert!(
        read > 500 && refused > 200,
        "{read} read, {refused} refused"
    );
}
