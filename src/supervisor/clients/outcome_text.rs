//! Outcomes in words: exit code and text of each way in which a request ends, for clients and the log. `describer.rs` asks.

use crate::exit_code::ExitCode;
use crate::observe::counted::counted;
use crate::supervisor::workers::exit_report::{ExitReport, describe};
use rotad_core::{Cause, Failure, Generation, NothingDone, Outcome, Standing, SupersededBy, Up};
use std::collections::BTreeMap;

/// The answer to a start of a pool that was scaled to 0.
pub(crate) const NONE_WANTED: &str = "0 workers are wanted (`rotad scale POOL N` changes that)";

/// What is said about an outcome in addition to the outcome itself.
#[derive(Clone, Copy)]
pub(crate) struct OutcomeContext<'a> {
    pub pool: &'a str,
    /// The pool is a oneshot: no worker of it serves.
    pub is_oneshot: bool,
    /// Some generation of the pool has been fully up.
    pub has_served: bool,
    pub culprit: Option<&'a ExitReport>,
    /// The pools that hold it up: dependencies that were not rolled, or do not come up.
    pub blocked_by: Option<&'a str>,
    /// Why its start has failed, and what happens next.
    pub start_failure: Option<(&'a str, &'a str)>,
    /// An operator has stopped it.
    pub stopped_by_operator: bool,
}

/// An outcome as exit code and text. 10: failed, but workers serve as before.
pub(crate) fn describe_outcome(
    context: OutcomeContext<'_>,
    outcome: &Outcome,
) -> (ExitCode, String) {
    let OutcomeContext { pool, culprit, .. } = context;
    match outcome {
        Outcome::Done {
            generation,
            replaced,
            took,
        } => (
            ExitCode::DONE,
            format!(
                "{pool}: done: generation {generation}, {} replaced in {took}",
                workers(*replaced)
            ),
        ),
        Outcome::Aborted {
            failure, standing, ..
        } if failure.cause == Cause::MasterKeepsDying => {
            let text = format!(
                "{pool}: dropped: {}, so all requests were ended; ask again\n",
                reason(failure, culprit)
            );
            let serving = if context.is_oneshot {
                "a run in progress goes on".to_owned()
            } else {
                describe_standing(context, standing, failure.mixed)
            };
            (failure_code(standing), text + &serving)
        }
        Outcome::Aborted {
            generation,
            failure,
            ..
        } if context.is_oneshot => {
            let why = reason(failure, culprit);
            (
                ExitCode::OLD_SERVE,
                format!(
                    "{pool}: failed: generation {generation}: {why}\nit runs again when it is asked for"
                ),
            )
        }
        Outcome::Aborted {
            failure, standing, ..
        } if context.blocked_by.is_some() => {
            let blocked_by = context.blocked_by.unwrap_or_default();
            let text = format!("{pool}: not rolled: {blocked_by}, which it comes after, was not\n");
            (
                failure_code(standing),
                text + &describe_standing(context, standing, failure.mixed),
            )
        }
        Outcome::Aborted {
            generation,
            failure,
            standing,
        } => {
            let reason = reason(failure, culprit);
            let cancelled = failure.cause == Cause::Cancelled;
            let word = if cancelled { "cancelled" } else { "aborted" };
            let reason = if cancelled {
                String::new()
            } else {
                format!(": {reason}")
            };
            let next = if cancelled || standing.outdated > 0 {
                ""
            } else {
                "; fix the code and roll again"
            };
            let text = format!("{pool}: {word}: generation {generation}{reason}\n");
            (
                failure_code(standing),
                text + &describe_standing(context, standing, failure.mixed) + next,
            )
        }
        Outcome::RolledBack {
            generation,
            failure,
            standing,
        } => {
            let reason = reason(failure, culprit);
            let text = format!(
                "{pool}: rolled back to generation {}: generation {generation}: {reason}\n",
                standing.base
            );
            (
                failure_code(standing),
                text + &describe_standing(context, standing, false),
            )
        }
        Outcome::Cancelled {
            generation,
            stuck,
            standing,
        } => {
            let text = format!("{pool}: cancelled: generation {generation}\n");
            let who = if context.is_oneshot {
                "its run was ended".to_owned()
            } else {
                describe_standing(context, standing, *stuck)
            };
            let code = if *stuck {
                ExitCode::FAILED
            } else {
                ExitCode::DONE
            };
            (code, text + &who)
        }
        Outcome::ReplaceFailed {
            slot,
            failure,
            old_serves,
        } => {
            let reason = reason(failure, culprit);
            let (code, who) = if *old_serves {
                (
                    ExitCode::OLD_SERVE,
                    "the worker that it was to replace serves on",
                )
            } else {
                (
                    ExitCode::FAILED,
                    "nobody serves in its place; still retrying",
                )
            };
            (
                code,
                format!("{pool}/{slot}: not replaced: {reason}\n{who}"),
            )
        }
        Outcome::HeldUp { generation, .. } => {
            let by = context.blocked_by.unwrap_or_default();
            let text = format!(
                "{pool}: has not started: it waits for {by}, which has failed; nobody serves\n\
                 it starts with generation {generation} once {by} is there"
            );
            (ExitCode::FAILED, text)
        }
        Outcome::Up(how) => (ExitCode::DONE, format!("{pool}: {}", up_text(*how))),
        Outcome::StartFailed(_) => {
            let (why, then) = context.start_failure.unwrap_or_default();
            let then = if then.is_empty() {
                String::new()
            } else {
                format!("\n{then}")
            };
            (ExitCode::FAILED, format!("{pool}: {why}{then}"))
        }
        Outcome::Stopped | Outcome::Removed => (ExitCode::DONE, format!("{pool}: stopped")),
        Outcome::Scaled { from, to } => {
            let then = if context.stopped_by_operator {
                " (once it is started)"
            } else {
                ""
            };
            (
                ExitCode::DONE,
                format!("{pool}: {from} → {}{then}", workers(*to)),
            )
        }
        Outcome::Superseded { by } => (ExitCode::FAILED, format!("{pool}: {}", superseded(*by))),
        Outcome::NothingDone(why) => describe_nothing(pool, *why),
    }
}

/// How a pool is up.
pub(crate) fn up_text(how: Up) -> String {
    match how {
        Up::Ready => "every worker is ready".to_owned(),
        Up::Alive => "every worker is alive, nothing says that they are ready".to_owned(),
        Up::Done(None) => "its workers have done their work".to_owned(),
        Up::Done(Some(took)) => format!("done after {took}"),
        Up::NoneWanted => NONE_WANTED.to_owned(),
    }
}

/// The exit code of a failed rolling restart: 1 if no worker serves, 10 if the old ones do.
fn failure_code(standing: &Standing) -> ExitCode {
    if standing.serving() == 0 {
        ExitCode::FAILED
    } else {
        ExitCode::OLD_SERVE
    }
}

/// Why a rolling restart ended early, or never began.
pub(crate) fn superseded(by: SupersededBy) -> &'static str {
    match by {
        SupersededBy::Roll => "superseded by a newer request",
        SupersededBy::Change => "superseded: its configuration has changed",
        SupersededBy::RollBack => "superseded by a rollback",
        SupersededBy::Start => "superseded: the pool is started again",
        SupersededBy::Stop => "superseded: the pool stops",
        SupersededBy::Removal => "superseded: the configuration no longer has it",
        SupersededBy::StopOfAll => "superseded: everything stops",
        SupersededBy::Cancel => {
            "superseded: cancelled, with the rolling restart that it waited for"
        }
        SupersededBy::Scale => "superseded: its slot is not wanted any more",
    }
}

fn describe_nothing(pool: &str, why: NothingDone) -> (ExitCode, String) {
    match why {
        NothingDone::NoPool => (ExitCode::FAILED, format!("{pool}: is not there any more")),
        NothingDone::Stopped => (
            ExitCode::DONE,
            format!("{pool}: is stopped, and stays so until `rotad start {pool}`"),
        ),
        NothingDone::NoRoll => (
            ExitCode::DONE,
            format!("{pool}: nothing to cancel: no rolling restart runs"),
        ),
        NothingDone::AlreadyRollingBack(to) => (
            ExitCode::DONE,
            format!(
                "{pool}: nothing to cancel: the rolling restart has failed, and goes back to generation {to}"
            ),
        ),
        NothingDone::Oneshot => (
            ExitCode::FAILED,
            format!("{pool}: is a oneshot: there is nothing to go back to"),
        ),
        NothingDone::Forgotten(generation) => (
            ExitCode::FAILED,
            format!("{pool}: generation {generation} is not known"),
        ),
        NothingDone::Empty(slot) => (
            ExitCode::FAILED,
            format!("{pool}/{slot}: no worker serves there that could be replaced"),
        ),
        NothingDone::Gone(slot) => (
            ExitCode::DONE,
            format!(
                "{pool}/{slot}: its worker has ended before its turn came; a new one takes its place"
            ),
        ),
    }
}

/// Which workers serve after a rolling restart that ended early, in numbers.
fn describe_standing(context: OutcomeContext<'_>, standing: &Standing, stuck: bool) -> String {
    let Standing {
        base,
        of_base,
        wanted,
        others,
        in_place,
        outdated,
    } = standing;
    let mut text = match (of_base, others.is_empty()) {
        (0, true) if !context.has_served => {
            format!("nobody serves: generation {base} has never served in full; still retrying")
        }
        (0, true) => format!("nobody serves (0 of {wanted}); still retrying generation {base}"),
        (0, false) => format!("none of the old workers (generation {base}) serves"),
        (n, _) => {
            let who = if *n == 1 {
                "one old worker"
            } else {
                "the old workers"
            };
            let serve = if *n == 1 { "serves" } else { "serve" };
            format!("{who} (generation {base}) {serve} on: {n} of {wanted}")
        }
    };
    if stuck {
        text.push_str("\nthe rollback failed as well");
    }
    let mut left: BTreeMap<Generation, Vec<String>> = BTreeMap::new();
    for (slot, generation) in others {
        left.entry(*generation).or_default().push(slot.to_string());
    }
    for (generation, slots) in &left {
        let (slot, serve) = if slots.len() == 1 {
            ("slot", "serves")
        } else {
            ("slots", "serve")
        };
        text.push_str(&format!(
            "\n{slot} {} {serve} on with generation {generation}",
            slots.join(", ")
        ));
        if *in_place {
            text.push_str(", and cannot go back: it is the same directory and configuration");
        }
    }
    if *outdated > 0 {
        let whose = if *in_place {
            "the files themselves were changed in place"
        } else {
            "the old files do not come up, either"
        };
        text.push_str(&format!(
            "\n{whose}: {}; fix them and roll again",
            crate::observe::status::outdated(*outdated)
        ));
    }
    text
}

pub(crate) fn workers(count: u32) -> String {
    counted(count, "worker")
}

/// Why it failed, with the last lines of the worker that failed.
pub(crate) fn reason(failure: &Failure, culprit: Option<&ExitReport>) -> String {
    match (failure.cause, culprit) {
        (Cause::Cancelled, _) => "cancelled".to_owned(),
        (cause, None) => describe(cause, None),
        (cause, Some(culprit)) => {
            let mut text = format!(
                "worker {}: {}",
                culprit.slot,
                describe(cause, Some(culprit))
            );
            if !culprit.exit.log.is_empty() {
                text.push_str("\nits last lines:");
            }
            for line in &culprit.exit.log {
                text.push_str("\n  | ");
                text.push_str(&crate::observe::sanitize::sanitize(line));
            }
            text.push_str(&help(culprit));
            text
        }
    }
}

/// What to do about a worker that failed before it was ready, on a line of its own.
pub(crate) fn help(report: &ExitReport) -> String {
    report
        .hint
        .as_ref()
        .map_or_else(String::new, |hint| format!("\n  = help: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rotad_core::{Exit, Slot, Span};

    fn context(has_served: bool) -> OutcomeContext<'static> {
        OutcomeContext {
            pool: "web",
            is_oneshot: false,
            has_served,
            culprit: None,
            blocked_by: None,
            start_failure: None,
            stopped_by_operator: false,
        }
    }

    fn aborted(standing: Standing) -> Outcome {
        let failure = Failure {
            worker: None,
            cause: Cause::Exited(Exit::Code(3)),
            mixed: false,
        };
        Outcome::Aborted {
            generation: Generation(2),
            failure,
            standing,
        }
    }

    #[test]
    fn old_workers_are_said_to_serve_only_if_they_do() {
        let standing = |of_base| Standing {
            base: Generation(1),
            of_base,
            wanted: 3,
            ..Standing::default()
        };
        let (code, text) = describe_outcome(context(true), &aborted(standing(2)));
        assert_eq!(code, ExitCode::OLD_SERVE);
        assert!(
            text.contains("the old workers (generation 1) serve on: 2 of 3"),
            "{text}"
        );
        for (has_served, words) in [
            (true, "nobody serves (0 of 3)"),
            (false, "generation 1 has never served in full"),
        ] {
            let (code, text) = describe_outcome(context(has_served), &aborted(standing(0)));
            assert_eq!(code, ExitCode::FAILED);
            assert!(
                text.contains(words) && !text.contains("old workers"),
                "{text}"
            );
        }
        let others = vec![(Slot(0), Generation(2)), (Slot(2), Generation(2))];
        let mix = Standing {
            others,
            in_place: true,
            outdated: 1,
            ..standing(1)
        };
        let (code, text) = describe_outcome(context(true), &aborted(mix));
        assert_eq!(code, ExitCode::OLD_SERVE);
        for part in [
            "one old worker (generation 1) serves on: 1 of 3",
            "slots 0, 2 serve on with generation 2",
            "cannot go back",
            "a crash would start",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_request_that_was_dropped_is_to_be_asked_again() {
        let failure = Failure {
            worker: None,
            cause: Cause::MasterKeepsDying,
            mixed: false,
        };
        let standing = Standing {
            base: Generation(1),
            of_base: 3,
            wanted: 3,
            ..Standing::default()
        };
        let outcome = Outcome::Aborted {
            generation: Generation(2),
            failure,
            standing,
        };
        let (code, text) = describe_outcome(context(true), &outcome);
        assert_eq!(code, ExitCode::OLD_SERVE);
        let words = "web: dropped: the master has died again and again, so all requests were ended; ask again\n";
        assert!(text.starts_with(words), "{text}");
        assert!(
            text.contains("the old workers (generation 1) serve on: 3 of 3"),
            "{text}"
        );
    }

    #[test]
    fn every_cause_has_its_own_text() {
        let all = [
            SupersededBy::Roll,
            SupersededBy::Change,
            SupersededBy::RollBack,
            SupersededBy::Start,
            SupersededBy::Stop,
            SupersededBy::Removal,
            SupersededBy::StopOfAll,
            SupersededBy::Cancel,
            SupersededBy::Scale,
        ];
        let texts: std::collections::BTreeSet<String> = all
            .iter()
            .map(|by| describe_outcome(context(true), &Outcome::Superseded { by: *by }).1)
            .collect();
        assert_eq!(texts.len(), all.len(), "{texts:?}");
        let done = Outcome::Done {
            generation: Generation(2),
            replaced: 1,
            took: Span::ZERO,
        };
        assert_eq!(
            describe_outcome(context(true), &done).1,
            "web: done: generation 2, 1 worker replaced in 0 ms"
        );
    }
}
