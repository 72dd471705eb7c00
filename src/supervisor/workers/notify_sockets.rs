//! The notify sockets of workers, made again after their files were removed.

use crate::event_loop::poller::{Interest, Poller, Source};
use crate::notify_socket::NotifySocket;
use crate::supervisor::action::Action;
use crate::supervisor::workers::Workers;
use crate::supervisor::workers::process_table::ProcessStage;
use crate::supervisor::workers::spawning::{Unwatched, unwatched};
use rotad_core::WorkerId;
use std::os::fd::AsFd;

impl Workers {
    /// Recreates notify sockets whose files are gone, and adds reports of those that cannot be watched. Returns how many.
    /// Workers that are connected already were never cut off.
    pub(crate) fn rebind_notify_sockets(
        &mut self,
        poller: &Poller,
        actions: &mut Vec<Action>,
    ) -> usize {
        let workers: Vec<WorkerId> = self.processes.iter().map(|(id, _)| id).collect();
        let mut again = 0;
        for worker in workers {
            let process = self.processes.get(worker);
            let notify = process.and_then(|process| process.notify.as_ref());
            if !notify.is_some_and(NotifySocket::is_missing) {
                continue;
            }
            let Some(process) = self.processes.get_whole_mut(worker) else {
                continue;
            };
            let Some(notify) = &mut process.notify else {
                continue;
            };
            match notify.rebind() {
                Ok(old) => {
                    // It is watched only once the spawn result has arrived.
                    let watched = matches!(process.stage, ProcessStage::Alive(_));
                    if let Some(old) = old {
                        poller.unwatch(&old);
                    }
                    if watched
                        && let Err(error) =
                            poller.watch(notify.as_fd(), Source::Notify(worker), Interest::Read)
                    {
                        actions.push(unwatched(worker, Unwatched::Messages, &error));
                    }
                    again += 1;
                }
                // The directory of its socket is gone.
                Err(error) => {
                    tracing::debug!("a worker's notify socket cannot be made again: {error}")
                }
            }
        }
        again
    }
}
