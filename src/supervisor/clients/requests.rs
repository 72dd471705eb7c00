//! Requests about pools from clients: stop, start, roll, scale, cancel, signal, replace one worker. `control.rs` calls
//! the handlers; each ends in a reply to the client, at the latest when its wait is settled.

use crate::control::protocol::{ScaleTo, Selector, Wait};
use crate::exit_code::ExitCode;
use crate::observe::events::EventKind;
use crate::plan::{Kind, PoolPlan};
use crate::supervisor::Supervisor;
use crate::supervisor::clients::outcome_text::NONE_WANTED;
use crate::supervisor::clients::tickets::WaitId;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::reload::on_change::Continuation;
use rotad_core::{Policy, PoolId, Request, Slot, WorkerId, WorkerState};

/// A larger number is taken for a typing error.
const MAX_WORKERS: u32 = 100_000;

impl Supervisor {
    pub(crate) fn roll_requested(&mut self, client: u64, which: &Selector, wait: Wait) {
        let Some(pools) = self.select_pools(client, which, false) else {
            return;
        };
        self.emit_request(
            "roll",
            format!(
                "{} asks to roll {}",
                self.clients.name(client),
                self.pools.list(&pools)
            ),
        );
        let named = |pool: &PoolId| {
            which
                .pools
                .iter()
                .any(|name| name == self.pools.name(*pool))
        };
        let comparisons = self.lookup().comparisons_for_roll(
            &pools
                .iter()
                .copied()
                .filter(|pool| !named(pool))
                .collect::<Vec<_>>(),
        );
        if !comparisons.is_empty() {
            self.service_manager.reloading();
            return self.start_comparison(
                comparisons,
                Continuation::Roll {
                    client: Some(client),
                    wait,
                    pools,
                },
            );
        }
        if wait == Wait::No {
            self.roll(None, false, &pools);
            return self.done(
                client,
                ExitCode::DONE,
                format!("rolling {}", self.pools.list(&pools)),
            );
        }
        self.roll(Some(client), wait == Wait::Drained, &pools);
    }

    /// The pools with these names, oneshots included; all if there are none. None: the client was refused.
    fn select_named(&mut self, client: u64, pools: Vec<String>) -> Option<Vec<PoolId>> {
        let which = Selector {
            pools,
            ..Selector::default()
        };
        self.select_pools(client, &which, true)
    }

    pub(crate) fn cancel(&mut self, client: u64, pools: Vec<String>) {
        let Some(pools) = self.select_named(client, pools) else {
            return;
        };
        self.emit_request(
            "cancel",
            format!(
                "{} asks to cancel {}",
                self.clients.name(client),
                self.pools.list(&pools)
            ),
        );
        for (pool, ticket) in self.clients.tickets.issue(Some(client), false, &pools) {
            self.engine.request_with(ticket, Request::Cancel(pool));
        }
    }

    /// A pool stopped by its operator stays stopped until its operator starts it.
    pub(crate) fn stop_pools(&mut self, client: u64, pools: Vec<String>, now: bool) {
        let Some(pools) = self.select_named(client, pools) else {
            return;
        };
        let at_once = if now { " at once" } else { "" };
        self.emit_request(
            "stop",
            format!(
                "{} asks to stop {}{at_once}",
                self.clients.name(client),
                self.pools.list(&pools)
            ),
        );
        let wait = self.clients.tickets.open(Some(client), false);
        for pool in pools {
            self.pools.set_stopped_by_operator(pool, true);
            let ticket = self.clients.tickets.join(wait, pool);
            self.engine.request_with(ticket, Request::StopPool(pool));
            if now {
                let context = self.event_loop.context(&self.log, &self.clock);
                let actions = self.workers.kill_pool(&context, pool);
                self.perform(actions);
            }
        }
        self.close_wait(wait);
    }

    pub(crate) fn start_pools(&mut self, client: u64, pools: Vec<String>, wait: Wait) {
        let Some(pools) = self.select_named(client, pools) else {
            return;
        };
        if self.shutdown.stopping {
            return self.done(client, ExitCode::FAILED, "everything stops".to_owned());
        }
        self.emit_request(
            "start",
            format!(
                "{} asks to start {}",
                self.clients.name(client),
                self.pools.list(&pools)
            ),
        );
        let waiting = self.clients.tickets.open(
            Some(client).filter(|_| wait != Wait::No),
            wait == Wait::Drained,
        );
        for pool in &pools {
            self.start_pool(waiting, *pool);
        }
        self.close_wait(waiting);
        if wait == Wait::No {
            self.done(
                client,
                ExitCode::DONE,
                format!("starting {}", self.pools.list(&pools)),
            );
        }
    }

    fn start_pool(&mut self, wait: WaitId, pool: PoolId) {
        let oneshot = self
            .pools
            .plan(pool)
            .is_some_and(|plan| plan.kind == Kind::Oneshot);
        let was_stopped = self.pools.stopped_by_operator(pool);
        self.pools.set_stopped_by_operator(pool, false);
        if oneshot && !was_stopped {
            let ticket = self.clients.tickets.join(wait, pool);
            return self.engine.request_with(ticket, Request::Roll(pool));
        }
        if !was_stopped
            && self
                .pools
                .policy(pool)
                .is_some_and(|policy| policy.count == 0)
        {
            let text = format!("{}: {NONE_WANTED}", self.pools.name(pool));
            return self.clients.tickets.note(wait, ExitCode::DONE, text);
        }
        let runs = |view: rotad_core::PoolView| {
            use rotad_core::PoolState::{Degraded, Mixed, Ok};
            matches!(view.state, Ok | Mixed | Degraded) && view.ready >= view.wanted
        };
        if !was_stopped && self.engine.view().pool(pool).is_some_and(runs) {
            let text = format!("{}: runs already", self.pools.name(pool));
            return self.clients.tickets.note(wait, ExitCode::DONE, text);
        }
        if was_stopped {
            // An operator's start follows a directory or program that has moved since. Older generations stay where
            // they are.
            let own = self
                .engine
                .view()
                .pool(pool)
                .map(|view| view.fill_generation);
            self.workers
                .spawn_specs
                .retain_generations(pool, |generation| Some(generation) != own);
        }
        if let Some(policy) = self.pools.policy(pool) {
            let ticket = self.clients.tickets.join(wait, pool);
            self.engine.request(Request::EnsurePool(pool, policy));
            // Also fills slots that had come to their end.
            self.engine.request_with(ticket, Request::Start(pool));
        }
    }

    pub(crate) fn scale(&mut self, client: u64, name: &str, to: ScaleTo) {
        let Some(pool) = self.find_pool(client, name) else {
            return;
        };
        let Some(policy) = self.pools.policy(pool) else {
            return;
        };
        let from = policy.count;
        let Some(plan) = self.pools.plan(pool) else {
            return;
        };
        let allowed = wanted_count(plan, &policy, to).and_then(|count| {
            self.lookup().has_room_to_scale(pool, count)?;
            Ok(count)
        });
        let count = match allowed {
            Ok(count) => count,
            Err(why) => {
                let message =
                    format!("{name}: {why}\nnothing was changed: {from} workers are wanted");
                return self.done(client, ExitCode::FAILED, message);
            }
        };
        let text = format!(
            "{} asks to scale: {from} → {count}",
            self.clients.name(client)
        );
        self.emit(
            EventBuilder::new(EventKind::Scaled, text)
                .pool(pool)
                .cause(if count < from { "down" } else { "up" }),
        );
        self.pools.scale(pool, Some(count));
        let wait = self.clients.tickets.open(Some(client), false);
        let ticket = self.clients.tickets.join(wait, pool);
        self.close_wait(wait);
        self.engine
            .request_with(ticket, Request::Scale(pool, count));
    }

    /// Signals go to ready workers only: before that, a worker has no handler yet and would die.
    pub(crate) fn send_signal(&mut self, client: u64, name: &str, slot: Option<u32>, signal: i32) {
        let Some(pool) = self.find_pool(client, name) else {
            return;
        };
        if !(1..=nix::libc::SIGRTMAX()).contains(&signal) {
            return self.done(
                client,
                ExitCode::FAILED,
                format!("there is no signal {signal}"),
            );
        }
        let target = slot.map_or_else(|| name.to_owned(), |slot| format!("{name}/{slot}"));
        let view = self.engine.view();
        let workers = view.workers().filter(|worker| worker.pool == pool);
        let targets = match signal_targets(workers.map(|of| (of.id, of.slot, of.state)), slot) {
            Ok(targets) => targets,
            Err(why) => {
                let message = format!("{target}: {why}; nothing was sent");
                return self.done(client, ExitCode::FAILED, message);
            }
        };
        let text = format!("SIG{}", crate::event_loop::signals::name(signal));
        let (mut pids, mut failed) = (Vec::new(), Vec::new());
        for worker in targets {
            let Some(child) = self
                .workers
                .processes
                .get(worker)
                .and_then(|process| process.child())
            else {
                continue;
            };
            match child.signal(signal) {
                Ok(()) => pids.push(child.pid().to_string()),
                Err(error) => failed.push(format!("pid {}: {error}", child.pid())),
            }
        }
        let told = format!(
            "{} sends {text} to {}",
            self.clients.name(client),
            pids.join(", ")
        );
        self.emit(
            EventBuilder::new(EventKind::Request, told)
                .pool(pool)
                .cause("signal"),
        );
        if failed.is_empty() {
            return self.done(
                client,
                ExitCode::DONE,
                format!("{target}: {text} sent to {}", pids.join(", ")),
            );
        }
        self.done(
            client,
            ExitCode::FAILED,
            format!("{target}: {text} not sent to all: {}", failed.join(", ")),
        );
    }

    /// Replaces one worker by a new one of its own generation.
    pub(crate) fn replace_worker(&mut self, client: u64, name: &str, slot: u32, wait: Wait) {
        let Some(pool) = self.find_pool(client, name) else {
            return;
        };
        let slots = self.pools.policy(pool).map_or(0, |policy| policy.count);
        if slot >= slots {
            let message = format!("{name}/{slot}: no such worker: {name} has {slots}, from 0");
            return self.done(client, ExitCode::NOT_FOUND, message);
        }
        let text = format!(
            "{} asks for a new worker in place of {name}/{slot}",
            self.clients.name(client)
        );
        self.emit(
            EventBuilder::new(EventKind::Request, text)
                .pool(pool)
                .cause("renew"),
        );
        let asker = Some(client).filter(|_| wait != Wait::No);
        for (pool, ticket) in self
            .clients
            .tickets
            .issue(asker, wait == Wait::Drained, &[pool])
        {
            self.engine
                .request_with(ticket, Request::Replace(pool, Slot(slot)));
        }
        if wait == Wait::No {
            self.done(client, ExitCode::DONE, format!("replacing {name}/{slot}"));
        }
    }
}

/// The number of workers that a pool is to have, or why it cannot have it. Whether there are descriptors for them is not
/// known here.
fn wanted_count(plan: &PoolPlan, policy: &Policy, to: ScaleTo) -> Result<u32, String> {
    if plan.kind == Kind::Oneshot {
        return Err("a oneshot is one run: it has no number of workers".to_owned());
    }
    let wanted = match to {
        ScaleTo::Exactly(count) => i64::from(count),
        ScaleTo::By(by) => i64::from(policy.count).saturating_add(by),
    };
    let count = u32::try_from(wanted)
        .ok()
        .filter(|count| *count <= MAX_WORKERS)
        .ok_or_else(|| {
            format!("{wanted} is not a possible number of workers: 0 to {MAX_WORKERS}")
        })?;
    let surge = policy.reload.surge;
    if let Some(have) = plan.ports.map(|ports| ports.count())
        && u64::from(have) < u64::from(count) + u64::from(surge)
    {
        return Err(format!(
            "its `ports` are {have}, and {count} workers with a surge of {surge} need more"
        ));
    }
    Ok(count)
}

/// The workers of a pool that get a signal, or why none does.
fn signal_targets(
    workers: impl Iterator<Item = (WorkerId, Slot, WorkerState)>,
    slot: Option<u32>,
) -> Result<Vec<WorkerId>, &'static str> {
    let meant: Vec<_> = workers
        .filter(|(_, of, _)| slot.is_none_or(|slot| of.0 == slot))
        .collect();
    let ready: Vec<WorkerId> = meant
        .iter()
        .filter(|(.., state)| matches!(state, WorkerState::Ready | WorkerState::Soaking))
        .map(|(worker, ..)| *worker)
        .collect();
    if !ready.is_empty() {
        return Ok(ready);
    }
    Err(match (slot, meant.is_empty()) {
        (Some(_), true) => "there is no such worker",
        (Some(_), false) => "is not ready: before that, a signal would end it",
        (None, _) => "no worker is ready",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ready_workers_get_a_signal() {
        let workers = [
            (WorkerId(1), Slot(0), WorkerState::Ready),
            (WorkerId(2), Slot(1), WorkerState::Starting),
            (WorkerId(3), Slot(1), WorkerState::Soaking),
            (WorkerId(4), Slot(2), WorkerState::Stopping),
        ];
        let targets = |slot| signal_targets(workers.into_iter(), slot);
        assert_eq!(targets(None), Ok(vec![WorkerId(1), WorkerId(3)]));
        assert_eq!(targets(Some(1)), Ok(vec![WorkerId(3)]));
        assert!(targets(Some(2)).is_err_and(|why| why.contains("is not ready")));
        assert!(targets(Some(9)).is_err_and(|why| why.contains("no such worker")));
        let none = signal_targets(std::iter::empty(), None);
        assert!(none.is_err_and(|why| why == "no worker is ready"));
    }
}
