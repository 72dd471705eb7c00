//! Orphans, killed trees, cgroups and stale workers, with real processes. Each case is a process of its own whose main thread is the
//! reaper, as in the master; "workers" are started on another thread.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};
use rotad::event_loop::clock::Clock;
use rotad::process::cgroup::Cgroups;
use rotad::process::procfs::{self, Stat};
use rotad::process::tree::{Found, ScanMemory, ScanRequest, TAG, Tag, scan};
use rotad::runtime_dir::stale_workers::{
    JournalEntry, StaleWorkers, StopPlan, TakeOverStep, WorkerJournal,
};
use rotad::sys::process::Process;
use rotad::sys::reaper::{become_subreaper, has_orphans, reap_orphans};
use rotad_core::{Exit, Span, StopStep, WorkerId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Cases, Delegated};

const ROLE: &str = "ROTAD_TEST_ROLE";
const CASES: [(&str, fn()); 11] = [
    ("nothing_left_costs_little", nothing_left_costs_little),
    (
        "a_tree_that_climbs_out_is_killed",
        a_tree_that_climbs_out_is_killed,
    ),
    ("only_orphans_are_reaped", only_orphans_are_reaped),
    (
        "another_workers_orphan_is_left_alone",
        another_workers_orphan_is_left_alone,
    ),
    (
        "a_process_that_outlives_its_worker_is_killed",
        a_process_that_outlives_its_worker_is_killed,
    ),
    (
        "an_unattributed_orphan_is_named_once",
        an_unattributed_orphan_is_named_once,
    ),
    (
        "a_cgroup_finds_processes_that_hide",
        a_cgroup_finds_processes_that_hide,
    ),
    (
        "stale_workers_are_found_and_stopped",
        stale_workers_are_found_and_stopped,
    ),
    (
        "a_take_over_that_was_killed_is_continued",
        a_take_over_that_was_killed_is_continued,
    ),
    (
        "stale_workers_without_a_journal_line_are_found",
        stale_workers_without_a_journal_line_are_found,
    ),
    (
        "stale_workers_that_ignore_the_stop_are_killed",
        stale_workers_that_ignore_the_stop_are_killed,
    ),
];

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return act(&role);
    }
    let mut failed = false;
    for name in Cases::of_arguments().chosen(CASES.map(|(name, _)| name)) {
        let done = again(&format!("case {name}")).status().unwrap().success();
        say(&format!(
            "test {name} ... {}",
            if done { "ok" } else { "FAILED" }
        ));
        failed |= !done;
    }
    std::process::exit(i32::from(failed));
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").unwrap();
}

fn again(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role);
    command
}

// ---- the workers' side ----

#[expect(clippy::exit, reason = "a worker that ends with a code")]
fn act(role: &str) {
    let (verb, rest) = role.split_once(' ').unwrap_or((role, ""));
    match verb {
        "case" => {
            become_subreaper().unwrap();
            CASES.iter().find(|(name, _)| *name == rest).unwrap().1();
        }
        // A worker: leads a session, starts others, prints pids, and stays or exits.
        "worker" => {
            setsid().unwrap();
            tree(rest);
        }
        "runaway" => {
            setsid().unwrap();
            tree(rest);
        }
        "plain" => tree(rest),
        "stubborn" => {
            setsid().unwrap();
            let _kept = signal_hook::low_level::pipe::register(
                15,
                std::os::unix::net::UnixStream::pair().unwrap().0,
            );
            print_pid_and_wait();
        }
        "exit" => std::process::exit(rest.parse().unwrap()),
        other => panic!("{other}?"),
    }
}

/// `stay`, or a child to start before leaving, or `keep` and a child to stay with.
fn tree(rest: &str) {
    if rest == "stay" {
        print_pid_and_wait();
    }
    let kept = rest.strip_prefix("keep ");
    #[expect(clippy::zombie_processes, reason = "it is to become an orphan")]
    again(kept.unwrap_or(rest)).spawn().unwrap();
    if kept.is_some() {
        print_pid_and_wait();
    }
}

fn print_pid_and_wait() {
    say(&std::process::id().to_string());
    loop {
        std::thread::park();
    }
}

// ---- the master's side ----

struct TestWorker {
    process: Process,
    said: BufReader<std::process::ChildStdout>,
}

/// Starts a worker on a thread of its own that never ends, as the master's spawner does.
fn spawn(role: &str, tag: &str) -> TestWorker {
    let mut command = again(role);
    command
        .env(TAG, tag)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        sender.send(command.spawn().unwrap()).unwrap();
        loop {
            std::thread::park();
        }
    });
    #[expect(
        clippy::zombie_processes,
        reason = "reaped by its pid, as the master does it"
    )]
    let mut child = receiver.recv().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let pid = child.id() as i32;
    let pidfd = Process::open_pid(pid)
        .unwrap()
        .pidfd()
        .unwrap()
        .try_clone_to_owned()
        .unwrap();
    TestWorker {
        process: Process::of_child(pid, Some(pidfd)),
        said,
    }
}

impl TestWorker {
    /// Reads the pid that a process of the tree has printed.
    fn read_pid(&mut self) -> i32 {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }

    /// Waits until every process of the tree has closed the pipe.
    fn wait_until_all_gone(mut self) {
        self.said.read_to_end(&mut Vec::new()).unwrap();
    }
}

/// One scan with these workers known; those with `true` have ended.
fn scan_for(workers: &[(&TestWorker, u64, bool)], memory: &mut ScanMemory) -> Found {
    let ids = |wanted: bool| {
        workers
            .iter()
            .filter(move |(_, _, ended)| *ended == wanted)
            .map(|(_, id, _)| WorkerId(*id))
    };
    let request = ScanRequest {
        tag: "t".into(),
        workers: workers
            .iter()
            .map(|(worker, id, _)| (worker.process.pid(), WorkerId(*id)))
            .collect::<HashMap<_, _>>(),
        living: ids(false).collect(),
        ended: ids(true).collect(),
        last: Some(WorkerId(9)),
        ..ScanRequest::default()
    };
    scan(&request, memory, &mut ask)
}

fn ask(stat: &Stat) -> Tag {
    procfs::environment_value(stat.pid, TAG).map_or(Tag::None, Tag::Is)
}

/// Kills this worker's tree, scanning and reaping until nothing is left. Returns how many processes were killed.
fn kill_tree_of(worker: &TestWorker, id: u64) -> usize {
    let until = Instant::now() + Duration::from_secs(20);
    let (mut killed, mut memory) = (0, ScanMemory::default());
    loop {
        worker.process.signal_group(9).ok();
        let lives = worker.process.peek_exit().unwrap().is_none();
        let found = scan_for(&[(worker, id, true)], &mut memory);
        let progress = found.kills[&WorkerId(id)];
        killed += progress.killed;
        reap_orphans(100);
        if progress.left == 0 && !lives {
            return killed;
        }
        assert!(Instant::now() < until, "{found:?}");
        std::thread::yield_now();
    }
}

fn ended(worker: &TestWorker) {
    while worker.process.peek_exit().unwrap().is_none() {
        std::thread::yield_now();
    }
}

fn nothing_left_costs_little() {
    let mut worker = spawn("worker stay", "t-1");
    worker.read_pid();
    assert!(!has_orphans(), "a worker is no orphan");
    assert_eq!(reap_orphans(10), []);
    assert_eq!(kill_tree_of(&worker, 1), 0);
    assert_eq!(
        worker.process.reap().unwrap(),
        Some(Exit::Signal {
            signal: 9,
            core_dumped: false
        })
    );
    worker.wait_until_all_gone();
}

fn a_tree_that_climbs_out_is_killed() {
    // A worker whose child and grandchild have sessions of their own, and whose parents have left.
    for role in [
        "worker runaway runaway stay",
        "worker plain runaway plain stay",
        "worker plain stay",
    ] {
        let mut worker = spawn(role, "t-1");
        let pid = worker.read_pid();
        ended(&worker);
        assert!(has_orphans());
        kill_tree_of(&worker, 1);
        assert_eq!(worker.process.reap().unwrap(), Some(Exit::Code(0)));
        reap_orphans(100);
        assert!(Stat::of(pid).is_err(), "killed and reaped");
        worker.wait_until_all_gone();
    }
    // A whole orphaned tree: nobody in between has left.
    let mut worker = spawn("worker runaway keep runaway keep plain stay", "t-2");
    worker.read_pid();
    ended(&worker);
    kill_tree_of(&worker, 2);
    worker.process.reap().unwrap();
    worker.wait_until_all_gone();
}

/// Its worker has ended and its tree was killed: a process that still bears the tag has outlived it. Of a worker that
/// is younger than the request nothing is known: its own are left alone.
fn a_process_that_outlives_its_worker_is_killed() {
    let (mut old, mut young) = (
        spawn("worker runaway stay", "t-3"),
        spawn("worker runaway stay", "t-10"),
    );
    let (left, innocent) = (old.read_pid(), young.read_pid());
    for worker in [&old, &young] {
        ended(worker);
        worker.process.reap().unwrap();
    }
    let mut memory = ScanMemory::default();
    while Stat::of(left).is_ok() {
        let found = scan_for(&[], &mut memory);
        assert_eq!(found.unowned, []);
        reap_orphans(10);
    }
    assert!(!Stat::of(innocent).unwrap().is_zombie());
    all_gone_at_the_end();
    old.wait_until_all_gone();
    young.wait_until_all_gone();
}

/// Nothing tells whose it is: it is named once, left alone, and ended at the end. One that does not answer is waited
/// for a moment, and named as well.
fn an_unattributed_orphan_is_named_once() {
    for silent in [false, true] {
        let mut worker = spawn("worker runaway stay", "another-master");
        let pid = worker.read_pid();
        ended(&worker);
        let mut memory = ScanMemory::default();
        let clock = Clock::start();
        let mut request = ScanRequest {
            tag: "t".into(),
            ..ScanRequest::default()
        };
        let mut quiet = |_: &Stat| {
            if silent {
                Tag::Silent
            } else {
                Tag::Is("another-master".into())
            }
        };
        let until = Instant::now() + Duration::from_secs(20);
        let named = loop {
            request.now = clock.now();
            let found = scan(&request, &mut memory, &mut quiet);
            if let [one] = &found.unowned[..] {
                break one.clone();
            }
            assert!(Instant::now() < until, "{found:?}");
            std::thread::yield_now();
        };
        assert_eq!((named.identity.0, named.silent), (pid, silent));
        assert_eq!(
            scan(&request, &mut memory, &mut quiet).unowned,
            [],
            "a second time"
        );
        worker.process.reap().unwrap();
        all_gone_at_the_end();
        worker.wait_until_all_gone();
    }
}

fn all_gone_at_the_end() {
    let request = ScanRequest {
        everything: true,
        ..ScanRequest::default()
    };
    let until = Instant::now() + Duration::from_secs(20);
    // Nobody is asked for anything.
    while scan(&request, &mut ScanMemory::default(), &mut |stat| {
        panic!("{stat:?} was asked")
    })
    .left
        > 0
    {
        reap_orphans(10);
        assert!(Instant::now() < until);
    }
    reap_orphans(10);
}

fn only_orphans_are_reaped() {
    let worker = spawn("worker exit 3", "t-1");
    ended(&worker);
    let until = Instant::now() + Duration::from_secs(20);
    let reaped = loop {
        let reaped = reap_orphans(10);
        if !reaped.is_empty() {
            break reaped;
        }
        assert!(Instant::now() < until);
        std::thread::yield_now();
    };
    assert_eq!(reaped.len(), 1);
    assert_eq!(
        reaped[0].1,
        Exit::Code(3),
        "the orphan's, and not the worker's"
    );
    assert_eq!(
        worker.process.reap().unwrap(),
        Some(Exit::Code(0)),
        "which is still there"
    );
}

fn another_workers_orphan_is_left_alone() {
    let mut one = spawn("worker runaway stay", "t-1");
    let mut other = spawn("worker runaway stay", "t-2");
    let (_, innocent) = (one.read_pid(), other.read_pid());
    ended(&one);
    ended(&other);
    let mut memory = ScanMemory::default();
    while scan_for(&[(&one, 1, true), (&other, 2, false)], &mut memory).kills[&WorkerId(1)].left > 0
    {
        reap_orphans(10);
    }
    assert!(!Stat::of(innocent).unwrap().is_zombie());
    one.process.reap().unwrap();
    one.wait_until_all_gone();
    all_gone_at_the_end();
    other.process.reap().unwrap();
    other.wait_until_all_gone();
}

fn a_cgroup_finds_processes_that_hide() {
    let Some(given) = Delegated::make() else {
        return;
    };
    given.enter();
    assert!(
        Cgroups::find("test").is_none(),
        "nobody has given it to us yet"
    );
    given.mark("delegate", "1");
    let cgroups = Cgroups::find("test").expect("cgroups of our own");
    let cgroup = cgroups.make(WorkerId(1)).unwrap();
    let mut worker = spawn("worker stay", "t-1");
    worker.read_pid();
    cgroup.add(worker.process.pid()).unwrap();
    assert!(!cgroup.is_empty().unwrap());
    assert!(cgroup.contains(worker.process.pid()));
    assert!(!cgroup.contains(std::process::id() as i32));
    assert_eq!(cgroup.members(), [worker.process.pid()]);
    cgroup.kill().unwrap();
    ended(&worker);
    while !cgroup.is_empty().unwrap() {
        std::thread::yield_now();
    }
    kill_tree_of(&worker, 1);
    worker.process.reap().unwrap();
    worker.wait_until_all_gone();
    drop(cgroup);
    assert!(
        cgroups.make(WorkerId(1)).is_ok(),
        "its directory was removed"
    );
    price(&cgroups);
    drop(cgroups);
    given.assert_bare();
}

/// What one worker's cgroup costs; run by hand (docs/decisions/0002-trees.md).
fn price(cgroups: &Cgroups) {
    if std::env::var_os("ROTAD_MEASURE").is_none() {
        return;
    }
    let (mut made, mut moved, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for id in 100..200 {
        let mut worker = spawn("worker stay", "t-1");
        worker.read_pid();
        let start = Instant::now();
        let cgroup = cgroups.make(WorkerId(id)).unwrap();
        made.push(start.elapsed());
        let start = Instant::now();
        cgroup.add(worker.process.pid()).unwrap();
        moved.push(start.elapsed());
        cgroup.kill().unwrap();
        ended(&worker);
        worker.process.reap().unwrap();
        let start = Instant::now();
        drop(cgroup);
        removed.push(start.elapsed());
    }
    for (name, mut times) in [("mkdir", made), ("cgroup.procs", moved), ("rmdir", removed)] {
        times.sort();
        say(&format!(
            "{name}: p50 {:?}, p90 {:?}, max {:?}",
            times[50], times[90], times[99]
        ));
    }
}

// ---- stale ----

/// A journal as a dead master leaves it: its first line names a process that is no more.
fn journal_of(dir: &std::path::Path, note: impl FnOnce(&mut WorkerJournal)) {
    let mut journal = WorkerJournal::open(dir, "left", None, Clock::start()).unwrap();
    note(&mut journal);
    drop(journal);
    let path = dir.join("workers");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once('\n').unwrap();
    let words: Vec<&str> = head.split(' ').collect();
    let start: u64 = words[4].parse().unwrap();
    let head = [&words[..4], &[&(start - 1).to_string()], &words[5..]]
        .concat()
        .join(" ");
    std::fs::write(&path, format!("{head}\n{rest}")).unwrap();
}

fn noted(journal: &mut WorkerJournal, worker: &TestWorker, tag: &str) {
    let entry = |pid, start_time, slot, tag: &str| JournalEntry {
        pid,
        start_time,
        slot,
        pool: "web".to_owned(),
        tag: tag.to_owned(),
        ..JournalEntry::default()
    };
    let pid = worker.process.pid();
    let started = Stat::of(pid).unwrap().start_time;
    journal.add_worker(&entry(pid, started, 2, tag)).unwrap();
    let other = entry(1, 77, 3, "not-that-one");
    journal.add_worker(&other).unwrap();
}

fn quickly(wait: u64) -> BTreeMap<String, StopPlan> {
    let steps = vec![StopStep {
        signal: Some(rotad_core::Signal(15)),
        wait: Span::from_millis(wait),
        to: rotad_core::To::Main,
    }];
    BTreeMap::from([(
        "web".to_owned(),
        StopPlan {
            steps,
            after: Vec::new(),
        },
    )])
}

fn stale_workers_are_found_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = spawn("worker keep runaway stay", "left-1");
    let pids = HashSet::from([worker.read_pid(), worker.read_pid()]);
    journal_of(dir.path(), |journal| noted(journal, &worker, "left-1"));
    let stale = StaleWorkers::find(dir.path()).unwrap();
    let found: HashSet<i32> = stale.found.iter().map(|one| one.pid).collect();
    assert_eq!(
        found, pids,
        "the worker and the one that has left its session, but not pid 1"
    );
    let found = stale.found.iter().find(|one| one.is_worker).unwrap();
    assert_eq!(
        (found.pid, found.pool.as_str(), found.slot),
        (worker.process.pid(), "web", 2)
    );
    let done = stale.take_over(&quickly(500), None, None, |_| TakeOverStep::Continue);
    assert_eq!((done.found, done.unkillable.len()), (2, 0));
    let exit = worker.process.reap().unwrap();
    assert_eq!(
        exit,
        Some(Exit::Signal {
            signal: 15,
            core_dumped: false
        }),
        "the worker was asked first"
    );
    worker.wait_until_all_gone();
}

/// A worker that one take-over has found is known to the next one, also once the evidence is gone.
fn a_take_over_that_was_killed_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = spawn("worker keep plain stay", "left-8");
    let pids = HashSet::from([worker.read_pid(), worker.read_pid()]);
    journal_of(dir.path(), |_| ());
    let stale = StaleWorkers::find(dir.path()).unwrap();
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut turns = 0;
        stale.take_over(&quickly(60_000), None, None, |left| {
            turns += 1;
            assert!(
                turns == 1 || left.len() == 2,
                "killed in the middle, when one has ended"
            );
            TakeOverStep::Continue
        })
    }));
    assert!(died.is_err());
    let text = std::fs::read_to_string(dir.path().join("workers")).unwrap();
    assert!(
        pids.iter().all(|pid| text.contains(&format!("*\t{pid}\t"))),
        "{text}"
    );
    // Nothing but that tells of them from now on.
    std::fs::write(
        dir.path().join("workers"),
        text.replace(" left ", " another "),
    )
    .unwrap();
    let again = StaleWorkers::find(dir.path()).unwrap();
    assert!(again.found.iter().all(|one| pids.contains(&one.pid)));
    assert_eq!(
        again
            .take_over(&quickly(100), None, None, |_| TakeOverStep::Continue)
            .unkillable
            .len(),
        0
    );
    worker.wait_until_all_gone();
}

/// No line of the journal tells of it: its environment does.
fn stale_workers_without_a_journal_line_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = spawn("worker keep runaway stay", "left-7");
    let mut other = spawn("worker stay", "leftover-1");
    let pids = HashSet::from([worker.read_pid(), worker.read_pid()]);
    let preexisting = other.read_pid();
    journal_of(dir.path(), |_| ());
    let stale = StaleWorkers::find(dir.path()).unwrap();
    let found: HashSet<i32> = stale.found.iter().map(|one| one.pid).collect();
    assert_eq!(
        found, pids,
        "and not one whose tag only begins alike ({preexisting})"
    );
    let workers: Vec<i32> = stale
        .found
        .iter()
        .filter(|one| one.is_worker)
        .map(|one| one.pid)
        .collect();
    assert_eq!(workers, [worker.process.pid()]);
    assert_eq!(
        stale
            .take_over(&quickly(500), None, None, |_| TakeOverStep::Continue)
            .unkillable
            .len(),
        0
    );
    worker.wait_until_all_gone();
    kill(Pid::from_raw(other.process.pid()), Signal::SIGKILL).unwrap();
    other.wait_until_all_gone();
}

fn stale_workers_that_ignore_the_stop_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = spawn("stubborn", "left-2");
    worker.read_pid();
    journal_of(dir.path(), |journal| noted(journal, &worker, "left-2"));
    // Stopped as well: it gets SIGCONT with its stop.
    kill(Pid::from_raw(worker.process.pid()), Signal::SIGSTOP).unwrap();
    let stale = StaleWorkers::find(dir.path()).unwrap();
    assert_eq!(stale.found.len(), 1);
    let start = Instant::now();
    let done = stale.take_over(&quickly(200), None, None, |_| TakeOverStep::Continue);
    assert_eq!((done.unkillable.len(), done.killed.len()), (0, 1));
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(
        worker.process.reap().unwrap(),
        Some(Exit::Signal {
            signal: 9,
            core_dumped: false
        })
    );
    assert_eq!(StaleWorkers::find(dir.path()).unwrap().found.len(), 0);
    worker.wait_until_all_gone();
}
