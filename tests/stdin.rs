//! `stdin = "listen:NAME"`: a listener as descriptor 0, for programs that look for theirs there.

mod support;

use serde_json::Value;
use support::{Site, alone, until};

const SERVER: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--stdin"]
count = 2
stdin = "listen:http"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// A worker that has its listener there alone is seen accepting, and is rolled like any other.
#[test]
fn a_listener_as_stdin_rolls_without_loss() {
    let _alone = alone();
    let mut site = Site::up(SERVER);
    site.roll_under_load(&["web"]).assert_nothing_lost(300);
    site.stop_politely(15);
}

fn facts(pool: &str) -> Value {
    let site = Site::new(&format!(
        "[pool.facts]\ncommand = [\"@WORKER@\", \"facts\", \"--out\", \"@DIR@/facts\"]\nready = \"spawned\"\n{pool}\n\
         env = {{ HTTP = \"{{fd:http}}\" }}\n[listen.http]\naddress = \"127.0.0.1:@PORT@\"\n\
         [listen.local]\naddress = \"unix:@DIR@/local.sock\"\n"
    ));
    let mut site = site;
    site.run();
    until("the facts", 20, || {
        site.path("facts").exists().then_some(())
    });
    serde_json::from_str(&site.read("facts")).expect("facts")
}

fn descriptor(facts: &Value, number: &str) -> String {
    facts["descriptors"][number]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_listener_as_stdin_sets_no_listen_fds() {
    let facts = facts("stdin = \"listen:http\"");
    assert!(descriptor(&facts, "0").starts_with("socket:"), "{facts}");
    assert_eq!(descriptor(&facts, "3"), "", "{facts}");
    assert_eq!(facts["environment"]["LISTEN_FDS"], Value::Null);
    assert_eq!(facts["environment"]["HTTP"], "0");
}

#[test]
fn stdin_and_listen_can_share_a_listener() {
    let facts = facts("listen = [\"local\", \"http\"]\nstdin = \"listen:http\"");
    assert_eq!(descriptor(&facts, "0"), descriptor(&facts, "4"), "{facts}");
    assert_ne!(descriptor(&facts, "0"), descriptor(&facts, "3"), "{facts}");
    assert_eq!(facts["environment"]["LISTEN_FDS"], "2");
    assert_eq!(facts["environment"]["LISTEN_FDNAMES"], "local:http");
    assert_eq!(facts["environment"]["HTTP"], "4");
}
