//! docs/troubleshooting.md: each message that the page explains is one that rotad gives in that case.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use support::page::{Page, line_has};
use support::{Run, Site, site};

/// The messages of the table: `…` stands for what differs.
fn messages() -> Vec<String> {
    let page = Page::read("troubleshooting").text;
    let section = page.split("## By message").nth(1).expect("the section");
    let table = section.split("## ").next().expect("its end");
    table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_explained_message_is_given() {
    let mut said = Vec::new();
    let mut hear = |out: Run| said.push(out.text());

    // No file, no master.
    let unstarted = Site::new("[pool.web]\ncommand = \"sleep 1000\"\n");
    let empty = unstarted.path("empty");
    fs::create_dir(&empty).unwrap();
    let mut lost = Command::new(env!("CARGO_BIN_EXE_rotad"));
    lost.arg("status")
        .current_dir(&empty)
        .env_remove("ROTAD_CONFIG")
        .stdin(Stdio::null());
    hear(site::finish(lost, 10));
    hear(unstarted.rotad(&["status"]));

    // Configurations with faults, and one that others may write to.
    let bad = "[pool.web]\ncommand = \"no-such-program\"\nuser = \"no-such-user\"\ninstances = 3\n";
    unstarted.configure(bad);
    hear(unstarted.rotad(&["check"]));
    if nix::unistd::Uid::effective().is_root() {
        let shared = unstarted.write("shared.toml", "[pool.web]\ncommand = \"sleep 1000\"\n");
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o666)).unwrap();
        hear(site::verb(&shared, &["check"], 10));
    }

    // Workers that do not come up.
    for pool in [
        "command = [\"sh\", \"-c\", \"exit 3\"]",
        "command = [\"sh\", \"-c\", \"echo Error: listen EADDRINUSE :::3000; echo Node.js v20; exit 1\"]",
        "command = [\"sh\", \"-c\", \"echo Error: listen EADDRINUSE 127.0.0.1:@PORT@; exit 1\"]\nlisten = \"127.0.0.1:@PORT@\"",
        "command = \"true\"\nrestart = { delay = \"1ms\", max_delay = \"1ms\" }",
        "command = [\"sh\", \"-c\", \"sleep 1000 & sleep 0.1\"]",
        "command = \"sleep 1000\"\nlisten = \"127.0.0.1:0\"\nready_timeout = \"300ms\"",
    ] {
        let site = Site::new(&format!("[pool.web]\n{pool}\n"));
        let out = site.rotad(&["start"]);
        assert_eq!(out.code, 1, "{out:?}");
        hear(out);
    }

    // A second master, and an address that is taken.
    let held = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = format!(
        "[pool.web]\ncommand = \"sleep 1000\"\nlisten = \"{}\"\n",
        held.local_addr().unwrap()
    );
    hear(Site::new(&taken).rotad(&["start"]));
    let site = Site::new("[pool.web]\ncommand = \"sleep 1000\"\n");
    hear(site.rotad(&["start"]));
    hear(site.rotad(&["start"]));
    assert_eq!(site.rotad(&["stop"]).code, 0);

    let text = said.join("\n");
    let root = nix::unistd::Uid::effective().is_root();
    let untold: BTreeSet<String> = messages()
        .into_iter()
        // Other users' masters do not refuse such a file.
        .filter(|message| root || !message.contains("would run as root"))
        .filter(|message| !text.lines().any(|line| line_has(line, message)))
        .collect();
    assert!(messages().len() >= 14, "the table was found");
    assert!(
        untold.is_empty(),
        "never given: {untold:#?}\n\nwhat was said:\n{text}"
    );
}

#[test]
fn a_message_that_is_not_given_is_noticed() {
    let message = "cannot listen on …: address in use: …";
    assert!(line_has(
        "rotad: cannot listen on 1.2.3.4:5: address in use: pid 7",
        message
    ));
    assert!(!line_has("cannot listen on", message));
}
