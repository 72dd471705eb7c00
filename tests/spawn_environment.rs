//! A worker sees exactly what docs/worker-contract.md promises, however strangely its master was started.

mod support;

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use support::{Site, need, proc, until};

const POOLS: &str = r#"
[pool.facts]
command = ["@COPY@", "facts", "--out", "@DIR@/out/facts"]
listen = ["http", "local"]
ready = "spawned"
@USER@
umask = "027"
nice = 3
limits = { nofile = 1234, core = 0 }
env = { GREETING = "hello {pool} {slot} {generation}", PORT = "{port:http}", BRACE = "{{x" }
@CLEAR@
pass_env = ["KEPT_*"]
[pool.probe]
command = ["sh", "-c", "cp /proc/self/status @DIR@/out/status.draft && mv @DIR@/out/status.draft @DIR@/out/status; exec sleep 1000"]
ready = "spawned"
@USER@
[listen.http]
address = "127.0.0.1:@PORT@"
[listen.local]
address = "unix:@DIR@/local.sock"
"#;

/// Puts what a hostile parent does around `rotad run`: a bash script that ends in `exec "$@"`.
const STARTS: [(&str, &str); 6] = [
    ("nohup", "exec nohup \"$@\""),
    (
        "ignored signals",
        "trap '' HUP INT QUIT TERM USR1 USR2 PIPE CHLD ALRM TSTP WINCH; exec \"$@\"",
    ),
    ("blocked signals", "exec @WORKER@ blocked -- \"$@\""),
    (
        "50 descriptors",
        "for i in {10..59}; do eval \"exec $i</etc/passwd\"; done; exec \"$@\"",
    ),
    ("closed stdio", "exec 0<&- 1>&- 2>&-; exec \"$@\""),
    (
        "odd surroundings",
        "umask 0; ulimit -Sn 512; cd /usr; export LISTEN_FDS=7 LISTEN_PID=$$ LISTEN_FDNAMES=a:b NOTIFY_SOCKET=/nowhere \
         WATCHDOG_USEC=1 WATCHDOG_PID=$$ LISTEN_PIDFDID=9 ROTAD_POOL=other ROTAD_SLOT=99 KEPT_ONE=1 DROPPED=1; exec \"$@\"",
    ),
];

fn hostile(site: &Site, script: &str) -> Command {
    let run = site.run_command();
    let mut command = Command::new("bash");
    command
        .args(["-c", &site.filled(script), "hostile"])
        .arg(run.get_program())
        .args(run.get_args());
    command
}

fn site(user: Option<&str>) -> Site {
    let line = user
        .map(|user| format!("user = \"{user}\""))
        .unwrap_or_default();
    let clear = if user.is_some() {
        ""
    } else {
        "clear_env = true"
    };
    let site = Site::new(&POOLS.replace("@USER@", &line).replace("@CLEAR@", clear));
    std::fs::create_dir(site.path("out")).expect("a directory");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(site.path("out"), std::fs::Permissions::from_mode(0o1777))
        .expect("a directory for all users");
    site
}

/// The facts of one spawn, checked against docs/worker-contract.md.
fn born(name: &str, script: &str, user: Option<&str>) {
    let mut site = site(user);
    site.spawn(hostile(&site, script));
    let facts = until(&format!("{name}: the facts"), 20, || {
        serde_json::from_str::<Value>(&site.read("out/facts")).ok()
    });
    let probe = until(&format!("{name}: the probe"), 20, || {
        Some(site.read("out/status")).filter(|text| !text.is_empty())
    });
    descriptors(name, &facts);
    // The probe is no Rust program, whose runtime ignores SIGPIPE: not one signal is ignored or blocked.
    for line in probe
        .lines()
        .filter(|line| line.starts_with("SigIgn") || line.starts_with("SigBlk"))
    {
        let signals = proc::signals(line.split_whitespace().nth(1).expect("a mask"));
        assert!(signals.is_empty(), "{name}: {line}: {signals:?}");
    }
    assert_eq!(facts["blocked"], "0000000000000000", "{name}");
    let pid = facts["pid"].as_i64().expect("a pid");
    assert_eq!(facts["session"], pid, "{name}: a session of its own");
    assert_eq!(facts["group"], pid, "{name}: a process group of its own");
    assert_eq!(facts["terminal"], 0, "{name}");
    assert_eq!(facts["umask"], "0027", "{name}");
    assert_eq!(facts["nice"], 3, "{name}");
    assert_eq!(
        facts["limits"]["Max open files"],
        serde_json::json!(["1234", "1234"]),
        "{name}"
    );
    assert_eq!(
        facts["limits"]["Max core file size"],
        serde_json::json!(["0", "0"]),
        "{name}"
    );
    assert_eq!(
        facts["folder"],
        site.config
            .parent()
            .expect("a directory")
            .display()
            .to_string(),
        "{name}"
    );
    assert_eq!(
        facts["stdout_reopens"], true,
        "{name}: /dev/stdout as its own user"
    );
    assert_eq!(
        facts["stderr_reopens"], true,
        "{name}: /dev/stderr as its own user"
    );
    environment(name, &facts, site.port, user);
    identity(name, &facts, user);
    let status = site.await_ready();
    assert_eq!(support::pids(&status, "facts"), [pid as i32], "{name}");
    // The master itself obeys its signals, whatever it inherited.
    site.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(site.await_exit(45).code(), Some(0), "{name}");
    site.assert_empty();
    assert!(
        !site.path("local.sock").exists(),
        "{name}: the file of the unix socket is removed at stop"
    );
}

/// 0 is /dev/null, 1 and 2 lead to the master, 3 and 4 are the sockets in the order of `listen`; nothing else.
fn descriptors(name: &str, facts: &Value) {
    let all = facts["descriptors"].as_object().expect("descriptors");
    let numbers: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4"], "{name}: {all:?}");
    assert_eq!(all["0"], "/dev/null", "{name}");
    for socket in ["3", "4"] {
        assert!(
            all[socket]
                .as_str()
                .is_some_and(|what| what.starts_with("socket:")),
            "{name}: {all:?}"
        );
    }
}

fn environment(name: &str, facts: &Value, port: u16, user: Option<&str>) {
    let all = facts["environment"].as_object().expect("an environment");
    let is = |key: &str, value: &str| {
        assert_eq!(
            all.get(key).and_then(Value::as_str),
            Some(value),
            "{name}: {key}"
        )
    };
    is("LISTEN_FDS", "2");
    is("LISTEN_FDNAMES", "http:local");
    is("LISTEN_PID", &facts["pid"].to_string());
    is("ROTAD_POOL", "facts");
    is("ROTAD_KIND", "worker");
    is("ROTAD_SLOT", "0");
    is("ROTAD_GENERATION", "1");
    is("GREETING", "hello facts 0 1");
    is("PORT", &port.to_string());
    is("BRACE", "{x");
    assert!(
        all["ROTAD_WORKER"]
            .as_str()
            .is_some_and(|worker| !worker.is_empty()),
        "{name}"
    );
    assert_ne!(
        all.get("NOTIFY_SOCKET").and_then(Value::as_str),
        Some("/nowhere"),
        "{name}"
    );
    if let Some(user) = user {
        is("USER", user);
        is("LOGNAME", user);
    }
    let known = [
        "PATH",
        "LANG",
        "TZ",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "TERM",
        "NOTIFY_SOCKET",
    ];
    let ours = [
        "GREETING",
        "PORT",
        "BRACE",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PID",
    ];
    for key in all.keys() {
        let promised = known.contains(&key.as_str())
            || ours.contains(&key.as_str())
            || key.starts_with("LC_")
            || key.starts_with("KEPT_")
            || [
                "ROTAD_POOL",
                "ROTAD_KIND",
                "ROTAD_SLOT",
                "ROTAD_GENERATION",
                "ROTAD_WORKER",
            ]
            .contains(&key.as_str());
        assert!(promised, "{name}: {key} is handed on");
    }
    if name == "odd surroundings" {
        is("KEPT_ONE", "1");
    }
}

fn identity(name: &str, facts: &Value, user: Option<&str>) {
    let Some(user) = user else { return };
    let user = nix::unistd::User::from_name(user)
        .expect("users")
        .expect("this user");
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    assert_eq!(
        facts["uids"],
        serde_json::json!([uid, uid, uid, uid]),
        "{name}: real, effective, saved, filesystem"
    );
    assert_eq!(
        facts["gids"],
        serde_json::json!([gid, gid, gid, gid]),
        "{name}"
    );
    let groups: Vec<u64> = facts["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    assert!(
        !groups.contains(&0),
        "{name}: root's groups are dropped: {groups:?}"
    );
    assert_eq!(facts["capabilities"], "0000000000000000", "{name}");
    let home = facts["environment"]["HOME"].as_str().expect("HOME");
    assert_eq!(Path::new(home), user.dir, "{name}");
}

/// Six hostile parents, the master's own user.
#[test]
fn workers_start_the_same_under_six_hostile_parents() {
    for (name, script) in STARTS {
        born(name, script, None);
    }
}

/// The same six, with `user = "nobody"`: needs root.
#[test]
fn workers_of_another_user_start_the_same_under_six_hostile_parents() {
    if !need::root() {
        return;
    }
    for (name, script) in STARTS {
        born(name, script, Some("nobody"));
    }
}

/// The limit that the master raised for itself is not handed on, nor is a very large one walked through.
#[test]
fn resource_limits_are_set() {
    let plain = POOLS
        .replace("limits = { nofile = 1234, core = 0 }", "")
        .replace("@USER@", "")
        .replace("@CLEAR@", "")
        .replace("pass_env = [\"KEPT_*\"]", "");
    let hard = Command::new("bash")
        .args(["-c", "ulimit -Hn"])
        .output()
        .expect("bash")
        .stdout;
    let hard = String::from_utf8_lossy(&hard).trim().to_string();
    for (limit, wanted) in [
        ("ulimit -Sn 64", "64"),
        (
            "ulimit -n $((1<<30)) 2>/dev/null || ulimit -Sn $(ulimit -Hn)",
            "",
        ),
    ] {
        let mut site = Site::new(&plain);
        std::fs::create_dir(site.path("out")).expect("a directory");
        let asked = std::time::Instant::now();
        site.spawn(hostile(&site, &format!("{limit}; exec \"$@\"")));
        let facts = until("the facts", 20, || {
            serde_json::from_str::<Value>(&site.read("out/facts")).ok()
        });
        assert!(
            asked.elapsed().as_secs() < 3,
            "{limit}: {:?}",
            asked.elapsed()
        );
        let soft = facts["limits"]["Max open files"][0]
            .as_str()
            .expect("a limit");
        let accepted = if wanted.is_empty() {
            vec![hard.as_str(), "1073741824"]
        } else {
            vec![wanted]
        };
        assert!(accepted.contains(&soft), "{limit}: a worker has {soft}");
    }
}

/// Birth numbers are unique, and a successor has the slot of the worker that it replaces.
#[test]
fn worker_numbers_are_unique() {
    let script =
        "echo \"$ROTAD_WORKER $ROTAD_SLOT $ROTAD_GENERATION\" >> @DIR@/births; exec sleep 1000";
    let pools = format!(
        "[pool.many]\ncommand = [\"sh\", \"-c\", '{script}']\ncount = 3\nready = \"spawned\"\nreload = {{ soak = \"0s\" }}\n"
    );
    let site = Site::up(&pools);
    assert_eq!(site.rotad(&["roll"]).code, 0);
    let lines = until("six births", 10, || {
        Some(site.lines("births")).filter(|lines| lines.len() >= 6)
    });
    let words: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    let workers: std::collections::BTreeSet<&str> = words.iter().map(|words| words[0]).collect();
    assert_eq!(workers.len(), 6, "{lines:?}");
    for generation in ["1", "2"] {
        let mut slots: Vec<&str> = words
            .iter()
            .filter(|words| words[2] == generation)
            .map(|words| words[1])
            .collect();
        slots.sort_unstable();
        assert_eq!(slots, ["0", "1", "2"], "generation {generation}: {lines:?}");
    }
}
