//! Runtime files: repairs what the master needs to be reached (runtime directory, control socket, pid file, journal of
//! workers, notify sockets) after it was removed. It is checked when inotify reports a removal, at each HUP, reload and
//! reopening of logs, and by the clock while the master stops. `repair.rs` decides when; a blocking job does the work, and
//! [`Supervisor::apply_repair`] takes what it has made.

mod repair;

use super::Supervisor;
use super::action::Action;
use super::event_builder::EventBuilder;
use crate::event_loop::poller::Poller;
use crate::observe::events::EventKind;
use crate::runtime_dir::{
    self, NOTIFY_DIR, Repaired, RuntimeDirError, RuntimeDirRepair, SavedRuntimeDir,
};
use crate::saved_state::tracked::Tracked;
use nix::sys::inotify::{AddWatchFlags, Inotify};
use repair::Repair;
use rotad_core::{Time, WorkerId};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The runtime directory and its repair.
pub(super) struct Runtime {
    dir: RuntimeDirRepair,
    /// Its real path.
    path: PathBuf,
    repair: Repair,
    /// The master stops: what is missing is found by the clock.
    polled: bool,
    /// What the next master needs to go on with it; None: it cannot be known.
    kept: Tracked<Option<SavedRuntimeDir>>,
}

impl Runtime {
    pub(super) fn new(dir: RuntimeDirRepair, path: PathBuf) -> Self {
        let mut runtime = Self {
            dir,
            path,
            repair: Repair::default(),
            polled: false,
            kept: Tracked::default(),
        };
        runtime.note_kept();
        runtime
    }

    /// Notes what the next master needs. A repair on its thread may be changing that: what it replaces stays open until the
    /// note after it is saved.
    fn note_kept(&mut self) {
        match self.dir.saved() {
            Ok(Some(kept)) if self.kept.as_ref() != Some(&kept) => *self.kept = Some(kept),
            Ok(_) => {}
            Err(error) => tracing::warn!("the runtime directory cannot be looked at: {error}"),
        }
    }

    /// What the next master needs to go on with the runtime directory, as it was after the last repair.
    pub(super) fn kept(&self) -> Option<&SavedRuntimeDir> {
        self.kept.as_ref()
    }

    /// Whether [`Runtime::kept`] has changed since the last call.
    pub(super) fn take_change(&mut self) -> bool {
        self.kept.take_change()
    }

    /// What has changed is saved.
    pub(super) fn change_is_saved(&self) {
        if let Some(kept) = self.kept() {
            self.dir.close_replaced(kept);
        }
    }

    /// The real path of the runtime directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, for a blocking job that repairs it.
    pub(super) fn dir(&self) -> RuntimeDirRepair {
        self.dir.clone()
    }

    /// When the next repair is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.repair.deadline()
    }

    /// Checks and repairs everything now, because of a request or signal.
    pub(super) fn check(&mut self, now: Time) -> Option<Action> {
        self.repair.asked(now).then_some(Action::RepairRuntimeDir)
    }

    /// Something was removed or renamed. `lives`: there is a worker of this number.
    pub(super) fn on_change(&mut self, now: Time, lives: impl Fn(WorkerId) -> bool) {
        let Some(inotify) = self.dir.inotify() else {
            return;
        };
        let mut missing = false;
        while let Ok(events) = inotify.read_events() {
            for event in events {
                missing |= match &event.name {
                    // The socket of a worker that is gone goes with it.
                    Some(name) => {
                        let worker = name.to_str().and_then(|name| name.parse().ok());
                        worker.map(WorkerId).is_some_and(&lives)
                    }
                    None => !event.mask.contains(AddWatchFlags::IN_IGNORED),
                };
            }
        }
        if missing {
            self.repair.want(now);
        }
    }

    /// The master stops: from now on the files are checked by the clock. Returns what has to be closed meanwhile, which takes
    /// up to 20 ms.
    pub(super) fn stop_watching(&mut self, now: Time, poller: &Poller) -> Option<Arc<Inotify>> {
        let inotify = self.dir.stop_watching()?;
        poller.unwatch(&*inotify);
        self.polled = true;
        self.repair.poll(now);
        Some(inotify)
    }

    /// Begins the repair that is due.
    pub(super) fn run_due(&mut self, now: Time) -> Option<Action> {
        self.repair.run_due(now).then_some(Action::RepairRuntimeDir)
    }

    /// The master exits: what is missing stays missing.
    pub(super) fn abandon_repair(&mut self) {
        self.repair.abandon();
    }

    /// The blocking job could not be started.
    pub(super) fn not_started(&mut self, now: Time, error: &io::Error) {
        let text = "cannot repair the runtime directory: cannot start a thread";
        self.failed(now, format!("{text}: {error}"));
    }

    /// The blocking job has ended. Returns what it has made.
    pub(super) fn repaired(
        &mut self,
        now: Time,
        repaired: Result<Repaired, RuntimeDirError>,
    ) -> Option<Repaired> {
        // One that has failed may have replaced something before.
        self.note_kept();
        match repaired {
            Ok(repaired) => {
                self.repair.succeeded();
                if self.polled {
                    self.repair.poll(now);
                }
                if let Some(path) = &repaired.runtime_dir {
                    self.path.clone_from(path);
                }
                Some(repaired)
            }
            Err(error) => {
                self.failed(now, error.message);
                None
            }
        }
    }

    fn failed(&mut self, now: Time, error: String) {
        if let Some(error) = self.repair.failed(now, error) {
            tracing::warn!("{error}; all pools serve, signals are heard");
        }
    }

    /// Removes the files and releases the lock, at exit.
    pub(super) fn leave(self) {
        self.dir.leave();
    }
}

impl Supervisor {
    /// The parts take the files that a repair has made.
    pub(super) fn apply_repair(&mut self, repaired: Repaired) -> Vec<Action> {
        let mut actions = Vec::new();
        let poller = &self.event_loop.poller;
        if let Some(listener) = repaired.control {
            self.clients.replace_control_socket(listener, poller);
        }
        if let Some(path) = &repaired.runtime_dir {
            self.workers.notify_dir = path.join(NOTIFY_DIR);
            self.workers.spawn_specs.node_preload_mut().relocate(path);
            self.clients.set_location(path);
        }
        if repaired.journal {
            actions.extend(self.workers.journal.move_to(self.runtime.path()));
        }
        let again = self.workers.rebind_notify_sockets(poller, &mut actions);
        if again > 0 || !repaired.what.is_empty() {
            let mut what = repaired.what;
            what.extend((again > 0).then(|| format!("{again} notify sockets of workers")));
            let text = format!(
                "what this master needs was not in its place, and was made again: {}",
                what.join(", ")
            );
            let event = EventBuilder::new(EventKind::Restored, text).warn();
            actions.push(Action::Emit(event));
        }
        actions
    }

    /// The configuration was read again, and its symlink may lead to another file now.
    pub(super) fn update_config_links(&mut self, real: &Path) {
        if self.plan.real == real {
            return;
        }
        real.clone_into(&mut self.plan.real);
        let paths = runtime_dir::paths(&self.plan);
        self.clients
            .set_presence_sockets(&paths, &self.event_loop.poller, |path| {
                match runtime_dir::bind_presence_socket(path) {
                    Ok(sign) => Some((sign.path, sign.listener)),
                    Err(error) => {
                        tracing::warn!("{error}");
                        None
                    }
                }
            });
        // A log path through the symlink leads to another file now.
        self.log.writer.reopen();
    }
}
