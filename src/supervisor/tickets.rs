//! Who asked for what, and what they are told in the end: one outcome a pool, one answer a question.

use super::exit_report::{ExitReport, describe};
use crate::observe::clip::join_within;
use rotad_core::{Cause, Failure, Generation, NothingDone, Outcome, PoolId, Standing, SupersededBy, Ticket};
use std::collections::BTreeMap;

/// How much is told at the end of one wait, in bytes: many pools, each with its culprit's last lines.
const MOST_TOLD: usize = 512 << 10;

/// One question, or one signal, about one or more pools.
#[derive(Debug)]
struct Wait {
    /// The client to answer; none: a signal, which only the diary answers.
    client: Option<u64>,
    pools: Vec<PoolId>,
    /// Also until old workers are gone.
    drained: bool,
    /// More tickets may follow.
    open: bool,
    left: usize,
    code: u8,
    lines: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct WaitId(u64);

#[derive(Debug, Default)]
pub(super) struct Tickets {
    last: u64,
    waits: BTreeMap<u64, Wait>,
    askers: BTreeMap<Ticket, u64>,
}

/// The end of a wait.
#[derive(Debug)]
pub(super) struct Ended {
    pub client: Option<u64>,
    pub code: u8,
    pub message: String,
}

impl Tickets {
    /// A wait that is over once it is closed and all its tickets are settled.
    pub(super) fn open(&mut self, client: Option<u64>, drained: bool) -> WaitId {
        self.last += 1;
        let wait = Wait { client, pools: Vec::new(), drained, open: true, left: 0, code: 0, lines: Vec::new() };
        self.waits.insert(self.last, wait);
        WaitId(self.last)
    }

    /// One more outcome to wait for.
    pub(super) fn join(&mut self, wait: WaitId, pool: PoolId) -> Ticket {
        let ticket = self.lone();
        if let Some(known) = self.waits.get_mut(&wait.0) {
            known.pools.push(pool);
            known.left += 1;
            self.askers.insert(ticket, wait.0);
        }
        ticket
    }

    /// A ticket that its owner settles.
    pub(super) fn lone(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    /// Something to be told at the end.
    pub(super) fn note(&mut self, wait: WaitId, code: u8, line: String) {
        if let Some(wait) = self.waits.get_mut(&wait.0) {
            wait.code = worse(wait.code, code);
            wait.lines.push(line);
        }
    }

    /// No ticket follows. The wait's end, if there is nothing to wait for.
    pub(super) fn close(&mut self, wait: WaitId) -> Option<Ended> {
        self.waits.get_mut(&wait.0)?.open = false;
        self.end(wait.0)
    }

    /// A ticket for each pool.
    pub(super) fn issue(&mut self, client: Option<u64>, drained: bool, pools: &[PoolId]) -> Vec<(PoolId, Ticket)> {
        let wait = self.open(client, drained);
        let issued = pools.iter().map(|pool| (*pool, self.join(wait, *pool))).collect();
        self.close(wait);
        issued
    }

    /// Clients that wait for this pool: for progress.
    pub(super) fn clients_of(&self, pool: PoolId) -> Vec<u64> {
        self.waits.values().filter(|w| w.pools.contains(&pool)).filter_map(|w| w.client).collect()
    }

    /// Whoever holds this ticket wants to hear of it only when the old workers are gone.
    pub(super) fn waits_for_the_drained(&self, ticket: Ticket) -> bool {
        self.askers.get(&ticket).and_then(|wait| self.waits.get(wait)).is_some_and(|wait| wait.drained)
    }

    /// The client is gone; the work goes on.
    pub(super) fn detach(&mut self, client: u64) {
        for wait in self.waits.values_mut().filter(|w| w.client == Some(client)) {
            wait.client = None;
        }
    }

    /// Notes one outcome; the wait's end, when it was the last.
    pub(super) fn settle(&mut self, ticket: Ticket, code: u8, line: String) -> Option<Ended> {
        let number = self.askers.remove(&ticket)?;
        let wait = self.waits.get_mut(&number)?;
        wait.left -= 1;
        wait.code = worse(wait.code, code);
        wait.lines.push(line);
        self.end(number)
    }

    fn end(&mut self, number: u64) -> Option<Ended> {
        self.waits.get(&number).filter(|wait| wait.left == 0 && !wait.open)?;
        let wait = self.waits.remove(&number)?;
        Some(Ended { client: wait.client, code: wait.code, message: join_within(&wait.lines, MOST_TOLD) })
    }
}

/// Of several outcomes the worst counts: 10 says that those that failed serve on as they were.
fn worse(one: u8, other: u8) -> u8 {
    let rank = |code: &u8| match code {
        0 => 0,
        10 => 1,
        code => 1 + u32::from(*code),
    };
    [one, other].into_iter().max_by_key(rank).unwrap_or(one)
}

/// What is said of an outcome beside what it says of itself.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub pool: &'a str,
    /// A pool that runs once: it has nobody who serves.
    pub is_oneshot: bool,
    /// Some generation of it has served in full.
    pub has_served: bool,
    pub culprit: Option<&'a ExitReport>,
    /// It was not begun, since this pool, which it comes after, was not rolled.
    pub before: Option<&'a str>,
}

/// An outcome as an exit code, and in words. 10 says that somebody serves on as before.
pub(super) fn verdict(about: About<'_>, outcome: &Outcome) -> (u8, String) {
    let About { pool, culprit, .. } = about;
    match outcome {
        Outcome::Done { generation, replaced, took } => {
            (0, format!("{pool}: done: generation {generation}, {} replaced in {took}", workers(*replaced)))
        }
        Outcome::Aborted { generation, failure, .. } if about.is_oneshot => {
            let why = reason(failure, culprit);
            (10, format!("{pool}: failed: generation {generation}: {why}\nit runs again when it is asked for"))
        }
        Outcome::Aborted { failure, standing, .. } if about.before.is_some() => {
            let before = about.before.unwrap_or_default();
            let text = format!("{pool}: not rolled: {before}, which it comes after, was not\n");
            (failed(standing), text + &who_serves(about, standing, failure.mixed))
        }
        Outcome::Aborted { generation, failure, standing } => {
            let reason = reason(failure, culprit);
            let cancelled = failure.cause == Cause::Cancelled;
            let word = if cancelled { "cancelled" } else { "aborted" };
            let reason = if cancelled { String::new() } else { format!(": {reason}") };
            let next = if cancelled || standing.outdated > 0 { "" } else { "; mend the code and roll again" };
            let text = format!("{pool}: {word}: generation {generation}{reason}\n");
            (failed(standing), text + &who_serves(about, standing, failure.mixed) + next)
        }
        Outcome::RolledBack { generation, failure, standing } => {
            let reason = reason(failure, culprit);
            let text =
                format!("{pool}: rolled back to generation {}: generation {generation}: {reason}\n", standing.base);
            (failed(standing), text + &who_serves(about, standing, false))
        }
        Outcome::Cancelled { generation, stuck, standing } => {
            let text = format!("{pool}: cancelled: generation {generation}\n");
            let who =
                if about.is_oneshot { "its run was ended".to_owned() } else { who_serves(about, standing, *stuck) };
            (u8::from(*stuck), text + &who)
        }
        Outcome::ReplaceFailed { slot, failure, old_serves } => {
            let reason = reason(failure, culprit);
            let (code, who) = if *old_serves {
                (10, "the worker that it was to replace serves on")
            } else {
                (1, "nobody serves in its place: it is tried on")
            };
            (code, format!("{pool}/{slot}: not replaced: {reason}\n{who}"))
        }
        Outcome::Begins { generation } => (1, format!("{pool}: has not begun; it will, with generation {generation}")),
        Outcome::Superseded { by } => (1, format!("{pool}: {}", superseded(*by))),
        Outcome::NothingDone(why) => nothing(pool, *why),
    }
}

/// The code of a rolling restart that has failed: where nobody serves, it has nothing to be proud of.
fn failed(standing: &Standing) -> u8 {
    if standing.serving() == 0 { 1 } else { 10 }
}

/// Why a rolling restart ended, or was never begun.
pub(super) fn superseded(by: SupersededBy) -> &'static str {
    match by {
        SupersededBy::Roll => "superseded by a newer wish",
        SupersededBy::Change => "superseded: its configuration has changed",
        SupersededBy::RollBack => "superseded: it goes to another generation",
        SupersededBy::Stop => "superseded: the pool stops",
        SupersededBy::Removal => "superseded: the configuration has it no more",
        SupersededBy::StopOfAll => "superseded: everything stops",
        SupersededBy::Cancel => "superseded: cancelled, with the rolling restart that it waited for",
        SupersededBy::Scale => "superseded: its slot is not wanted any more",
    }
}

fn nothing(pool: &str, why: NothingDone) -> (u8, String) {
    match why {
        NothingDone::NoPool => (1, format!("{pool}: is not there any more")),
        NothingDone::Stopped => (0, format!("{pool}: is stopped, and stays so until `rotad start {pool}`")),
        NothingDone::NoRoll => (0, format!("{pool}: nothing to cancel: no rolling restart runs")),
        NothingDone::AlreadyRollingBack(to) => {
            (0, format!("{pool}: nothing to cancel: the rolling restart has failed, and goes back to generation {to}"))
        }
        NothingDone::Oneshot => (1, format!("{pool}: is a oneshot: there is nothing to go back to")),
        NothingDone::Forgotten(generation) => (1, format!("{pool}: generation {generation} is not known")),
        NothingDone::Empty(slot) => (1, format!("{pool}/{slot}: nobody serves there who could be replaced")),
        NothingDone::Gone(slot) => {
            (0, format!("{pool}/{slot}: its worker has ended before its turn came; a new one takes its place"))
        }
    }
}

/// Who serves after a rolling restart that ended before its time: by numbers, never by hope.
fn who_serves(about: About<'_>, standing: &Standing, stuck: bool) -> String {
    let Standing { base, of_base, wanted, others, in_place, outdated } = standing;
    let mut text = match (of_base, others.is_empty()) {
        (0, true) if !about.has_served => {
            format!("nobody serves: generation {base} has never served in full, and is tried on")
        }
        (0, true) => format!("nobody serves (0 of {wanted}): generation {base} is tried on"),
        (0, false) => format!("none of the old workers (generation {base}) serves"),
        (n, _) => {
            let serve = if *n == 1 { "serves" } else { "serve" };
            format!("the old workers (generation {base}) {serve} on: {n} of {wanted}")
        }
    };
    if stuck {
        text.push_str("\ngoing back failed as well");
    }
    let mut left: BTreeMap<Generation, Vec<String>> = BTreeMap::new();
    for (slot, generation) in others {
        left.entry(*generation).or_default().push(slot.to_string());
    }
    for (generation, slots) in &left {
        let (slot, serve) = if slots.len() == 1 { ("slot", "serves") } else { ("slots", "serve") };
        text.push_str(&format!("\n{slot} {} {serve} on with generation {generation}", slots.join(", ")));
        if *in_place {
            text.push_str(", and cannot go back: it is the same folder and configuration");
        }
    }
    if *outdated > 0 {
        let whose = if *in_place {
            "the files themselves were changed in place"
        } else {
            "the old files do not come up, either"
        };
        text.push_str(&format!("\n{whose}: {}; mend them and roll again", crate::observe::status::outdated(*outdated)));
    }
    text
}

pub(super) fn workers(count: u32) -> String {
    if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

/// What went wrong, with the culprit's last lines.
pub(super) fn reason(failure: &Failure, culprit: Option<&ExitReport>) -> String {
    match (failure.cause, culprit) {
        (Cause::Cancelled, _) => "cancelled".to_owned(),
        (cause, None) => describe(cause, None),
        (cause, Some(culprit)) => {
            let mut text = format!("worker {}: {}", culprit.slot, describe(cause, Some(culprit)));
            if !culprit.exit.log.is_empty() {
                text.push_str("\nits last lines:");
            }
            for line in &culprit.exit.log {
                text.push_str("\n  | ");
                text.push_str(&crate::observe::harmless::harmless(line));
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rotad_core::{Exit, Slot, Span};

    fn about(has_served: bool) -> About<'static> {
        About { pool: "web", is_oneshot: false, has_served, culprit: None, before: None }
    }

    fn aborted(standing: Standing) -> Outcome {
        let failure = Failure { worker: None, cause: Cause::Exited(Exit::Code(3)), mixed: false };
        Outcome::Aborted { generation: Generation(2), failure, standing }
    }

    #[test]
    fn the_old_ones_serve_only_where_they_do() {
        let standing = |of_base| Standing { base: Generation(1), of_base, wanted: 3, ..Standing::default() };
        let (code, text) = verdict(about(true), &aborted(standing(2)));
        assert_eq!(code, 10);
        assert!(text.contains("the old workers (generation 1) serve on: 2 of 3"), "{text}");
        for (has_served, words) in [(true, "nobody serves (0 of 3)"), (false, "generation 1 has never served in full")]
        {
            let (code, text) = verdict(about(has_served), &aborted(standing(0)));
            assert_eq!(code, 1);
            assert!(text.contains(words) && !text.contains("old workers"), "{text}");
        }
        let others = vec![(Slot(0), Generation(2)), (Slot(2), Generation(2))];
        let mix = Standing { others, in_place: true, outdated: 1, ..standing(1) };
        let (code, text) = verdict(about(true), &aborted(mix));
        assert_eq!(code, 10);
        for part in
            ["serves on: 1 of 3", "slots 0, 2 serve on with generation 2", "cannot go back", "a crash would start"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn every_cause_has_words_of_its_own() {
        let all = [
            SupersededBy::Roll,
            SupersededBy::Change,
            SupersededBy::RollBack,
            SupersededBy::Stop,
            SupersededBy::Removal,
            SupersededBy::StopOfAll,
            SupersededBy::Cancel,
            SupersededBy::Scale,
        ];
        let texts: std::collections::BTreeSet<String> =
            all.iter().map(|by| verdict(about(true), &Outcome::Superseded { by: *by }).1).collect();
        assert_eq!(texts.len(), all.len(), "{texts:?}");
        let done = Outcome::Done { generation: Generation(2), replaced: 1, took: Span::ZERO };
        assert_eq!(verdict(about(true), &done).1, "web: done: generation 2, 1 worker replaced in 0 ms");
    }

    #[test]
    fn of_several_the_worst_counts() {
        for (one, other, worst) in [(0, 0, 0), (0, 10, 10), (10, 1, 1), (1, 10, 1), (0, 1, 1), (10, 78, 78)] {
            assert_eq!(worse(one, other), worst);
        }
    }
}
