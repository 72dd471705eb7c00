//! Two configurations of one master: what `diff` makes of them.

use super::Case;
use rotad::plan::{self, Diff, ListenChange, Plan, PoolChange};

fn plan_of(case: &Case, text: &str) -> Plan {
    std::fs::write(&case.file, text).unwrap();
    case.load().unwrap_or_else(|report| panic!("{report}")).plan
}

fn diff(old: &str, new: &str) -> Diff {
    let case = Case::new("");
    plan::diff(&plan_of(&case, old), &plan_of(&case, new))
}

/// What becomes of `web` when its lines change.
fn web(old: &str, new: &str) -> PoolChange {
    let text = |lines: &str| format!("[pool.web]\ncommand = [\"sh\"]\n{lines}\n");
    let diff = diff(&text(old), &text(new));
    let [web] = &diff.pools[..] else {
        panic!("{diff:?}")
    };
    web.change.clone()
}

fn rolled(old: &str, new: &str, keys: &[&str]) {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    assert_eq!(web(old, new), PoolChange::Rolled { keys }, "{old} | {new}");
}

fn adjusted(old: &str, new: &str, keys: &[&str]) {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    assert_eq!(
        web(old, new),
        PoolChange::Adjusted { keys },
        "{old} | {new}"
    );
}

#[test]
fn what_workers_are_made_from_rolls_them() {
    rolled("", "env = { A = \"1\", B = \"2\" }", &["env.A", "env.B"]);
    rolled(
        "env = { A = \"1\", B = \"2\" }",
        "env = { B = \"2\", C = \"\" }",
        &["env.A", "env.C"],
    );
    rolled("", "kind = \"task\"\nstop = \"30s\"", &["kind"]);
    rolled(
        "",
        "listen = \"127.0.0.1:8000\"\nready = \"notify\"",
        &["listen", "ready"],
    );
    rolled("", "stdin = \"listen:127.0.0.1:8000\"", &["stdin"]);
    let listen = "listen = \"127.0.0.1:8000\"";
    rolled(
        listen,
        &format!("{listen}\nstdin = \"listen:127.0.0.1:8000\""),
        &["stdin"],
    );
    rolled(
        "",
        "working_directory = \"/\"\numask = \"077\"\nnice = 1",
        &["working_directory", "umask", "nice"],
    );
    rolled(
        "",
        "clear_env = true\npass_env = [\"A\"]",
        &["clear_env", "pass_env"],
    );
    rolled(
        "limits = { core = 0 }",
        "limits = { nofile = 9 }",
        &["limits.core", "limits.nofile"],
    );
    rolled(
        "ready = { after = \"1s\" }",
        "ready = { after = \"2s\" }",
        &["ready"],
    );
    rolled(
        "health = { watchdog = \"1s\" }",
        "health = { watchdog = \"2s\" }",
        &["health.watchdog"],
    );
    rolled("", "health = { command = [\"true\"] }", &["health"]);
    rolled("count = 1", "count = 2\nnice = 1", &["nice", "count 1 → 2"]);
    let ports = "env = { P = \"{port}\" }\nports = ";
    rolled(
        &format!("{ports}\"3000-3009\""),
        &format!("{ports}\"3001-3010\""),
        &["ports"],
    );
}

#[test]
fn keys_of_the_master_replace_no_worker() {
    assert_eq!(web("", ""), PoolChange::Same);
    adjusted("count = 4", "count = 8", &["count 4 → 8"]);
    adjusted(
        "",
        "stop = \"5s\"\nready_timeout = \"5s\"",
        &["ready_timeout", "stop"],
    );
    adjusted("", "max_starting = 3", &["max_starting"]);
    adjusted(
        "",
        "reload = { surge = 0, max_draining = 3, soak = \"2s\", on_failure = \"abort\" }",
        &[
            "reload.surge",
            "reload.max_draining",
            "reload.soak",
            "reload.on_failure",
        ],
    );
    let restart = "restart = { policy = \"on-failure\", delay = \"1s\", max_delay = \"5s\", stable_after = \"1s\", success_exit_codes = [] }";
    let keys = [
        "restart.policy",
        "restart.delay",
        "restart.max_delay",
        "restart.stable_after",
        "restart.success_exit_codes",
    ];
    adjusted("", restart, &keys);
    adjusted(
        "",
        "essential = \"1s\"\nrecycle = { max_age = \"1h\", max_rss = \"1GiB\" }",
        &["essential", "recycle.max_age", "recycle.max_rss"],
    );
    let health = |rest: &str| format!("health = {{ command = [\"true\"]{rest} }}");
    adjusted(
        &health(""),
        &health(", every = \"20s\", timeout = \"1s\", failures = 1"),
        &["health.every", "health.timeout", "health.failures"],
    );
    adjusted(&health(""), "", &["health"]);
    let ports = "env = { P = \"{port}\" }\nports = ";
    adjusted(
        &format!("{ports}\"3000-3009\""),
        &format!("{ports}\"3000-3010\""),
        &["ports"],
    );
    let watch = "reload = { watch = [\"*.toml\"]";
    adjusted("", &format!("{watch} }}"), &["reload.watch"]);
    adjusted(
        &format!("{watch} }}"),
        &format!("{watch}, debounce = \"1s\" }}"),
        &["reload.debounce"],
    );
    adjusted("", "reload = { on = \"change\" }", &["reload.on"]);
    adjusted(
        "reload = { on = \"change\" }",
        "reload = { on = \"always\" }",
        &["reload.on"],
    );
}

/// A pipe's reader decides where its lines go; another descriptor needs another worker.
#[test]
fn where_output_goes_is_mostly_the_readers_choice() {
    adjusted("", "log = { stdout = \"a.log\" }", &["log.stdout"]);
    adjusted(
        "log = { stdout = \"a.log\" }",
        "log = { stdout = \"b.log\", keep = 1 }",
        &["log.stdout", "log.keep"],
    );
    rolled("", "log = { stdout = \"null\" }", &["log.stdout"]);
    rolled("log = { stdout = \"inherit\" }", "", &["log.stdout"]);
    rolled("", "log = { stderr = \"err.log\" }", &["log.stderr"]);
    adjusted("", "log = { stderr = \"master\" }", &["log.stderr"]);
    rolled(
        "log = { stdout = \"inherit\" }",
        "log = { stdout = \"inherit\", stderr = \"inherit\" }",
        &["log.stderr"],
    );
}

#[test]
fn pools_come_and_go() {
    let pool = |name: &str, rest: &str| format!("[pool.{name}]\ncommand = [\"sh\"]\n{rest}\n");
    let diff = diff(
        &[
            pool("a", ""),
            pool("b", ""),
            pool("c", "kind = \"oneshot\""),
        ]
        .concat(),
        &[pool("d", ""), pool("b", "after = \"d\""), pool("c", "")].concat(),
    );
    let lines = [
        "a: removed",
        "d: added",
        "b: adjusted without a restart (after)",
        "c: removed",
        "c: added",
    ];
    assert_eq!(diff.lines(), lines);
}

#[test]
fn listeners_are_compared_by_what_they_mean() {
    let text = |listeners: &str, listen: &str| {
        format!(
            "{listeners}\n[pool.web]\ncommand = [\"sh\"]\nlisten = {listen}\n[pool.x]\ncommand = [\"sh\"]\n"
        )
    };
    let http = |rest: &str| format!("[listen.http]\naddress = \"127.0.0.1:8000\"\n{rest}\n");
    let more = "[listen.a]\naddress = \"127.0.0.1:9000\"\n";
    let before = text(&http(""), "\"http\"");
    // Another index, the same socket.
    let shifted = text(&[more, &http("backlog = 5")].concat(), "\"http\"");
    let diff = diff(&before, &shifted);
    assert!(
        diff.pools
            .iter()
            .all(|pool| pool.change == PoolChange::Same),
        "{diff:?}"
    );
    assert_eq!(
        diff.lines(),
        [
            "listener a: added",
            "listener http: changes in place (backlog)"
        ]
    );
    let moved = super::differences::diff(&before, &before.replace("8000", "8001"));
    assert_eq!(
        moved.lines(),
        ["web: rolled (listen)", "listener http: another address"]
    );
    assert_eq!(moved.listeners[0].change, ListenChange::Replaced);
    let gone = super::differences::diff(
        &before,
        "[pool.web]\ncommand = [\"sh\"]\n[pool.x]\ncommand = [\"sh\"]\n",
    );
    // Without `listen`, `auto` means something else, but is the same word.
    assert_eq!(
        gone.lines(),
        ["web: rolled (listen)", "listener http: removed"]
    );
}

#[test]
fn keys_of_the_master_are_applied_or_wait() {
    let pool = "[pool.web]\ncommand = [\"sh\"]\n";
    let diff = diff(
        pool,
        &format!(
            "[master]\nname = \"x\"\nlog_level = \"debug\"\nwatch_config = true\nlog_file = \"x.log\"\n[control]\nmode = \"0660\"\n\
             [signals]\nUSR1 = \"ignore\"\n{pool}"
        ),
    );
    assert_eq!(diff.live, ["signals", "log_level", "watch_config"]);
    let waits = &diff.needs_new_master;
    assert!(
        waits.starts_with(&["name".to_owned(), "pid_file".to_owned()]),
        "{waits:?}"
    );
    assert!(
        waits.ends_with(&["log_file".to_owned(), "control.mode".to_owned()]),
        "{waits:?}"
    );
    assert_eq!(diff.lines().len(), 2);
    assert!(!diff.is_empty());
}

#[test]
fn a_comment_changes_nothing() {
    let pool = "[pool.web]\ncommand = [\"sh\"]\nenv = { SECRET = \"topsecret\" }\n";
    let same = diff(pool, &format!("# a word\n{pool}"));
    assert!(same.is_empty() && same.lines().is_empty());
    let other = diff(pool, &pool.replace("topsecret", "other"));
    assert_eq!(other.lines(), ["web: rolled (env.SECRET)"]);
}
