//! What the command line answers without any master: usage, and that nothing panics.

use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};

fn rotad(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rotad"));
    command
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .env_remove("ROTAD_CONFIG");
    command
}

fn run(line: &str) -> Output {
    rotad(line).output().unwrap()
}

#[test]
fn usage_is_2_and_help_is_0() {
    for line in [
        "",
        "nosuch",
        "status --nosuch",
        "roll --timeout soon",
        "signal web NOPE",
        "scale web many",
        "roll web api/1",
        "reload web/0",
        "run a.toml -c b.toml",
        "check a.toml -c b.toml",
    ] {
        let out = run(line);
        assert_eq!(out.status.code(), Some(2), "{line}");
        assert!(!out.stderr.is_empty(), "{line}");
    }
    for line in ["--help", "--version", "roll --help"] {
        let out = run(line);
        assert_eq!(out.status.code(), Some(0), "{line}");
        assert!(!out.stdout.is_empty() && out.stderr.is_empty(), "{line}");
    }
}

#[test]
fn a_full_disk_or_a_closed_pipe_is_no_panic() {
    for line in [
        "--help",
        "check /nosuch.toml --json",
        "status -c /nosuch.toml",
        "nosuch",
        "scale web 1",
    ] {
        let expected = run(line).status.code();
        assert!(expected.is_some_and(|code| code != 101), "{line}");
        let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
        let status = rotad(line).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), expected, "{line} on a full disk");
        let mut child = rotad(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(
            child.wait().unwrap().code(),
            expected,
            "{line} into a closed pipe"
        );
    }
}

#[test]
fn demo_workers_by_hand_fail_with_a_reason() {
    let out = rotad("__demo-web")
        .env_remove("LISTEN_PID")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(
        String::from_utf8(out.stderr)
            .unwrap()
            .contains("rotad demo")
    );
}

/// One voice: the name first, one line or a first line of its own, no full stop.
#[test]
fn every_error_begins_and_ends_alike() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rotad.toml");
    std::fs::write(&file, "[pool.web]\ncommand = \"sleep 1\"\n").unwrap();
    let file = file.display();
    for line in [
        "nosuch",
        "status --nosuch",
        "roll --timeout soon",
        "signal web NOPE",
        "completions cmd",
        "restart web/x",
        "start app.js -i 4",
        "monit",
        "check /nosuch.toml",
        "start -c /nosuch.toml",
        "run /nosuch.toml",
        "import /nosuch.conf",
        "stop -c /nosuch.toml",
        &format!("status -c {file}"),
        &format!("status web -c {file}"),
        &format!("reload -c {file}"),
        &format!("roll web/0 -c {file}"),
        &format!("rollback -c {file}"),
        &format!("cancel -c {file}"),
        &format!("upgrade -c {file}"),
        &format!("scale web 2 -c {file}"),
        &format!("signal web HUP -c {file}"),
        &format!("start web -c {file}"),
        &format!("logs -c {file}"),
        &format!("events -c {file}"),
    ] {
        let out = run(line);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            !out.status.success() && text.starts_with("rotad: "),
            "{line}: {text}"
        );
        assert!(
            !text.lines().any(|line| line.ends_with('.')),
            "{line}: {text}"
        );
        assert_eq!(text.matches("rotad: ").count(), 1, "{line}: {text}");
    }
}
