//! Workers that a dead master was spawning: whether the process of each exists, which that master had not recorded.

use crate::event_loop::clock::Deadline;
use crate::process::procfs::{self, Stat};
use crate::process::tree::{Identity, TAG};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a child may take to execute its program. Until then it has the dead master's memory, and no tag; its program
/// is the dead master's too, which an upgrade may have replaced.
const EXEC_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked at meanwhile.
const PAUSE: Duration = Duration::from_millis(1);

/// The children of `parent`, the guardian, by their tag. Waits until each has executed its program: called when a master
/// begins, before its loop turns. `known`: those that need not be looked at.
pub fn by_tag(parent: i32, known: &dyn Fn(i32) -> bool) -> BTreeMap<String, Identity> {
    let until = Deadline::after(EXEC_TIMEOUT);
    loop {
        let mut found = BTreeMap::new();
        let mut executing = false;
        for pid in procfs::children(parent) {
            if known(pid) {
                continue;
            }
            let Some(stat) = Stat::of(pid).ok().filter(|stat| !stat.is_zombie()) else {
                continue;
            };
            // Before its environment is read: by then it may have got there.
            let begins = stat.forked_only || is_in_execve(pid);
            match procfs::environment_value(pid, TAG) {
                Some(tag) => drop(found.insert(tag, (pid, stat.start_time))),
                None => executing |= begins,
            }
        }
        if !executing || until.has_passed() {
            return found;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a process has its new program, but not its arguments and its environment yet: until it has, /proc shows neither.
fn is_in_execve(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::process::Command;

    /// The child runs the program of its parent, which is not ours: an upgrade has replaced that meanwhile.
    #[test]
    fn a_child_that_has_not_executed_its_program_yet_is_waited_for() {
        let script = "(sleep 0.2; ROTAD_WORKER=seven exec sleep 60) & wait";
        let mut parent = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = parent.id().cast_signed();
        while procfs::children(pid).is_empty() {
            std::thread::yield_now();
        }
        let found = by_tag(pid, &|_| false);
        let child = found.get("seven").map(|(pid, _)| Pid::from_raw(*pid));
        for pid in child.into_iter().chain([Pid::from_raw(pid)]) {
            kill(pid, Signal::SIGKILL).unwrap();
        }
        parent.wait().unwrap();
        assert!(child.is_some(), "{found:?}");
    }
}
