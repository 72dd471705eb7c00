//! What the guardian says: how a worker of a dead master has ended, and that orphans of such workers have ended.

use super::Supervisor;
use super::event_builder::EventBuilder;
use crate::exit_code::ExitCode;
use crate::guardian::{LinkMessage, Succession};
use crate::observe::events::EventKind;
use crate::sys::fork::exit_now;
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

    /// The guardian has died: this process takes its place, and a new master goes on with the saved state. Where that is
    /// not possible, this master goes on without a guardian.
    pub(super) fn on_guardian_exit(&mut self) {
        let Some(link) = self.guardian.clone() else {
            return;
        };
        let dead = link.guardian().pid();
        if self.saver.as_ref().is_some_and(|saver| saver.is_in_use()) && link.has_program() {
            let text = format!(
                "the guardian (pid {dead}) has died: this process becomes the guardian of a new master, and workers serve on"
            );
            self.emit(EventBuilder::new(EventKind::GuardianLost, text).warn());
            self.become_guardian(Succession::GuardianDied);
        } else {
            let text = format!(
                "the guardian (pid {dead}) has died: the master goes on without one. If the master dies as well, its workers \
                 serve on, and the next start adopts them"
            );
            self.emit(EventBuilder::new(EventKind::GuardianLost, text).error());
            self.go_on_alone();
        }
    }

    /// Executes our program as the guardian of a new master. Returns only on failure, with which this master ends: its
    /// workers serve on, and the next start finds them.
    pub(super) fn become_guardian(&mut self, why: Succession) {
        self.end_heartbeat();
        // What is queued was saved when it was printed, but for what this master itself says.
        self.log.writer.drain();
        self.save();
        let (Some(link), Some(saver)) = (self.guardian.clone(), &self.saver) else {
            return;
        };
        if let Some(error) = link.become_guardian(saver.state(), why) {
            tracing::error!(
                "cannot execute our own program to be the guardian: {error}; this master ends, and its workers serve on. \
                 `rotad start` adopts them"
            );
            self.log.writer.drain();
            exit_now(ExitCode::FAILED.number().into());
        }
    }

    /// From now on this is a master without a guardian. Nothing is saved any more, since nothing would read it, and of
    /// workers of dead masters the kernel alone may know how they end.
    fn go_on_alone(&mut self) {
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
        // Those that the guardian was asked about.
        for pid in self.workers.processes.untold_exits() {
            self.on_told_exit(pid, None);
            self.settle();
        }
    }
}
