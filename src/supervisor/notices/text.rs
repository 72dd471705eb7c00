//! Texts and words of notices: pure functions of what the engine says and what is known about a worker.

use crate::observe::events::EventKind;
use crate::observe::metrics::{DeathCause, RollOutcome};
use rotad_core::{Cause, Exit, KillReason, Outcome, Span, StopReason};

/// When a slot whose worker has died gets another one; empty if it gets none. `early_exits`: how many in a row have ended
/// before they were ready.
pub(super) fn retry_text(retry_in: Option<Span>, early_exits: u32) -> String {
    match retry_in {
        Some(Span::ZERO) => "; started again at once".to_owned(),
        Some(span) if early_exits > 1 => {
            format!(", {early_exits} times in a row; started again in {span}")
        }
        Some(span) => format!("; started again in {span}"),
        None => String::new(),
    }
}

/// The kind of event of a worker's death.
pub(super) fn death_kind(cause: Cause) -> EventKind {
    match cause {
        Cause::SpawnFailed => EventKind::SpawnFailed,
        Cause::NotReadyInTime => EventKind::NotReady,
        Cause::Unhealthy => EventKind::Unhealthy,
        Cause::Exited(_) | Cause::Cancelled | Cause::MasterKeepsDying | Cause::After(_) => {
            EventKind::Exit
        }
    }
}

/// What a death counts as. None: it is none, but the end of a rolling restart.
pub(super) fn death_cause(cause: Cause, failure: bool) -> Option<DeathCause> {
    Some(match cause {
        Cause::Exited(_) if !failure => DeathCause::Finished,
        Cause::Exited(Exit::Code(_)) => DeathCause::Exited,
        Cause::Exited(Exit::Signal { .. }) => DeathCause::Signaled,
        Cause::Exited(Exit::Unknown) => DeathCause::Unknown,
        Cause::SpawnFailed => DeathCause::SpawnFailed,
        Cause::NotReadyInTime => DeathCause::NotReady,
        Cause::Unhealthy => DeathCause::Unhealthy,
        Cause::Cancelled | Cause::MasterKeepsDying | Cause::After(_) => return None,
    })
}

/// What the end of a rolling restart counts as.
pub(super) fn roll_outcome(outcome: &Outcome) -> RollOutcome {
    match outcome {
        Outcome::Done { .. } => RollOutcome::Done,
        Outcome::Aborted { .. } => RollOutcome::Aborted,
        Outcome::RolledBack { .. } => RollOutcome::RolledBack,
        // As the status has it.
        Outcome::Superseded { .. }
        | Outcome::Cancelled { .. }
        | Outcome::ReplaceFailed { .. }
        | Outcome::HeldUp { .. }
        | Outcome::NothingDone(_)
        | Outcome::Up(_)
        | Outcome::StartFailed(_)
        | Outcome::Stopped
        | Outcome::Removed
        | Outcome::Scaled { .. } => RollOutcome::Superseded,
    }
}

/// The word and the text for a worker that is stopped. `by_age`: its successor counts as ready because of its age alone.
pub(super) fn retire_text(why: StopReason, by_age: bool) -> (&'static str, &'static str) {
    match why {
        StopReason::Replaced if by_age => ("replaced", "its successor is alive: stopping"),
        StopReason::Replaced => ("replaced", "its successor serves: stopping"),
        StopReason::Abandoned => ("abandoned", "what it was started for has ended: stopping"),
        StopReason::MakesRoom => ("replaced", "its successor starts once it is gone: stopping"),
        StopReason::MakesRoomForFresh => (
            "recycled",
            "a fresh worker starts once it is gone: stopping",
        ),
        StopReason::Recycled if by_age => {
            ("recycled", "a fresh worker is alive in its place: stopping")
        }
        StopReason::Recycled => ("recycled", "a fresh worker serves in its place: stopping"),
        StopReason::Unhealthy => ("unhealthy", "failed its health check: stopping"),
        StopReason::Unreachable => (
            "unreachable",
            "its listening socket was replaced by a new one: stopping",
        ),
        StopReason::Surplus => ("surplus", "another worker has its slot: stopping"),
        StopReason::ScaledDown => ("scaled-down", "not wanted any more: stopping"),
        StopReason::Stop => ("stop", "stopping"),
    }
}

/// The text for a worker that is killed. `rest`: the processes of its tree, where it has exited itself.
pub(super) fn kill_text(reason: KillReason, waited: Span, rest: Option<&str>) -> String {
    match (reason, rest) {
        (KillReason::Steps, Some(rest)) => {
            format!(
                "cut short {waited} after it was asked to stop: its tree had not ended, killed: {rest}"
            )
        }
        (KillReason::Cap, Some(rest)) => {
            format!(
                "cut short {waited} after it was asked to stop, the stop of everything takes too long: killed: {rest}"
            )
        }
        (KillReason::Now, Some(rest)) => format!("killed at once, as was asked for: {rest}"),
        (KillReason::Steps, None) => format!("did not stop within {waited}: killed"),
        (KillReason::Cap, None) => {
            format!(
                "killed {waited} after it was asked to stop: the stop of everything takes too long"
            )
        }
        (KillReason::Now, None) => "killed at once, as was asked for".to_owned(),
    }
}

/// For a worker that counts as ready because of its age alone.
pub(super) const ALIVE_ONLY: &str = "is alive, nothing says that it is ready";

/// The cause of a death or a failed rolling restart, in one word.
pub(super) fn failure_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Exited(Exit::Code(_)) => "exited",
        Cause::Exited(Exit::Signal { .. }) => "killed",
        Cause::Exited(Exit::Unknown) => "unknown",
        Cause::SpawnFailed => "spawn-failed",
        Cause::NotReadyInTime => "not-ready",
        Cause::Unhealthy => "unhealthy",
        Cause::Cancelled => "cancelled",
        Cause::MasterKeepsDying => "master-died",
        Cause::After(_) => "after",
    }
}

/// How a rolling restart has ended, in one word.
pub(super) fn outcome_cause(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done { .. } => "done",
        Outcome::Aborted { .. } => "aborted",
        Outcome::RolledBack { .. } => "rolled-back",
        Outcome::Superseded { .. } => "superseded",
        Outcome::Cancelled { .. } => "cancelled",
        Outcome::ReplaceFailed { .. }
        | Outcome::HeldUp { .. }
        | Outcome::NothingDone(_)
        | Outcome::Up(_)
        | Outcome::StartFailed(_)
        | Outcome::Stopped
        | Outcome::Removed
        | Outcome::Scaled { .. } => "nothing",
    }
}

/// Why a running worker is killed, with the last error of its probe or watchdog.
pub(super) fn end_reason(cause: Cause, reason: Option<&str>) -> String {
    match (cause, reason) {
        (Cause::NotReadyInTime, None) => "was not ready in time".to_owned(),
        (Cause::NotReadyInTime, Some(reason)) => format!("was not ready in time: {reason}"),
        (_, None) => "failed its health check".to_owned(),
        (_, Some(reason)) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span::from_secs(10);

    #[test]
    fn a_successor_that_is_only_alive_is_not_said_to_serve() {
        for why in [StopReason::Replaced, StopReason::Recycled] {
            let (cause, text) = retire_text(why, false);
            assert!(text.contains("serves"), "{text}");
            let (same, text) = retire_text(why, true);
            assert!(!text.contains("serves") && text.contains("alive"), "{text}");
            assert_eq!(cause, same);
        }
    }

    #[test]
    fn a_kill_says_why_and_what_was_left() {
        let all = [KillReason::Steps, KillReason::Cap, KillReason::Now];
        for reason in all {
            let text = kill_text(reason, SPAN, Some("pid 7 (sleep)"));
            assert!(text.ends_with("killed: pid 7 (sleep)") || reason == KillReason::Now);
            assert!(text.ends_with(": pid 7 (sleep)"), "{text}");
            let alone = kill_text(reason, SPAN, None);
            assert!(!alone.contains("pid"), "{alone}");
            assert_eq!(
                alone.contains("10.0 s"),
                reason != KillReason::Now,
                "{alone}"
            );
        }
    }

    #[test]
    fn the_next_start_is_told() {
        for (retry_in, early_exits, text) in [
            (Some(Span::ZERO), 3, "; started again at once"),
            (Some(SPAN), 1, "; started again in 10.0 s"),
            (Some(SPAN), 3, ", 3 times in a row; started again in 10.0 s"),
            (None, 0, ""),
        ] {
            assert_eq!(retry_text(retry_in, early_exits), text);
        }
    }

    #[test]
    fn a_reason_is_named_where_there_is_one() {
        let late = end_reason(Cause::NotReadyInTime, Some("connection refused"));
        assert_eq!(late, "was not ready in time: connection refused");
        assert_eq!(
            end_reason(Cause::Unhealthy, Some("no message for 5 s")),
            "no message for 5 s"
        );
        assert_eq!(
            end_reason(Cause::Unhealthy, None),
            "failed its health check"
        );
    }
}
