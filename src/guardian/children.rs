//! What the master asks of the guardian. Most of it is about workers of dead masters, and orphans of such workers: they
//! are children of the guardian now.

use super::link::{End, LinkMessage, Request, SavedExit};
use super::manager_socket::ManagerSocket;
use crate::exit_code::ExitCode;
use crate::sys::process::Process;
use crate::sys::reaper;

/// Carries out what the master asks for, until it has asked for nothing more. Returns the exit code of a master that ends
/// on purpose.
pub(super) fn answer_requests(end: &End, manager: &ManagerSocket) -> Option<ExitCode> {
    let mut code = None;
    while let Some(request) = end.receive::<Request>() {
        match request {
            Request::End(with) => code = Some(with),
            Request::Peek(pid) => {
                let exit = Process::of_child(pid, None).peek_exit();
                let exit = exit.ok().flatten().and_then(SavedExit::of);
                end.send_patiently(&LinkMessage::Ended { pid, exit });
            }
            Request::Reap(pid) => reaper::reap_one_of(pid),
            Request::Notify(text) => manager.send(&text),
        }
    }
    code
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
