//! Watches files and reports when their content has changed. The supervisor starts it for `reload.watch` and
//! `master.watch_config`.
//!
//! A thread of its own receives inotify(7) events for the directories in which something can match, waits until there
//! have been none for a while, and compares the content of the files with that of the last report. So a deploy of many
//! files is one report, and touching a file, or saving it unchanged, is none.
//!
//! It uses nix, a dependency already, whose whole inotify is three calls; the crate `notify` would bring a thread and
//! an event model of its own.
//!
//! Limits: changes that another machine makes on a network file system are not noticed, nor those made to a FUSE file
//! system behind its back, nor a mount over a watched directory.

mod fingerprint;
mod inotify;
mod patterns;
#[cfg(test)]
mod tests;
mod walk;
mod watch_loop;

use crate::event_loop::waker::Waker;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use inotify::InotifySet;
use rotad_core::PoolId;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use watch_loop::WatchLoop;

/// Reports queued for the main loop; more block the watch thread, not the master.
const MOST_REPORTS: usize = 256;

/// What a watch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchKey {
    /// A pool's `reload.watch`.
    Pool(PoolId),
    /// `master.watch_config`.
    Config,
}

/// Files to be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchPlan {
    pub key: WatchKey,
    /// What relative patterns are relative to: absolute. It need not exist, and may lead over links.
    pub base: PathBuf,
    /// `*`, `?`, `[…]` within a name, `**` for any number of folders; none of them matches a leading dot.
    pub globs: Vec<String>,
    /// How long it has to be quiet before a change is reported.
    pub debounce: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchReport {
    /// The files were read for the first time: from here on a change of their content is reported.
    Watching { key: WatchKey, files: usize },
    /// Files came, went, or hold something else than at the last report: `count` of them, five of which are named.
    Changed {
        key: WatchKey,
        files: Vec<PathBuf>,
        count: usize,
    },
    /// Something cannot be watched as configured: a text for the user. Reported once while it lasts.
    Trouble { key: WatchKey, text: String },
}

/// The handle of the watch thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Watcher {
    /// None: it is to end.
    plans: Option<Sender<Vec<WatchPlan>>>,
    bell: Waker,
    reports: Receiver<WatchReport>,
}

impl Watcher {
    /// `wake`: rung after each report.
    ///
    /// # Errors
    /// No descriptor is left for a bell, or no thread can be made. A kernel that grants no inotify is none: the
    /// watcher looks every few seconds then, and says so.
    pub fn start(wake: Waker) -> io::Result<Self> {
        Self::with_ears(wake, InotifySet::new)
    }

    fn with_ears(wake: Waker, ears: fn() -> InotifySet) -> io::Result<Self> {
        let bell = Waker::new()?;
        let (plans, inbox) = unbounded();
        let (outbox, reports) = bounded(MOST_REPORTS);
        let own_bell = bell.clone();
        let watch = move || {
            // Signals for the process belong to the main thread.
            nix::sys::signal::SigSet::all().thread_block().ok();
            WatchLoop::new(ears(), outbox, wake).run(&inbox, &own_bell);
        };
        std::thread::Builder::new()
            .name("watcher".to_owned())
            .stack_size(256 << 10)
            .spawn(watch)?;
        Ok(Self {
            plans: Some(plans),
            bell,
            reports,
        })
    }

    /// Replaces the set of plans. Those that stay the same continue without a gap.
    pub fn watch(&self, plans: Vec<WatchPlan>) {
        if let Some(inbox) = &self.plans {
            inbox.send(plans).ok();
        }
        self.bell.wake();
    }

    pub fn reports(&self) -> &Receiver<WatchReport> {
        &self.reports
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.plans = None;
        self.bell.wake();
    }
}
