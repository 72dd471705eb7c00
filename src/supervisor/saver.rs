//! Saves the state of the supervisor into the memory that outlives the master (`saved_state`), where there is a guardian.
//!
//! The loop calls [`Supervisor::save`] before the engine gets an input, and after each of its commands: what has changed
//! since the last call is appended as records and committed at once. So an act that cannot be undone comes after the
//! record that it follows from.

use super::Supervisor;
use super::clients::launch::SavedStart;
use super::clients::tickets::Tickets;
use super::pool_registry::SavedPools;
use super::workers::exit_report::ExitReports;
use crate::plan::Plan;
use crate::saved_state::store::{Progress, Store};
use rotad_core::{Input, SavedEngine, Time};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One record. Of all but inputs, a later one takes the place of an earlier one of its kind.
#[derive(Serialize, Deserialize)]
pub(super) enum Record<'a> {
    /// The engine, after so many inputs.
    Engine(u64, SavedEngine<'a>),
    /// The next input, with its time.
    Input(Time, Cow<'a, Input>),
    /// The configuration in force.
    Plan(Cow<'a, Plan>),
    /// The pools, and what their generations are made from.
    Pools(SavedPools),
    /// Who waits for which requests.
    Tickets(Cow<'a, Tickets>),
    /// How far the start has come.
    Start(SavedStart),
    /// How workers have ended.
    ExitReports(Cow<'a, ExitReports>),
}

pub(super) struct Saver {
    store: Store,
    progress: Progress,
}

impl Saver {
    pub(super) fn new(store: Store) -> Self {
        let progress = store.progress();
        Self { store, progress }
    }
}

impl Supervisor {
    /// Saves what has changed since the last call.
    pub(super) fn save(&mut self) {
        let Some(saver) = &mut self.saver else {
            return;
        };
        let store = &mut saver.store;
        if self.plan.take_change() {
            store.append(&Record::Plan(Cow::Borrowed(&self.plan)));
        }
        if self.pools.take_change() {
            store.append(&Record::Pools(self.pools.saved()));
        }
        if self.clients.tickets.take_change() {
            store.append(&Record::Tickets(Cow::Borrowed(&self.clients.tickets)));
        }
        if self.clients.start_watch.take_change() {
            store.append(&Record::Start(self.clients.start_watch.saved()));
        }
        if self.workers.exit_reports.take_change() {
            let reports = Cow::Borrowed(&*self.workers.exit_reports);
            store.append(&Record::ExitReports(reports));
        }
        for (at, input) in self.engine.take_time(self.clock.now()) {
            store.append(&Record::Input(at, Cow::Borrowed(input)));
        }
        store.commit();
    }

    /// The engine has the next input: none of the commands that follow from it was executed.
    pub(super) fn output_begins(&mut self) {
        if let Some(saver) = &mut self.saver {
            saver.progress = Progress {
                input: self.engine.handled(),
                commands: 0,
            };
            saver.store.set_progress(saver.progress);
        }
    }

    /// A command was executed.
    pub(super) fn command_done(&mut self) {
        self.save();
        if let Some(saver) = &mut self.saver {
            saver.progress.commands += 1;
            saver.store.set_progress(saver.progress);
        }
    }
}
