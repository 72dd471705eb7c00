//! A worker that cannot be born: the reason is told in words, and nothing else suffers.

#[path = "support/dead_mount.rs"]
#[allow(unreachable_pub, reason = "other test binaries have it in a module")]
mod dead_mount;
#[path = "support/spawn_harness.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]
mod spawn_harness;

use dead_mount::DeadMount;
use nix::sys::resource::{Resource, setrlimit};
use rotad::plan::{Account, Limit};
use rotad::process::{PinnedPaths, SpawnResult};
use rotad_core::{Span, Time, WorkerId};
use spawn_harness::*;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn write(path: &Path, text: &[u8], mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn every_spawn_error_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let at = |name: &str| root.join(name).display().to_string();
    write(&root.join("plain"), b"echo\n", 0o644);
    write(&root.join("noise"), b"\x01\x02\x03", 0o755);
    write(&root.join("orphan"), b"#!/no/such/interpreter -x\n", 0o755);
    write(&root.join("foreign"), b"#!/bin/sh\r\necho\r\n", 0o755);
    fs::create_dir(root.join("folder")).unwrap();
    let mut spawner = spawner();
    for (program, words) in [
        (
            "no-such-program-anywhere",
            "no such program: no-such-program-anywhere".into(),
        ),
        ("./missing", "no such program: ./missing".into()),
        ("plain/x", "no such program: plain/x".into()),
        ("./plain", "not executable: ./plain".into()),
        ("./folder", "not executable: ./folder".into()),
        (
            "./noise",
            format!("not a program (exec format error): {}", at("noise")),
        ),
        (
            "./orphan",
            format!(
                "bad interpreter: /no/such/interpreter (asked for by {})",
                at("orphan")
            ),
        ),
        (
            "./foreign",
            format!(
                "bad interpreter: /bin/sh\\r (asked for by {})",
                at("foreign")
            ),
        ),
    ] {
        assert_eq!(
            error(spawn(&mut spawner, request(&[program], &root))),
            words
        );
    }
    assert_eq!(
        error(spawn(
            &mut spawner,
            request(&["true"], Path::new("/no/dir"))
        )),
        "no such directory: /no/dir"
    );
    let file = at("plain");
    assert_eq!(
        error(spawn(&mut spawner, request(&["true"], Path::new(&file)))),
        format!("not a directory: {file}")
    );
    let mut greedy = request(&["true"], &root);
    greedy.limits = vec![Limit {
        name: "core".into(),
        resource: 4,
        soft: 2,
        hard: 1,
    }];
    assert_eq!(
        error(spawn(&mut spawner, greedy)),
        "setting limit core: Invalid argument"
    );
    let mut broken = request(&["true", "a\0b"], &root);
    assert_eq!(
        error(spawn(&mut spawner, broken.clone())),
        "preparing its command: Invalid argument"
    );
    broken.argv.pop();
    broken.env.push(("X".into(), "a\0b".into()));
    assert_eq!(
        error(spawn(&mut spawner, broken)),
        "preparing its environment: Invalid argument"
    );
}

#[test]
fn a_program_open_for_writing_is_reported_as_busy() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().canonicalize().unwrap().join("app");
    fs::copy(Path::new("/bin/true").canonicalize().unwrap(), &program).unwrap();
    let writer = File::options().append(true).open(&program).unwrap();
    let mut spawner = spawner();
    let words = error(spawn(&mut spawner, request(&["./app"], dir.path())));
    assert_eq!(words, format!("text file busy: {}", program.display()));
    drop(writer);
    reap(&started(spawn(
        &mut spawner,
        request(&["./app"], dir.path()),
    )));
}

#[test]
fn errors_are_those_of_the_workers_user() {
    if !is_root() {
        // Not checked without root: errors of a worker that has a user.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(root.join("closed")).unwrap();
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    write(&root.join("ours"), b"#!/bin/sh\n", 0o700);
    write(&root.join("orphan"), b"#!/no/such\n", 0o755);
    let python = root.join("closed/python");
    write(&python, b"#!/bin/sh\n", 0o755);
    let script = format!("#!{} -u\n", python.display());
    write(&root.join("lent"), script.as_bytes(), 0o755);
    let mut spawner = spawner();
    let account = Account {
        name: "nobody".into(),
        uid: 65_534,
        gid: 65_534,
        groups: vec![],
        home: "/".into(),
        shell: "/".into(),
        group_alone: false,
    };
    for (program, directory, words) in [
        (
            "true",
            "closed",
            format!("permission denied: {}/closed", root.display()),
        ),
        (
            "./ours",
            ".",
            format!("permission denied: {}/ours", root.display()),
        ),
        (
            "./lent",
            ".",
            format!(
                "permission denied: {} (the interpreter of {}/lent)",
                python.display(),
                root.display()
            ),
        ),
        (
            "./orphan",
            ".",
            format!(
                "bad interpreter: /no/such (asked for by {}/orphan)",
                root.display()
            ),
        ),
    ] {
        let mut request = request(&[program], &root.join(directory));
        request.account = Some(account.clone());
        let (child, verdict) = exec_result(spawn(&mut spawner, request));
        assert_eq!(verdict.unwrap_err().to_string(), words);
        reap(&child);
    }
    let mut request = request(&["./missing"], &root);
    request.account = Some(account);
    assert_eq!(
        error(spawn(&mut spawner, request)),
        "no such program: ./missing"
    );
}

#[test]
fn spawning_without_descriptors_fails_cleanly() {
    if !alone("spawning_without_descriptors_fails_cleanly", &["env"]) {
        return;
    }
    let mut spawner = spawner();
    let request = request(&["true"], Path::new("/"));
    reap(&started(spawn(&mut spawner, request.clone())));
    setrlimit(Resource::RLIMIT_NOFILE, 3, 4096).unwrap();
    let words = error(spawn(&mut spawner, request.clone()));
    setrlimit(Resource::RLIMIT_NOFILE, 1024, 4096).unwrap();
    assert_eq!(words, "too many open files");
    reap(&started(spawn(&mut spawner, request)));
}

#[test]
fn a_refused_fork_is_reported() {
    if std::env::var_os("ALONE").is_none()
        && std::process::Command::new("strace")
            .arg("-V")
            .output()
            .is_err()
    {
        // Not checked without strace: a kernel that refuses the process. Where nothing may be missing, that is a failure.
        assert!(
            std::env::var_os("CI").is_none(),
            "strace is missing: tests/all.sh installs it"
        );
        return;
    }
    // Threads come from clone3(2), workers from clone(2): the first two are refused.
    let inject = "inject=clone:error=EAGAIN:when=1";
    if !alone(
        "a_refused_fork_is_reported",
        &[
            "strace",
            "-f",
            "-o",
            "/dev/null",
            "-e",
            "trace=clone",
            "-e",
            inject,
        ],
    ) {
        return;
    }
    let mut spawner = spawner();
    let request = request(&["true"], Path::new("/"));
    assert_eq!(
        error(spawn(&mut spawner, request.clone())),
        "fork refused: Resource temporarily unavailable (limit of processes or of the cgroup)"
    );
    reap(&started(spawn(&mut spawner, request)));
}

/// Lets the spawner's time pass, without waiting for it, until it says what became of the order.
fn play(spawner: &mut TestSpawner) -> SpawnResult {
    let mut now = Time(0);
    loop {
        now = now + Span::from_millis(500);
        assert!(spawner.deadline().is_some() || spawner.has_result());
        spawner.check(now);
        if let Some(result) = spawner.result(Duration::from_millis(20)) {
            return result;
        }
    }
}

#[test]
fn a_child_that_hangs_is_killed() {
    // On its own: a child that hangs holds what the other tests have open just then.
    if !alone("a_child_that_hangs_is_killed", &["env"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let mut spawner = spawner();
    let request = request(&["true"], &root);
    reap(&started(spawn(&mut spawner, request.clone())));
    assert_eq!(spawner.deadline(), None);
    let Some(mount) = DeadMount::over(&root) else {
        // Not checked: births that hang.
        return;
    };
    // Pinned already: the first to touch the mount is the child. A sibling that waits behind it has no better luck.
    spawner.request(request.clone());
    spawner.request(request.clone());
    for _ in 0..2 {
        assert_eq!(
            error(play(&mut spawner)),
            format!("hung while entering directory {}", root.display())
        );
    }
    assert_eq!((spawner.outstanding(), spawner.deadline()), (0, None));
    reap(&started(spawn(
        &mut spawner,
        spawn_harness::request(&["true"], Path::new("/")),
    )));
    drop(mount);
    reap(&started(spawn(&mut spawner, request)));
}

#[test]
fn a_thread_that_hangs_is_abandoned() {
    // On its own: a child that hangs holds what the other tests have open just then.
    if !alone("a_thread_that_hangs_is_abandoned", &["env"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let mut spawner = spawner();
    let Some(mount) = DeadMount::over(&root) else {
        // Not checked: threads that hang.
        return;
    };
    let words = format!("hung while finding the program {}", root.display());
    // Not pinned yet: the thread itself looks at the mount. More than may hang at the same time, each of another pool.
    for round in 0..10 {
        let mut request = request(&["true"], &root);
        request.worker = WorkerId(round);
        spawner.request(request.clone());
        let result = play(&mut spawner);
        assert!(
            matches!(&result, SpawnResult::Failed { worker, .. } if *worker == WorkerId(round))
        );
        let expected = if round < 9 {
            words.as_str()
        } else {
            "hung while waiting for a spawner"
        };
        assert_eq!(error(result), expected, "round {round}");
        if round == 0 {
            // The same pool once more costs no second thread, and nobody else waits.
            assert_eq!(error(spawn(&mut spawner, request)), words);
            reap(&started(spawn(
                &mut spawner,
                spawn_harness::request(&["true"], Path::new("/")),
            )));
        }
    }
    drop(mount);
    // Those that come back take orders again, and do not report a second time.
    for _ in 0..20 {
        let mut request = request(&["true"], Path::new("/"));
        request.pinned = Arc::new(PinnedPaths::new(
            "true".into(),
            "/".into(),
            Some("/usr/bin:/bin".into()),
        ));
        reap(&started(spawn(&mut spawner, request)));
    }
    assert!(!spawner.has_result());
    assert_eq!(spawner.deadline(), None, "nothing is outstanding");
}

/// A fence less is no reason for a worker not to be.
#[test]
fn a_worker_runs_without_a_cgroup_that_it_cannot_join() {
    let dir = tempfile::tempdir().unwrap();
    let mut spawner = spawner();
    // Not there; not to be written to.
    for procs in [dir.path().join("cgroup.procs"), "/dev/full".into()] {
        let mut request = request(&["true"], dir.path());
        request.cgroup = Some(procs);
        reap(&started(spawn(&mut spawner, request)));
    }
}
