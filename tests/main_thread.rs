//! The main thread waits for nobody: not for a process that a tracer or a hung disk holds, nor for thousands of them,
//! nor for a thread of its own that hangs in the kernel.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};
use support::{Site, alone, need, pids, pool, proc, until};

/// Beside whatever goes wrong: it has to be supervised all the while.
const GOOD: &str = r#"
[pool.good]
command = ["@WORKER@", "wait"]
ready = "spawned"
stop = "1s"
[pool.good.restart]
delay = "0s"
"#;

fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a process to kill");
}

/// The pids that a worker, or what it started, has written into this file.
fn told(site: &Site, file: &str, many: usize) -> Vec<i32> {
    until("pids that were told", 10, || {
        let pids: Vec<i32> = site
            .lines(file)
            .iter()
            .filter_map(|line| line.parse().ok())
            .collect();
        (pids.len() >= many).then_some(pids)
    })
}

/// The one worker of a pool.
fn only(site: &Site, name: &str) -> i32 {
    pids(&site.status().expect("a status"), name)[0]
}

/// Seconds of processor time that the master has used.
fn cpu(site: &Site) -> f64 {
    proc::cpu(site.pid()).as_secs_f64()
}

/// The same of its main thread alone.
fn main_thread_time(site: &Site) -> f64 {
    let (pid, text) = (site.pid(), |pid: i32| {
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat"))
    });
    let text = text(pid).expect("a master");
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .expect("a stat")
        .1
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

/// A worker of the other pool is killed: there is a new one before long.
fn replaced_quickly(site: &Site) {
    let before = only(site, "good");
    let killed = Instant::now();
    kill_hard(before);
    site.await_status("another worker", 10, |status| {
        pids(status, "good")
            .iter()
            .any(|pid| *pid != before && *pid != 0 && !proc::gone(*pid))
    });
    assert!(
        killed.elapsed() < Duration::from_millis(700),
        "replaced after {:?}",
        killed.elapsed()
    );
}

/// A killed worker that is traced is a zombie which cannot be reaped: its pidfd says that it has ended, and that counts.
/// The slot is filled immediately, the master sleeps, and the entry goes when the tracer does.
#[test]
fn a_traced_worker_that_is_killed_is_replaced() {
    let _alone = alone();
    let traced = r#"
[pool.traced]
command = ["@WORKER@", "seized", "--out", "@DIR@/tracers", "--far"]
ready = "spawned"
stop = "1s"
[pool.traced.restart]
delay = "0s"
"#;
    let mut site = Site::up(&format!("{GOOD}{traced}"));
    let tracer = told(&site, "tracers", 1)[0];
    let worker = only(&site, "traced");
    until("it is traced", 5, || {
        (proc::status(worker, "TracerPid")? == tracer.to_string()).then_some(())
    });
    kill_hard(worker);
    let status = site.await_status("another one in its place", 5, |status| {
        pids(status, "traced")
            .iter()
            .any(|pid| *pid != worker && *pid != 0)
            && pool(status, "traced")["ready"] == 1
    });
    let exit = &pool(&status, "traced")["workers"][0]["last_exit"];
    assert_eq!(
        exit["signal"], "KILL",
        "its entry in the process table tells how it ended: {exit}"
    );
    assert_eq!(
        proc::stat(worker).expect("its entry")[0],
        "Z",
        "the tracer holds it"
    );
    told(&site, "tracers", 2);
    let before = cpu(&site);
    support::never("the master spins", 1.0, || {
        (cpu(&site) - before > 0.3).then_some(cpu(&site) - before)
    });
    replaced_quickly(&site);
    site.await_log(&format!("as long as pid {tracer} traces it"), 10);
    let events = site.events();
    let zombie = events.iter().find(|event| event["event"] == "zombie");
    let zombie = zombie.unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!(
        (&zombie["pool"], &zombie["pid"], &zombie["cause"]),
        (&"traced".into(), &worker.into(), &"traced".into())
    );
    kill_hard(tracer);
    until("the zombie is reaped", 5, || {
        proc::stat(worker).is_none().then_some(())
    });
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(10).code(), Some(0));
    site.assert_empty();
}

/// A tracer of the worker's own session: the sweep ends it, and so lets the worker go.
#[test]
fn a_tracer_in_the_workers_tree_is_killed() {
    let _alone = alone();
    let traced = r#"
[pool.traced]
command = ["@WORKER@", "seized", "--out", "@DIR@/tracers"]
ready = "spawned"
stop = "1s"
"#;
    let mut site = Site::up(traced);
    let tracer = told(&site, "tracers", 1)[0];
    let worker = only(&site, "traced");
    until("it is traced", 5, || {
        (proc::status(worker, "TracerPid")? == tracer.to_string()).then_some(())
    });
    kill_hard(worker);
    until("both are gone", 5, || {
        (proc::stat(worker).is_none() && proc::stat(tracer).is_none()).then_some(())
    });
    site.await_ready();
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(10).code(), Some(0));
    site.assert_empty();
}

/// Children that are born as the worker's siblings are children of the thread that spawns workers. Those that end are
/// reaped though nobody ordered them; one that hides (a session of its own, no environment) is named once, and ended
/// with the master.
#[test]
fn siblings_of_a_worker_are_seen() {
    let _alone = alone();
    let siblings = r#"
[pool.zombies]
command = ["@WORKER@", "siblings", "--lines", "100"]
ready = "spawned"
stop = "1s"
[pool.hides]
command = ["@WORKER@", "siblings", "--out", "@DIR@/hidden"]
ready = "spawned"
stop = "1s"
"#;
    let mut site = Site::up(&format!("{GOOD}{siblings}"));
    let hidden = told(&site, "hidden", 1)[0];
    let master = site.pid();
    let zombies = || {
        proc::children(master)
            .into_iter()
            .filter(|pid| proc::gone(*pid))
            .count()
    };
    until("no zombie is left", 10, || {
        (zombies() == 0 && proc::parent(hidden) == Some(master)).then_some(())
    });
    assert_eq!(site.rotad(&["stop", "hides"]).code, 0);
    site.await_log(&format!("pid {hidden} (testworker) has lost its parent"), 5);
    replaced_quickly(&site);
    kill_hard(only(&site, "zombies"));
    until("no zombie is left", 10, || (zombies() == 0).then_some(()));
    assert!(!proc::gone(hidden), "no worker is known for it");
    assert_eq!(
        site.log().matches("has lost its parent").count(),
        1,
        "{}",
        site.log()
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert_eq!(site.await_exit(10).code(), Some(0));
    assert!(proc::gone(hidden));
    site.assert_empty();
}

/// Thousands of orphans, each in a session of its own: other pools are supervised meanwhile.
#[test]
fn thousands_of_orphans_delay_nothing() {
    let _alone = alone();
    let horde = r#"
[pool.horde]
command = ["@WORKER@", "horde", "--lines", "3000", "--far"]
ready = "spawned"
stop = "1s"
[pool.horde.restart]
policy = "never"
"#;
    let mut site = Site::up(&format!("{GOOD}{horde}"));
    let (leader, good) = (only(&site, "horde"), only(&site, "good"));
    until("all have been born", 20, || {
        (proc::children(leader).len() == 3000).then_some(())
    });
    let mine: Vec<i32> = proc::children(leader);
    // The machine has much to do, so no clock tells how long the main thread holds the others up: its own time does.
    let before = main_thread_time(&site);
    kill_hard(leader);
    kill_hard(good);
    site.await_status("another worker", 10, |status| {
        pids(status, "good")
            .iter()
            .any(|pid| *pid != good && *pid != 0)
    });
    until("they are gone", 20, || {
        assert!(site.status().is_some());
        mine.iter().all(|pid| proc::gone(*pid)).then_some(())
    });
    let took = main_thread_time(&site) - before;
    assert!(took < 0.6, "the main thread was busy for {took} s");
    // They end before the scan that sees it.
    site.await_log("processes that the worker left behind", 5);
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(20).code(), Some(0));
    site.assert_empty();
}

/// An orphan whose memory map is locked by a disk that hangs: it cannot be asked whose it is, and nobody waits for it.
#[test]
fn a_hanging_orphan_delays_nothing() {
    let _alone = alone();
    let stuck = r#"
[pool.bad]
command = ["@WORKER@", "leaves-stuck", "--map", "@DIR@/disk/page", "--when", "@DIR@/go", "--out", "@DIR@/stuck"]
ready = "spawned"
stop = "1s"
[pool.bad.restart]
policy = "never"
"#;
    let mut site = Site::new(&format!("{GOOD}{stuck}"));
    let Some(mut disk) = support::Frozen::mount(&site.path("")) else {
        return;
    };
    std::fs::write(disk.path("page"), [0; 4096]).expect("a page");
    site.run();
    site.await_ready();
    let stuck = told(&site, "stuck", 1)[0];
    disk.freeze();
    site.write("go", "");
    until("it hangs", 10, || {
        (proc::threads_in(stuck, "D") >= 2).then_some(())
    });
    kill_hard(only(&site, "bad"));
    // A process with its memory does not look as if it hung: who asks that one is written off, and has a successor.
    let master = site.pid();
    until("another scanner", 10, || {
        (threads(master, "orphan-scanner") >= 2).then_some(())
    });
    replaced_quickly(&site);
    answers_quickly(&site);
    // It is not waited for: a worker of another pool ends, and its tree is killed as usual.
    assert_eq!(site.rotad(&["roll", "good"]).code, 0);
    replaced_quickly(&site);
    assert!(
        !site.log().contains("SIGKILL does not end it"),
        "{}",
        site.log()
    );
    // The kernel keeps it, and the master says so.
    let stop = site.rotad(&["stop"]);
    assert_eq!(stop.code, 1, "{stop:?}");
    assert!(
        stop.text().contains("cannot be ended by the kernel"),
        "{stop:?}"
    );
    disk.thaw();
    site.await_exit(10);
    until("it is gone", 10, || proc::gone(stuck).then_some(()));
    site.assert_empty();
}

/// How many threads of this name a process has.
fn threads(pid: i32, name: &str) -> usize {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let is = |path: std::path::PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    threads.flatten().filter(|thread| is(thread.path())).count()
}

/// The status is answered immediately, ten times in a row.
fn answers_quickly(site: &Site) {
    for _ in 0..10 {
        let asked = Instant::now();
        assert!(site.status().is_some(), "no answer");
        assert!(
            asked.elapsed() < Duration::from_millis(700),
            "an answer after {:?}",
            asked.elapsed()
        );
    }
}

/// A pool that serves, and one whose worker, run by `command`, cannot be seen accepting.
fn beside_web(command: &str) -> String {
    format!("{WEB}{command}\n{BAD}")
}

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
listen = ["http"]
ready = "accepting"
stop = "1s"
[listen.http]
address = "127.0.0.1:@PORT@"
[pool.bad]
"#;

const BAD: &str = r#"listen = ["bad"]
ready = "accepting"
ready_timeout = "60s"
stop = "1s"
[listen.bad]
address = "unix:@DIR@/bad.sock"
"#;

/// A starting worker whose memory map is locked by a disk that hangs: whether it accepts cannot be seen. Other pools
/// roll as ever, and the master leaves.
#[test]
fn a_hanging_start_delays_no_other_worker() {
    let _alone = alone();
    let pools = beside_web(
        r#"command = ["@WORKER@", "stuck", "--map", "@DIR@/disk/page", "--when", "@DIR@/go", "--out", "@DIR@/stuck"]"#,
    );
    let mut site = Site::new(&format!("{GOOD}{pools}"));
    let Some(mut disk) = support::Frozen::mount(&site.path("")) else {
        return;
    };
    std::fs::write(disk.path("page"), [0; 4096]).expect("a page");
    site.run();
    site.await_status("the others are ready", 20, |status| {
        pool(status, "web")["ready"] == 1
    });
    let stuck = told(&site, "stuck", 1)[0];
    disk.freeze();
    site.write("go", "");
    until("it hangs", 10, || {
        (proc::threads_in(stuck, "D") >= 2).then_some(())
    });
    for _ in 0..3 {
        let roll = site.rotad(&["roll", "web"]);
        assert_eq!(roll.code, 0, "{roll:?}");
        assert!(roll.took < Duration::from_secs(4), "{roll:?}");
    }
    replaced_quickly(&site);
    answers_quickly(&site);
    let stop = site.rotad(&["stop"]);
    assert_eq!(stop.code, 1, "{stop:?}");
    assert!(
        stop.text()
            .contains(&format!("pid {stuck} cannot be ended by the kernel")),
        "{stop:?}"
    );
    disk.thaw();
    site.await_exit(10);
    until("it is gone", 10, || proc::gone(stuck).then_some(()));
    site.assert_empty();
}

/// A worker in poll(2) whose set lies in a page that is handed out (userfaultfd(2)) only once it gets USR1: a
/// process that reads that memory before hangs, and the process itself does not.
const WITHHELD: &str = r#"
import ctypes, fcntl, os, signal, struct, threading
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.poll.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
SIZE, POLL, USERFAULTFD, DONTNEED = 4096, 7, 323, 4
page = libc.mmap(None, SIZE, 3, 0x22, -1, 0)
# At first it polls a pipe that stays silent; the listener is in the page that is handed out later.
silent, _ = os.pipe()
ctypes.memmove(page, struct.pack("ihh", silent, 1, 0), 8)
polling = threading.Thread(target=lambda: libc.poll(page, 1, -1), daemon=True)
polling.start()
while open(f"/proc/self/task/{polling.native_id}/syscall").read().split()[0] != str(POLL):
    pass
faults = libc.syscall(USERFAULTFD, os.O_CLOEXEC)
fcntl.ioctl(faults, 0xC018AA3F, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))
fcntl.ioctl(faults, 0xC020AA00, bytearray(struct.pack("QQQQ", page, SIZE, 1, 0)))
libc.madvise(page, SIZE, DONTNEED)
signal.sigwait({signal.SIGUSR1})
filled = ctypes.create_string_buffer(struct.pack("ihh", 3, 1, 0), SIZE)
fcntl.ioctl(faults, 0xC028AA03, bytearray(struct.pack("QQQQq", page, ctypes.addressof(filled), SIZE, 0, 0)))
signal.pause()
"#;

/// Looking at one worker hangs: the others are looked at on. It is looked at again once that look has come back.
#[test]
fn a_worker_is_scanned_again_after_a_hung_scan() {
    if !cfg!(target_arch = "x86_64") || !need::root() || !need::program("python3") {
        return;
    }
    let _alone = alone();
    let pools = beside_web(r#"command = ["python3", "@DIR@/withheld.py"]"#);
    let mut site = Site::new(&format!("{GOOD}{pools}"));
    site.write("withheld.py", WITHHELD);
    site.run();
    until("it is told that it cannot be seen", 20, || {
        site.log()
            .contains("whether it accepts cannot be seen")
            .then_some(())
    });
    for _ in 0..3 {
        let roll = site.rotad(&["roll", "web"]);
        assert_eq!(roll.code, 0, "{roll:?}");
        assert!(roll.took < Duration::from_secs(4), "{roll:?}");
    }
    let status = site.status().expect("a status");
    assert_eq!(pool(&status, "bad")["ready"], 0, "{status}");
    kill(Pid::from_raw(only(&site, "bad")), Signal::SIGUSR1).expect("a worker");
    site.await_status("it is seen", 20, |status| pool(status, "bad")["ready"] == 1);
    site.stop_politely(10);
}

/// /proc/PID/stat of a worker is a pipe that nobody writes: a status waits a second for the figures of the workers, and
/// then comes without them. The main thread reads none of it, so others are answered and supervised meanwhile.
#[test]
fn a_status_that_cannot_read_proc_holds_nobody_up() {
    if !need::root() || !need::program("mount") || !need::program("umount") {
        return;
    }
    let _alone = alone();
    let mount = |arguments: &[&str]| {
        let done = std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .status();
        assert!(done.is_ok_and(|done| done.success()), "{arguments:?}");
    };
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(&["mount", "--make-rprivate", "/"]);
    let mut site = Site::new(&format!(
        "{GOOD}[pool.read]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n"
    ));
    site.run();
    site.await_ready();
    let fifo = site.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let figures = |status: &serde_json::Value| {
        ["good", "read"].map(|name| {
            let worker = &pool(status, name)["workers"][0];
            (worker["rss_bytes"].is_u64(), worker["cpu_s"].is_number())
        })
    };
    assert_eq!(
        figures(&site.status().expect("a status")),
        [(true, true); 2]
    );
    let stat = format!("/proc/{}/stat", only(&site, "read"));
    mount(&["mount", "--bind", fifo.to_str().expect("a path"), &stat]);
    let asked = Instant::now();
    let statuses: Vec<_> = (0..3)
        .map(|_| site.asker())
        .map(|asker| std::thread::spawn(move || asker.status()))
        .collect();
    let scaled = site.rotad(&["scale", "good", "2"]);
    assert!(
        scaled.code == 0 && scaled.took < Duration::from_millis(900),
        "{scaled:?}"
    );
    for status in statuses {
        let status = status.join().expect("an answer").expect("a status");
        assert_eq!(figures(&status), [(false, false); 2]);
    }
    assert!(
        asked.elapsed() < Duration::from_secs(3),
        "{:?}",
        asked.elapsed()
    );
    mount(&["umount", "--lazy", &stat]);
    // Threads that still read the pipe meet its end.
    drop(std::fs::OpenOptions::new().write(true).open(&fifo));
    assert_eq!(
        figures(&site.status().expect("a status")),
        [(true, true); 2]
    );
    site.stop_politely(10);
}

/// The log's disk hangs: everything goes on, and a stop says why the process does not end.
#[test]
fn a_master_that_the_kernel_holds_is_named() {
    let _alone = alone();
    let mut site = Site::new(GOOD);
    let Some(mut disk) = support::Frozen::mount(&site.path("")) else {
        return;
    };
    let text = site.read("rotad.toml").replace("@", "");
    let log = site.path("master.log").display().to_string();
    site.configure(&text.replace(&log, &disk.path("master.log").display().to_string()));
    site.run();
    site.await_ready();
    let worker = only(&site, "good");
    disk.freeze();
    replaced_quickly(&site);
    answers_quickly(&site);
    let master = site.pid();
    let stop = site.rotad(&["stop"]);
    assert_eq!(stop.code, 1, "{stop:?}");
    assert!(
        stop.text()
            .contains(&format!("the kernel holds the master (pid {master})")),
        "{stop:?}"
    );
    assert!(proc::gone(worker));
    assert!(
        !site.path("master.pid").exists(),
        "nothing says that a master runs"
    );
    disk.thaw();
    site.await_exit(10);
    site.assert_empty();
}

/// Clients that have asked, and go on sending: the others are answered as ever.
#[test]
fn signal_floods_delay_nothing() {
    let _alone = alone();
    let site = Site::up(GOOD);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let go = std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                use std::io::Write;
                let mut client =
                    std::os::unix::net::UnixStream::connect(site.path("run/control.sock")).expect("a client");
                let config = site.config.display();
                let version = rotad::control::protocol::VERSION;
                let question =
                    format!(r#"{{"version":{version},"config":"{config}","ask":{{"events":{{"follow":true}}}}}}"#)
                        + "\n";
                client.write_all(question.as_bytes()).expect("a question");
                while !stop.load(go) {
                    if client.write_all(&[b'x'; 65536]).is_err() {
                        break;
                    }
                }
            });
        }
        answers_quickly(&site);
        replaced_quickly(&site);
        stop.store(true, go);
    });
}
