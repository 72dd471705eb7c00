//! What a worker finds when it begins, whatever state the master is in.

#[path = "support/spawn_harness.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]
mod spawn_harness;

use nix::sys::signal::{SigSet, Signal};
use rotad::plan::{Account, Limit};
use rotad::process::{SpawnRequest, SpawnedChild};
use rotad::sys::descriptors::close_all_but;
use spawn_harness::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs a program that says "here" and then waits to be looked at.
fn stay(request: &mut SpawnRequest) -> (SpawnedChild, impl Sized + use<>) {
    let mut heard = BufReader::new(listen_to(request));
    let mut spawner = spawner();
    let result = spawn(&mut spawner, request.clone());
    request.stdout = null();
    let child = if request.account.is_some() {
        let (child, verdict) = exec_result(result);
        assert_eq!(verdict, Ok(()));
        child
    } else {
        started(result)
    };
    let mut line = String::new();
    heard.read_line(&mut line).unwrap();
    assert_eq!(line, "here\n");
    (child, (heard, spawner))
}

fn descriptors(pid: i32) -> BTreeMap<i32, PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap());
    // Other tests open and close theirs meanwhile.
    open.filter_map(|fd| {
        Some((
            fd.file_name().to_str()?.parse().ok()?,
            fs::read_link(fd.path()).ok()?,
        ))
    })
    .collect()
}

fn environment(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let mut lines: Vec<_> = bytes
        .split(|&byte| byte == 0)
        .map(|line| String::from_utf8(line.to_vec()).unwrap())
        .collect();
    lines.retain(|line| !line.is_empty());
    lines.sort();
    lines
}

fn stat(pid: i32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat[stat.rfind(')').unwrap() + 2..]
        .split(' ')
        .map(str::to_owned)
        .collect()
}

fn sample(directory: &Path) -> SpawnRequest {
    let mut request = request(&["sh", "-c", "echo here; kill -STOP $$"], directory);
    let listeners = [
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    ];
    request.listeners = listeners
        .into_iter()
        .map(|listener| Arc::new(listener.into()))
        .collect();
    request.listen_names = "web:admin".into();
    request.env.push(("LISTEN_PIDS".into(), "kept".into()));
    request.env.push(("LISTEN_FDS".into(), "99".into()));
    request.umask = Some(0o027);
    request.nice = Some(3);
    request.limits = vec![Limit {
        name: "core".into(),
        resource: 4,
        soft: 0,
        hard: 1 << 20,
    }];
    request
}

fn check(child: &SpawnedChild, request: &SpawnRequest, directory: &Path) {
    let pid = child.process.pid();
    for set in ["SigBlk:", "SigIgn:"] {
        assert_eq!(fact(pid, "status", set), "0000000000000000", "{set}");
    }
    let stat = stat(pid);
    assert_eq!(
        (stat[2].as_str(), stat[3].as_str()),
        (&*pid.to_string(), &*pid.to_string()),
        "group and session"
    );
    assert_eq!(stat[19], child.start_time.to_string());
    assert_eq!(stat[16], "3", "nice");
    assert_eq!(fact(pid, "status", "Umask:"), "0027");
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        directory
    );
    assert_eq!(
        fact(pid, "limits", "Max open files")
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["345", "456", "files"]
    );
    assert!(fact(pid, "limits", "Max core file size").starts_with("0 "));
    let open = descriptors(pid);
    assert_eq!(
        open.keys().copied().collect::<Vec<_>>(),
        [0, 1, 2, 3, 4],
        "{open:?}"
    );
    assert_eq!(open[&0], Path::new("/dev/null"));
    assert!(open[&1].to_str().unwrap().starts_with("pipe:"));
    let ours = descriptors(std::process::id() as i32);
    for (fd, listener) in [3, 4].into_iter().zip(&request.listeners) {
        use std::os::fd::AsRawFd;
        assert_eq!(open[&fd], ours[&listener.as_raw_fd()], "listener {fd}");
    }
    let listen_pid = format!("LISTEN_PID={pid}");
    assert_eq!(
        environment(pid),
        [
            "A=b",
            "LISTEN_FDNAMES=web:admin",
            "LISTEN_FDS=2",
            &listen_pid,
            "LISTEN_PIDS=kept"
        ]
        .map(str::to_owned)
    );
}

#[test]
fn starts_clean() {
    // Nothing of this thread's reaches the worker either: the spawner is started from it.
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGTERM);
    blocked.add(Signal::SIGCHLD);
    blocked.thread_block().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().canonicalize().unwrap();
    let mut request = sample(&directory);
    let (child, _held) = stay(&mut request);
    check(&child, &request, &directory);
    assert_eq!(child.pinned.as_ref().unwrap().directory, directory);
    assert!(!child.repinned);
    kill(&child);
}

/// The same under a parent that ignores signals (nohup), has junk open, and stdio closed.
#[test]
fn starts_clean_under_a_hostile_parent() {
    let script = "trap '' HUP INT QUIT USR1 USR2 TERM; exec 7</dev/null 9</dev/null 0<&-; exec \"$0\" \"$@\"";
    assert!(std::env::var_os("ALONE").is_none());
    // As the test above, in a process of its own that is started so.
    assert!(!alone("starts_clean", &["sh", "-c", script]));
}

#[test]
fn seals_what_the_starter_left_open() {
    let script = "exec 7</dev/null 9</dev/null; exec \"$0\" \"$@\"";
    if !alone("seals_what_the_starter_left_open", &["sh", "-c", script]) {
        return;
    }
    let ours = || descriptors(std::process::id() as i32);
    assert!(ours().contains_key(&7) && ours().contains_key(&9));
    close_all_but(3, None).unwrap();
    // 3 is the listing itself.
    assert_eq!(ours().into_keys().collect::<Vec<_>>(), [0, 1, 2, 3]);
}

fn nobody() -> Account {
    let (home, shell) = (PathBuf::from("/nonexistent"), PathBuf::from("/bin/sh"));
    Account {
        name: "nobody".into(),
        uid: 65_534,
        gid: 65_533,
        groups: vec![65_533, 12_345],
        home,
        shell,
        group_alone: false,
    }
}

#[test]
fn gives_up_the_rights_of_the_master() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().canonicalize().unwrap();
    fs::set_permissions(
        &directory,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let mut request = sample(&directory);
    request.account = Some(nobody());
    if !is_root() {
        let (child, verdict) = exec_result(spawn(&mut spawner(), request));
        reap(&child);
        // Not checked without root: that a worker with a user begins as that user.
        assert_eq!(
            verdict.unwrap_err().to_string(),
            "setting the groups of user nobody: Operation not permitted"
        );
        return;
    }
    let (child, _held) = stay(&mut request);
    check(&child, &request, &directory);
    let status = |name: &str| fact(child.process.pid(), "status", name);
    assert_eq!(status("Uid:"), ["65534"; 4].join("\t"));
    assert_eq!(status("Gid:"), ["65533"; 4].join("\t"));
    assert_eq!(status("Groups:"), "12345 65533");
    for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(status(set), "0000000000000000", "{set}");
    }
    kill(&child);
}

#[test]
fn a_worker_may_have_the_masters_own_user() {
    let (uid, gid) = (
        nix::unistd::getuid().as_raw(),
        nix::unistd::getgid().as_raw(),
    );
    let groups = nix::unistd::getgroups()
        .unwrap()
        .iter()
        .map(|group| group.as_raw())
        .collect();
    let mut request = request(&["true"], Path::new("/"));
    request.account = Some(Account {
        uid,
        gid,
        groups,
        ..nobody()
    });
    let (child, verdict) = exec_result(spawn(&mut spawner(), request));
    assert_eq!(verdict, Ok(()));
    reap(&child);
}

#[test]
fn leaves_no_descriptor_behind() {
    if !alone("leaves_no_descriptor_behind", &["env"]) {
        return;
    }
    let mut spawner = spawner();
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = 0;
    for round in 0..=200 {
        let mut request = request(
            &[if round % 3 == 0 {
                "/no/such/program"
            } else {
                "true"
            }],
            Path::new("/"),
        );
        request.account = (round % 7 == 0).then(nobody);
        match spawn(&mut spawner, request) {
            rotad::process::SpawnResult::Failed { .. } => {}
            rotad::process::SpawnResult::Started { child, .. } => reap(&child),
            rotad::process::SpawnResult::ExecPending { child, .. } => reap(&child),
        }
        if round == 0 {
            before = open();
        }
    }
    assert_eq!(open(), before);
}

/// They are computed, for all but the first child of a thread and those during which a clock tick passes.
#[test]
fn start_times_are_those_of_proc() {
    let mut spawner = spawner();
    // More than the threads are needed for, so that two of them spawn at a time.
    for _ in 0..20 {
        for _ in 0..10 {
            spawner.request(request(&["sleep", "60"], Path::new("/")));
        }
        for _ in 0..10 {
            let child = started(next_result(&spawner));
            let pid = child.process.pid();
            assert_eq!(stat(pid)[19], child.start_time.to_string());
            child.process.signal(Signal::SIGKILL as i32).unwrap();
            reap(&child);
        }
    }
    assert_eq!(spawner.threads().len(), 2);
}

/// More than are reserved for, so that their numbers reach into those that the spawner stages descriptors in.
#[test]
fn a_worker_gets_as_many_listeners_as_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = sample(dir.path());
    let listener: Arc<std::os::fd::OwnedFd> =
        Arc::new(TcpListener::bind("127.0.0.1:0").unwrap().into());
    request.listeners = vec![listener; 60];
    let (child, _kept) = stay(&mut request);
    let open = descriptors(child.process.pid());
    assert_eq!(
        open.keys().copied().collect::<Vec<i32>>(),
        Vec::from_iter(0..63)
    );
    let is_socket = |path: &&PathBuf| path.to_string_lossy().starts_with("socket:");
    assert_eq!(open.values().filter(is_socket).count(), 60);
    child.process.signal(Signal::SIGKILL as i32).unwrap();
    reap(&child);
}

/// A child that hangs holds nothing of one that is spawned beside it.
#[test]
fn a_child_has_no_descriptor_of_another_one() {
    let mut spawner = spawner();
    let mut ends = Vec::new();
    for _ in 0..200 {
        let mut request = request(&["true"], Path::new("/"));
        ends.push(listen_to(&mut request));
        spawner.request(request);
    }
    let mut children = Vec::new();
    for _ in 0..200 {
        children.push(started(next_result(&spawner)));
    }
    for end in ends {
        // Its own writer has ended: another one would be waited for.
        assert_eq!(everything(end), "");
    }
    children.iter().for_each(reap);
}

/// A generation stays where it began, until that place is gone.
#[test]
fn a_moved_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let link = root.join("current");
    for release in ["one", "two"] {
        fs::create_dir(root.join(release)).unwrap();
        fs::copy(
            Path::new("/bin/pwd").canonicalize().unwrap(),
            root.join(release).join("app"),
        )
        .unwrap();
    }
    std::os::unix::fs::symlink("one", &link).unwrap();
    let mut spawner = spawner();
    let mut request = request(&["./app", "-P"], &link);
    let mut run = || {
        let heard = listen_to(&mut request);
        let child = started(spawn(&mut spawner, request.clone()));
        request.stdout = null();
        reap(&child);
        (PathBuf::from(everything(heard).trim_end()), child)
    };
    let (place, child) = run();
    assert_eq!(
        (place, child.pinned.unwrap().program),
        (root.join("one"), root.join("one/app"))
    );
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("two", &link).unwrap();
    let (place, child) = run();
    assert_eq!(
        (place, child.pinned, child.repinned),
        (root.join("one"), None, false)
    );
    fs::remove_dir_all(root.join("one")).unwrap();
    let (place, child) = run();
    assert_eq!((place, child.repinned), (root.join("two"), true));
    assert_eq!(child.pinned.unwrap().directory, root.join("two"));
    let (place, child) = run();
    assert_eq!((place, child.repinned), (root.join("two"), false));
}
