//! Labels: what identifies a worker in events, also after it is gone.

use crate::event_loop::signals;
use crate::observe::events::EventKind;
use crate::supervisor::action::Action;
use crate::supervisor::event_builder::{EventBuilder, WorkerLabel};
use crate::supervisor::workers::Workers;
use crate::supervisor::workers::exit_report::ExitReport;
use crate::supervisor::workers::process_table::WorkerProcess;
use rotad_core::{Signal, WorkerId};

impl WorkerProcess {
    pub(crate) fn label(&self) -> WorkerLabel {
        WorkerLabel {
            pool: Some(self.pool),
            slot: Some(self.slot),
            generation: Some(self.generation),
            pid: self.pid(),
        }
    }
}

impl ExitReport {
    fn label(&self) -> WorkerLabel {
        WorkerLabel {
            pool: Some(self.pool),
            slot: Some(self.slot),
            generation: Some(self.generation),
            pid: Some(self.pid).filter(|pid| *pid > 0),
        }
    }
}

impl Workers {
    /// The label of a worker. One that has just exited may no longer be in the process table; its exit report is the
    /// fallback.
    pub(crate) fn label(&self, worker: WorkerId) -> WorkerLabel {
        let living = self.processes.get(worker).map(WorkerProcess::label);
        living
            .or_else(|| self.reaped.get(&worker).copied())
            .or_else(|| self.exit_reports.of_worker(worker).map(ExitReport::label))
            .unwrap_or_default()
    }

    /// The worker's value of `ROTAD_WORKER`.
    pub(crate) fn tag(&self, worker: WorkerId) -> String {
        format!("{}-{worker}", self.tag)
    }

    /// Reports a signal that was sent, or refused, after the event that explains it. None: the worker has no process yet,
    /// or never had one.
    pub(crate) fn report_signal(&mut self, worker: WorkerId, signal: Signal) -> Option<Action> {
        let refusal = self.processes.take_refusal(worker);
        self.label(worker).pid?;
        let name = signals::name(signal.0);
        if let Some(error) = refusal {
            let ended = error.raw_os_error() == Some(nix::libc::ESRCH);
            let why = match ended {
                true => "it has ended already".to_owned(),
                false => error.to_string(),
            };
            let text = format!("SIG{name} not sent: {why}");
            let event = EventBuilder::new(EventKind::Signal, text).worker(worker);
            return Some(Action::Emit(if ended {
                event.debug()
            } else {
                event.warn()
            }));
        }
        let kind = if signal == Signal::KILL {
            EventKind::Kill
        } else {
            EventKind::Signal
        };
        let event = EventBuilder::new(kind, format!("SIG{name} sent"));
        Some(Action::Emit(event.worker(worker).debug()))
    }
}
