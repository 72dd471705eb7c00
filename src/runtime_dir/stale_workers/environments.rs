//! Reads the environments of processes on a separate thread: /proc/PID/environ takes locks of the process, and a process
//! that hangs (a dead disk below a mapped file) must not delay a start for long.

use crate::event_loop::clock::Deadline;
use crate::process::procfs::{self, Stat};
use crate::process::tree::TAG;
use crate::sys::thread;
use crossbeam_channel::{Sender, unbounded};
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

/// How long reading one environment may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// How long execve(2) may take to load a program, during which its environment cannot be read.
const EXEC_TIMEOUT: Duration = Duration::from_millis(1500);
/// How often a program that is being loaded is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(3);
/// After this many hanging reads no more are tried: each blocks a thread.
const MAX_HUNG: usize = 16;

/// The variables by which a process belongs to a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkerEnvironment {
    /// ROTAD_WORKER.
    pub(super) tag: Option<String>,
    /// ROTAD_POOL.
    pub(super) pool: Option<String>,
    /// ROTAD_SLOT.
    pub(super) slot: Option<u32>,
    /// ROTAD_GENERATION.
    pub(super) generation: Option<u32>,
    /// ROTAD_PORT.
    pub(super) port: Option<u16>,
    /// NOTIFY_SOCKET.
    pub(super) notify: Option<OsString>,
}

/// The environments of these processes, in this order; None if its memory is locked, so that it could not be read.
pub(super) fn of(pids: &[i32]) -> Vec<Option<WorkerEnvironment>> {
    read_by(environment, pids)
}

fn read_by(read: fn(i32) -> WorkerEnvironment, pids: &[i32]) -> Vec<Option<WorkerEnvironment>> {
    let mut found: Vec<Option<WorkerEnvironment>> = Vec::with_capacity(pids.len());
    let all: Arc<[i32]> = pids.into();
    for _ in 0..MAX_HUNG {
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
        while let Ok(environment) = answered.recv_timeout(READ_TIMEOUT) {
            found.push(Some(environment));
        }
        if found.len() < pids.len() {
            found.push(None);
        }
    }
    found.resize(pids.len(), None);
    found
}

fn read_all(read: fn(i32) -> WorkerEnvironment, pids: &[i32], answers: &Sender<WorkerEnvironment>) {
    for &pid in pids {
        if answers.send(read(pid)).is_err() {
            return;
        }
    }
}

fn environment(pid: i32) -> WorkerEnvironment {
    let until = Deadline::after(EXEC_TIMEOUT);
    loop {
        let bytes = procfs::environment(pid).unwrap_or_default();
        if bytes.is_empty() && is_loading(pid) && !until.has_passed() {
            std::thread::sleep(POLL_INTERVAL);
            continue;
        }
        let value = |name: &str| procfs::value_in(&bytes, name);
        return WorkerEnvironment {
            tag: value(TAG),
            pool: value("ROTAD_POOL"),
            slot: value("ROTAD_SLOT").and_then(|slot| slot.parse().ok()),
            generation: value("ROTAD_GENERATION").and_then(|number| number.parse().ok()),
            port: value("ROTAD_PORT").and_then(|port| port.parse().ok()),
            notify: value("NOTIFY_SOCKET").map(OsString::from),
        };
    }
}

/// Whether execve(2) is still loading the program: it has memory, but no environment in it yet (vsize and env_start of
/// /proc/PID/stat). False if the environment may not be read at all.
fn is_loading(pid: i32) -> bool {
    let may_look = std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok();
    may_look && Stat::of(pid).is_ok_and(|stat| stat.vsize != 0 && stat.env_start == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A process whose memory is locked costs the timeout, and the others are read.
    #[test]
    fn a_hanging_process_does_not_block_the_others() {
        fn read(pid: i32) -> WorkerEnvironment {
            if pid == 2 {
                loop {
                    std::thread::park();
                }
            }
            WorkerEnvironment {
                slot: Some(pid as u32),
                ..WorkerEnvironment::default()
            }
        }
        let began = Instant::now();
        let found = read_by(read, &[1, 2, 3, 2]);
        let slots: Vec<Option<u32>> = found
            .into_iter()
            .map(|environment| environment.and_then(|environment| environment.slot))
            .collect();
        assert_eq!(slots, [Some(1), None, Some(3), None]);
        assert!(began.elapsed() < 3 * READ_TIMEOUT, "{:?}", began.elapsed());
    }

    #[test]
    fn results_have_the_order_of_the_pids() {
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
            Some(WorkerEnvironment {
                tag: Some("x-1".to_owned()),
                slot: Some(3),
                ..WorkerEnvironment::default()
            })
        );
        assert_eq!(
            (&found[2], &found[3]),
            (
                &Some(WorkerEnvironment::default()),
                &Some(WorkerEnvironment::default())
            )
        );
        assert!(
            took < EXEC_TIMEOUT,
            "a program without an environment is loaded: {took:?}"
        );
    }
}
