//! What the master needs to be reached (its runtime directory, control socket, pid file, the list of workers and their
//! notify sockets) is made again when somebody has taken it away: at once when it is heard, at each HUP, reload and
//! reopening of logs in any case. A clerk does the work; the pauses between two attempts grow, lest somebody who
//! removes it again and again keep the master busy.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::process_table::ProcessStage;
use crate::control::wire::Response;
use crate::event_loop::poller::{Interest, Source};
use crate::observe::events::EventKind;
use crate::runtime_dir::{self, Mended, NOTIFY, RuntimeDirError};
use nix::sys::inotify::AddWatchFlags;
use rotad_core::WorkerId;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Whoever removes a folder removes one file after another: made again once he is done.
const SETTLE: Duration = Duration::from_millis(100);

/// The pause after an attempt; it doubles with each that follows soon.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// After so long without another attempt the next one is made at once again.
const CALM: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct RuntimeFiles {
    under_way: bool,
    /// Something may be missing: when it is looked for.
    due: Option<Instant>,
    /// When the last attempt began that nobody asked for, and how long to wait after it.
    last: Option<(Instant, Duration)>,
    /// What went wrong last, told once.
    trouble: Option<String>,
}

impl RuntimeFiles {
    /// When the next attempt is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.filter(|_| !self.under_way)
    }

    fn want(&mut self, now: Instant) {
        let settled = now + SETTLE;
        let allowed = self.last.map_or(settled, |(at, pause)| settled.max(at + pause));
        self.due = Some(self.due.map_or(allowed, |due| due.min(allowed)));
    }

    fn begins(&mut self, now: Instant) {
        let pause = match self.last {
            Some((at, pause)) if now < at + CALM.max(2 * pause) => (pause * 2).min(LONGEST_PAUSE),
            _ => PAUSE,
        };
        self.last = Some((now, pause));
    }
}

impl Supervisor {
    /// Looks after everything now: a person may have asked for it.
    pub(super) fn keep_house(&mut self) {
        match self.runtime_files.under_way {
            true => self.runtime_files.want(Instant::now()),
            false => self.mend_house(),
        }
    }

    /// The real path of the runtime directory.
    pub(super) fn runtime_dir(&self) -> &Path {
        self.notify_dir.parent().unwrap_or(Path::new("/"))
    }

    /// Something lost its name.
    pub(super) fn on_runtime_dir_change(&mut self) {
        let Some(ear) = self.runtime_dir.ear() else { return };
        let mut missing = false;
        while let Ok(events) = ear.read_events() {
            for event in events {
                missing |= match &event.name {
                    // A worker that is gone takes its socket along.
                    Some(name) => {
                        let worker = name.to_str().and_then(|name| name.parse().ok()).map(WorkerId);
                        worker.is_some_and(|worker| self.processes.get(worker).is_some())
                    }
                    None => !event.mask.contains(AddWatchFlags::IN_IGNORED),
                };
            }
        }
        if missing {
            self.runtime_files.want(Instant::now());
        }
    }

    pub(super) fn run_due_runtime_files(&mut self, now: Instant) {
        if self.runtime_files.deadline().is_some_and(|at| at <= now) {
            self.runtime_files.begins(now);
            self.mend_house();
        }
    }

    fn mend_house(&mut self) {
        if self.shutdown.is_some() {
            return;
        }
        let control = &self.plan.control;
        (self.runtime_files.under_way, self.runtime_files.due) = (true, None);
        if let Err(error) = self.blocking.mend(self.runtime_dir.clone(), control.mode, control.group) {
            self.runtime_files.under_way = false;
            tracing::warn!("nobody can look after the runtime directory: no thread: {error}");
        }
    }

    pub(super) fn mended(&mut self, mended: Result<Mended, RuntimeDirError>) {
        self.runtime_files.under_way = false;
        match mended {
            Ok(mended) => {
                self.take_back(mended);
                self.runtime_files.trouble = None;
            }
            Err(error) => {
                // Tried again by the clock: what makes room again does not tell us.
                let now = Instant::now();
                self.runtime_files.last.is_none().then(|| self.runtime_files.begins(now));
                self.runtime_files.want(now);
                if self.runtime_files.trouble.as_ref() != Some(&error.message) {
                    tracing::warn!("{}; all pools serve, signals are heard", error.message);
                    self.runtime_files.trouble = Some(error.message);
                }
            }
        }
    }

    fn take_back(&mut self, mended: Mended) {
        if let Some(listener) = mended.control {
            self.poller.unwatch(self.server.control());
            self.server.replace(listener);
            self.watch_doors();
        }
        if let Some(folder) = &mended.folder {
            self.notify_dir = folder.join(NOTIFY);
            self.server.tell_where(&here(folder));
        }
        if mended.journal {
            let dir = self.runtime_dir().to_owned();
            let done = self.journal.anew(&dir);
            self.journal_told(done);
        }
        let again = self.notify_sockets_again();
        if again > 0 || !mended.what.is_empty() {
            let mut what = mended.what;
            what.extend((again > 0).then(|| format!("{again} notify sockets of workers")));
            let text = format!("what this master needs was not in its place, and was made again: {}", what.join(", "));
            self.emit(EventBuilder::new(EventKind::Restored, text).warn());
        }
    }

    /// Workers whose socket has lost its name get it back; those that are connected to it already were never cut off.
    fn notify_sockets_again(&mut self) -> usize {
        let workers: Vec<WorkerId> = self.processes.iter().map(|(id, _)| id).collect();
        let mut again = 0;
        for worker in workers {
            let Some(body) = self.processes.get_mut(worker) else { continue };
            let Some(notify) = body.notify.as_mut().filter(|notify| notify.is_missing()) else { continue };
            match notify.again() {
                Ok(old) => {
                    // Before the birth is told it is not watched yet.
                    let watched = matches!(body.stage, ProcessStage::Alive(_));
                    if let Some(old) = old {
                        self.poller.unwatch(&old);
                    }
                    if watched
                        && let Err(error) = self.poller.watch(notify.as_fd(), Source::Notify(worker), Interest::Read)
                    {
                        tracing::error!("cannot listen to a worker: {error}");
                    }
                    again += 1;
                }
                // Its release is gone.
                Err(error) => tracing::debug!("a worker's notify socket cannot be made again: {error}"),
            }
        }
        again
    }

    /// The configuration was read again, and may be another file by now.
    pub(super) fn known_by(&mut self, real: &Path) {
        if self.plan.real == real {
            return;
        }
        real.clone_into(&mut self.plan.real);
        let paths = runtime_dir::paths(&self.plan);
        let gone = self.server.keep_signs(&paths);
        gone.iter().for_each(|listener| self.poller.unwatch(listener));
        for path in paths {
            if self.server.has_sign(path) {
                continue;
            }
            match runtime_dir::put_up(path) {
                Ok(sign) => self.server.add_sign(sign.path, sign.listener),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        self.watch_doors();
        // What is written through the link is written there from now on.
        self.log.reopen();
    }
}

/// What the master tells those who may not ask it over its abstract socket.
pub(super) fn here(folder: &Path) -> Response {
    Response::Here { runtime_dir: folder.to_owned(), config: None }
}
