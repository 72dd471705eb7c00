//! A hook: a command that is run when certain events happen.

use super::{EventKind, Template};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Ends of rolling restarts that have a name of their own beside [`EventKind::RollEnded`], each with its cause.
const ROLL_ENDS: [(&str, &str); 3] = [
    ("roll-done", "done"),
    ("rolled-back", "rolled-back"),
    ("roll-aborted", "aborted"),
];

/// A hook, as `[hooks.NAME]` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookPlan {
    /// Its name.
    pub name: String,
    /// The names of the events that it is run for, as [`HookPlan::event_names`] has them.
    pub on: Vec<String>,
    /// The program and its arguments.
    pub command: Vec<Template>,
    /// How long a run may take before it is killed.
    pub timeout: Duration,
    /// The directory that it is run in: that of the configuration.
    pub directory: PathBuf,
}

impl HookPlan {
    /// The names that `on` may have: the words of all events, and those of ends of rolling restarts. A failed hook is none of
    /// them, so that no hook is run for its own failure.
    pub fn event_names() -> impl Iterator<Item = &'static str> {
        let words = EventKind::ALL.iter().map(|kind| kind.word());
        let ends = ROLL_ENDS.iter().map(|(name, _)| *name);
        words
            .filter(|word| *word != EventKind::HookFailed.word())
            .chain(ends)
    }

    /// An event that it is run for, with its cause if that is part of its name: the first of `on`.
    pub fn first_event(&self) -> (EventKind, Option<&'static str>) {
        let first = self.on.first().map(String::as_str).unwrap_or_default();
        if let Some((_, cause)) = ROLL_ENDS.iter().find(|(name, _)| *name == first) {
            return (EventKind::RollEnded, Some(cause));
        }
        let kind = EventKind::ALL.iter().find(|kind| kind.word() == first);
        (*kind.unwrap_or(&EventKind::RollEnded), None)
    }

    /// The name in `on` by which an event is meant, the most specific one. `None`: it is not meant.
    pub fn meant(&self, kind: EventKind, cause: Option<&str>) -> Option<&str> {
        let end = ROLL_ENDS
            .iter()
            .find(|(_, ends)| kind == EventKind::RollEnded && cause == Some(*ends));
        let named = |name: &str| self.on.iter().find(|on| *on == name);
        end.and_then(|(name, _)| named(name))
            .or_else(|| named(kind.word()))
            .map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_rolling_restarts_have_names_of_their_own() {
        let hook = |on: &[&str]| HookPlan {
            name: "slack".to_owned(),
            on: on.iter().map(|name| (*name).to_owned()).collect(),
            command: Vec::new(),
            timeout: Duration::ZERO,
            directory: PathBuf::new(),
        };
        let ended = |on: &[&str], cause| {
            hook(on)
                .meant(EventKind::RollEnded, Some(cause))
                .map(str::to_owned)
        };
        let both = ["roll-ended", "rolled-back"];
        assert_eq!(ended(&both, "rolled-back").as_deref(), Some("rolled-back"));
        assert_eq!(ended(&both, "done").as_deref(), Some("roll-ended"));
        assert_eq!(ended(&["rolled-back"], "done"), None);
        assert_eq!(
            ended(&["roll-aborted"], "aborted").as_deref(),
            Some("roll-aborted")
        );
        let first = |on: &[&str]| hook(on).first_event();
        assert_eq!(
            first(&["rolled-back", "exit"]),
            (EventKind::RollEnded, Some("rolled-back"))
        );
        assert_eq!(first(&["exit"]), (EventKind::Exit, None));
        let exit = hook(&["exit"]);
        assert_eq!(exit.meant(EventKind::Exit, Some("exited")), Some("exit"));
        assert_eq!(exit.meant(EventKind::Ready, None), None);
        assert!(HookPlan::event_names().all(|name| name != "hook-failed"));
    }
}
