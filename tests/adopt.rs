//! The guardian and the master are killed at once, or the state of a dead master cannot be read: the next master adopts the
//! workers, which serve on all the time.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;
use support::{Load, Random, Site, all_ready, alone, need, pids, pool, proc, spaced, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "5"]
count = 4
listen = ["http"]
stop = "10s"
[pool.web.reload]
soak = "100ms"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// `pkill -9 rotad`.
fn kill_both(site: &mut Site) {
    proc::kill_with_guardian(site.pid());
    if site.has_child() {
        site.await_exit(10);
    }
}

/// The next start, which adopts.
fn start(site: &Site) -> String {
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 0, "{run:?}");
    run.text()
}

/// Every wanted worker of a pool is ready, of whatever generation.
fn is_complete(status: &Value, name: &str) -> bool {
    let pool = pool(status, name);
    pool["ready"] == pool["wanted"] && pool["alive"] == pool["wanted"]
}

/// Every worker of a site that runs is one of those that the status knows.
fn assert_each_once(site: &Site, command: &str, known: &[i32]) {
    until("each worker is there once", 10, || {
        let all = site.processes().into_iter();
        let workers: Vec<i32> = all
            .filter(|pid| proc::command_line(*pid).contains(command) && !proc::gone(*pid))
            .collect();
        (workers.len() == known.len() && workers.iter().all(|pid| known.contains(pid)))
            .then_some(())
    });
}

/// Twenty times under load: the workers stay the same, no request is lost, and they are managed on.
#[test]
fn workers_outlive_both_processes_again_and_again() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(50);
    for death in 1..=20 {
        kill_both(&mut site);
        load.await_more(20);
        if death % 2 == 0 {
            start(&site);
        } else {
            site.run();
        }
        let status = site.await_ready();
        assert_eq!(pids(&status, "web"), before, "after death {death}");
        load.await_more(20);
    }
    let events = site.rotad(&["events", "--json"]).out;
    assert!(events.contains("\"adopted\""), "{events}");
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 0, "{run:?}");
    let status = site.await_ready();
    let after = pids(&status, "web");
    assert!(before.iter().all(|pid| !after.contains(pid)), "{after:?}");
    assert!(pool(&status, "web")["generation"].as_u64() > Some(1));
    assert_each_once(&site, "http --work-ms", &after);
    load.stop().assert_nothing_lost(800);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
    assert!(!site.path("run/workers").exists());
}

/// At any moment of a roll: both generations serve, and the next master arrives at one worker in each slot.
#[test]
fn both_processes_may_die_in_a_roll() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let load = Load::on(&site.address(), 4, 4);
    let mut random = Random::new(11);
    let mut generation = 1;
    for _ in 0..8 {
        assert_eq!(site.rotad(&["roll", "--no-wait"]).code, 0);
        spaced(Duration::from_millis(random.below(900) as u64));
        kill_both(&mut site);
        load.await_more(20);
        start(&site);
        let status = site.await_status("settled", 20, |status| {
            let state = &pool(status, "web")["state"];
            is_complete(status, "web") && (state == "ok" || state == "mixed")
        });
        let known = pids(&status, "web");
        assert_eq!(known.len(), 4, "{status}");
        assert_each_once(&site, "http --work-ms", &known);
        let workers = pool(&status, "web")["workers"].as_array().expect("workers");
        let newest = workers
            .iter()
            .filter_map(|worker| worker["generation"].as_u64());
        let newest = newest.max().expect("a generation");
        assert!(newest >= generation, "{status}");
        generation = newest;
    }
    assert_eq!(site.rotad(&["roll"]).code, 0);
    site.await_status("one generation", 10, |status| {
        pool(status, "web")["state"] == "ok"
    });
    load.stop().assert_nothing_lost(160);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// How an adopted worker ended is known where the kernel tells it, and it is replaced.
#[test]
fn an_adopted_worker_that_dies_is_replaced() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    kill_both(&mut site);
    start(&site);
    kill(Pid::from_raw(before[0]), Signal::SIGKILL).expect("a worker");
    let status = site.await_status("it is replaced", 20, |status| {
        !pids(status, "web").contains(&before[0]) && is_complete(status, "web")
    });
    let workers = pool(&status, "web")["workers"].as_array().expect("workers");
    let restarts: Vec<&Value> = workers.iter().map(|worker| &worker["restarts"]).collect();
    assert!(restarts.iter().any(|number| **number == 1), "{restarts:?}");
    let ends: Vec<&Value> = workers.iter().map(|worker| &worker["last_exit"]).collect();
    let known = ends.iter().any(|end| end["signal"] == "KILL");
    let unknown = ends
        .iter()
        .any(|end| end["error"].to_string().contains("unknown"));
    assert!(known || unknown, "{ends:?}");
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// What an operator has scaled or stopped stays so, also the sockets of a pool without workers.
#[test]
fn scaled_and_stopped_pools_stay_so() {
    let _alone = alone();
    let pools = format!(
        r#"{WEB}
[pool.jobs]
kind = "task"
command = ["@WORKER@", "wait", "--terms", "@DIR@/terms"]
ready = "spawned"
count = 2
"#
    );
    let mut site = Site::up(&pools);
    assert_eq!(site.rotad(&["scale", "web", "2"]).code, 0);
    assert_eq!(site.rotad(&["stop", "jobs"]).code, 0);
    let before = site.await_status("two", 10, |status| pids(status, "web").len() == 2);
    let terms = site.lines("terms").len();
    kill_both(&mut site);
    start(&site);
    let status = site.await_status("stopped", 10, |status| {
        pool(status, "jobs")["state"] == "stopped"
    });
    assert_eq!(pids(&status, "web"), pids(&before, "web"));
    assert_eq!(pool(&status, "web")["wanted"], 2);
    assert_eq!(
        site.lines("terms").len(),
        terms,
        "none was started in between"
    );
    assert_eq!(site.rotad(&["start", "jobs"]).code, 0);
    let status = site.await_ready();
    assert_eq!(pids(&status, "jobs").len(), 2);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// A worker that said READY=1 does not say it again; its messages arrive at the next master.
#[test]
fn a_worker_that_was_ready_stays_ready_and_is_heard() {
    let _alone = alone();
    let mut site = Site::new(
        r#"
[pool.told]
command = ["sh", "@DIR@/told.sh"]
ready = "notify"
ready_timeout = "2s"
stop = "5s"
"#,
    );
    if !need::program("systemd-notify") {
        return;
    }
    site.write(
        "told.sh",
        "systemd-notify READY=1; trap 'systemd-notify STATUS=heard' USR1; trap 'exit 0' TERM; while :; do sleep 0.05; done",
    );
    site.run();
    let worker = pids(&site.await_ready(), "told");
    kill_both(&mut site);
    start(&site);
    let began = std::time::Instant::now();
    kill(Pid::from_raw(worker[0]), Signal::SIGUSR1).expect("a worker");
    until("it is heard", 10, || {
        let text = site.rotad(&["status", "told"]).out;
        text.contains("heard").then_some(())
    });
    until("longer than its timeout", 10, || {
        (began.elapsed() > Duration::from_millis(2_500)).then_some(())
    });
    assert_eq!(pids(&site.await_ready(), "told"), worker);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// A unix socket and one whose port the kernel has picked: workers that are started later get the same ones.
#[test]
fn sockets_of_every_kind_are_taken_back() {
    let _alone = alone();
    let both = r#"
[pool.web]
command = ["@WORKER@", "http"]
count = 2
listen = ["unix"]
stop = "5s"
[pool.any]
command = ["@WORKER@", "http"]
listen = ["any"]
stop = "5s"
[listen.unix]
address = "unix:@DIR@/web.sock"
[listen.any]
address = "127.0.0.1:0"
"#;
    let mut site = Site::up(both);
    let listening = |site: &Site| {
        let log = site.log();
        let mut lines = log
            .lines()
            .filter(|line| line.contains("listening on 127.0.0.1"));
        let line = lines.next_back().expect("a line").to_owned();
        let from = line.find("127.0.0.1:").expect("an address");
        let address = line[from..].split(|c: char| c != '.' && c != ':' && !c.is_ascii_digit());
        address.into_iter().next().expect("a port").to_owned()
    };
    let before = listening(&site);
    kill_both(&mut site);
    start(&site);
    site.await_ready();
    assert_eq!(listening(&site), before);
    assert_eq!(site.rotad(&["roll"]).code, 0);
    assert!(support::load::get(&before, "/").is_ok());
    let unix = std::os::unix::net::UnixStream::connect(site.path("web.sock"));
    unix.expect("the new workers listen there");
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
    assert!(!site.path("web.sock").exists(), "it is still ours");
}

/// What is printed while there is no master is logged by the next one, and a worker that waits at a full pipe goes on.
#[test]
fn no_line_is_lost_between_the_masters() {
    let _alone = alone();
    let talk = r#"
[pool.talk]
command = ["/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; done"]
ready = "spawned"
stop = "2s"
[pool.talk.log]
stdout = "@DIR@/talk.log"
max_size = "1GiB"
"#;
    let mut site = Site::up(talk);
    let worker = pids(&site.await_ready(), "talk");
    kill_both(&mut site);
    let hangs = || proc::syscall(worker[0]) == Some(nix::libc::SYS_write);
    until("its pipe is full", 10, || hangs().then_some(()));
    let size = site.read("talk.log").len();
    start(&site);
    until("more lines", 10, || {
        (site.read("talk.log").len() > size + 200_000).then_some(())
    });
    assert_eq!(pids(&site.await_ready(), "talk"), worker);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    let text = site.read("talk.log");
    let numbers: std::collections::BTreeSet<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
        .collect();
    let last = *numbers.last().expect("lines");
    assert_eq!(numbers.len() as u64, last, "none of {last} is missing");
}

/// What an adopted worker leaves behind is found although it is no child of the master or of its guardian.
#[test]
fn what_an_adopted_worker_leaves_behind_is_killed() {
    let _alone = alone();
    let mut site = Site::new(
        r#"
[pool.tree]
command = ["sh", "@DIR@/tree.sh"]
working_directory = "@DIR@"
ready = "spawned"
stop = "5s"
"#,
    );
    site.write(
        "tree.sh",
        "setsid sleep 1001 & env -i sleep 1002 & setsid sh -c 'sleep 1003 & sleep 1004' & trap 'exit 0' TERM; while :; do wait; done",
    );
    site.run();
    let worker = pids(&site.await_ready(), "tree")[0];
    let tree: Vec<i32> = until("its tree", 10, || {
        let all = site.processes().into_iter();
        let sleeps = all.filter(|pid| proc::command_line(*pid).starts_with("sleep 100"));
        let found: Vec<i32> = sleeps.collect();
        (found.len() == 4).then_some(found)
    });
    kill_both(&mut site);
    start(&site);
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("a worker");
    until("its tree is gone", 10, || {
        tree.iter().all(|pid| proc::gone(*pid)).then_some(())
    });
    site.await_status("it is replaced", 10, |status| is_complete(status, "tree"));
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// A worker of a pool that the configuration no longer has is stopped, the others are adopted.
#[test]
fn workers_of_a_pool_that_is_gone_are_stopped() {
    let _alone = alone();
    let jobs = r#"
[pool.jobs]
kind = "task"
command = ["@WORKER@", "wait", "--terms", "@DIR@/terms"]
ready = "spawned"
"#;
    let mut site = Site::up(&format!("{WEB}{jobs}"));
    let status = site.await_ready();
    let (web, gone) = (pids(&status, "web"), pids(&status, "jobs"));
    kill_both(&mut site);
    let text = site.read("rotad.toml");
    let end = text.find("[pool.jobs]").expect("the pool");
    site.write("rotad.toml", &text[..end]);
    let said = start(&site);
    assert!(said.contains(&format!("pid {}", gone[0])), "{said}");
    assert!(proc::gone(gone[0]));
    assert_eq!(site.lines("terms").len(), 1, "it was asked");
    assert_eq!(pids(&site.await_ready(), "web"), web);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// The kernel does not let the socket be taken from the workers: nothing is changed, and it says what helps.
#[test]
fn a_socket_that_may_not_be_taken_back_is_explained() {
    let _alone = alone();
    if !need::root() || !need::program("setpriv") {
        return;
    }
    let mut site = Site::up(&WEB.replace("stop = ", "user = \"nobody\"\nstop = "));
    let before = pids(&site.await_ready(), "web");
    kill_both(&mut site);
    // Root without CAP_SYS_PTRACE may not look into processes of another user.
    let mut refused = Command::new("setpriv");
    refused
        .args(["--bounding-set", "-sys_ptrace", "--"])
        .arg(support::rotad())
        .args(["start", "-c"])
        .arg(&site.config);
    let run = support::site::finish(refused, 60);
    assert_eq!(run.code, 1, "{run:?}");
    for text in ["CAP_SYS_PTRACE", "--take-over", "serve on"] {
        assert!(run.err.contains(text), "{text}: {run:?}");
    }
    assert!(before.iter().all(|pid| !proc::gone(*pid)));
    assert!(support::load::get(&site.address(), "/").is_ok());
    start(&site);
    assert_eq!(pids(&site.await_ready(), "web"), before);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// A pid that was given to another process meanwhile.
#[test]
fn a_process_that_has_got_the_pid_of_a_worker_is_left_alone() {
    let _alone = alone();
    if !need::root() || !need::program("unshare") {
        return;
    }
    let site = Site::new(
        r#"
[pool.jobs]
command = ["sleep", "1000"]
ready = "spawned"
count = 2
stop = "2s"
"#,
    );
    let script = r#"
set -e
"$ROTAD" start -c "$CONFIG"
master=$(cat master.pid)
guardian=$(awk '/^PPid/ { print $2 }' /proc/$master/status)
worker=$(awk '/^\+/ { print $2; exit }' run/workers)
other=$(awk '/^\+/ { pid = $2 } END { print pid }' run/workers)
kill -9 $guardian $master $worker
while [ -e /proc/$worker ] && ! grep -q '^State:.Z' /proc/$worker/status; do :; done
while [ -e /proc/$worker ]; do wait || :; done
for try in 1 2 3 4 5 6 7 8 9; do
  echo $((worker - 1)) > /proc/sys/kernel/ns_last_pid
  sleep 2000 & stranger=$!
  [ $stranger = $worker ] && break
  kill $stranger
done
[ $stranger = $worker ]
"$ROTAD" start -c "$CONFIG"
"$ROTAD" status -c "$CONFIG" --json > status.json
"$ROTAD" roll -c "$CONFIG"
"$ROTAD" stop -c "$CONFIG"
tr '\0' ' ' < /proc/$stranger/cmdline > stranger
echo $worker $other > pids
kill $stranger
"#;
    let mut inside = Command::new("unshare");
    inside
        .args(["--pid", "--fork", "--mount-proc", "sh", "-c", script])
        .env("ROTAD", support::rotad())
        .env("CONFIG", &site.config)
        .current_dir(site.path(""));
    let run = support::site::finish(inside, 60);
    assert_eq!(run.code, 0, "{run:?} {}", site.log());
    assert_eq!(site.read("stranger").trim(), "sleep 2000");
    let text = site.read("pids");
    let known: Vec<i32> = text
        .split_whitespace()
        .map(|pid| pid.parse().expect("a pid"))
        .collect();
    let status: Value = serde_json::from_str(&site.read("status.json")).expect("a status");
    let workers = pids(&status, "jobs");
    assert!(
        workers.contains(&known[1]) && !workers.contains(&known[0]),
        "{workers:?}"
    );
    site.assert_empty();
}

/// The state of a dead master is damaged: the next one adopts the workers, says so, and gives up what it cannot know.
#[test]
fn workers_outlive_a_state_that_cannot_be_read() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(50);
    let (master, guardian) = (site.pid(), site.guardian());
    let state = proc::descriptors(guardian)
        .into_iter()
        .find(|(_, what)| what.starts_with("/memfd:rotad-state"))
        .map(|(number, _)| format!("/proc/{guardian}/fd/{number}"));
    let state = state.expect("the state");
    let bytes = std::fs::read(&state).expect("its bytes");
    // The first record, wherever the journal is in the memory.
    const FIRST_RECORD: &[u8] = b"{\"Master\":";
    let starts = |at: &usize| bytes[*at] == b'{' && bytes[*at..].starts_with(FIRST_RECORD);
    let found: Vec<usize> = (0..bytes.len()).filter(starts).collect();
    assert!(!found.is_empty(), "a record");
    let state = std::fs::File::options().write(true).open(state);
    let state = state.expect("a file");
    for at in found {
        state.write_all_at(b"damaged", at as u64).expect("a write");
    }
    kill(Pid::from_raw(master), Signal::SIGKILL).expect("the master");
    let status = site.await_status("the next one", 10, |status| {
        status["master"]["restarts"] == 1 && all_ready(status)
    });
    assert_eq!(pids(&status, "web"), before);
    site.await_log("cannot be read", 5);
    let events = site.events();
    let of = |kind: &str| events.iter().any(|event| event["event"] == kind);
    assert!(of("adopted") && of("master-restored"), "{events:?}");
    load.await_more(50);
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 0, "{run:?}");
    load.stop().assert_nothing_lost(100);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert!(site.await_exit(10).success());
    site.assert_empty();
}

/// Without a guardian it is the same.
#[test]
fn a_master_without_a_guardian_is_adopted_from() {
    let _alone = alone();
    let mut site = Site::with_master("guardian = false", WEB);
    site.run();
    let before = pids(&site.await_ready(), "web");
    let load = Load::on(&site.address(), 2, 2);
    load.await_more(20);
    for _ in 0..3 {
        kill(Pid::from_raw(site.pid()), Signal::SIGKILL).expect("the master");
        site.await_exit(10);
        load.await_more(20);
        site.run();
        assert_eq!(pids(&site.await_ready(), "web"), before);
    }
    load.stop().assert_nothing_lost(60);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// Events have greater numbers than all before, and the status says what was adopted, also after one more death.
#[test]
fn events_go_on_with_greater_numbers_and_the_status_says_what_was_adopted() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let last = |site: &Site| {
        let numbers = site
            .events()
            .into_iter()
            .filter_map(|event| event["seq"].as_u64());
        numbers.max().expect("events")
    };
    let adopted = |status: &Value| {
        let workers = pool(status, "web")["workers"].as_array().expect("workers");
        workers.iter().filter(|one| one["adopted"] == true).count()
    };
    assert_eq!(adopted(&site.await_ready()), 0);
    for _ in 0..2 {
        let before = last(&site);
        kill_both(&mut site);
        start(&site);
        let first = site
            .events()
            .into_iter()
            .find_map(|event| event["seq"].as_u64());
        assert!(first > Some(before), "{first:?} after {before}");
        assert_eq!(adopted(&site.await_ready()), 4);
        let run = site.rotad(&["status"]);
        let note = "4 adopted, what was before is not known";
        assert!(run.out.contains(note), "{run:?}");
    }
    let before = last(&site);
    let master = site.pid();
    kill(Pid::from_raw(master), Signal::SIGKILL).expect("the master");
    let status = site.await_status("restored", 20, |status| {
        status["master"]["restarts"] == 1 && all_ready(status)
    });
    assert_eq!(adopted(&status), 4);
    let next = site
        .events()
        .into_iter()
        .filter_map(|event| event["seq"].as_u64());
    assert_eq!(next.filter(|seq| *seq > before).min(), Some(before + 1));
    assert_eq!(site.rotad(&["roll"]).code, 0);
    assert_eq!(adopted(&site.await_ready()), 0);
    assert_eq!(site.rotad(&["stop"]).code, 0);
}
