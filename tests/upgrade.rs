//! `rotad upgrade`: another program takes the place of the guardian and of the master, and the workers serve on.

#![allow(clippy::print_stderr, reason = "the counts of a long run")]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{
    Load, Site, all_ready, alone, asked_for, pids, pool, proc, rotad, spaced, testworker, until,
    until_some,
};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "5"]
count = 4
listen = ["http"]
stop = "10s"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// A copy of rotad under another name.
fn another_rotad(site: &Site, name: &str) -> PathBuf {
    let path = site.path(name);
    fs::copy(rotad(), &path).expect("a copy");
    path
}

/// A program that passes for rotad until it runs; `how`: as tests/support/testworker/impostor.rs has it.
fn impostor(site: &Site, how: &str) -> PathBuf {
    let path = site.path("impostor");
    if !path.exists() {
        fs::copy(testworker(), &path).expect("a copy");
    }
    site.write(
        "impostor.impostor",
        &format!("{}\n{how}\n", rotad().display()),
    );
    path
}

fn upgrade(site: &Site, to: &std::path::Path) -> support::site::Run {
    site.rotad(&["upgrade", "--to", to.to_str().expect("UTF-8")])
}

/// The program that a process runs.
fn program(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).expect("a program")
}

#[test]
fn the_master_is_replaced_and_its_workers_serve_on() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    let (guardian, master) = (site.guardian(), site.pid());
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(50);
    for name in ["rotad-a", "rotad-b"] {
        let to = another_rotad(&site, name);
        let run = upgrade(&site, &to);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.out.contains("has replaced rotad"), "{run:?}");
        let status = site.await_ready();
        assert_eq!(pids(&status, "web"), before, "the same workers");
        assert_eq!(site.guardian(), guardian, "the same process");
        assert_ne!(site.pid(), master, "another process");
        assert_eq!(status["master"]["restarts"], 0, "no death");
        assert_eq!((program(guardian), program(site.pid())), (to.clone(), to));
        load.await_more(50);
    }
    // By default the path by which it was started.
    let run = site.rotad(&["upgrade"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(program(guardian), rotad());
    // The file may be gone by now.
    let gone = another_rotad(&site, "gone");
    assert_eq!(upgrade(&site, &gone).code, 0);
    fs::remove_file(gone).expect("its file");
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 0, "{run:?}");
    kill(Pid::from_raw(guardian), Signal::SIGUSR1).expect("the guardian");
    site.await_status("rolled by a signal", 20, |status| {
        pool(status, "web")["generation"] == 3 && all_ready(status)
    });
    kill(Pid::from_raw(site.pid()), Signal::SIGKILL).expect("the master");
    site.await_status("restored", 10, |status| {
        status["master"]["restarts"] == 1 && all_ready(status)
    });
    load.stop().assert_nothing_lost(200);
    let words: Vec<String> = site
        .events()
        .iter()
        .filter_map(|event| event["event"].as_str().map(str::to_owned))
        .filter(|word| word.starts_with("upgrade"))
        .collect();
    assert_eq!(words, ["upgrade-started", "upgraded"].repeat(4));
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert!(site.await_exit(10).success());
    site.assert_empty();
}

/// Signals that do not end a master, as they come one after another: logs are opened again, a changed configuration is
/// looked for, or nothing is done.
const SIGNALS: [Signal; 8] = [
    Signal::SIGWINCH,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGIO,
    Signal::SIGPROF,
    Signal::SIGHUP,
    Signal::SIGVTALRM,
    Signal::SIGSTKFLT,
];
const SIGNAL_EVERY: Duration = Duration::from_millis(2);

/// Ends the signals, also when an assertion fails.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Signals the guardian and the master in turn until it is enough. Returns how many signals were sent.
fn signal_both(site: &Site, enough: &AtomicBool) -> usize {
    let guardian = site.guardian();
    let mut sent = 0;
    while !enough.load(Ordering::Relaxed) {
        let master = || site.read("master.pid").trim().parse().ok();
        let pid = match sent % 2 {
            0 => Some(guardian),
            _ => master().filter(|pid| proc::parent(*pid) == Some(guardian)),
        };
        // A master that has just been replaced is not there any more.
        let _ = pid.map(|pid| kill(Pid::from_raw(pid), SIGNALS[sent / 2 % SIGNALS.len()]));
        sent += 1;
        spaced(SIGNAL_EVERY);
    }
    sent
}

/// From one program to another and back, under load and under signals. Each third time a rolling restart is under way.
/// `ROTAD_UPGRADES`: how often; `ROTAD_OTHER`: another build of rotad, in place of a copy of this one.
#[test]
fn upgrades_to_and_fro_lose_nothing_under_signals() {
    let _alone = alone();
    let times = asked_for("ROTAD_UPGRADES").unwrap_or(4);
    let mut site = Site::up(WEB);
    let programs = [another_rotad(&site, "there"), another_rotad(&site, "back")];
    if let Some(other) = std::env::var_os("ROTAD_OTHER") {
        fs::copy(other, &programs[0]).expect("the other build");
    }
    let loads = [
        Load::on(&site.address(), 2, 0),
        Load::on(&site.address(), 0, 2),
    ];
    loads.iter().for_each(|load| load.await_more(20));
    let guardian = site.guardian();
    let enough = AtomicBool::new(false);
    let (signals, rolls) = std::thread::scope(|scope| {
        let signals = scope.spawn(|| signal_both(&site, &enough));
        let ends = Enough(&enough);
        let mut known = pids(&site.await_ready(), "web");
        let mut generation = 1;
        for number in 0..times {
            let rolls = number % 3 == 1;
            if rolls {
                kill(Pid::from_raw(guardian), Signal::SIGUSR1).expect("the guardian");
            }
            let to = &programs[number as usize % 2];
            let run = upgrade(&site, to);
            assert_eq!(run.code, 0, "upgrade {number}: {run:?}");
            let what = format!("as after upgrade {number}");
            let status = site.await_status(&what, 20, |status| {
                // Just when the next master begins, a signal to the guardian may act twice.
                let new = pool(status, "web")["generation"].as_u64();
                all_ready(status) && new > Some(generation - u64::from(!rolls))
            });
            let new = pool(&status, "web")["generation"].as_u64();
            let new = new.expect("a generation");
            let now = pids(&status, "web");
            if rolls {
                assert!((1..=2).contains(&(new - generation)), "{status}");
                assert!(known.iter().all(|pid| !now.contains(pid)), "{status}");
            } else {
                assert_eq!((new, &now), (generation, &known), "{status}");
            }
            (known, generation) = (now, new);
            assert_eq!(known.len(), 4, "{status}");
            assert_eq!(
                status["master"]["restarts"], 0,
                "upgrade {number}: no death"
            );
            assert_eq!(site.guardian(), guardian, "the same process");
            assert_eq!((&program(guardian), &program(site.pid())), (to, to));
        }
        drop(ends);
        (signals.join().expect("the signals"), generation - 1)
    });
    let mut requests = 0;
    for load in loads {
        let report = load.stop();
        requests += report.ok;
        report.assert_nothing_lost(100);
    }
    eprintln!("{times} upgrades, {signals} signals, {rolls} rolls, {requests} requests, 0 lost");
    let status = site.await_ready();
    let known = pids(&status, "web");
    let workers = || -> Vec<i32> {
        let all = site.processes().into_iter();
        all.filter(|pid| proc::command_line(*pid).contains("http --work-ms"))
            .collect()
    };
    let same = || {
        let workers = workers();
        workers.len() == known.len() && workers.iter().all(|pid| known.contains(pid))
    };
    assert!(
        until_some(10, || same().then_some(())).is_some(),
        "no worker but these {known:?}, and there are {:?}: {status}",
        workers()
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert!(site.await_exit(10).success());
    site.assert_empty();
}

/// What cannot take over is refused, and nothing changes.
#[test]
fn a_program_that_cannot_take_over_is_refused() {
    let _alone = alone();
    let site = Site::up(WEB);
    let (guardian, master) = (site.guardian(), site.pid());
    let script = site.write("script", "#!/bin/sh\nexit 0\n");
    let refused = [
        ("/bin/true".into(), "is no rotad that can replace"),
        (script, "is not a program"),
        (site.path("nothing"), "No such file"),
        (site.path("run"), "is not a file"),
    ];
    for (path, why) in refused {
        let run = upgrade(&site, &path);
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.text().contains(why), "{run:?}");
        assert!(run.text().contains("nothing was changed"), "{run:?}");
    }
    assert_eq!((site.guardian(), site.pid()), (guardian, master));
    let status = site.await_ready();
    assert_eq!(status["master"]["restarts"], 0);
}

/// A program that ends, hangs or crashes once it runs: the one before comes back, and says why.
#[test]
fn a_program_that_fails_is_undone() {
    let _alone = alone();
    let site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    let load = Load::on(&site.address(), 2, 2);
    load.await_more(20);
    let crash = format!("SEGV {}", site.path("master.pid").display());
    let failures = [
        ("exit", "it ended before it had started a master"),
        (&*crash, "its master was killed by SIGSEGV"),
        ("hang", "it did not start a master in time"),
    ];
    for (how, why) in failures {
        let run = upgrade(&site, &impostor(&site, how));
        assert_eq!(run.code, 10, "{how}: {run:?}");
        assert!(run.text().contains(why), "{how}: {run:?}");
        assert!(run.text().contains("runs again"), "{run:?}");
        let status = site.await_ready();
        assert_eq!(pids(&status, "web"), before, "{how}: the same workers");
        let (guardian, master) = (site.guardian(), site.pid());
        assert_eq!(
            (program(guardian), program(master)),
            (rotad(), rotad()),
            "{how}"
        );
        load.await_more(20);
    }
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 0, "{run:?}");
    load.stop().assert_nothing_lost(100);
    let guardian = site.guardian();
    assert_eq!(site.rotad(&["stop"]).code, 0);
    until("it has ended", 10, || proc::gone(guardian).then_some(()));
    site.assert_empty();
}

/// An upgrade needs a guardian.
#[test]
fn a_master_without_a_guardian_cannot_be_upgraded() {
    let mut site = Site::with_master("guardian = false", WEB);
    site.run();
    site.await_ready();
    let run = site.rotad(&["upgrade"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.text().contains("has no guardian"), "{run:?}");
}

/// A site whose master runs a copy of rotad in its directory, and watches it.
fn watching_its_program() -> (Site, PathBuf) {
    let mut site = Site::with_master("watch_program = true", WEB);
    let path = another_rotad(&site, "rotad");
    let mut command = Command::new(&path);
    command.args(["run", "-c"]).arg(&site.config);
    site.spawn(command);
    site.await_ready();
    site.await_log("the program of the master: watching one file", 20);
    (site, path)
}

/// Puts a program with other bytes in the place of the one that runs, as a package manager does.
fn replace_program(site: &Site, from: &std::path::Path, more: &[u8]) {
    let mut bytes = fs::read(from).expect("a program");
    bytes.extend(more);
    let next = another_rotad(site, "rotad.next");
    fs::write(&next, bytes).expect("the next program");
    fs::rename(next, site.path("rotad")).expect("in its place");
}

fn upgrades(site: &Site) -> Vec<String> {
    let words = site.events().into_iter().filter_map(|event| {
        let word = event["event"].as_str()?.to_owned();
        let cause = event["cause"].as_str().unwrap_or_default();
        word.starts_with("upgrade")
            .then(|| format!("{word} {cause}").trim().to_owned())
    });
    words.collect()
}

fn await_upgrades(site: &Site, words: &[&str]) {
    until("the upgrade", 60, || {
        (upgrades(site) == words).then_some(())
    });
}

/// With `watch_program` the master is replaced when its program is. One that is refused, or does not work, is not tried
/// again until it changes again.
#[test]
fn a_program_that_changes_is_upgraded_to() {
    let _alone = alone();
    let (site, path) = watching_its_program();
    let before = pids(&site.await_ready(), "web");
    let (guardian, master) = (site.guardian(), site.pid());
    let load = Load::on(&site.address(), 2, 2);
    load.await_more(20);
    replace_program(&site, &rotad(), b"second");
    let mut words = vec!["upgrade-started", "upgraded"];
    await_upgrades(&site, &words);
    assert_eq!(
        (program(guardian), program(site.pid())),
        (path.clone(), path.clone())
    );
    assert_ne!(site.pid(), master, "another process");
    // The same bytes in another file are no change; other ones are, and are no rotad.
    replace_program(&site, &rotad(), b"second");
    replace_program(&site, std::path::Path::new("/bin/true"), b"");
    words.push("upgrade-failed refused");
    await_upgrades(&site, &words);
    site.write("rotad.impostor", &format!("{}\nexit\n", rotad().display()));
    replace_program(&site, &testworker(), b"");
    words.extend(["upgrade-started", "upgrade-failed undone"]);
    await_upgrades(&site, &words);
    // The master dies: the next one knows that this program was tried.
    let deaths = site.await_ready()["master"]["restarts"].as_u64();
    kill(Pid::from_raw(site.pid()), Signal::SIGKILL).expect("the master");
    site.await_status("restored", 20, |status| {
        status["master"]["restarts"].as_u64() > deaths && all_ready(status)
    });
    support::never("it is tried again", 4.0, || {
        (upgrades(&site) != words).then_some(())
    });
    // While there is no master.
    let guardian = site.guardian();
    kill(Pid::from_raw(guardian), Signal::SIGSTOP).expect("the guardian");
    kill(Pid::from_raw(site.pid()), Signal::SIGKILL).expect("the master");
    replace_program(&site, &rotad(), b"third");
    kill(Pid::from_raw(guardian), Signal::SIGCONT).expect("the guardian");
    words.extend(["upgrade-started", "upgraded"]);
    await_upgrades(&site, &words);
    assert_eq!(program(site.pid()), path);
    assert_eq!(pids(&site.await_ready(), "web"), before, "the same workers");
    load.stop().assert_nothing_lost(100);
    assert_eq!(site.rotad(&["stop"]).code, 0);
}
