//! Watches files and reports when their content has changed. The supervisor starts it for `reload.watch`,
//! `master.watch_config` and `master.watch_program`.
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
#[cfg(test)]
mod tests;
mod walk;
mod watch_loop;

use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox::Mailbox;
use crate::event_loop::waker::Waker;
use crate::sys::thread;
use crossbeam_channel::{Sender, unbounded};
pub use fingerprint::Digest;
use inotify::InotifySet;
use rotad_core::PoolId;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use watch_loop::WatchLoop;

/// What a watch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WatchKey {
    /// A pool's `reload.watch`.
    Pool(PoolId),
    /// `master.watch_config`.
    Config,
    /// `master.watch_program`.
    Program,
}

/// Files to be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchPlan {
    /// What the files are watched for; each report has it.
    pub key: WatchKey,
    /// The absolute directory of relative patterns. It need not exist, and may contain symlinks.
    pub base: PathBuf,
    /// Patterns: `*`, `?`, `[…]` within a name, `**` for any number of directories; none of them matches a leading dot.
    pub globs: Vec<String>,
    /// How long there must be no events before a change is reported.
    pub debounce: Duration,
    /// What the master before this one has seen last: files that are others by now are reported as changed.
    pub baseline: Option<Digest>,
}

/// A report to the main loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchReport {
    /// The files were read for the first time: from here on a change of their content is reported.
    Watching {
        /// The key of the plan.
        key: WatchKey,
        /// The number of matching files.
        files: usize,
        /// What the next master is to compare with.
        digest: Digest,
    },
    /// Files were added, removed, or have other content than at the last report.
    Changed {
        /// The key of the plan.
        key: WatchKey,
        /// Up to five of the files.
        files: Vec<PathBuf>,
        /// The number of changed files. 0: which ones is not known, since they have changed while there was no master.
        count: usize,
        /// What the next master is to compare with.
        digest: Digest,
    },
    /// Something cannot be watched as configured. Reported once while it lasts.
    Trouble {
        /// The key of the plan.
        key: WatchKey,
        /// The problem, as a message for the user.
        text: String,
    },
}

/// The handle of the watch thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Watcher {
    /// None once the thread is to end.
    plans: Option<Sender<Vec<WatchPlan>>>,
    waker: Waker,
}

impl Watcher {
    /// Starts the thread. It reports to `reports`, each change of a plan's files once per debounce time.
    ///
    /// # Errors
    /// EMFILE, ENFILE: no descriptor for a waker; EAGAIN: no thread. If inotify is not available there is no error: the
    /// watcher then scans every few seconds, and reports that.
    pub fn start(reports: Mailbox<WatchReport>, clock: Clock) -> io::Result<Self> {
        Self::with_inotify(reports, clock, InotifySet::new)
    }

    fn with_inotify(
        reports: Mailbox<WatchReport>,
        clock: Clock,
        new_inotify: fn() -> InotifySet,
    ) -> io::Result<Self> {
        let waker = Waker::new()?;
        let (plans, inbox) = unbounded();
        let thread_waker = waker.clone();
        let watch = move || {
            WatchLoop::new(new_inotify(), reports, clock).run(&inbox, &thread_waker);
        };
        thread::spawn("file-watcher", 256 << 10, watch)?;
        Ok(Self {
            plans: Some(plans),
            waker,
        })
    }

    /// Replaces the set of plans. Those that stay the same continue without a gap, and their baseline does not count.
    pub fn watch(&self, plans: Vec<WatchPlan>) {
        if let Some(inbox) = &self.plans {
            inbox.send(plans).ok();
        }
        self.waker.wake();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.plans = None;
        self.waker.wake();
    }
}
