//! `rotad init`: what it writes starts as it is, and nothing that was there is touched.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::site::{finish, verb};
use support::{Run, all_ready, rotad, testworker, until};

/// A directory, with state of its own for the masters that start in it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))
            .expect("a directory for its owner");
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(rotad());
        command
            .args(arguments)
            .current_dir(self.path())
            .env_remove("ROTAD_CONFIG");
        command.env("XDG_STATE_HOME", self.path().join("state"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        finish(self.command(arguments), 60)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    /// Puts the master's state and log into the directory, so that nothing of them is left elsewhere: where root's masters
    /// have theirs does not go by XDG_STATE_HOME.
    fn keep_state(&self) {
        let own = "[master]\nruntime_dir = \"run\"\nlog_file = \"log\"";
        self.write(
            "rotad.toml",
            &self.read("rotad.toml").replace("[master]", own),
        );
    }

    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("the directory").flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// `check` finds nothing but that nothing says when the workers of an unknown program are ready, and that a text in two
    /// braces stands for itself.
    fn assert_sound(&self) {
        let check = self.run(&["check", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&check.out).expect("JSON");
        assert_eq!(report["valid"], true, "{}", check.text());
        let findings = report["findings"].as_array().expect("findings");
        let is_expected = |finding: &serde_json::Value| {
            let message = finding["message"].as_str().unwrap_or_default();
            finding["severity"] == "warning"
                && (message.starts_with("nothing but its age says")
                    || message.contains("is the text"))
        };
        assert!(
            findings.iter().all(is_expected),
            "{findings:?}: {}",
            self.read("rotad.toml")
        );
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        verb(&self.path().join("rotad.toml"), &["stop", "--now"], 60);
    }
}

#[test]
fn a_given_command_becomes_a_pool_that_starts() {
    let place = Place::new();
    let worker = testworker();
    let worker = worker.to_str().expect("a path");
    let init = place.run(&[
        "init",
        "--",
        worker,
        "wait",
        "--code",
        "it's {ours} and \"theirs\".txt",
    ]);
    assert_eq!(init.code, 0, "{init:?}");
    for said in [
        "rotad.toml",
        "rotad.service",
        "rotad start",
        "systemctl enable --now",
        worker,
    ] {
        assert!(init.out.contains(said), "{said}: {}", init.out);
    }
    assert_eq!(place.entries(), ["rotad.service", "rotad.toml"]);
    place.assert_sound();
    place.write("it's {ours} and \"theirs\".txt", "ok\none\n");
    place.keep_state();
    let start = place.run(&["start"]);
    assert_eq!(start.code, 0, "{start:?}");
    let status = place.run(&["status", "--json"]);
    assert!(
        all_ready(&serde_json::from_str(&status.out).expect("JSON")),
        "{status:?}"
    );
    assert_eq!(place.run(&["reload"]).code, 0);
    assert_eq!(place.run(&["stop"]).code, 0);
}

#[test]
fn without_a_command_the_example_starts() {
    let place = Place::new();
    let init = place.run(&["init"]);
    assert_eq!(init.code, 0, "{init:?}");
    place.assert_sound();
    place.keep_state();
    let mut master = place.command(&["run"]).spawn().expect("a master");
    until("a worker that says hello", 30, || {
        place
            .read("log")
            .contains("hello from worker")
            .then_some(())
    });
    assert_eq!(place.run(&["stop"]).code, 0);
    assert!(master.wait().expect("its end").success());
}

#[test]
fn pools_are_detected_from_the_directory() {
    let place = Place::new();
    place.write("Procfile", "web: ./serve $PORT\nmail: ./mail\n");
    for name in ["serve", "mail"] {
        place.write(name, "#!/bin/sh\nexec sleep 1000\n");
        fs::set_permissions(place.path().join(name), fs::Permissions::from_mode(0o755))
            .expect("a program");
    }
    let init = place.run(&["init"]);
    assert_eq!(init.code, 0, "{init:?}");
    for said in ["made from Procfile", "pool web: ", "pool mail: ./mail"] {
        assert!(init.out.contains(said), "{said}: {init:?}");
    }
    assert!(init.err.contains("PORT is 5000"), "{init:?}");
    place.assert_sound();
    let text = place.read("rotad.toml");
    assert!(
        text.contains("[pool.web]") && text.contains("[pool.mail]") && text.contains("surge = 0"),
        "{text}"
    );
}

/// A file that only node can read is run by `import` alone.
#[test]
fn the_program_of_a_project_is_never_run() {
    let place = Place::new();
    place.write(
        "ecosystem.config.js",
        "require('fs').writeFileSync('ran', '')\n",
    );
    place.write("app.py", "open('ran', 'w')\napp = Flask(__name__)\n");
    place.write(
        "package.json",
        "{\"scripts\": {\"preinstall\": \"touch ran\"}}",
    );
    let init = place.run(&["init"]);
    assert_eq!(init.code, 0, "{init:?}");
    assert!(
        init.out.contains("rotad import ecosystem.config.js"),
        "{init:?}"
    );
    assert_eq!(
        place.entries(),
        [
            "app.py",
            "ecosystem.config.js",
            "package.json",
            "rotad.service",
            "rotad.toml"
        ]
    );
}

#[test]
fn a_command_that_takes_a_socket_gets_one() {
    let place = Place::new();
    let init = place.run(&["init", "--", "sh", "-c", "exec serve fd://3"]);
    assert_eq!(init.code, 0, "{init:?}");
    place.assert_sound();
    assert!(
        place
            .read("rotad.toml")
            .contains("[pool.web]\ncommand = [\"sh\", \"-c\", \"exec serve fd://3\"]\nlisten =")
    );
}

#[test]
fn a_missing_program_is_reported() {
    let place = Place::new();
    let init = place.run(&["init", "--", "no-such-program-here"]);
    assert_eq!(init.code, 0, "{init:?}");
    assert!(
        init.err.contains("no-such-program-here") && init.err.contains("not found"),
        "{init:?}"
    );
}

#[test]
fn nothing_is_overwritten() {
    for there in ["rotad.toml", "rotad.service", "config/rotad.toml"] {
        let place = Place::new();
        place.write(there, "mine");
        let before = place.entries();
        let init = place.run(&["init", "--", "sleep", "1"]);
        assert_eq!(init.code, 1, "{init:?}");
        assert!(
            init.err.contains("already exists") && init.err.contains(there),
            "{init:?}"
        );
        assert_eq!(
            (place.read(there).as_str(), place.entries()),
            ("mine", before)
        );
    }
    let place = Place::new();
    std::os::unix::fs::symlink("/nowhere/at/all", place.path().join("rotad.service"))
        .expect("a link");
    assert_eq!(place.run(&["init"]).code, 1);
    assert_eq!(place.entries(), ["rotad.service"]);
    assert_eq!(place.run(&["init", "-c", "other.toml"]).code, 2);
}

/// systemd's own judgement, where it is installed.
#[test]
fn the_systemd_unit_is_valid() {
    let place = Place::new();
    let init = place.run(&["init", "--", "sleep", "1000"]);
    assert_eq!(init.code, 0);
    let unit = place.read("rotad.service");
    let config = place.path().join("rotad.toml");
    // The program of the tests lies in a build directory: one that is installed is better.
    let installed = ["/usr/local/bin/rotad", "/usr/bin/rotad"].map(PathBuf::from);
    let installed = installed.into_iter().find(|path| path.is_file());
    let is_said = init.out.contains("not installed where programs stay");
    assert_eq!(is_said, installed.is_none(), "{init:?}");
    let program = installed.unwrap_or_else(rotad);
    let (program, config) = (program.display(), config.display());
    let name = place.path().file_name().expect("a name");
    let name = name.to_str().expect("a name").to_owned();
    assert!(
        init.out.contains(&format!("rotad-{name}.service")),
        "{init:?}"
    );
    for line in [
        format!("Description={name}: pools of workers under rotad"),
        format!("ExecStart={program} run -c {config}"),
        format!("ExecReload={program} reload -c {config}"),
        "Type=notify".to_owned(),
        "KillMode=mixed".to_owned(),
        "Delegate=yes".to_owned(),
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}\n{unit}");
    }
    let mut verify = Command::new("systemd-analyze");
    verify
        .arg("verify")
        .arg("--man=no")
        .arg(place.path().join("rotad.service"));
    if let Ok(found) = verify.output() {
        let text = String::from_utf8_lossy(&found.stderr).into_owned();
        assert!(!text.contains("rotad.service:"), "{text}");
    }
}
