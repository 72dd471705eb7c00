//! Children of the guardian other than its master: workers of dead masters, and orphans of such workers.

use super::link::{End, LinkMessage, SavedExit};
use crate::sys::process::Process;
use crate::sys::reaper;

/// Tells the master how this child has ended, if it has. It stays unreaped.
pub(super) fn tell_exit(end: &End, pid: i32) {
    let exit = Process::of_child(pid, None).peek_exit();
    let exit = exit.ok().flatten().and_then(SavedExit::of);
    end.send_patiently(&LinkMessage::Ended { pid, exit });
}

/// Before a master has died, no worker is a child of the guardian: what has ended are orphans that lie outside of the
/// master's tree (as PID 1 of a container), and their status is not asked for. The master stays unreaped.
pub(super) fn reap_strangers(master: i32) {
    while let Some(pid) = reaper::ended_child() {
        if pid == master {
            return;
        }
        reaper::reap_one_of(pid);
    }
}
