//! The guardian: a master that is killed is replaced, and goes on with the workers, the clients and the rolling
//! restart of the one before.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{
    Load, Random, Site, all_ready, alone, never, pids, pool, proc, spaced, until, until_some,
};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "5"]
count = 4
listen = ["http"]
stop = "10s"
[pool.web.reload]
soak = "200ms"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// Kills the master by this signal, and waits for the next one.
fn kill_master(site: &Site, signal: Signal) {
    let master = site.pid();
    kill(Pid::from_raw(master), signal).expect("the master");
    until("the next master", 10, || {
        let next = site.read("master.pid").trim().parse().ok();
        next.filter(|pid: &i32| *pid != master)
    });
}

/// The name by which pidof(1) and killall(1) find it.
fn comm_of(pid: i32) -> String {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("its name");
    comm.trim().to_owned()
}

fn restarts(status: &Value) -> u64 {
    status["master"]["restarts"].as_u64().expect("a number")
}

#[test]
fn a_killed_master_is_replaced_and_its_workers_serve_on() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(100);
    for death in 1..=5 {
        kill_master(&site, Signal::SIGKILL);
        let status = site.await_status("restored", 10, |status| restarts(status) == death);
        assert_eq!(pids(&status, "web"), before, "the same workers");
        assert!(all_ready(&status), "{status}");
        assert_eq!(status["master"]["last_death"]["signal"], "KILL");
        assert_eq!(status["master"]["pid"], site.pid());
        load.await_more(50);
    }
    let status = site.await_ready();
    let guardian = status["master"]["guardian"].as_i64().expect("a pid") as i32;
    assert_eq!(proc::parent(site.pid()), Some(guardian));
    for (pid, role) in [(site.pid(), "master"), (guardian, "guardian")] {
        let title = proc::command_line(pid);
        let config = site.config.display().to_string();
        assert!(
            title.starts_with(&format!("rotad: {role} site [")) && title.contains(&config),
            "{title}"
        );
        assert_eq!(comm_of(pid), "rotad");
    }
    let found = Command::new("pidof").arg("rotad").output().expect("pidof");
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    let found: Vec<&str> = found.split_whitespace().collect();
    assert!(found.contains(&&*site.pid().to_string()), "{found:?}");
    let events = site.events();
    let restored = events
        .iter()
        .filter(|event| event["event"] == "master-restored");
    assert_eq!(restored.count(), 5, "{events:?}");
    let numbers: Vec<u64> = events.iter().filter_map(|e| e["seq"].as_u64()).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{numbers:?}"
    );
    load.stop().assert_nothing_lost(300);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert!(site.await_exit(10).success());
    site.assert_empty();
}

/// A master that crashes is replaced like one that is killed, and the status says how it ended: by which signal, and
/// whether the kernel has written its memory to a file.
#[test]
fn a_master_that_crashes_is_replaced() {
    let _alone = alone();
    for limit in ["0", "unlimited"] {
        let mut site = Site::new(WEB);
        let begin = |then: &str| {
            let script = format!(
                "cd {} && ulimit -c {limit} && {then}",
                site.path("").display()
            );
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &script]);
            command
        };
        // What the kernel does with a process of the same limit and directory.
        let crashed = begin("kill -SEGV $$").status().expect("a shell");
        let core = crashed.core_dumped();
        let run = format!(
            "exec {} run -c {}",
            support::rotad().display(),
            site.config.display()
        );
        let command = begin(&run);
        site.spawn(command);
        let before = pids(&site.await_ready(), "web");
        let loads = [
            Load::on(&site.address(), 2, 0),
            Load::on(&site.address(), 0, 2),
        ];
        loads.iter().for_each(|load| load.await_more(20));
        for (death, signal) in [Signal::SIGSEGV, Signal::SIGABRT].into_iter().enumerate() {
            let master = site.pid();
            kill_master(&site, signal);
            let death = death as u64 + 1;
            let status = site.await_status("restored", 10, |status| restarts(status) == death);
            assert_eq!(pids(&status, "web"), before, "the same workers");
            assert!(all_ready(&status), "{status}");
            let last = &status["master"]["last_death"];
            let name = &signal.as_str()["SIG".len()..];
            assert_eq!(last["signal"], name, "{status}");
            assert_eq!(last["code"], Value::Null, "{status}");
            assert_eq!(last["core"], core, "limit {limit}: {status}");
            assert!(support::number(&last["after_s"]) < 60.0, "{status}");
            let restored = |event: &Value| event["event"] == "master-restored";
            let events = site.events();
            let restored: Vec<&Value> = events.iter().filter(|event| restored(event)).collect();
            assert_eq!(restored.len() as u64, death, "{events:?}");
            let text = restored[restored.len() - 1]["text"].to_string();
            assert!(text.contains(signal.as_str()), "{text}");
            assert!(proc::gone(master), "and it is reaped");
            loads.iter().for_each(|load| load.await_more(20));
        }
        let run = site.rotad(&["roll"]);
        assert_eq!(run.code, 0, "{run:?}");
        for load in loads {
            load.stop().assert_nothing_lost(60);
        }
        assert_eq!(site.rotad(&["stop"]).code, 0);
        assert!(site.await_exit(10).success());
        site.assert_empty();
    }
}

/// In a worker that a dead master has started, the guardian knows the exit status.
#[test]
fn how_a_worker_of_a_dead_master_ended_is_known() {
    let _alone = alone();
    let site = Site::up(WEB);
    kill_master(&site, Signal::SIGKILL);
    let status = site.await_status("restored", 10, |status| restarts(status) == 1);
    let worker = pids(&status, "web")[0];
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("a worker");
    let status = site.await_status("it is replaced", 10, |status| {
        !pids(status, "web").contains(&worker) && all_ready(status)
    });
    let workers = pool(&status, "web")["workers"].as_array().expect("workers");
    let ends: Vec<&Value> = workers.iter().map(|worker| &worker["last_exit"]).collect();
    assert!(ends.iter().any(|end| end["signal"] == "KILL"), "{ends:?}");
    assert!(proc::gone(worker), "and it is reaped");
}

/// Masters die while pools are rolled under load: every client that waits for its roll is answered, no request is lost,
/// and no worker is there twice.
#[test]
fn rolls_go_on_over_the_deaths_of_masters() {
    let _alone = alone();
    let site = Site::up(WEB);
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(100);
    let seed = std::env::var("ROTAD_CHAOS_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random::new(seed);
    let deaths = AtomicUsize::new(0);
    let rolls = std::thread::scope(|scope| {
        let roller = scope.spawn(|| {
            let mut rolls = 0;
            while deaths.load(Ordering::Relaxed) < 4 {
                let run = site.rotad(&["roll", "--timeout", "60s"]);
                assert_eq!(run.code, 0, "roll {rolls}, seed {seed}: {run:?}");
                assert!(run.out.contains("web: done"), "{run:?}");
                rolls += 1;
            }
            rolls
        });
        while deaths.load(Ordering::Relaxed) < 4 && !roller.is_finished() {
            // Three deaths in ten seconds would end the rolls.
            spaced(Duration::from_millis(5_000 + random.below(700) as u64));
            kill_master(&site, Signal::SIGKILL);
            deaths.fetch_add(1, Ordering::Relaxed);
        }
        roller.join().expect("all rolls are done")
    });
    let status = site.await_status("all is done", 20, |status| {
        all_ready(status) && pool(status, "web")["state"] == "ok"
    });
    assert_eq!(pool(&status, "web")["generation"], 1 + rolls);
    assert_eq!(restarts(&status), 4);
    let known = pids(&status, "web");
    until("old workers are gone", 10, || {
        let all = site.processes().into_iter();
        let workers = all.filter(|pid| proc::command_line(*pid).contains("http --work-ms"));
        let workers: Vec<i32> = workers.collect();
        (workers.len() == known.len() && workers.iter().all(|pid| known.contains(pid)))
            .then_some(())
    });
    load.stop().assert_nothing_lost(200);
}

/// Three masters die in ten seconds: the roll that may be the reason is given up, its client is answered, and the workers
/// serve on.
#[test]
fn a_roll_is_given_up_when_masters_keep_dying() {
    let _alone = alone();
    let site = Site::up(&WEB.replace("soak = \"200ms\"", "soak = \"60s\""));
    let load = Load::on(&site.address(), 2, 2);
    load.await_more(20);
    let asked = site.asking(&json!({
        "roll": { "which": { "pools": [], "workers": false, "tasks": false }, "wait": "done" }
    }));
    site.await_status("it rolls", 10, |status| {
        pool(status, "web")["state"] == "reloading"
    });
    for death in 1..=3 {
        kill_master(&site, Signal::SIGKILL);
        site.await_status("restored", 10, |status| restarts(status) == death);
    }
    let answered = asked.answered();
    assert_eq!(answered.code, 10, "{answered:?}");
    let status = site.await_ready();
    assert_eq!(
        pool(&status, "web")["reload"]["state"],
        "aborted",
        "{status}"
    );
    load.stop().assert_nothing_lost(40);
}

/// Signals to the process that was started reach the master, and its exit code is that of the master.
#[test]
fn the_guardian_passes_signals_on_and_ends_with_the_masters_code() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let status = site.await_ready();
    let guardian = status["master"]["guardian"].as_i64().expect("a pid") as i32;
    kill(Pid::from_raw(guardian), Signal::SIGUSR1).expect("the guardian");
    site.await_status("rolled", 30, |status| {
        pool(status, "web")["reload"]["state"] == "done" && all_ready(status)
    });
    let me = std::process::id();
    site.await_log(&format!("USR1 from pid {me}"), 5);
    // Also after the master was replaced.
    kill_master(&site, Signal::SIGABRT);
    let status = site.await_status("restored", 10, |status| restarts(status) == 1);
    assert_eq!(status["master"]["last_death"]["signal"], "ABRT");
    kill(Pid::from_raw(guardian), Signal::SIGTERM).expect("the guardian");
    assert!(site.await_exit(20).success());
    site.assert_empty();
}

/// A stop that comes while the first master has no handlers yet ends it in place of being forgotten.
#[test]
fn a_stop_in_the_first_moment_is_not_lost() {
    for signal in [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT] {
        let site = Site::new(WEB);
        let mut guardian = site
            .run_command()
            .stderr(Stdio::null())
            .spawn()
            .expect("rotad run");
        let pid = guardian.id() as i32;
        while proc::children(pid).is_empty() {
            assert!(!proc::gone(pid), "it has ended by itself");
        }
        kill(Pid::from_raw(pid), signal).expect("the guardian");
        let status = until_some(15, || guardian.try_wait().expect("a child"));
        guardian.kill().ok();
        guardian.wait().expect("its end");
        let status = status.unwrap_or_else(|| panic!("{signal} had no effect: {}", site.log()));
        assert_eq!(status.code(), Some(0), "{signal}: {}", site.log());
    }
}

/// What workers print while there is no master is in the log, line by line.
#[test]
fn no_line_is_lost_when_masters_die() {
    let _alone = alone();
    let lines = r#"
[pool.talk]
command = ["/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; done"]
ready = "spawned"
stop = "2s"
[pool.talk.log]
stdout = "@DIR@/talk.log"
max_size = "1GiB"
"#;
    let site = Site::up(lines);
    for _ in 0..3 {
        let size = site.read("talk.log").len();
        until("more lines", 10, || {
            (site.read("talk.log").len() > size + 10_000).then_some(())
        });
        kill_master(&site, Signal::SIGKILL);
    }
    site.await_status("restored", 10, |status| restarts(status) == 3);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    let text = site.read("talk.log");
    let numbers: std::collections::BTreeSet<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
        .collect();
    let last = *numbers.last().expect("lines");
    assert_eq!(
        numbers.len() as u64,
        last,
        "none of {last} lines is missing"
    );
}

/// Waits for a guardian other than this one, and returns its pid.
fn await_guardian(site: &Site, not: i32) -> i32 {
    let status = site.await_status("another guardian", 10, |status| {
        let guardian = status["master"]["guardian"].as_i64();
        guardian.is_some_and(|pid| pid != i64::from(not))
    });
    status["master"]["guardian"].as_i64().expect("a pid") as i32
}

/// A guardian that is killed is replaced by its master, and that by a new master, as often as it happens, in turn with
/// masters that are killed. Workers serve on, exit codes are known, pools roll.
#[test]
fn a_guardian_that_is_killed_is_replaced() {
    let _alone = alone();
    let site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    let load = Load::on(&site.address(), 2, 2);
    load.await_more(20);
    for _ in 0..4 {
        let (guardian, master) = (site.guardian(), site.pid());
        kill(Pid::from_raw(guardian), Signal::SIGKILL).expect("the guardian");
        assert_eq!(
            await_guardian(&site, guardian),
            master,
            "it takes the place"
        );
        assert_eq!(pids(&site.await_ready(), "web"), before, "the same workers");
        load.await_more(20);
        kill_master(&site, Signal::SIGKILL);
        assert_eq!(await_guardian(&site, guardian), master);
        assert_eq!(pids(&site.await_ready(), "web"), before, "the same workers");
        load.await_more(20);
    }
    let status = site.await_ready();
    assert_eq!(restarts(&status), 4, "deaths of masters");
    site.await_log("this process becomes the guardian of a new master", 5);
    let lost = |event: &&Value| event["event"] == "guardian-lost";
    assert_eq!(site.events().iter().filter(lost).count(), 4);
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 0, "{run:?}");
    load.stop().assert_nothing_lost(100);
    // A signal to the new guardian reaches the master; a worker of an earlier one is reaped.
    let guardian = site.guardian();
    let worker = pids(&site.await_ready(), "web")[0];
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("a worker");
    site.await_status("it is replaced", 10, |status| {
        !pids(status, "web").contains(&worker) && all_ready(status)
    });
    kill(Pid::from_raw(guardian), Signal::SIGTERM).expect("the guardian");
    until("it has stopped", 20, || proc::gone(guardian).then_some(()));
    site.assert_empty();
}

/// A master that hangs, here because it is stopped, is killed and replaced; one that has nothing to do is not.
#[test]
fn a_master_that_hangs_is_replaced() {
    let _alone = alone();
    let mut site = Site::with_master("watchdog = \"1s\"", WEB);
    site.run();
    let before = pids(&site.await_ready(), "web");
    never("it is replaced for no reason", 3.0, || {
        let status = site.status()?;
        (restarts(&status) > 0).then_some(())
    });
    let load = Load::on(&site.address(), 2, 2);
    load.await_more(20);
    kill(Pid::from_raw(site.pid()), Signal::SIGSTOP).expect("the master");
    let status = site.await_status("restored", 20, |status| restarts(status) == 1);
    assert_eq!(pids(&status, "web"), before, "the same workers");
    assert_eq!(status["master"]["last_death"]["signal"], "KILL");
    site.await_log("the loop of the master before this one did not turn", 5);
    load.stop().assert_nothing_lost(40);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert!(site.await_exit(10).success());
    site.assert_empty();
}

/// Masters that die while they spawn: no worker is lost, and none is there twice.
#[test]
fn a_master_that_dies_in_a_start_leaves_each_worker_once() {
    let _alone = alone();
    let pools = r#"
[pool.jobs]
kind = "task"
command = ["@WORKER@", "wait"]
count = 40
ready = "spawned"
stop = "5s"
"#;
    let mut random = Random::new(7);
    for round in 0..6 {
        let mut site = Site::new(pools);
        site.run();
        let master = site.pid();
        spaced(Duration::from_millis(random.below(30) as u64));
        kill(Pid::from_raw(master), Signal::SIGKILL).expect("the master");
        let status = site.await_status("all are there", 20, |status| {
            restarts(status) == 1 && all_ready(status)
        });
        let known = pids(&status, "jobs");
        assert_eq!(known.len(), 40, "round {round}");
        until("each is there once", 10, || {
            let all = site.processes().into_iter();
            let workers = all.filter(|pid| proc::command_line(*pid).ends_with(" wait"));
            let workers: Vec<i32> = workers.collect();
            (workers.len() == 40 && workers.iter().all(|pid| known.contains(pid))).then_some(())
        });
        assert_eq!(site.rotad(&["stop"]).code, 0);
        site.assert_empty();
    }
}

/// Four hundred workers of a dead master end at the same moment: the guardian is asked about each, and each is reaped.
#[test]
fn many_workers_of_a_dead_master_can_end_together() {
    let _alone = alone();
    let pools = r#"
[pool.many]
command = ["/bin/sleep", "1000"]
count = 400
ready = "spawned"
stop = "5s"
"#;
    let mut site = Site::up(pools);
    kill_master(&site, Signal::SIGKILL);
    site.await_status("restored", 20, |status| restarts(status) == 1);
    let run = site.rotad(&["stop", "many"]);
    assert_eq!(run.code, 0, "{run:?}");
    let guardian = site.await_status("stopped", 10, |status| {
        pool(status, "many")["state"] == "stopped"
    })["master"]["guardian"]
        .as_i64()
        .expect("a pid") as i32;
    until("all are reaped", 10, || {
        (proc::children(guardian).len() == 1).then_some(())
    });
    assert!(
        !site.log().contains("cannot be ended by the kernel"),
        "{}",
        site.log()
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert!(site.await_exit(10).success());
    site.assert_empty();
}

/// `pkill -INT rotad` signals both processes: a second INT would kill the workers at once.
#[test]
fn a_signal_to_both_processes_counts_once() {
    let _alone = alone();
    let slow = r#"
[pool.jobs]
command = ["@WORKER@", "wait", "--notify", "--drain-ms", "1000", "--ended", "@DIR@/ended"]
count = 2
ready = "notify"
stop = "20s"
"#;
    for guardian_first in [true, false] {
        let mut site = Site::up(slow);
        let mut both = [site.guardian(), site.pid()];
        if !guardian_first {
            both.reverse();
        }
        for pid in both {
            kill(Pid::from_raw(pid), Signal::SIGINT).expect("a process of rotad");
        }
        assert!(site.await_exit(20).success());
        assert_eq!(site.lines("ended").len(), 2, "they were not killed");
        site.assert_empty();
    }
}

/// What the guardian may take of memory, in KiB: 0.6 MiB. A build for tests has more code and more relocations.
const GUARDIAN_PSS: u64 = if cfg!(debug_assertions) { 700 } else { 614 };

/// What the guardian costs, whatever the number of workers: its share of memory (Pss of /proc/PID/smaps_rollup).
#[test]
fn the_guardian_takes_little_memory() {
    let _alone = alone();
    let pools = r#"
[pool.many]
command = ["/bin/sleep", "1000"]
ready = "spawned"
stop = "5s"
"#;
    let site = Site::up(pools);
    let guardian = site.guardian();
    let share = || {
        let text = std::fs::read_to_string(format!("/proc/{guardian}/smaps_rollup"));
        let text = text.expect("the guardian's memory");
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        number.expect("a number of KiB")
    };
    for workers in ["1", "100", "1000"] {
        assert_eq!(site.rotad(&["scale", "many", workers]).code, 0);
        site.await_ready();
        let before = share();
        kill_master(&site, Signal::SIGKILL);
        site.await_status("restored", 20, all_ready);
        let after = share();
        assert!(
            before.max(after) <= GUARDIAN_PSS,
            "{before} KiB with {workers} workers, {after} KiB after a master has died"
        );
    }
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// Between two masters, here because the guardian is stopped, rotad runs: no second one is started beside it, and every
/// command says how it is.
#[test]
fn between_two_masters_rotad_is_already_running() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    let guardian = Pid::from_raw(site.guardian());
    kill(guardian, Signal::SIGSTOP).expect("the guardian");
    kill(Pid::from_raw(site.pid()), Signal::SIGKILL).expect("the master");
    for verb in ["start", "run"] {
        let run = site.rotad(&[verb]);
        assert_eq!(run.code, 75, "{verb}: {run:?}");
        let said = format!(
            "already running: the master has died, its workers serve on, and its guardian (pid {guardian})"
        );
        assert!(run.err.contains(&said), "{verb}: {run:?}");
    }
    for verb in ["status", "stop"] {
        let run = site.rotad(&[verb]);
        assert_eq!(run.code, 1, "{verb}: {run:?}");
        assert!(
            run.err.contains(&format!("kill -CONT {guardian}")),
            "{verb}: {run:?}"
        );
    }
    kill(guardian, Signal::SIGCONT).expect("the guardian");
    let status = site.await_status("restored", 10, |status| restarts(status) == 1);
    assert_eq!(pids(&status, "web"), before);
    // Without a pause each command waits for the next master.
    kill_and_ask(&site, &["start"], 75, "already running");
    kill_and_ask(&site, &["stop"], 0, "stopped");
    assert!(site.await_exit(10).success());
    site.assert_empty();
}

/// Kills the master, and runs a verb at the same moment.
fn kill_and_ask(site: &Site, verb: &[&str], code: i32, text: &str) {
    // The pid file is that of a master that serves.
    site.await_ready();
    kill(Pid::from_raw(site.pid()), Signal::SIGKILL).expect("the master");
    let run = site.rotad(verb);
    assert_eq!(run.code, code, "{verb:?}: {run:?}");
    assert!(run.text().contains(text), "{verb:?}: {run:?}");
}
