//! Requests about pools from clients: stop, start, roll, scale, cancel, signal, replace one worker. `control.rs` calls
//! the handlers; each ends in a reply to the client, at the latest when its wait is settled.

use crate::control::protocol::{ScaleTo, Selector, Wait};
use crate::exit_code::ExitCode;
use crate::observe::events::EventKind;
use crate::plan::{Kind, PoolPlan};
use crate::supervisor::Supervisor;
use crate::supervisor::clients::outcome_text::{NONE_WANTED, workers};
use crate::supervisor::clients::tickets::WaitId;
use crate::supervisor::deploys::Asker;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::reload::lookup::Lookup;
use rotad_core::{
    Generation, Policy, PoolId, PoolState, PoolView, Request, Slot, WorkerId, WorkerState,
};

/// A larger number is taken for a typing error.
const MAX_WORKERS: u32 = 100_000;

/// What an operator's start of a pool does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The oneshot runs once more.
    RunAgain,
    /// Nothing, for this reason.
    Nothing(String),
    /// Its workers start. `resolve`: the generation whose directory and program may have moved while its operator had
    /// the pool stopped, and are followed. Older generations stay where they are.
    Workers { resolve: Option<Generation> },
}

impl Lookup<'_> {
    /// What a start of the pool does now.
    pub(crate) fn start_of(&self, pool: PoolId) -> Start {
        let view = self.engine.pool(pool);
        if self.pools.stopped_by_operator(pool) {
            let resolve = view.map(|view| view.fill_generation);
            return Start::Workers { resolve };
        }
        let kind = self.pools.plan(pool).map(|plan| plan.kind);
        if kind == Some(Kind::Oneshot) {
            return Start::RunAgain;
        }
        let name = self.pools.name(pool);
        let policy = self.pools.policy(pool);
        if policy.is_some_and(|policy| policy.count == 0) {
            return Start::Nothing(format!("{name}: {NONE_WANTED}"));
        }
        let runs = |view: PoolView| {
            let serves = matches!(
                view.state,
                PoolState::Ok | PoolState::Mixed | PoolState::Degraded
            );
            serves && view.ready >= view.wanted
        };
        if view.is_some_and(runs) {
            return Start::Nothing(format!("{name}: runs already"));
        }
        Start::Workers { resolve: None }
    }
}

impl Lookup<'_> {
    /// The present and the new number of workers of a pool, or why it cannot be scaled.
    fn scaled_to(&self, pool: PoolId, to: ScaleTo) -> Result<(u32, u32), String> {
        let gone = || "is not there any more".to_owned();
        let policy = self.pools.policy(pool).ok_or_else(gone)?;
        let plan = self.pools.plan(pool).ok_or_else(gone)?;
        let count = wanted_count(plan, &policy, to)?;
        self.has_room_to_scale(pool, count)?;
        Ok((policy.count, count))
    }
}

impl Supervisor {
    pub(crate) fn roll_requested(&mut self, client: u64, which: &Selector, wait: Wait) {
        let Some(which) = self.expand_selector(client, which, false) else {
            return;
        };
        let Some(pools) = self.select_expanded(client, &which, false) else {
            return;
        };
        self.emit_ask(client, "roll", &pools, "");
        let comparisons = self.lookup().comparisons_for_roll(&pools, &which.pools);
        let asker = self.clients.asker(client, "roll");
        self.roll_if_changed((Some(client), asker), wait, pools, comparisons);
    }

    /// Emits that a client asks for something about pools. `more`: what the verb does not say.
    fn emit_ask(&mut self, client: u64, verb: &'static str, pools: &[PoolId], more: &str) {
        let (name, pools) = (self.clients.name(client), self.pools.list(pools));
        self.emit_request(verb, format!("{name} asks to {verb} {pools}{more}"));
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
        self.emit_ask(client, "cancel", &pools, "");
        for (pool, ticket) in self.clients.tickets.issue(Some(client), false, &pools) {
            self.engine.request_with(ticket, Request::Cancel(pool));
        }
    }

    /// A pool stopped by its operator stays stopped until its operator starts it.
    pub(crate) fn stop_pools(&mut self, client: u64, pools: Vec<String>, now: bool) {
        let Some(pools) = self.select_named(client, pools) else {
            return;
        };
        self.emit_ask(client, "stop", &pools, if now { " at once" } else { "" });
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
        self.emit_ask(client, "start", &pools, "");
        let waiting = self.clients.tickets.open(
            Some(client).filter(|_| wait != Wait::No),
            wait == Wait::Drained,
        );
        let asker = self.clients.asker(client, "start");
        for pool in &pools {
            self.start_pool(waiting, *pool, &asker);
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

    fn start_pool(&mut self, wait: WaitId, pool: PoolId, asker: &Asker) {
        let start = self.lookup().start_of(pool);
        self.pools.set_stopped_by_operator(pool, false);
        match start {
            Start::RunAgain => {
                self.pools.ask_for(pool, asker);
                let ticket = self.clients.tickets.join(wait, pool);
                self.engine.request_with(ticket, Request::Roll(pool));
            }
            Start::Nothing(text) => self.clients.tickets.note(wait, ExitCode::DONE, text),
            Start::Workers { resolve } => {
                if let Some(own) = resolve {
                    let specs = &mut self.workers.spawn_specs;
                    specs.retain_generations(pool, |generation| generation != own);
                }
                if let Some(policy) = self.pools.policy(pool) {
                    let ticket = self.clients.tickets.join(wait, pool);
                    self.engine.request(Request::EnsurePool(pool, policy));
                    // Also fills slots that had come to their end.
                    self.engine.request_with(ticket, Request::Start(pool));
                }
            }
        }
    }

    /// Scales all of the pools, or none of them.
    pub(crate) fn scale(&mut self, client: u64, name: &str, to: ScaleTo) {
        let Some(pools) = self.find_pools(client, name) else {
            return;
        };
        let mut scaled = Vec::new();
        for pool in &pools {
            match self.lookup().scaled_to(*pool, to) {
                Ok((from, count)) => {
                    scaled.push((*pool, self.pools.scaled(*pool), from, count));
                    // The room that it takes counts for those that follow.
                    self.pools.scale(*pool, Some(count));
                }
                Err(why) => {
                    for (pool, before, ..) in scaled {
                        self.pools.scale(pool, before);
                    }
                    let wanted = self.pools.policy(*pool).map_or(0, |policy| policy.count);
                    let name = self.pools.name(*pool);
                    let message = format!(
                        "{name}: {why}\nnothing was changed: it stays at {}",
                        workers(wanted)
                    );
                    return self.done(client, ExitCode::FAILED, message);
                }
            }
        }
        for (pool, _, from, count) in &scaled {
            let text = format!(
                "{} asks to scale: {from} → {count}",
                self.clients.name(client)
            );
            self.emit(
                EventBuilder::new(EventKind::Scaled, text)
                    .pool(*pool)
                    .cause(if count < from { "down" } else { "up" }),
            );
        }
        let tickets = self.clients.tickets.issue(Some(client), false, &pools);
        for ((pool, ticket), (.., count)) in tickets.into_iter().zip(scaled) {
            self.engine
                .request_with(ticket, Request::Scale(pool, count));
        }
    }

    /// Signals go to ready workers only: before that, a worker has no handler yet and would die.
    pub(crate) fn send_signal(&mut self, client: u64, name: &str, slot: Option<u32>, signal: i32) {
        let Some(pools) = self.find_pools(client, name) else {
            return;
        };
        if !(1..=nix::libc::SIGRTMAX()).contains(&signal) {
            return self.done(
                client,
                ExitCode::FAILED,
                format!("there is no signal {signal}"),
            );
        }
        let sent: Vec<(ExitCode, String)> = pools
            .into_iter()
            .map(|pool| self.signal_pool(client, pool, slot, signal))
            .collect();
        let code = sent
            .iter()
            .fold(ExitCode::DONE, |worst, (code, _)| worst.worse(*code));
        let lines: Vec<String> = sent.into_iter().map(|(_, line)| line).collect();
        self.done(client, code, lines.join("\n"));
    }

    fn signal_pool(
        &mut self,
        client: u64,
        pool: PoolId,
        slot: Option<u32>,
        signal: i32,
    ) -> (ExitCode, String) {
        let name = self.pools.name(pool);
        let target = slot.map_or_else(|| name.to_owned(), |slot| format!("{name}/{slot}"));
        let view = self.engine.view();
        let members = view.workers().filter(|worker| worker.pool == pool);
        let targets = match signal_targets(members.map(|of| (of.id, of.slot, of.state)), slot) {
            Ok(targets) => targets,
            Err(why) => {
                return (
                    ExitCode::FAILED,
                    format!("{target}: {why}; nothing was sent"),
                );
            }
        };
        let text = format!("SIG{}", crate::event_loop::signals::name(signal));
        let (pids, failed) = self.workers.processes.signal_all(&targets, signal);
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
            let sent = format!("{target}: {text} sent to {}", pids.join(", "));
            return (ExitCode::DONE, sent);
        }
        let failed = failed.join(", ");
        (
            ExitCode::FAILED,
            format!("{target}: {text} not sent to all: {failed}"),
        )
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
            "its `ports` are {have}: too few for {} with a surge of {surge}",
            workers(count)
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
