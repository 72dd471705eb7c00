//! `rotad demo`: one command on a fresh machine, nothing else needed.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::process::{Command, Stdio};
use support::{Site, alone, proc, until};

fn demo(site: &Site) -> Command {
    let mut command = Command::new(support::rotad());
    command
        .arg("demo")
        .current_dir(site.path(""))
        .env("HOME", site.path(""))
        .env_remove("XDG_STATE_HOME");
    command
}

/// `--once` puts load on itself, rolls, prints requests and lost, and exits by the result.
#[test]
fn demo_once_loses_no_request() {
    let _alone = alone();
    let site = Site::new("");
    let mut command = demo(&site);
    command.arg("--once");
    let run = support::site::finish(command, 120);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.out.contains("requests") && run.out.contains("lost"),
        "{run:?}"
    );
    assert!(
        run.out.contains("0 lost") || run.out.contains("lost 0") || run.out.contains("lost: 0"),
        "{run:?}"
    );
    site.assert_empty();
}

/// Without: it says what to type, with full paths; what it says works; INT ends it and nothing is left.
#[test]
fn demo_shows_what_to_type() {
    let _alone = alone();
    let site = Site::new("");
    let mut command = demo(&site);
    command
        .stdin(Stdio::null())
        .stdout(File::create(site.path("out")).expect("a file"));
    command.stderr(File::create(site.path("err")).expect("a file"));
    let mut child = command.spawn().expect("the demo");
    let text = || site.read("out") + &site.read("err");
    let said = support::until_some(30, || {
        Some(text()).filter(|text| text.contains("kill -USR1") && text.contains("status"))
    });
    let curl = said.as_ref().and_then(|said| {
        said.lines()
            .find(|line| line.contains("curl"))
            .map(str::to_string)
    });
    let address = curl.as_ref().and_then(|line| {
        let rest = line.split("http://").nth(1)?;
        Some(
            rest.chars()
                .take_while(|letter| letter.is_ascii_alphanumeric() || ".:[]".contains(*letter))
                .collect::<String>(),
        )
    });
    let answered = address
        .as_ref()
        .map(|address| support::until_some(20, || support::load::get(address, "/").ok()));
    let pid = Pid::from_raw(child.id() as i32);
    kill(pid, Signal::SIGHUP).expect("the demo");
    let ended = child.try_wait().expect("a child");
    kill(pid, Signal::SIGINT).expect("the demo");
    let left = support::until_some(15, || child.try_wait().expect("a child"));
    if left.is_none() {
        child.kill().expect("the demo's end");
        child.wait().expect("the demo's end");
    }
    assert!(said.is_some(), "{}", text());
    assert!(
        answered.as_ref().is_some_and(Option::is_some),
        "{curl:?} {address:?}: {answered:?}"
    );
    let full = format!("{} status", support::rotad().display());
    assert!(text().contains(&full), "full paths: {}", text());
    assert!(!text().contains("HUP was ignored"), "{}", text());
    assert!(
        ended.is_none() && left.is_some_and(|status| status.code() == Some(0)),
        "HUP has no effect, INT ends it: {ended:?} {left:?}"
    );
    until("the demo is gone", 5, || {
        proc::gone(pid.as_raw()).then_some(())
    });
    site.assert_empty();
}
