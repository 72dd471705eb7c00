//! What a worker says and how it ends: its notify messages and its exit.
//!
//! A message that waits in the socket counts before the exit: the caller of [`Workers::check_exit`] has taken the
//! messages and the exec status before, and the engine knows them.

use crate::notify_socket::{Message, NotifySocket, Peeked};
use crate::observe::events::EventKind;
use crate::observe::sanitize::sanitize;
use crate::observe::status::LastExit;
use crate::process::procfs;
use crate::supervisor::action::Action;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::workers::exit_report::last_exit;
use crate::supervisor::workers::trees::Event;
use crate::supervisor::workers::{LoopContext, Workers};
use rotad_core::{Exit, Input, PoolKind, Span, WorkerId};

/// Maximum notify messages read from one worker before others have their turn.
const MESSAGES_A_TURN: usize = 100;

/// What the engine knows of a worker that may have exited. The default: it does not know the worker.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Life {
    pub age: Span,
    /// It is not ready yet.
    pub starting: bool,
    /// It was asked to stop.
    pub stopping: bool,
    /// It has been ready.
    pub served: bool,
}

impl Workers {
    /// Whether there are notify messages of this worker to be read.
    pub(crate) fn has_messages(&self, worker: WorkerId) -> bool {
        let process = self.processes.get(worker);
        let notify = process.and_then(|process| process.notify.as_ref());
        notify.is_some_and(NotifySocket::has_messages)
    }

    /// Reads the notify messages of a worker, which stay in its socket until [`Workers::consume_messages`]. Returns what the
    /// engine has to know, the messages that concern the watchdog, and what was read. `ready_counts`: READY=1 makes it
    /// ready.
    pub(crate) fn read_messages(
        &mut self,
        worker: WorkerId,
        ready_counts: bool,
    ) -> (Vec<Input>, Vec<Message>, Option<Peeked>) {
        let (mut inputs, mut watchdog) = (Vec::new(), Vec::new());
        let Some(process) = self.processes.get(worker) else {
            return (inputs, watchdog, None);
        };
        let Some(notify) = &process.notify else {
            return (inputs, watchdog, None);
        };
        let (mut status_text, mut is_ready) = (None, false);
        let mut peeked = notify.peek(MESSAGES_A_TURN);
        for message in std::mem::take(&mut peeked.messages) {
            if message.watchdog || message.trigger || message.watchdog_interval.is_some() {
                watchdog.push(message.clone());
            }
            let Message {
                ready,
                extend,
                status,
                stopping,
                ..
            } = message;
            if let Some(status) = status {
                status_text = Some(sanitize(status));
            }
            if let Some(by) = extend {
                let by = Span::from(by);
                inputs.push(Input::TimeoutExtended(worker, by));
            }
            if ready {
                is_ready = true;
                if ready_counts {
                    inputs.push(Input::Ready(worker));
                }
            }
            if stopping {
                tracing::debug!(pid = process.pid(), "reports that it is stopping");
            }
        }
        // A message that changes nothing, such as WATCHDOG=1, costs no record.
        let changes = status_text.is_some() || (is_ready && !process.ready);
        if changes && let Some(process) = self.processes.get_mut(worker) {
            process.ready |= is_ready;
            process.status_text = status_text.or(process.status_text.take());
        }
        (inputs, watchdog, Some(peeked))
    }

    /// Removes from the worker's socket what was read and is saved now: a message that a master does not live to record is
    /// read by the next one.
    pub(crate) fn consume_messages(&self, worker: WorkerId, peeked: Peeked) {
        let process = self.processes.get(worker);
        if let Some(notify) = process.and_then(|process| process.notify.as_ref()) {
            notify.consume(peeked);
        }
    }

    /// The workers whose exit is not reported by a pidfd: they are checked at each SIGCHLD.
    pub(crate) fn to_check(&self) -> Vec<WorkerId> {
        match self.processes.without_pidfds {
            true => self.processes.iter().map(|(id, _)| id).collect(),
            false => Vec::new(),
        }
    }

    /// Takes the exit of a worker. `certain`: the kernel has reported it. Otherwise the process may still run, and is
    /// only checked.
    pub(crate) fn check_exit(
        &mut self,
        context: &LoopContext<'_>,
        worker: WorkerId,
        certain: bool,
        life: Life,
    ) -> Vec<Action> {
        let Some(process) = self.processes.get_mut(worker) else {
            return Vec::new();
        };
        if process.exit.is_some() {
            return Vec::new();
        }
        let Some(child) = process.child() else {
            return Vec::new();
        };
        let (mut actions, mut unexplained) = (Vec::new(), None);
        let exit = match child.peek_exit() {
            Ok(Some(exit)) => exit,
            Ok(None) if !certain => return Vec::new(),
            // A process under ptrace(2) belongs to its tracer to reap, until the tracer lets go.
            Ok(None) => {
                let tracer = procfs::tracer(child.pid());
                actions.push(Action::Emit(zombie(tracer).worker(worker)));
                procfs::exit_of_zombie(child.pid()).unwrap_or_else(|| {
                    unexplained = Some(match tracer {
                        Some(tracer) => format!("unknown (it is traced by pid {tracer})"),
                        None => "unknown (it cannot be reaped)".to_owned(),
                    });
                    Exit::Unknown
                })
            }
            Err(error) => {
                unexplained = Some(format!("unknown (waitid(2): {error})"));
                Exit::Unknown
            }
        };
        if let Some(pidfd) = child.pidfd() {
            context.poller.unwatch(pidfd);
        }
        if process.error.is_some() {
            actions.extend(self.spawn_failed(context, worker));
            return actions;
        }
        process.exit = Some(exit);
        let log = process.last_lines(context.log);
        // Processes that outlive it may go on printing; their lines must not be cut in two.
        if !life.stopping
            && let Some(output) = &process.output
        {
            context.log.ended(output);
        }
        let policy = &process.spec.plan.policy;
        let early_exit = life.starting
            && policy.kind == PoolKind::Service
            && matches!(exit, Exit::Code(code) if policy.restart.success_exit_codes.contains(&code));
        let why = process.end_reason.clone().or(unexplained);
        let asked = life.stopping && why.is_none();
        let how = last_exit(Some(exit), why, life.age.as_secs_f64(), log);
        let exit_report = process.exit_report(LastExit { asked, ..how }, life.served);
        if early_exit {
            self.trees.handle(context.now, Event::ExitedEarly(worker));
        }
        // Before the engine learns of the exit: its notices quote the report.
        self.exit_reports.add(worker, exit_report);
        actions.push(Action::EndHealth(worker));
        actions.push(Action::Input(Input::Exited(worker, exit)));
        actions
    }
}

/// waitid(2) hides the exit of a worker from us, mostly because another process traces it. /proc/PID/stat has the exit
/// status, for those who may trace the process.
fn zombie(tracer: Option<i32>) -> EventBuilder {
    match tracer {
        Some(tracer) => {
            let text =
                format!("has ended, and stays a zombie for as long as pid {tracer} traces it");
            EventBuilder::new(EventKind::Zombie, text).cause("traced")
        }
        None => {
            let text = "has ended, and the kernel does not let it be reaped yet";
            EventBuilder::new(EventKind::Zombie, text)
        }
    }
    .warn()
}
