//! rotad as the first process of a container. There is no container engine in these tests: the container is made of
//! the same namespaces, see [`support::container`].

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::example::python;
use support::{Container, alone, need, never, pids, pool, proc, until, until_some};

const MASTER: &str = "[master]\nruntime_dir = \"/run/rotad\"\n";

fn web(keys: &str) -> String {
    format!(
        "{MASTER}[pool.web]\ncommand = [\"/bin/testworker\", \"http\", \"--work-ms\", \"700\"]\ncount = 2\n\
         listen = \"127.0.0.1:@PORT@\"\nstop = \"5s\"\n{keys}"
    )
}

/// A pool that waits for TERM, and writes when it has come.
fn waiting(keys: &str) -> String {
    format!(
        "{MASTER}[pool.jobs]\ncommand = [\"/bin/testworker\", \"wait\", \"--notify\", \"--terms\", \"/tmp/terms\"]\n\
         ready = \"notify\"\n{keys}"
    )
}

/// Connections that the workers have accepted: their sockets beyond the listener and the pair of their own.
fn accepted(container: &Container) -> usize {
    let sockets = |pid: &i32| {
        proc::descriptors(*pid)
            .values()
            .filter(|what| what.starts_with("socket:"))
            .count()
    };
    let workers = proc::children(container.master());
    workers
        .iter()
        .map(|pid| sockets(pid).saturating_sub(3))
        .sum()
}

/// `docker stop`: TERM, or what the image's STOPSIGNAL says.
#[test]
fn a_stop_answers_what_is_in_flight() {
    let _alone = alone();
    for signal in [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT] {
        let Some(mut container) = Container::new(&web("")) else {
            return;
        };
        container.start();
        container.await_ready();
        let clients = support::load::burst(&container.address(), "/", 16);
        until("16 accepted connections", 10, || {
            (accepted(&container) >= 16).then_some(())
        });
        let asked = Instant::now();
        container.signal(signal);
        let answers: Vec<_> = clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .collect();
        let lost: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
        assert!(
            lost.is_empty(),
            "{signal}: {} of 16 lost: {lost:?}",
            lost.len()
        );
        assert_eq!(container.await_exit(10).code(), Some(0), "after {signal}");
        assert!(
            asked.elapsed() < Duration::from_secs(4),
            "{signal}: {:?}",
            asked.elapsed()
        );
        assert_eq!(container.processes(), [0; 0], "left in the container");
    }
}

/// A stop that comes before the handlers stand is not forgotten, as the kernel would have it for a first process.
#[test]
fn a_stop_right_after_the_start_counts() {
    for _ in 0..10 {
        let Some(mut container) = Container::new(&waiting("")) else {
            return;
        };
        container.launch();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_past_its_first_moment(container.pid()) {
            assert!(
                Instant::now() < deadline,
                "rotad has not begun: {}",
                container.log()
            );
        }
        container.signal(Signal::SIGTERM);
        assert_eq!(container.await_exit(10).code(), Some(0));
    }
}

/// What ends a program that does not expect it is ignored, as it is until the handlers stand, or has its handler.
fn is_past_its_first_moment(pid: i32) -> bool {
    let reopen = nix::libc::SIGRTMIN() as u32;
    let has =
        |set: &str| proc::status(pid, set).is_some_and(|hex| proc::signals(&hex).contains(&reopen));
    has("SigIgn") || has("SigCgt")
}

/// Signals meant for a master, from its first moment on and when it runs; none of them, and nothing that the master
/// gets, reaches a worker.
#[test]
fn stray_signals_end_nobody() {
    let Some(mut container) = Container::new(&waiting("count = 2\nkind = \"task\"\n")) else {
        return;
    };
    container.launch();
    let stray = [
        Signal::SIGUSR2,
        Signal::SIGUSR1,
        Signal::SIGHUP,
        Signal::SIGWINCH,
        Signal::SIGCONT,
        Signal::SIGPIPE,
    ];
    until("rotad has begun", 20, || {
        stray.iter().for_each(|signal| container.signal(*signal));
        container.log().contains("rotad 0").then_some(())
    });
    let before = container.await_ready();
    container.await_status("what was asked for is done", 10, |status| {
        pool(status, "jobs")["reload"]["state"] != "running"
    });
    let workers = pids(&container.await_ready(), "jobs");
    // From inside the kernel lets nothing through to a first process that it does not handle.
    for signal in [
        "KILL", "STOP", "TSTP", "TTIN", "USR1", "HUP", "WINCH", "CHLD", "ALRM", "34",
    ] {
        let run = container.exec(&["/bin/busybox", "kill", &format!("-{signal}"), "1"]);
        assert_eq!(run.code, 0, "kill -{signal} 1: {}", run.text());
    }
    container.signal(Signal::SIGWINCH);
    until("the last one has been read", 10, || {
        container.log().contains("RTMIN from pid").then_some(())
    });
    assert_eq!(
        pids(&container.await_ready(), "jobs"),
        workers,
        "workers were touched"
    );
    assert_eq!(pool(&before, "jobs")["workers"][0]["restarts"], 0);
    container.signal(Signal::SIGTERM);
    assert_eq!(container.await_exit(10).code(), Some(0));
}

/// Orphans of workers, and of what is executed in the container besides, end without a trace: nobody else reaps them.
#[test]
fn orphans_leave_no_zombie() {
    let shell = "for i in 1 2 3 4 5 6 7 8 9 10; do (setsid busybox sleep 0.0$i &); (busybox sleep 0.2 &); done; \
                 exec testworker wait --notify";
    let config = format!(
        "{MASTER}[pool.jobs]\ncommand = [\"sh\", \"-c\", \"{shell}\"]\nready = \"notify\"\n"
    );
    let Some(mut container) = Container::new(&config) else {
        return;
    };
    container.start();
    container.await_ready();
    let run = container.exec(&[
        "/bin/sh",
        "-c",
        "for i in 1 2 3 4 5; do (busybox sleep 0.1 &); done; busybox sleep 600 &",
    ]);
    assert_eq!(run.code, 0, "{}", run.text());
    let sleeping = |pid: &i32| proc::command_line(*pid) == "busybox sleep 600";
    let left = until("only the worker and the last orphan are left", 10, || {
        let left = container.processes();
        (left.len() == 2 && left.iter().any(sleeping)).then_some(left)
    });
    assert!(!left.iter().any(|pid| proc::gone(*pid)), "a zombie");
    // What nobody of ours started is nobody's to end, until the container ends.
    assert_eq!(container.rotad(&["roll"]).code, 0);
    assert!(
        left.iter()
            .filter(|pid| sleeping(pid))
            .all(|pid| !proc::gone(*pid)),
        "a roll ended a stranger"
    );
    container.signal(Signal::SIGTERM);
    assert_eq!(container.await_exit(10).code(), Some(0));
    assert!(left.iter().all(|pid| proc::gone(*pid)));
}

/// The guardian is the container's first process: a master that is killed ends nothing.
#[test]
fn a_killed_master_does_not_end_the_container() {
    let Some(mut container) = Container::new(&web("")) else {
        return;
    };
    container.start();
    let before = pids(&container.await_ready(), "web");
    let dead = container.master();
    assert_ne!(dead, container.pid());
    kill(Pid::from_raw(dead), Signal::SIGKILL).expect("the master");
    let status = container.await_status("the next master", 10, |status| {
        status["master"]["restarts"] == 1
    });
    assert_eq!(status["master"]["guardian"], 1);
    assert_eq!(pids(&status, "web"), before);
    container.signal(Signal::SIGTERM);
    assert_eq!(container.await_exit(10).code(), Some(0));
}

/// What `docker run` ends with is what rotad ends with.
#[test]
fn exit_codes_are_the_containers() {
    let Some(mut container) = Container::new("[pool.web]\ncomand = \"x\"\n") else {
        return;
    };
    assert_eq!(container.start_in_vain(), 78);
    assert!(
        container.log().contains("did you mean"),
        "{}",
        container.log()
    );
    container.write(
        "etc/rotad/rotad.toml",
        &format!("{MASTER}[pool.a]\ncommand = \"/bin/false\"\nessential = \"500ms\"\n"),
    );
    assert_eq!(container.start_in_vain(), 69);
    let deaf = format!(
        "{MASTER}[pool.a]\ncommand = [\"/bin/testworker\", \"deaf\", \"--notify\"]\nready = \"notify\"\n"
    );
    container.write("etc/rotad/rotad.toml", &deaf);
    container.start();
    container.await_ready();
    container.signal(Signal::SIGINT);
    until("the first INT is read", 10, || {
        container.log().contains("INT").then_some(())
    });
    let asked = Instant::now();
    container.signal(Signal::SIGINT);
    assert_eq!(container.await_exit(10).code(), Some(0));
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "a second INT kills immediately: {:?}",
        asked.elapsed()
    );
}

/// A read-only root, no rights, no HOME, a number that no file knows as the user, and the filter of a container
/// engine: as OpenShift runs it, say.
#[test]
fn an_unknown_user_on_a_read_only_root() {
    for filter in ["docker", "old-docker"] {
        let Some(mut container) = Container::new(&web("[pool.web.log]\nstdout = \"inherit\"\n"))
        else {
            return;
        };
        container.set("READ_ONLY", "1");
        container.set("USER_GROUP", "1000660000:0");
        container.set("CAPABILITIES", "docker");
        container.set("FILTER", filter);
        container.set("TMPFS", "/run:1777 /tmp:1777");
        container.start();
        let status = container.await_ready();
        // An old engine denies pidfds: then there is none, and the log says why.
        let is_alone = status["master"]["guardian"].is_null();
        assert_eq!(is_alone, filter == "old-docker", "{filter}: {status}");
        assert_eq!(
            container.log().contains("no guardian"),
            is_alone,
            "{filter}"
        );
        assert!(
            !container.log().contains("WARN"),
            "{filter}: {}",
            container.log()
        );
        let waited = pool(&status, "web")["workers"][0]["ready_in_s"]
            .as_f64()
            .expect("seconds");
        assert!(
            waited < 0.9,
            "{filter}: ready after {waited} s: not seen through /proc"
        );
        assert_eq!(container.rotad(&["roll"]).code, 0, "{filter}");
        assert_eq!(container.rotad(&["status", "--check"]).code, 0, "{filter}");
        container.signal(Signal::SIGTERM);
        assert_eq!(container.await_exit(10).code(), Some(0), "{filter}");
    }
}

/// Without CAP_SYS_PTRACE, which container engines do not give, root cannot look into a worker of another user: said
/// once, and such a worker is ready when it says so or has lived for a second. One of root's own is seen as ever.
#[test]
fn root_without_ptrace_rights_is_told() {
    let unix = |name: &str, keys: &str| {
        format!(
            "[pool.{name}]\ncommand = [\"/bin/testworker\", \"http\"{keys}\nlisten = \"unix:/run/{name}.sock\"\n"
        )
    };
    let (own, blind) = (unix("own", "]"), unix("blind", "]\nuser = \"nobody\""));
    let told = unix(
        "told",
        ", \"--notify\"]\nuser = \"nobody\"\nready = \"notify\"",
    );
    let Some(mut container) = Container::new(&[MASTER, &own, &blind, &told].concat()) else {
        return;
    };
    container.set("CAPABILITIES", "docker");
    container.start();
    let status = container.await_ready();
    let waited = |name: &str| {
        pool(&status, name)["workers"][0]["ready_in_s"]
            .as_f64()
            .expect("seconds")
    };
    assert!(waited("own") < 0.9 && waited("told") < 0.9, "{status}");
    assert!((1.0..3.0).contains(&waited("blind")), "{status}");
    assert_eq!(
        container.log().matches("WARN").count(),
        1,
        "{}",
        container.log()
    );
    let events = container.rotad(&["events", "--json"]).out;
    let unobservable: Vec<&str> = events
        .lines()
        .filter(|line| line.contains(r#""cause":"unobservable""#))
        .collect();
    let [event] = unobservable[..] else {
        panic!("said once: {events}");
    };
    assert!(
        event.contains(r#""event":"probe-failed","pool":"blind""#),
        "{event}"
    );
    container.signal(Signal::SIGTERM);
    assert_eq!(container.await_exit(10).code(), Some(0));
}

/// Killed for memory, say: everything goes with the first process, and a runtime directory that outlives the container
/// (/dev/shm of a pod) holds nobody up.
#[test]
fn a_killed_container_starts_again() {
    let Some(mut container) = Container::new(&web("").replace("/run/rotad", "/dev/shm/rotad"))
    else {
        return;
    };
    let shared = container.outside("shm");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777))
        .expect("a directory for all users");
    container.set("VOLUMES", &format!("{}:/dev/shm", shared.display()));
    container.set("READ_ONLY", "1");
    for _ in 0..2 {
        container.start();
        let status = container.await_ready();
        assert_eq!(pool(&status, "web")["generation"], 1);
        container.signal(Signal::SIGKILL);
        container.await_exit(10);
        assert!(shared.join("rotad/master.pid").exists(), "nobody tidied up");
    }
    container.start();
    container.await_ready();
    container.signal(Signal::SIGTERM);
    assert_eq!(container.await_exit(10).code(), Some(0));
}

/// A directory that every user may write, as Kubernetes makes an `emptyDir`, is refused as the runtime directory, with what
/// to do; a configuration that is mounted read-only is fine whatever its directory's mode.
#[test]
fn mounted_directories_of_kubernetes_work() {
    let Some(mut container) = Container::new("") else {
        return;
    };
    let dir = container.outside("config");
    fs::write(dir.join("rotad.toml"), waiting("")).expect("a configuration");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))
        .expect("a directory for all users");
    container.set("VOLUMES", &format!("{}:/etc/app:ro", dir.display()));
    container.configured_at("/etc/app/rotad.toml");
    container.set("TMPFS", "/run:777 /tmp:1777");
    assert_eq!(container.start_in_vain(), 1);
    assert!(
        container
            .log()
            .contains("can be written by others (mode 0777)"),
        "{}",
        container.log()
    );
    container.set("TMPFS", "/run /tmp:1777");
    container.start();
    container.await_ready();
    container.signal(Signal::SIGTERM);
    assert_eq!(container.await_exit(10).code(), Some(0));
    container.set("VOLUMES", &format!("{}:/etc/app", dir.display()));
    assert_eq!(
        container.start_in_vain(),
        78,
        "a writable one is refused: {}",
        container.log()
    );
}

/// `docker run --cpus 1`: `count = "cpus"` obeys.
#[test]
fn a_processor_quota_is_respected() {
    let Some(mut container) = Container::new(&waiting("count = \"cpus\"\n")) else {
        return;
    };
    let Some(cgroup) = Cgroup::of_one_processor() else {
        return;
    };
    container.in_cgroup(cgroup.0.clone());
    container.set("VOLUMES", "/sys/fs/cgroup:/sys/fs/cgroup:ro");
    container.start();
    assert_eq!(pool(&container.await_ready(), "jobs")["wanted"], 1);
    container.signal(Signal::SIGTERM);
    assert_eq!(container.await_exit(10).code(), Some(0));
}

/// A cgroup, of either version, that may use one processor.
struct Cgroup(PathBuf);

impl Cgroup {
    fn of_one_processor() -> Option<Self> {
        let name = format!("rotad-test-{}", std::process::id());
        let limits = [
            ("/sys/fs/cgroup", "cpu.max", "100000 100000"),
            ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "100000"),
            ("/sys/fs/cgroup/cpu,cpuacct", "cpu.cfs_quota_us", "100000"),
        ];
        let made = limits.iter().find_map(|(mount, file, limit)| {
            let made = Self(PathBuf::from(mount).join(&name));
            // The file is the kernel's, or this is no such cgroup.
            let set = || {
                File::options()
                    .write(true)
                    .open(made.0.join(file))?
                    .write_all(limit.as_bytes())
            };
            fs::create_dir(&made.0)
                .and_then(|()| set())
                .is_ok()
                .then_some(made)
        });
        need(
            "a cgroup that can be limited to one processor",
            made.is_some(),
        )
        .then_some(made)?
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        until_some(5, || fs::remove_dir(&self.0).is_ok().then_some(()));
    }
}

/// A shell in front is the first process: it keeps TERM to itself, until the engine loses its patience.
#[test]
fn a_shell_in_front_needs_exec() {
    let Some(mut container) = Container::new(&waiting("")) else {
        return;
    };
    container.entrypoint(&[
        "/bin/sh",
        "-c",
        "/bin/rotad run /etc/rotad/rotad.toml; echo over",
    ]);
    container.launch();
    container.await_ready();
    container.signal(Signal::SIGTERM);
    never("TERM has come through a shell", 1.0, || {
        container.log().contains("TERM").then_some(())
    });
    container.signal(Signal::SIGKILL);
    assert!(!container.await_exit(10).success(), "killed");

    container.entrypoint(&["/bin/sh", "-c", "exec /bin/rotad run /etc/rotad/rotad.toml"]);
    container.launch();
    container.await_ready();
    container.signal(Signal::SIGTERM);
    assert_eq!(container.await_exit(10).code(), Some(0));
}

/// config/container/ as it is, but for the port: gunicorn on a read-only root, as a user without a name and without
/// any right, rolled under load and stopped within the 10 s of `docker stop`.
#[test]
fn the_example_runs() {
    if !python("gunicorn") {
        return;
    }
    let _alone = alone();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/container");
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect("a file of the example");
    let Some(mut container) = Container::new("") else {
        return;
    };
    fs::create_dir(container.root().join("app")).expect("a directory");
    container.write("app/app.py", &read("app.py"));
    container.write(
        "app/rotad.toml",
        &read("rotad.toml").replace("0.0.0.0:8000", "127.0.0.1:@PORT@"),
    );
    container.configured_at("/app/rotad.toml");
    container.with_programs_of_the_machine();
    container.set("READ_ONLY", "1");
    container.set("USER_GROUP", "10001:10001");
    container.set("CAPABILITIES", "docker");
    container.set("FILTER", "docker");
    container.set("TMPFS", "");
    container.start();
    container.await_ready();
    let load = support::Load::on(&container.address(), 4, 0);
    load.await_more(50);
    for _ in 0..3 {
        let run = container.rotad(&["roll", "--drained"]);
        assert_eq!(run.code, 0, "{}", run.text());
        load.await_more(50);
    }
    load.stop().assert_nothing_lost(200);
    assert_eq!(
        container
            .rotad(&["status", "--check", "--min-ready", "1"])
            .code,
        0
    );
    container.signal(Signal::SIGTERM);
    assert_eq!(container.await_exit(10).code(), Some(0));
}
