//! What a killed master leaves: every worker is known to the next start, whatever the moment and the disk, and nothing
//! ever runs twice.

#![allow(clippy::print_stderr, reason = "the counts of a long run")]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Random, Site, alone, need, pids, proc, spaced, until};

const JOBS: &str = r#"
[pool.jobs]
kind = "task"
command = ["@WORKER@", "wait", "--terms", "@DIR@/terms"]
count = 8
ready = "spawned"
stop = "10s"
[pool.jobs.reload]
surge = 4
soak = "0s"
"#;

fn kill_master(site: &mut Site) {
    proc::kill_with_guardian(site.pid());
    if site.has_child() {
        site.await_exit(5);
    }
}

/// What runs of a site, but for its master and the guardian.
fn others(site: &Site, master: i32) -> Vec<i32> {
    let guardian = proc::guardian_of(master);
    site.processes()
        .into_iter()
        .filter(|pid| *pid != master && Some(*pid) != guardian)
        .collect()
}

/// Waits until every worker is ready. Those that were adopted in the middle of a roll are of two generations.
fn await_complete(site: &Site) -> serde_json::Value {
    site.await_status("every worker is ready", 20, |status| {
        let pools = status["pools"].as_array().expect("pools");
        pools.iter().all(|pool| {
            let settled = ["ok", "done", "mixed"]
                .map(Into::into)
                .contains(&pool["state"]);
            settled && pool["ready"] == pool["wanted"] && pool["alive"] == pool["wanted"]
        })
    })
}

/// Nobody but this master and the workers of its status.
fn assert_nothing_twice(site: &Site, context: &str) {
    let status = await_complete(site);
    let master = site.pid();
    let of = |status: &serde_json::Value| -> Vec<i32> {
        let pools = status["pools"].as_array().expect("pools");
        pools
            .iter()
            .flat_map(|pool| pids(status, pool["name"].as_str().expect("a name")))
            .collect()
    };
    let workers = of(&status);
    // Their descendants are not looked at.
    let is_theirs = |pid: &i32| {
        let mut at = *pid;
        while at > 1 && !workers.contains(&at) {
            at = proc::parent(at).unwrap_or(0);
        }
        workers.contains(&at)
    };
    let strangers: Vec<_> = others(site, master)
        .into_iter()
        .filter(|pid| !is_theirs(pid) && !proc::gone(*pid))
        .map(|pid| (pid, proc::command_line(pid), proc::stat(pid)))
        .collect();
    assert!(
        strangers.is_empty(),
        "{context}: running beside the workers {workers:?} of {master}: {strangers:?}"
    );
}

/// Kills at seeded moments of starts, rolls, stops and take-overs. `ROTAD_KILLS`: how many; `ROTAD_SEED`.
#[test]
fn a_master_killed_at_any_moment_leaves_no_worker_twice() {
    let _alone = alone();
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(default)
    };
    let (kills, seed) = (number("ROTAD_KILLS", 48), number("ROTAD_SEED", 9));
    let mut random = Random::new(seed);
    let tree = r#"
[pool.tree]
command = ["sh", "@DIR@/tree.sh"]
working_directory = "@DIR@"
count = 2
ready = "spawned"
stop = "10s"
[pool.tree.reload]
surge = 2
soak = "0s"
"#;
    // Born by a shim, with an environment of its own.
    let other = r#"
[pool.other]
command = ["sleep", "1002"]
user = "nobody"
working_directory = "@DIR@"
count = 3
ready = "spawned"
stop = "10s"
[pool.other.reload]
surge = 3
soak = "0s"
"#;
    let other = if nix::unistd::geteuid().is_root() {
        other
    } else {
        ""
    };
    let mut site = Site::new(&format!("{JOBS}{tree}{other}"));
    // A child in its session without an environment, one in a session of its own, and the worker itself.
    site.write(
        "tree.sh",
        "env -i sleep 1000 & setsid sleep 1001 & trap 'exit 0' TERM; while :; do wait; done",
    );
    let (mut at, mut found, mut most) = (BTreeMap::<&str, u32>::new(), 0, Duration::ZERO);
    let mut done = 0;
    while done < kills {
        let moment = ["start", "roll", "stop", "take-over"][random.below(4)];
        site.run();
        let asked = match moment {
            "roll" | "stop" => {
                await_complete(&site);
                let mut asked = Command::new(support::rotad());
                asked
                    .arg(moment)
                    .arg("-c")
                    .arg(&site.config)
                    .stdin(Stdio::null());
                Some(
                    asked
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .spawn()
                        .expect("a verb"),
                )
            }
            _ => None,
        };
        let longest = if moment == "start" { 150_000 } else { 50_000 };
        spaced(Duration::from_micros(random.below(longest) as u64));
        site.kill();
        if let Some(mut asked) = asked {
            asked.wait().expect("its end");
        }
        done += 1;
        *at.entry(moment).or_default() += 1;
        let before = site.processes();
        let refused = refusal(&site);
        let unnamed: Vec<_> = before
            .iter()
            .filter(|pid| !proc::gone(**pid) && !refused.contains(&format!("pid {pid}")))
            .map(|pid| (*pid, proc::command_line(*pid), proc::stat(*pid)))
            .collect();
        assert!(
            unnamed.is_empty(),
            "seed {seed}, kill {done} ({moment}): not known to the next start: {unnamed:?}\n{refused}"
        );
        found += before.len();
        if done % 4 == 0 || done == kills {
            let asked = Instant::now();
            site.run();
            assert_nothing_twice(&site, &format!("seed {seed}, kill {done} ({moment})"));
            most = most.max(asked.elapsed());
            site.signal(Signal::SIGTERM);
            assert_eq!(site.await_exit(20).code(), Some(0));
            site.assert_empty();
        }
    }
    let text = format!(
        "{kills} kills, seed {seed}: {at:?}, {found} leftovers seen, slowest start {most:?}"
    );
    eprintln!("{text}");
}

/// A master in the foreground that takes over, as a child of ours.
fn spawn_take_over(site: &Site) -> Child {
    let mut command = site.run_command();
    command
        .arg("--take-over")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("rotad run")
}

/// What `start --no-take-over` says; a master that it starts, since nothing is left, is stopped again.
fn refusal(site: &Site) -> String {
    let run = site.rotad(&["start", "--no-take-over"]);
    match run.code {
        0 => assert_eq!(site.rotad(&["stop"]).code, 0),
        1 => {}
        _ => panic!("{run:?}"),
    }
    run.err
}

/// With `--take-over` `start` and `run` stop the workers that are left, then start; `--no-take-over` refuses, names all of
/// them and touches none.
#[test]
fn workers_that_are_left_can_be_stopped_first() {
    let mut site = Site::up(JOBS);
    for (round, verb) in ["start", "run"].into_iter().enumerate() {
        let workers = pids(&site.await_ready(), "jobs");
        assert_eq!(workers.len(), 8);
        kill_master(&mut site);
        let refused = site.rotad(&["start", "--no-take-over"]);
        assert_eq!(refused.code, 1, "{refused:?}");
        for worker in &workers {
            assert!(
                refused.err.contains(&format!("pid {worker}")),
                "{worker} is not named: {refused:?}"
            );
            assert!(!proc::gone(*worker), "{worker} was touched");
        }
        assert!(
            refused.err.contains("--no-take-over"),
            "it says what to do: {refused:?}"
        );
        if verb == "run" {
            let mut command = site.run_command();
            command.arg("--take-over");
            site.spawn(command);
        } else {
            let run = site.rotad(&[verb, "--take-over"]);
            assert_eq!(run.code, 0, "{run:?}");
            assert!(
                run.out.contains("was killed") && run.out.contains("is stopped"),
                "it says what it did: {run:?}"
            );
        }
        assert_nothing_twice(&site, &format!("round {round}"));
        assert!(
            workers.iter().all(|worker| proc::gone(*worker)),
            "the old workers are gone"
        );
        let events = site.rotad(&["events"]);
        assert!(events.out.contains("took-over"), "{events:?}");
        let termed = site.lines("terms");
        let asked = |pid: &i32| termed.contains(&pid.to_string());
        assert!(
            workers.iter().all(asked),
            "they were asked, not killed: {workers:?} {termed:?}"
        );
    }
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(20).code(), Some(0));
    site.assert_empty();
    site.await_log("WARN", 10);
}

/// A killed master of which the kernel holds a thread: it is no running master, and a start says what it waits for.
#[test]
fn a_killed_master_that_the_kernel_holds() {
    let _alone = alone();
    let mut site = Site::new(JOBS);
    let Some(mut disk) = support::Frozen::mount(&site.path("")) else {
        return;
    };
    let log = site.path("master.log").display().to_string();
    site.configure(
        &site
            .read("rotad.toml")
            .replace(&log, &disk.path("master.log").display().to_string()),
    );
    site.run();
    let workers = pids(&site.await_ready(), "jobs");
    disk.freeze();
    // A death is logged, by a thread that hangs from then on.
    kill(Pid::from_raw(workers[0]), Signal::SIGKILL).expect("a worker");
    let master = site.pid();
    let hangs = || proc::threads_in(master, "D") > 0;
    until("a thread hangs", 10, || hangs().then_some(()));
    proc::kill_with_guardian(master);
    let start = site.rotad(&["start"]);
    assert_eq!(start.code, 1, "{start:?}");
    assert!(
        start
            .err
            .contains(&format!("a master that was killed (pid {master})")),
        "{start:?}"
    );
    assert!(!start.err.contains("already running"), "{start:?}");
    let status = site.rotad(&["status"]);
    assert!(
        status.code == 4 && status.err.contains("was killed"),
        "{status:?}"
    );
    disk.thaw();
    site.await_exit(10);
    assert_eq!(site.rotad(&["start"]).code, 0);
    assert_nothing_twice(&site, "after the disk came back");
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// A worker that prints more than its pipe holds hangs when the master is killed. `run` again serves by itself.
#[test]
fn workers_that_block_on_full_pipes_are_stopped() {
    let _alone = alone();
    let mut site = Site::new(
        r#"
[pool.web]
command = ["sh", "@DIR@/web.sh"]
count = 2
ready = "spawned"
stop = "20s"
[pool.web.log]
stdout = "@DIR@/web.log"
"#,
    );
    site.write(
        "web.sh",
        "trap 'echo last; exit 0' TERM; i=0; while :; do i=$((i+1)); printf '%01000d\\n' $i; sleep 0.002; done",
    );
    site.run();
    let workers = pids(&site.await_ready(), "web");
    until("they print", 10, || {
        (site.read("web.log").len() > 100_000).then_some(())
    });
    kill_master(&mut site);
    // A full pipe: the writer sleeps.
    let hangs = |pid: &i32| proc::syscall(*pid) == Some(nix::libc::SYS_write);
    until("they hang on their pipes", 20, || {
        workers.iter().all(hangs).then_some(())
    });
    let began = Instant::now();
    let mut command = site.run_command();
    command.arg("--take-over");
    site.spawn(command);
    assert_nothing_twice(&site, "printers");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "they were heard while they stopped: {:?}",
        began.elapsed()
    );
    let last = site
        .lines("web.log")
        .iter()
        .filter(|line| line.as_str() == "last")
        .count();
    assert!(last >= 2, "their last words are written: {last}");
}

/// Each pool's own stop steps: a job is finished, a deaf one is killed at the end of its steps and named; those that
/// come after others go first.
#[test]
fn stale_workers_get_the_stop_steps_of_their_pool() {
    let mut site = Site::up(
        r#"
[pool.db]
command = ["@WORKER@", "wait", "--terms", "@DIR@/order", "--ended", "@DIR@/order"]
ready = "spawned"
[pool.job]
kind = "task"
after = ["db"]
command = ["@WORKER@", "wait", "--terms", "@DIR@/order", "--drain-ms", "1500", "--ended", "@DIR@/order"]
ready = "spawned"
stop = [{ signal = "TERM", wait = "60s" }]
[pool.deaf]
command = ["@WORKER@", "deaf"]
ready = "spawned"
stop = "1s"
"#,
    );
    let status = site.await_ready();
    let of = |pool: &str| pids(&status, pool)[0].to_string();
    let (db, job, deaf) = (of("db"), of("job"), of("deaf"));
    kill_master(&mut site);
    let run = site.rotad(&["start", "--take-over"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        site.lines("order"),
        [job.as_str(), job.as_str(), db.as_str(), db.as_str()],
        "asked and ended, in turn"
    );
    assert!(
        run.out.contains(&format!(
            "killed at the end of their stop steps: deaf/0: pid {deaf}"
        )),
        "{run:?}"
    );
    assert!(
        !run.out.contains(&format!("stop steps: job/0: pid {job}")),
        "{run:?}"
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// Killed again while it takes over; then two starts at the same time: one wins, and nothing runs twice.
#[test]
fn a_take_over_that_is_killed_is_continued() {
    let slow = JOBS.replace("\"wait\",", "\"wait\", \"--drain-ms\", \"1000\",");
    let mut site = Site::up(&slow);
    let workers = pids(&site.await_ready(), "jobs");
    kill_master(&mut site);
    let mut second = spawn_take_over(&site);
    until("they are asked", 10, || {
        (site.lines("terms").len() == 8).then_some(())
    });
    proc::kill_with_guardian(second.id() as i32);
    second.wait().expect("its end");
    assert!(
        workers.iter().any(|worker| !proc::gone(*worker)),
        "in the middle"
    );
    let mut starts: Vec<Child> = (0..2)
        .map(|_| {
            let mut command = Command::new(support::rotad());
            command
                .args(["start", "--take-over", "-c"])
                .arg(&site.config)
                .stdin(Stdio::null());
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("a start")
        })
        .collect();
    let mut codes: Vec<Option<i32>> = starts
        .iter_mut()
        .map(|start| start.wait().expect("its end").code())
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(75)]);
    assert_nothing_twice(&site, "after two kills");
    assert!(workers.iter().all(|worker| proc::gone(*worker)));
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// A stop that comes while it takes over is obeyed: nothing is started, nothing is left.
#[test]
fn a_take_over_can_be_stopped() {
    let slow = JOBS.replace("\"wait\",", "\"wait\", \"--drain-ms\", \"1500\",");
    let mut site = Site::up(&slow);
    let workers = pids(&site.await_ready(), "jobs");
    kill_master(&mut site);
    let mut second = spawn_take_over(&site);
    until("they are asked", 10, || {
        (site.lines("terms").len() == 8).then_some(())
    });
    kill(Pid::from_raw(second.id() as i32), Signal::SIGTERM).expect("a master");
    assert_eq!(second.wait().expect("its end").code(), Some(0));
    assert!(
        workers.iter().all(|worker| proc::gone(*worker)),
        "it has ended what it found"
    );
    site.assert_empty();
    assert_eq!(site.lines("terms").len(), 8, "nobody was born");
}

/// The runtime directory is full when workers are born: they are known nevertheless, and once there is room the list is
/// whole again, without a birth.
#[test]
fn a_full_runtime_directory_loses_no_worker() {
    if !need::root() || !need::program("unshare") {
        return;
    }
    for mended in [true, false] {
        full_runtime_directory(mended);
    }
}

/// `mended`: there is room again before the master is killed.
fn full_runtime_directory(mended: bool) {
    let mut site = Site::new(JOBS);
    std::fs::create_dir(site.path("run")).expect("a directory");
    let shell = |site: &Site, script: &str, command: &Command| {
        let mut inside = Command::new("unshare");
        let script = script.replace("RUN", &site.path("run").display().to_string());
        inside
            .args(["-m", "sh", "-c", &script, "x"])
            .arg(command.get_program())
            .args(command.get_args());
        inside
    };
    let run = shell(
        &site,
        "mount -t tmpfs -o size=64k tmpfs RUN; exec \"$@\"",
        &site.run_command(),
    );
    site.spawn(run);
    let master = until("a master", 10, || {
        site.read("master.pid").trim().parse::<i32>().ok()
    });
    let inside = |site: &Site, arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        command
            .arg("-m")
            .arg("-t")
            .arg(master.to_string())
            .args(arguments);
        let run = support::site::finish(command, 60);
        assert!(
            site.config.exists() && run.code < 128,
            "{arguments:?}: {run:?}"
        );
        run
    };
    let rotad = |site: &Site, arguments: &[&str]| {
        let config = site.config.display().to_string();
        let binary = support::rotad().display().to_string();
        inside(
            site,
            &[
                &[binary.as_str(), arguments[0], "-c", config.as_str()],
                &arguments[1..],
            ]
            .concat(),
        )
    };
    let ready = |site: &Site| {
        until("ready", 20, || {
            let run = rotad(site, &["status", "--json"]);
            let status: serde_json::Value = serde_json::from_str(&run.out).ok()?;
            support::all_ready(&status).then_some(status)
        })
    };
    ready(&site);
    let fill = format!("{}/run/filler", site.path("").display());
    inside(
        &site,
        &["dd", "if=/dev/zero", &format!("of={fill}"), "bs=1k"],
    );
    for _ in 0..12 {
        assert_eq!(rotad(&site, &["roll"]).code, 0);
    }
    let workers = pids(&ready(&site), "jobs");
    let list = format!("{}/run/workers", site.path("").display());
    let noted = |workers: &[i32]| {
        let text = inside(&site, &["cat", &list]).out;
        workers
            .iter()
            .all(|pid| text.contains(&format!("+\t{pid}\t")))
    };
    assert!(noted(&workers), "there was room set aside");
    assert!(
        !site.log().contains("cannot be written"),
        "nothing is said that is not so"
    );
    // More workers than there is room for.
    let scaled = |to: &str| {
        assert_eq!(rotad(&site, &["scale", "jobs", to]).code, 0);
        pids(&ready(&site), "jobs")
    };
    let workers = scaled("300");
    site.await_log("cannot be written", 10);
    assert!(!noted(&workers), "there is no room for all of them");
    let told = || {
        site.log()
            .lines()
            .filter(|line| line.contains("cannot be written"))
            .count()
    };
    assert_eq!(told(), 1, "it is told once");
    if mended {
        inside(&site, &["rm", &fill]);
        site.await_log("whole again", 10);
        assert!(noted(&workers), "without a birth");
    }
    // The namespace lives in the workers.
    proc::kill_with_guardian(master);
    site.await_exit(5);
    let mut again = Command::new("nsenter");
    again
        .args(["-m", "-t", &workers[0].to_string()])
        .arg(support::rotad())
        .args(["start", "-c"])
        .arg(&site.config);
    if !mended {
        again.arg("--take-over");
    }
    let run = support::site::finish(again, 60);
    assert_eq!(run.code, 0, "{run:?}");
    if mended {
        let all = site.processes().into_iter();
        let mut alive: Vec<i32> = all
            .filter(|pid| proc::command_line(*pid).contains(" wait --terms"))
            .collect();
        alive.sort_unstable();
        let mut before = workers.clone();
        before.sort_unstable();
        assert_eq!(alive, before, "they are adopted, and none is there twice");
    } else {
        assert!(
            workers.iter().all(|worker| proc::gone(*worker)),
            "they run beside the new ones"
        );
    }
}

/// A pipe in the place of the list of workers does not hang a start.
#[test]
fn a_fifo_as_journal_is_refused() {
    let site = Site::new(JOBS);
    std::fs::create_dir(site.path("run")).expect("a directory");
    nix::unistd::mkfifo(&site.path("run/workers"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.err.contains("run/workers is not a regular file"),
        "{run:?}"
    );
    site.assert_empty();
}

/// The master is killed while a worker's program is being loaded: the next start waits for it, and stops it.
#[test]
fn a_child_before_its_exec_is_found() {
    if !need::strace() {
        return;
    }
    let site = Site::up(&JOBS.replace("count = 8", "count = 1"));
    let master = site.pid();
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-o"])
        .arg(site.path("trace"))
        .args(["-e", "trace=execve"]);
    strace.args([
        "-e",
        "inject=execve:delay_enter=1500000",
        "-p",
        &master.to_string(),
    ]);
    let mut strace = strace.stdin(Stdio::null()).spawn().expect("strace");
    let traced = || {
        proc::switches(master)
            .into_keys()
            .all(|thread| proc::is_traced(master, thread))
    };
    until("every thread is traced", 10, || traced().then_some(()));
    assert_eq!(site.rotad(&["roll", "--no-wait"]).code, 0);
    // The child shares the master's memory, and so its command line.
    let child = until("a half-born child", 10, || {
        let line = proc::command_line(master);
        site.processes()
            .into_iter()
            .find(|pid| proc::parent(*pid) == Some(master) && proc::command_line(*pid) == line)
    });
    proc::kill_with_guardian(master);
    let asked = site.rotad(&["start", "--no-take-over"]);
    assert_eq!(asked.code, 1, "{asked:?}");
    assert!(
        asked.err.contains(&format!("pid {child}")),
        "{child} is not named: {asked:?}"
    );
    assert!(
        proc::command_line(child).contains("testworker"),
        "it has been waited for"
    );
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 0, "{run:?}");
    let workers = pids(&site.await_ready(), "jobs");
    assert!(workers.contains(&child) || proc::gone(child), "it is known");
    assert_nothing_twice(&site, "half-born");
    strace.wait().expect("it ends with those that it traces");
    assert_eq!(site.rotad(&["stop"]).code, 0);
}
