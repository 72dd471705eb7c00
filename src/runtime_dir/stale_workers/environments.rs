//! Reads the environments of processes on a thread of its own: environ in /proc takes locks of the process, and one
//! that hangs (a dead disk below a mapped file) must not delay a start.

use crate::process::procfs;
use crate::process::tree::TAG;
use crate::sys::thread;
use crossbeam_channel::{Sender, unbounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one process may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a program may take to be loaded (execve(2)), while nobody can read what it was given.
const LOADING: Duration = Duration::from_millis(1500);
/// How often a program that is being loaded is looked at.
const LOOK: Duration = Duration::from_millis(3);
/// After so many that do not answer, nobody else is asked: each has cost a thread.
const MOST_HUNG: usize = 16;

/// Whose a process says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Environments {
    /// ROTAD_WORKER, ROTAD_POOL, ROTAD_SLOT.
    pub(super) tag: Option<String>,
    pub(super) pool: Option<String>,
    pub(super) slot: Option<u32>,
}

/// The papers of these processes, in this order; none: its memory is locked, so that it could not be asked.
pub(super) fn of(pids: &[i32]) -> Vec<Option<Environments>> {
    read_by(papers, pids)
}

fn read_by(read: fn(i32) -> Environments, pids: &[i32]) -> Vec<Option<Environments>> {
    let mut found: Vec<Option<Environments>> = Vec::with_capacity(pids.len());
    let all: Arc<[i32]> = pids.into();
    for _ in 0..MOST_HUNG {
        let from = found.len();
        if from == pids.len() {
            break;
        }
        let (answers, answered) = unbounded();
        let all = Arc::clone(&all);
        let reader = move || read_all(read, &all[from..], &answers);
        if thread::spawn("environments", 256 << 10, reader).is_err() {
            break;
        }
        while let Ok(papers) = answered.recv_timeout(PATIENCE) {
            found.push(Some(papers));
        }
        if found.len() < pids.len() {
            found.push(None);
        }
    }
    found.resize(pids.len(), None);
    found
}

fn read_all(read: fn(i32) -> Environments, pids: &[i32], answers: &Sender<Environments>) {
    for &pid in pids {
        if answers.send(read(pid)).is_err() {
            return;
        }
    }
}

fn papers(pid: i32) -> Environments {
    let until = Instant::now() + LOADING;
    loop {
        let bytes = procfs::environment(pid).unwrap_or_default();
        if bytes.is_empty() && is_loading(pid) && Instant::now() < until {
            std::thread::sleep(LOOK);
            continue;
        }
        let value = |name: &str| procfs::value_in(&bytes, name);
        return Environments {
            tag: value(TAG),
            pool: value("ROTAD_POOL"),
            slot: value("ROTAD_SLOT").and_then(|slot| slot.parse().ok()),
        };
    }
}

/// It has memory, and no place for an environment in it yet: fields 23 and 50 of /proc/PID/stat (proc_pid_stat(5)). Also
/// true where we may not look, and then its environment cannot be read either.
fn is_loading(pid: i32) -> bool {
    let text = procfs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .map_or("", |(_, tail)| tail)
        .split_ascii_whitespace()
        .collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let may_look = std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok();
    may_look && field(23) != "0" && field(50) == "0"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One whose memory is locked costs its patience, and the others are heard.
    #[test]
    fn one_that_hangs_holds_nobody_up() {
        fn read(pid: i32) -> Environments {
            if pid == 2 {
                loop {
                    std::thread::park();
                }
            }
            Environments {
                slot: Some(pid as u32),
                ..Environments::default()
            }
        }
        let began = Instant::now();
        let found = read_by(read, &[1, 2, 3, 2]);
        let slots: Vec<Option<u32>> = found
            .into_iter()
            .map(|papers| papers.and_then(|papers| papers.slot))
            .collect();
        assert_eq!(slots, [Some(1), None, Some(3), None]);
        assert!(began.elapsed() < 3 * PATIENCE, "{:?}", began.elapsed());
    }

    #[test]
    fn each_is_answered_in_its_place() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .env(TAG, "x-1")
            .env("ROTAD_SLOT", "3")
            .spawn()
            .unwrap();
        let mut bare = std::process::Command::new("sleep")
            .arg("100")
            .env_clear()
            .spawn()
            .unwrap();
        let pids = [1, child.id() as i32, 0, bare.id() as i32];
        let started = Instant::now();
        let found = of(&pids);
        let took = started.elapsed();
        for child in [&mut child, &mut bare] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found.len(), 4);
        assert_eq!(
            found[1],
            Some(Environments {
                tag: Some("x-1".to_owned()),
                pool: None,
                slot: Some(3)
            })
        );
        assert_eq!(
            (&found[2], &found[3]),
            (
                &Some(Environments::default()),
                &Some(Environments::default())
            )
        );
        assert!(
            took < LOADING,
            "a program without an environment is loaded: {took:?}"
        );
    }
}
