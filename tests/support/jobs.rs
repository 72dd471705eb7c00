//! Queues: a job server of the test's own, and what came of the jobs, which the workers of the examples write down in
//! `jobs.txt`: `begins NUMBER GENERATION` and `done NUMBER GENERATION`.

use super::site::{Site, finish};
use super::{all_ready, free_port, need, number, pool, until, until_some};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Listens on a port of its own, in a directory of its own; ends with the test.
pub struct Server {
    child: Child,
    pub port: u16,
    dir: tempfile::TempDir,
}

impl Server {
    /// Debian's job server. It keeps nothing on disk.
    pub fn gearmand() -> Option<Self> {
        Self::start("/usr/sbin/gearmand", |port, dir| {
            let log = format!("--log-file={dir}/gearmand.log");
            ["--listen=127.0.0.1".into(), format!("--port={port}"), log].to_vec()
        })
    }

    /// Debian's Redis. It keeps nothing on disk.
    pub fn redis() -> Option<Self> {
        Self::start("/usr/bin/redis-server", |port, dir| {
            let options =
                format!("--port {port} --bind 127.0.0.1 --dir {dir} --save  --appendonly no");
            options.split(' ').map(str::to_owned).collect()
        })
    }

    fn start(program: &str, options: impl Fn(u16, &str) -> Vec<String>) -> Option<Self> {
        if !need(program, Path::new(program).exists()) {
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("rt-server.")
            .tempdir_in("/tmp")
            .expect("a directory");
        // Another process may take the port meanwhile.
        for _ in 0..3 {
            let port = free_port();
            let mut command = Command::new(program);
            command
                .args(options(port, &dir.path().display().to_string()))
                .current_dir(dir.path());
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut child = command.spawn().expect("a server");
            let answers = until_some(10, || {
                let ended = child.try_wait().expect("a child").is_some();
                (ended || TcpStream::connect(("127.0.0.1", port)).is_ok()).then_some(!ended)
            });
            if answers == Some(true) && child.try_wait().expect("a child").is_none() {
                return Some(Self { child, port, dir });
            }
            child.kill().ok();
            child.wait().ok();
        }
        panic!("{program} does not come up");
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// How often each job began and was done.
#[derive(Debug, Default)]
pub struct Ledger {
    pub begun: BTreeMap<u64, u32>,
    pub done: BTreeMap<u64, u32>,
    /// Of those who began one.
    pub generations: BTreeSet<u64>,
}

impl Ledger {
    /// Jobs that have begun and are not done.
    pub fn in_hand(&self) -> u32 {
        self.begun
            .values()
            .sum::<u32>()
            .saturating_sub(self.done.values().sum())
    }

    /// Those that began more than once.
    pub fn twice(&self) -> Vec<u64> {
        self.begun
            .iter()
            .filter(|(_, times)| **times > 1)
            .map(|(job, _)| *job)
            .collect()
    }

    pub fn lost(&self, of: &Range<u64>) -> Vec<u64> {
        of.clone()
            .filter(|job| !self.done.contains_key(job))
            .collect()
    }

    /// What was measured, for `--nocapture`.
    pub fn tell(&self, name: &str, rolls: u64) {
        eprintln!(
            "{name}: {} jobs, {rolls} rolls, run twice: {}",
            self.begun.len(),
            self.twice().len()
        );
    }

    pub fn assert_each_once(&self, of: &Range<u64>) {
        assert!(
            self.lost(of).is_empty(),
            "lost: {:?} of {of:?}",
            self.lost(of)
        );
        assert!(
            self.twice().is_empty(),
            "run twice: {:?} of {}",
            self.twice(),
            self.begun.len()
        );
    }
}

impl Site {
    /// What has come of the jobs until now.
    pub fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for line in self.lines("jobs.txt") {
            let words: Vec<&str> = line.split(' ').collect();
            let job = words[1]
                .parse()
                .unwrap_or_else(|_| panic!("a torn line: {line:?}"));
            match words[0] {
                "begins" => *ledger.begun.entry(job).or_default() += 1,
                "done" => *ledger.done.entry(job).or_default() += 1,
                _ => panic!("a torn line: {line:?}"),
            }
            ledger
                .generations
                .insert(words[2].parse().expect("a generation"));
        }
        ledger
    }

    /// Sends more while fewer than `ahead` are waiting, or than `at_least` were sent; then waits until one is in a
    /// worker's hand.
    pub fn feed(&self, sent: &mut u64, (ahead, at_least): (u64, u64), send: &dyn Fn(Range<u64>)) {
        while *sent < at_least.max(self.ledger().done.len() as u64 + ahead) {
            send(*sent..*sent + ahead);
            *sent += ahead;
        }
        until("a job in hand", 60, || {
            (self.ledger().in_hand() > 0).then_some(())
        });
    }

    /// Rolls the pool `jobs` so many times by USR2, always with jobs in hand and more in the queue, `ahead` of them,
    /// and 40 a roll at the least. Then waits until all are done and the old workers gone. Gives how many there were.
    pub fn roll_with_jobs(&self, rolls: u64, ahead: u64, send: &dyn Fn(Range<u64>)) -> u64 {
        let mut sent = 0;
        for roll in 1..=rolls {
            self.feed(&mut sent, (ahead, 40 * roll), send);
            let before = generation(&self.status().expect("a status"));
            self.signal(Signal::SIGUSR2);
            self.await_generation(before + 1);
        }
        self.feed(&mut sent, (ahead, 40 * rolls), send);
        self.await_done(&(0..sent));
        self.await_status("the old workers are gone", 60, all_ready);
        assert!(
            self.ledger().generations.len() as u64 > rolls / 2,
            "jobs in most generations"
        );
        sent
    }

    /// Waits until the pool `jobs` serves this generation in full; old workers may still finish.
    pub fn await_generation(&self, wanted: u64) {
        self.await_status(&format!("generation {wanted}"), 120, |status| {
            generation(status) == wanted && pool(status, "jobs")["reload"]["state"] == "done"
        });
    }

    pub fn await_done(&self, jobs: &Range<u64>) {
        let lost = || self.ledger().lost(jobs);
        let done = until_some(120, || lost().is_empty().then_some(()));
        assert!(done.is_some(), "not done within 120 s: {:?}", lost());
    }

    /// Runs a program of the example's directory to its end, with the directories of [`Site::search_first`] and these
    /// variables; its output.
    pub fn client(&self, command: &[&str], variables: &[(&str, &str)]) -> String {
        let mut client = Command::new(command[0]);
        self.search(&mut client);
        client
            .args(&command[1..])
            .current_dir(self.path(""))
            .envs(variables.iter().copied());
        client.env("PYTHONDONTWRITEBYTECODE", "1");
        let run = finish(client, 60);
        assert_eq!(run.code, 0, "{command:?}: {run:?}");
        run.out
    }
}

/// Of the pool `jobs`: the last that served in full.
pub fn generation(status: &Value) -> u64 {
    number(&pool(status, "jobs")["generation"]) as u64
}
