//! What is under way, for a command that waits on a terminal and shows it: which workers start, soak or stop, for how long
//! of how long, and the last death.

use crate::control::protocol::{Death, InProgress, PoolProgress, Response, SlotProgress};
use crate::observe::events::{Event, EventKind};
use crate::observe::status::SlotState;
use crate::observe::worker_output::telling_line;
use crate::plan::Kind;
use crate::supervisor::Supervisor;
use crate::supervisor::clients::status::slot_state;
use rotad_core::{EmptyState, PoolId, PoolView, RollState, WorkerState, WorkerView};
use std::collections::BTreeSet;

/// A terminal shows fewer.
const MAX_SLOTS: usize = 50;

/// The worker that a slot still has while its successor starts or soaks is watched as well; what is waited for is the
/// successor.
fn drop_old_of_starting(slots: &mut Vec<SlotProgress>) {
    let begins =
        |slot: &&SlotProgress| matches!(slot.state, SlotState::Starting | SlotState::Soaking);
    let of = |slot: &SlotProgress| (slot.pool.clone(), slot.slot);
    let begun: BTreeSet<(String, u32)> = slots.iter().filter(begins).map(of).collect();
    slots.retain(|slot| slot.state != SlotState::Ready || !begun.contains(&of(slot)));
}

impl Supervisor {
    /// Answers with what is under way in these pools, all if none is named. Names that no pool has count for nothing:
    /// the command itself has been told.
    pub(crate) fn answer_in_progress(&mut self, client: u64, names: Vec<String>) {
        let all = self.pools.iter().map(|(id, _)| id).collect();
        let named = |name: &String| self.pools.matching(name).unwrap_or_default();
        let pools: Vec<PoolId> = match names.is_empty() {
            true => all,
            false => names.iter().flat_map(named).collect(),
        };
        let progress = self.in_progress(&pools);
        self.answer(client, &Response::InProgress(Box::new(progress)), true);
    }

    fn in_progress(&self, pools: &[PoolId]) -> InProgress {
        let view = self.engine.view();
        let views: Vec<(PoolId, PoolView)> =
            view.pools().filter(|(id, _)| pools.contains(id)).collect();
        let workers = view.workers().filter_map(|worker| {
            let (_, pool) = views.iter().find(|(id, _)| *id == worker.pool)?;
            self.worker_progress(&worker, pool)
        });
        let mut slots: Vec<SlotProgress> = workers.collect();
        for (id, _) in &views {
            let waits = view
                .empty_slots(*id)
                .filter_map(|empty| Some((empty.slot, empty.retry_at?)));
            slots.extend(waits.map(|(slot, retry_at)| SlotProgress {
                pool: self.pools.name(*id).to_owned(),
                slot: slot.0,
                pid: None,
                state: SlotState::Backoff,
                since_s: None,
                of_s: Some((retry_at - self.clock.now()).as_secs_f64()),
                oneshot: false,
                says: None,
            }));
        }
        drop_old_of_starting(&mut slots);
        slots.sort_by(|a, b| {
            let by_state = order(a.state).cmp(&order(b.state));
            let since = |slot: &SlotProgress| slot.since_s.unwrap_or(0.0);
            by_state.then(since(b).total_cmp(&since(a)))
        });
        let more = slots.len().saturating_sub(MAX_SLOTS) as u32;
        slots.truncate(MAX_SLOTS);
        let pools = views.iter();
        InProgress {
            pools: pools
                .filter_map(|(id, pool)| self.pool_progress(*id, pool))
                .collect(),
            slots,
            more,
            death: self.last_death(&views),
        }
    }

    fn worker_progress(&self, worker: &WorkerView, pool: &PoolView) -> Option<SlotProgress> {
        let now = self.clock.now();
        let until = worker.patience.and_then(|of| of.until);
        let watched =
            until.is_some_and(|until| until > now) && matches!(pool.roll.state, RollState::Running);
        if worker.state == WorkerState::Ready && !watched {
            return None;
        }
        let cap = self.engine.view().stop_cap();
        let until = match worker.state {
            WorkerState::Stopping => until.map(|until| cap.map_or(until, |cap| until.min(cap))),
            _ => until,
        };
        let since = worker.patience.map(|of| of.since);
        let process = self.workers.processes.get(worker.id);
        let says = process.and_then(|process| process.status_text.clone());
        Some(SlotProgress {
            pool: self.pools.name(worker.pool).to_owned(),
            slot: worker.slot.0,
            pid: process.and_then(|process| process.pid()),
            state: slot_state(worker.state),
            since_s: since.map(|since| (now - since).as_secs_f64()),
            of_s: since.and_then(|since| Some((until? - since).as_secs_f64())),
            oneshot: self.is_oneshot(worker.pool),
            says: says.filter(|_| worker.state == WorkerState::Starting),
        })
    }

    fn is_oneshot(&self, pool: PoolId) -> bool {
        let plan = self.pools.plan(pool);
        plan.is_some_and(|plan| plan.kind == Kind::Oneshot)
    }

    /// None: the pool has what it wants, or is a oneshot, whose run says all.
    fn pool_progress(&self, id: PoolId, pool: &PoolView) -> Option<PoolProgress> {
        let view = self.engine.view();
        let empty = view.empty_slots(id);
        let waiting = empty.filter(|slot| slot.state == EmptyState::Waits).count();
        let before = pool.held_by.iter().chain(&pool.roll.after);
        let waits_for: Vec<String> = before.map(|of| self.pools.name(*of).to_owned()).collect();
        let complete = pool.ready >= pool.wanted || self.is_oneshot(id);
        if complete && waits_for.is_empty() {
            return None;
        }
        Some(PoolProgress {
            pool: self.pools.name(id).to_owned(),
            ready: pool.ready,
            wanted: pool.wanted,
            waits_for,
            waiting: waiting as u32,
        })
    }

    fn last_death(&self, pools: &[(PoolId, PoolView)]) -> Option<Death> {
        let ours = |event: &&Event| {
            let is_death = matches!(
                event.event,
                EventKind::Exit
                    | EventKind::SpawnFailed
                    | EventKind::NotReady
                    | EventKind::Unhealthy
            );
            let name = event.pool.as_deref();
            is_death
                && pools
                    .iter()
                    .any(|(id, _)| Some(self.pools.name(*id)) == name)
        };
        let event = self.event_log.after(0).filter(ours).last()?;
        let reports = &self.workers.exit_reports;
        let report = event.pid.and_then(|pid| reports.of_pid(pid));
        let line = report.and_then(|report| telling_line(&report.exit.log));
        Some(Death {
            time: event.time.clone(),
            pool: event.pool.clone()?,
            slot: event.slot?,
            text: event.text.clone(),
            line: line.map(str::to_owned),
        })
    }
}

/// What a person who waits wants to see first.
fn order(state: SlotState) -> u8 {
    match state {
        SlotState::Starting => 0,
        SlotState::Soaking => 1,
        SlotState::Backoff => 2,
        SlotState::Killing => 3,
        SlotState::Stopping => 4,
        SlotState::Ready | SlotState::Stopped | SlotState::Done | SlotState::Failed => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_line_while_its_successor_starts() {
        let slot = |slot, state| SlotProgress {
            pool: "web".to_owned(),
            slot,
            pid: None,
            state,
            since_s: None,
            of_s: None,
            oneshot: false,
            says: None,
        };
        let mut slots = vec![
            slot(0, SlotState::Ready),
            slot(0, SlotState::Soaking),
            slot(1, SlotState::Ready),
            slot(1, SlotState::Stopping),
            slot(2, SlotState::Starting),
        ];
        drop_old_of_starting(&mut slots);
        let left: Vec<(u32, SlotState)> =
            slots.iter().map(|slot| (slot.slot, slot.state)).collect();
        let expected = [
            (0, SlotState::Soaking),
            (1, SlotState::Ready),
            (1, SlotState::Stopping),
            (2, SlotState::Starting),
        ];
        assert_eq!(left, expected);
    }
}
