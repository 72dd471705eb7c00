//! The end: what outlived its worker is ended, files that are ours are removed, whoever waits is told.

use super::Supervisor;
use super::event_log::EventBuilder;
use crate::control::wire::Response;
use crate::event_loop::clock::Clock;
use crate::observe::events::EventKind;
use rotad_core::{Span, Time, WorkerId};
use std::time::Duration;

/// How long orphans may take to die of SIGKILL.
const ORPHANS: Span = Span::from_millis(900);

/// How long clients may take to read the last lines of workers.
const LAST_LINES: Duration = Duration::from_millis(500);

/// How long the removal of files may take: each lies on a disk of its own, perhaps, which may hang.
const FILES: Duration = Duration::from_secs(1);

/// Does this on a thread of its own, and waits for it so long at most: what hangs is left behind.
fn within(patience: Duration, what: &str, errand: impl FnOnce() + Send + 'static) {
    let (leaves, gone) = crossbeam_channel::bounded::<()>(0);
    let go = move || {
        errand();
        drop(leaves);
    };
    // Without a thread they stay: the next start clears them away.
    let begun = std::thread::Builder::new().name("clerk".into()).spawn(go);
    if begun.is_err() || gone.recv_timeout(patience) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
        tracing::warn!("{what} could not be removed: a disk hangs?");
    }
}

fn remove_files(mut listening: super::listening::Listening) {
    for (_, listener) in listening.iter_mut() {
        if let Err(error) = listener.remove_file() {
            tracing::warn!(listen = listener.name(), "its file cannot be removed: {error}");
        }
    }
}

pub(super) struct Shutdown {
    until: Time,
}

impl Shutdown {
    /// Orphans that die ring through SIGCHLD; this is for those that do not.
    pub(super) fn patience(&self, clock: &Clock) -> Duration {
        clock.until(self.until).min(Duration::from_millis(100))
    }
}

impl Supervisor {
    pub(super) fn leave(&mut self, lost: &[WorkerId]) {
        for worker in lost {
            let Some(body) = self.processes.get(*worker) else { continue };
            let name = format!("{}/{}", self.pool_name(body.pool), body.slot);
            let text = match body.exit {
                None => format!("{name}: pid {} cannot be ended by the kernel", body.pid().unwrap_or(0)),
                Some(_) => format!("{name}: {}", self.orphans.why_left(*worker)),
            };
            tracing::error!("{text}");
            self.last_lost.insert(*worker, text);
        }
        self.shutdown = Some(Shutdown { until: self.clock.now() + ORPHANS });
        self.end_orphans();
    }

    /// The exit code, once nothing is left to wait for.
    pub(super) fn can_exit(&mut self) -> Option<u8> {
        let until = self.shutdown.as_ref()?.until;
        // None: the look is not through.
        let left = self.orphans.left;
        if left != Some(0) && self.clock.now() < until {
            return None;
        }
        let left = left.unwrap_or(1);
        if left > 0 {
            let text = self.left_behind();
            tracing::error!("{text}");
            self.last_lost.insert(WorkerId(0), text);
        }
        Some(if self.last_lost.is_empty() { 0 } else { 1 })
    }

    pub(super) fn finish(mut self, code: u8) -> u8 {
        let lost: Vec<&str> = self.last_lost.values().map(String::as_str).collect();
        let lost = lost.join("\n");
        self.emit(EventBuilder::new(EventKind::MasterStopped, "stopped"));
        let listening = std::mem::take(&mut self.listening);
        within(FILES, "the files of unix listeners", move || remove_files(listening));
        // With somebody left it stays: the next start has to find them.
        if self.last_lost.is_empty() {
            self.journal.remove().ok();
        }
        let message = if code == 0 { "stopped".to_owned() } else { lost.clone() };
        for client in std::mem::take(&mut self.stop_clients) {
            self.server.say(client, &Response::Done { code, message: message.clone() }, true);
            self.server.flush(client);
        }
        self.end_of_events();
        self.log.drain();
        self.log_clients.end(LAST_LINES);
        let Self { runtime_dir, mut server, mut start_watch, processes, cgroups, exit_code, .. } = self;
        // The cgroups and the runtime directory go before the report: once the launcher ends, nothing is left.
        server.keep_signs(&[]);
        drop((processes, cgroups));
        within(FILES, "the pid file and the control socket", move || runtime_dir.leave());
        let told = start_watch.leave((!lost.is_empty()).then_some(lost.as_str()));
        told.unwrap_or(code).max(code).max(exit_code.unwrap_or(0))
    }
}
