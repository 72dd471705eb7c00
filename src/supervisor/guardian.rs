//! What the guardian says: how a worker of a dead master has ended, and that orphans of such workers have ended.

use super::Supervisor;
use super::event_builder::EventBuilder;
use crate::guardian::LinkMessage;
use crate::observe::events::EventKind;
use rotad_core::Exit;

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
             on, and the next start adopts them",
            link.guardian().pid()
        );
        self.emit(EventBuilder::new(EventKind::GuardianLost, text).error());
        // Those that the guardian was asked about.
        for pid in self.workers.processes.untold_exits() {
            self.on_told_exit(pid, None);
            self.settle();
        }
    }
}
