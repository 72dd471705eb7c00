//! Promise 9: an invalid configuration, an unbindable address, an unknown user: a clear and immediate error, with file, line
//! and column where the file is to blame, and nothing left running.

mod support;

use std::process::Command;
use support::{Site, need};

const GOOD: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
listen = ["http"]
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// The line of a text in the configuration, as `:LINE:` of a finding.
fn line(site: &Site, text: &str) -> String {
    let number = site
        .read("rotad.toml")
        .lines()
        .position(|line| line.contains(text))
        .expect("a line")
        + 1;
    format!("rotad.toml:{number}:")
}

/// `check`, `run` and `start` all refuse it with 78, at the right line, with these words; nothing is left.
fn refused(change: (&str, &str), at: &str, words: &[&str]) {
    let site = Site::new(&GOOD.replace(change.0, change.1));
    for verb in ["check", "run", "start"] {
        let run = site.rotad(&[verb]);
        assert_eq!(run.code, 78, "{verb} {change:?}: {run:?}");
        let text = run.text();
        assert!(
            text.contains(&line(&site, at)),
            "{verb} {change:?}: {run:?}"
        );
        assert!(
            words.iter().all(|word| text.contains(word)),
            "{verb} {change:?}: {words:?} in {run:?}"
        );
        assert!(run.took.as_secs() < 5, "{run:?}");
    }
    site.assert_empty();
    assert!(!site.path("master.pid").exists() && !site.path("run/control.sock").exists());
}

#[test]
fn an_unknown_key_is_an_error_with_a_suggestion() {
    refused(
        ("listen = [", "cuont = 4\nlisten = ["),
        "cuont",
        &["cuont", "count", "^"],
    );
}

#[test]
fn a_wrong_type_is_an_error() {
    refused(
        ("listen = [", "count = \"many\"\nlisten = ["),
        "count",
        &["count"],
    );
    refused(
        ("listen = [", "stop = \"10 parsecs\"\nlisten = ["),
        "stop",
        &["stop"],
    );
}

#[test]
fn invalid_toml_is_an_error() {
    refused(("[pool.web]", "[pool.web"), "[pool.web", &["^"]);
}

#[test]
fn an_unknown_listener_is_an_error() {
    refused(
        ("listen = [\"http\"]", "listen = [\"htp\"]"),
        "htp",
        &["htp", "http"],
    );
}

#[test]
fn contradictions_are_errors() {
    refused(
        ("listen = [\"http\"]", "ready = \"accepting\""),
        "ready",
        &["accepting"],
    );
    refused(
        ("listen = [", "pass_env = [\"APP_*\"]\nlisten = ["),
        "pass_env",
        &["pass_env", "clear_env"],
    );
    refused(
        ("[listen.http]", "[listen.http]\nmode = \"0660\""),
        "mode",
        &["mode", "unix"],
    );
}

#[test]
fn an_unknown_user_is_an_error() {
    if !need::root() {
        return;
    }
    refused(
        ("listen = [", "user = \"nobody-of-that-name\"\nlisten = ["),
        "user",
        &["nobody-of-that-name"],
    );
}

/// Keys that are reserved but not supported yet are refused as such, never ignored.
#[test]
fn unsupported_keys_are_errors() {
    let keys = [
        "[pool.web.recycle]\nmax_age = \"6h\"\n",
        "[pool.web.health]\nwatchdog = \"30s\"\n",
    ];
    for key in keys {
        let site = Site::new(&GOOD.replace("[listen.http]", &format!("{key}[listen.http]")));
        let run = site.rotad(&["check"]);
        assert!(
            run.code == 0 || (run.code == 78 && run.text().contains("not supported yet")),
            "{key}: {run:?}"
        );
    }
}

/// All findings at once, not the first one alone.
#[test]
fn all_findings_are_shown_in_one_pass() {
    let site = Site::new(&GOOD.replace("listen = [", "cuont = 4\nstopp = \"1s\"\nlisten = ["));
    let run = site.rotad(&["check"]);
    assert_eq!(run.code, 78);
    assert!(
        run.text().contains("cuont") && run.text().contains("stopp"),
        "{run:?}"
    );
}

#[test]
fn a_valid_configuration_has_no_findings() {
    let site = Site::new(GOOD);
    let run = site.rotad(&["check"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        !site.path("run/control.sock").exists() && !site.path("master.pid").exists(),
        "check starts nothing"
    );
}

/// No file: every verb says which one it looked for.
#[test]
fn a_missing_file_is_an_error() {
    let site = Site::new(GOOD);
    let run = support::site::verb(&site.path("none.toml"), &["run"], 10);
    assert!([78, 1].contains(&run.code), "{run:?}");
    assert!(run.err.contains("none.toml"), "{run:?}");
}

/// An address of another machine, and one that is taken: exit 1 with the address, nothing left.
#[test]
fn invalid_addresses_are_errors() {
    let unbindable = Site::new(&GOOD.replace("127.0.0.1:@PORT@", "192.0.2.1:8080"));
    let taken = Site::new(GOOD);
    let _listener = std::net::TcpListener::bind(taken.address()).expect("the port");
    for (site, address) in [
        (&unbindable, "192.0.2.1:8080".to_string()),
        (&taken, taken.address()),
    ] {
        for verb in ["run", "start"] {
            let run = site.rotad(&[verb]);
            assert!([1, 78].contains(&run.code), "{verb}: {run:?}");
            assert!(
                run.text().contains(&address) || site.log().contains(&address),
                "{verb}: {run:?}"
            );
            site.assert_empty();
            assert!(
                !site.path("master.pid").exists() && !site.path("run/control.sock").exists(),
                "{verb}"
            );
        }
    }
}

/// Programs and directories that are not there, or may not be used: told apart in `start`'s answer.
#[test]
fn missing_programs_and_directories_are_errors() {
    let cases = [
        ("command = [\"@DIR@/nothing\", \"http\"]", "", "no such"),
        ("command = [\"@DIR@/plain\", \"http\"]", "", "xecut"),
        (
            "command = [\"@WORKER@\", \"http\"]",
            "working_directory = \"nowhere\"",
            "no such",
        ),
        (
            "command = [\"no-such-program-anywhere\"]",
            "",
            "no-such-program-anywhere",
        ),
    ];
    for (command, key, word) in cases {
        let site = Site::new(&GOOD.replace(
            "command = [\"@WORKER@\", \"http\"]",
            &format!("{command}\n{key}"),
        ));
        site.write("plain", "no program");
        let run = site.rotad(&["start"]);
        assert!([1, 78].contains(&run.code), "{command} {key}: {run:?}");
        let text = run.err.to_lowercase();
        assert!(
            text.contains(word) || text.contains("permission denied"),
            "{command} {key}: {run:?}"
        );
        site.assert_empty();
    }
}

/// For root: a configuration that others may write to, or a directory of it, is refused.
#[test]
fn a_file_that_others_can_write_is_an_error() {
    if !need::root() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new(GOOD);
    std::fs::set_permissions(&site.config, std::fs::Permissions::from_mode(0o666)).expect("a mode");
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 78, "{run:?}");
    assert!(run.err.contains("rotad.toml"), "{run:?}");
    std::fs::set_permissions(&site.config, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    std::fs::set_permissions(site.path(""), std::fs::Permissions::from_mode(0o777))
        .expect("a mode");
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 78, "{run:?}");
    site.assert_empty();
}

/// The search without `-c`: `./rotad.toml`, then `./config/rotad.toml`, and `$ROTAD_CONFIG` before both.
#[test]
fn the_configuration_is_searched_in_order() {
    let site = Site::new(GOOD);
    std::fs::create_dir(site.path("config")).expect("a directory");
    let check = |variable: Option<&str>| {
        let mut command = Command::new(support::rotad());
        command
            .arg("check")
            .current_dir(site.path(""))
            .env_remove("ROTAD_CONFIG");
        if let Some(path) = variable {
            command.env("ROTAD_CONFIG", path);
        }
        support::site::finish(command, 10)
    };
    assert_eq!(check(None).code, 0);
    site.write("config/rotad.toml", &site.read("rotad.toml"));
    site.write("broken.toml", "cuont = 1\n");
    let run = check(Some(site.path("broken.toml").to_str().expect("a path")));
    assert_eq!(run.code, 78, "{run:?}");
    std::fs::remove_file(site.path("rotad.toml")).expect("gone");
    assert_eq!(check(None).code, 0);
}

/// `check --json`: every finding with its place, for editors and deploy scripts.
#[test]
fn findings_are_available_as_json() {
    let site = Site::new("[pool.web]\ncomand = \"true\"\n");
    let run = site.rotad(&["check", "--json"]);
    assert_eq!(run.code, 78, "{run:?}");
    let value: serde_json::Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!(value["valid"], false);
    let findings = value["findings"].as_array().expect("a list");
    let unknown = findings
        .iter()
        .find(|f| f["message"].as_str().is_some_and(|m| m.contains("comand")))
        .expect("it");
    assert!(
        unknown["line"].as_u64().is_some_and(|line| line > 1) && unknown["column"] == 1,
        "{unknown}"
    );
    assert_eq!(unknown["severity"], "error");
}

#[test]
fn what_the_guardian_does_needs_one() {
    for (key, text) in [
        ("watchdog", "watchdog = \"30s\""),
        ("watch_program", "watch_program = true"),
    ] {
        let site = Site::with_master(&format!("guardian = false\n{text}"), GOOD);
        let run = site.rotad(&["check"]);
        assert_eq!(run.code, 78, "{run:?}");
        let said = format!("`{key}` means nothing with guardian = false");
        assert!(run.text().contains(&said), "{run:?}");
        assert!(run.text().contains(&line(&site, text)), "{run:?}");
    }
    let site = Site::with_master("guardian = false\nwatch_program = false", GOOD);
    assert_eq!(site.rotad(&["check"]).code, 0);
}
