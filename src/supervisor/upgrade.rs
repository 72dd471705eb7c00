//! `rotad upgrade`, and `watch_program`: the running master is replaced by another program, and the workers serve on.
//!
//! 1. The program is opened and checked on a thread ([`Candidate::check`]). What cannot go on is refused.
//! 2. The request is saved, and the guardian executes the program in its own process. It ends this master, as a crash
//!    would, and starts the next one. From here on a failure leads back to the program before (`guardian/supervise.rs`).
//! 3. The next master goes on as after a death. When it has worked for [`SETTLE_TIME`], it tells the guardian that the
//!    program stays, and answers the client.

use super::Supervisor;
use super::event_builder::EventBuilder;
use super::workers::exit_report::exit_text;
use crate::control::protocol::Response;
use crate::exit_code::ExitCode;
use crate::guardian::{Setback, Succession};
use crate::observe::events::EventKind;
use crate::saved_state::format::FORMAT;
use crate::upgrade::{Candidate, FileId};
use crate::watch::{Digest, WatchKey};
use rotad_core::{Span, Time};
use serde::{Deserialize, Serialize};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// How long the next master has to work before its program stays.
const SETTLE_TIME: Span = Span::from_secs(2);

/// An upgrade whose program was found fit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedUpgrade {
    client: Option<u64>,
    path: PathBuf,
    program: FileId,
    from: String,
    to: String,
}

impl SavedUpgrade {
    /// Who asked for it. None: the program has changed, and `watch_program` asks for it.
    pub(super) fn client(&self) -> Option<u64> {
        self.client
    }
}

/// The upgrade that is under way.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    /// A program is being checked, for this client if one has asked for it.
    check: Option<Option<u64>>,
    /// The program has changed during an upgrade.
    changed_again: Option<Digest>,
    pending: Option<SavedUpgrade>,
    /// When this master has worked long enough.
    settles_at: Option<Time>,
}

impl Upgrade {
    pub(super) fn saved(&self) -> Option<SavedUpgrade> {
        self.pending.clone()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.settles_at
    }

    /// This master is about to be replaced, or its program has not worked long enough to stay.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }
}

fn nothing_changed(why: &str) -> String {
    format!("{why}\nnothing was changed")
}

impl Supervisor {
    /// `to`: the program; by default the path by which this master was started.
    pub(super) fn upgrade_requested(&mut self, client: u64, to: Option<PathBuf>) {
        if let Err(why) = self.begin_upgrade(Some(client), to) {
            self.upgrade_answered(Some(client), ExitCode::FAILED, nothing_changed(&why));
        }
    }

    /// The program by which this master was started has other content by now.
    pub(super) fn program_changed(&mut self, digest: Digest) {
        if self.upgrade.check.is_some() || self.upgrade.pending.is_some() {
            // The next master notices it as well, as long as it is not noted.
            self.upgrade.changed_again = Some(digest);
            return;
        }
        if let Err(why) = self.begin_upgrade(None, None) {
            self.upgrade_refused(None, &why);
        }
        self.reload.file_watch.note(WatchKey::Program, digest);
    }

    /// An upgrade has ended, during which the program may have changed once more.
    fn look_at_program_again(&mut self) {
        if let Some(digest) = self.upgrade.changed_again.take() {
            self.program_changed(digest);
        }
    }

    fn upgrade_answered(&mut self, client: Option<u64>, code: ExitCode, message: String) {
        if let Some(client) = client {
            self.done(client, code, message);
        }
    }

    fn upgrade_refused(&mut self, client: Option<u64>, why: &str) {
        let text = format!("the upgrade was refused: {why}; nothing was changed");
        self.emit(
            EventBuilder::new(EventKind::UpgradeFailed, text)
                .cause("refused")
                .warn(),
        );
        self.upgrade_answered(client, ExitCode::FAILED, nothing_changed(why));
    }

    fn begin_upgrade(&mut self, client: Option<u64>, to: Option<PathBuf>) -> Result<(), String> {
        if self.shutdown.stopping {
            return Err("everything stops".to_owned());
        }
        if self.upgrade.check.is_some() || self.upgrade.pending.is_some() {
            return Err("an upgrade is under way".to_owned());
        }
        let saver = match (&self.guardian, &self.saver) {
            (Some(link), _) if !link.has_program() => {
                return Err(
                    "an upgrade needs Linux 5.9 (close_range, which a seccomp filter may reject) and /proc: `rotad stop`, \
                     and then `start` by the new program"
                        .to_owned(),
                );
            }
            (Some(_), Some(saver)) if saver.is_in_use() => saver,
            _ => {
                return Err(
                    "this master has no guardian, which an upgrade needs (`guardian` in [master]): `rotad stop`, and then \
                     `start` by the new program"
                        .to_owned(),
                );
            }
        };
        let path = to.or_else(|| saver.program());
        let path = path
            .ok_or("where this program was started from is not known: name the new one by --to")?;
        let state = saver
            .copy()
            .map_err(|error| format!("cannot copy the state for the check: {error}"))?;
        self.reload
            .blocking
            .check_candidate(path.clone(), state, FORMAT, client.is_none())
            .map_err(|error| format!("cannot check {}: {error}", path.display()))?;
        let path = path.display();
        self.emit(match client {
            Some(client) => {
                let text = format!("{} asks to upgrade to {path}", self.clients.name(client));
                EventBuilder::new(EventKind::Request, text).cause("upgrade")
            }
            None => {
                let text = format!("{path} changed: upgrading to it");
                EventBuilder::new(EventKind::FilesChanged, text)
            }
        });
        self.upgrade.check = Some(client);
        Ok(())
    }

    /// The program was checked.
    pub(super) fn on_candidate(&mut self, checked: Result<Candidate, String>) {
        let Some(client) = self.upgrade.check.take() else {
            return;
        };
        let checked = checked.and_then(|candidate| match &self.guardian {
            _ if self.shutdown.stopping => Err("everything stops".to_owned()),
            Some(link) => Ok((candidate, link.clone())),
            None => Err("the guardian has died meanwhile".to_owned()),
        });
        let (candidate, link) = match checked {
            Ok(both) => both,
            Err(why) => {
                self.upgrade_refused(client, &why);
                return self.look_at_program_again();
            }
        };
        let (from, to) = (env!("CARGO_PKG_VERSION"), &candidate.version);
        let text = format!(
            "rotad {from} is replaced by rotad {to} ({}); workers serve on",
            candidate.path.display()
        );
        self.upgrade.pending = Some(SavedUpgrade {
            client,
            path: candidate.path.clone(),
            program: candidate.id,
            from: from.to_owned(),
            to: to.clone(),
        });
        if let Some(client) = client {
            self.answer(client, &Response::Progress { text: text.clone() }, false);
        }
        self.emit(EventBuilder::new(EventKind::UpgradeStarted, text));
        self.settle();
        self.end_heartbeat();
        // As in `become_guardian`: what follows is the end of this process.
        self.log.writer.drain();
        self.counters.note_output(self.log.writer.counts());
        self.save();
        let setback = link.hand_over(candidate.file.as_raw_fd());
        self.become_guardian(Succession::WentBack(setback));
    }

    /// This master goes on after another one, in which an upgrade was under way.
    pub(super) fn resume_upgrade(&mut self, saved: SavedUpgrade, succession: Succession) {
        let program = self.guardian.as_ref().and_then(|link| link.program_file());
        let runs = program.is_some_and(|file| FileId::of(file).ok() == Some(saved.program));
        match succession {
            Succession::WentBack(setback) => self.undo_upgrade(&saved, setback),
            // The new program, or one that has died before it had settled and is the guardian's all the same.
            _ if runs => {
                self.upgrade.pending = Some(saved);
                self.upgrade.settles_at = Some(self.clock.now() + SETTLE_TIME);
            }
            _ => {
                let text = "the master died before it was replaced".to_owned();
                self.emit(
                    EventBuilder::new(EventKind::UpgradeFailed, text.clone())
                        .cause("refused")
                        .warn(),
                );
                self.upgrade_answered(saved.client, ExitCode::FAILED, nothing_changed(&text));
            }
        }
    }

    fn undo_upgrade(&mut self, saved: &SavedUpgrade, setback: Setback) {
        let death = self.guardian.as_ref().and_then(|link| link.last_death());
        let why = match setback {
            Setback::NotExecuted(errno) => {
                let error = std::io::Error::from_raw_os_error(errno);
                format!("it cannot be executed: {error}")
            }
            Setback::GuardianEnded => "it ended before it had started a master".to_owned(),
            Setback::GuardianHung => "it did not start a master in time".to_owned(),
            Setback::MasterHung => "its master did not settle in time, and was killed".to_owned(),
            Setback::MasterEnded => match death {
                Some(death) => format!(
                    "its master {} after {:.1} s",
                    exit_text(death.exit),
                    death.after_ms as f64 / 1000.0
                ),
                None => "its master ended".to_owned(),
            },
        };
        let text = format!(
            "rotad {} ({}) does not work: {why}",
            saved.to,
            saved.path.display()
        );
        let back = format!("rotad {} runs again, and the workers serve on", saved.from);
        self.emit(
            EventBuilder::new(EventKind::UpgradeFailed, format!("{text}; {back}"))
                .cause("undone")
                .error(),
        );
        self.upgrade_answered(saved.client, ExitCode::OLD_SERVE, format!("{text}\n{back}"));
    }

    /// This master has worked long enough: its program stays.
    pub(super) fn settle_upgrade(&mut self) {
        self.upgrade.settles_at = None;
        let Some(saved) = self.upgrade.pending.clone() else {
            return;
        };
        let Some(link) = &self.guardian else {
            return;
        };
        if let Err(error) = link.settle() {
            tracing::warn!("the guardian cannot be told that the upgrade is done: {error}");
        }
        let text = format!(
            "rotad {} has replaced rotad {}; the workers have served on",
            saved.to, saved.from
        );
        self.emit(EventBuilder::new(EventKind::Upgraded, text.clone()));
        self.upgrade_answered(saved.client, ExitCode::DONE, text);
        self.upgrade.pending = None;
        self.save();
        self.look_at_program_again();
    }
}
