//! Deploys: who asked for the generation that a pool was brought to last, and when that began. The status shows it.

use crate::event_loop::signals;
use rotad_core::{Generation, Time};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

/// What a new generation was asked for by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asker {
    /// A verb (`reload`, `roll`, `rollback`, `start`), a signal (`USR1`), or `watch` for changed files.
    pub by: String,
    /// The user who ran the verb or sent the signal. None: unknown, or it was no user.
    pub uid: Option<u32>,
}

impl Asker {
    /// A user has run this verb.
    pub(super) fn verb(verb: &str, uid: Option<u32>) -> Self {
        Self {
            by: verb.to_owned(),
            uid,
        }
    }

    pub(super) fn signal(number: i32, uid: Option<u32>) -> Self {
        Self {
            by: signals::name(number),
            uid,
        }
    }

    /// Files have changed.
    pub(super) fn watch() -> Self {
        Self::verb("watch", None)
    }
}

/// A generation that a pool was brought to, or was to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deploy {
    pub generation: Generation,
    /// When it began, in milliseconds of the real-time clock since 1970.
    pub at_ms: u64,
    /// The same by the master's clock, which leaves out pauses.
    pub began: Time,
    pub asker: Asker,
}

impl Deploy {
    /// It begins.
    pub(super) fn begin(generation: Generation, asker: Asker, now: Time) -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            generation,
            at_ms: since_1970.unwrap_or_default().as_millis() as u64,
            began: now,
            asker,
        }
    }

    /// When it began, as RFC 3339 has it.
    pub(super) fn at(&self) -> String {
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.at_ms));
        at.map_or_else(String::new, |at| {
            humantime::format_rfc3339_seconds(at).to_string()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_clock_is_shown_in_utc() {
        let asker = Asker::signal(nix::libc::SIGUSR1, None);
        assert_eq!(asker.by, "USR1");
        let mut deploy = Deploy::begin(Generation(2), asker, Time(5));
        deploy.at_ms = 1_700_000_000_999;
        assert_eq!(deploy.at(), "2023-11-14T22:13:20Z");
    }
}
