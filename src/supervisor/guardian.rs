//! What the guardian says: how a worker of a dead master has ended, and that orphans of such workers have ended.

use super::Supervisor;
use super::event_builder::EventBuilder;
use super::workers::process_table::ProcessStage;
use crate::guardian::LinkMessage;
use crate::observe::events::EventKind;
use rotad_core::{Exit, WorkerId};

impl Supervisor {
    /// Handles what the guardian has said.
    pub(super) fn on_guardian(&mut self) {
        let Some(link) = self.guardian.clone() else {
            return;
        };
        while let Some(message) = link.receive() {
            match message {
                LinkMessage::Ended { pid, exit } => self.on_told_exit(pid, exit.map(Exit::from)),
                LinkMessage::ChildrenEnded => {
                    let context = self.event_loop.context(&self.log, &self.clock);
                    let actions = self.workers.on_child_exited(&context);
                    self.perform(actions);
                }
            }
            self.settle();
        }
    }

    /// The guardian has died: from now on this is a master without one. Nothing is saved any more, since nobody would read
    /// it, and of workers of dead masters the kernel alone may know how they end.
    pub(super) fn on_guardian_exit(&mut self) {
        let Some(link) = self.guardian.take() else {
            return;
        };
        let poller = &self.event_loop.poller;
        poller.unwatch(&*link);
        if let Some(pidfd) = link.guardian().pidfd() {
            poller.unwatch(pidfd);
        }
        self.saver = None;
        self.workers.processes.guardian = None;
        self.service_manager.guardian_lost();
        let text = format!(
            "the guardian (pid {}) has died: the master goes on without one. If the master dies as well, its workers serve \
             on, and the next start takes over",
            link.guardian().pid()
        );
        self.emit(EventBuilder::new(EventKind::GuardianLost, text).error());
        // Those that the guardian was asked about.
        for pid in self.workers.processes.untold_exits() {
            self.on_told_exit(pid, None);
            self.settle();
        }
    }

    /// Whether a worker is not our child, and its exit is not known yet: then the guardian is asked, whose answer
    /// comes to [`Supervisor::on_guardian`].
    pub(super) fn asks_guardian(&mut self, worker: WorkerId) -> bool {
        let Some(process) = self.workers.processes.get(worker) else {
            return false;
        };
        let Some(child) = process.child().filter(|child| child.needs_telling()) else {
            return false;
        };
        let pid = child.pid();
        let asked = self
            .guardian
            .as_ref()
            .is_some_and(|guardian| guardian.ask_exit(pid).is_ok());
        if asked {
            if let Some(pidfd) = child.pidfd() {
                self.event_loop.poller.unwatch(pidfd);
            }
        } else {
            self.on_told_exit(pid, None);
        }
        asked
    }

    /// None: the guardian does not know it. Then the kernel may, also after the process was reaped.
    fn on_told_exit(&mut self, pid: i32, exit: Option<Exit>) {
        let Some(worker) = self.workers.processes.of_pid(pid) else {
            return;
        };
        if let Some(process) = self.workers.processes.get_mut(worker)
            && let ProcessStage::Alive(child) = &mut process.stage
        {
            child.set_exit(exit.or_else(|| child.exit_info()).unwrap_or(Exit::Unknown));
        }
        self.worker_exited(worker, true);
    }
}
