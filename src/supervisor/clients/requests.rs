//! Requests about pools from clients: stop, start, roll, scale, cancel, signal, replace one worker. `control.rs` calls
//! the handlers; each ends in a reply to the client, at the latest when its wait is settled.

use crate::control::protocol::{ScaleTo, Selector, Wait};
use crate::exit_code::ExitCode;
use crate::observe::events::EventKind;
use crate::plan::Kind;
use crate::supervisor::Supervisor;
use crate::supervisor::clients::outcome_text::NONE_WANTED;
use crate::supervisor::event_log::EventBuilder;
use crate::supervisor::reload::on_change::Continuation;
use rotad_core::{PoolId, Request, Slot, WorkerId, WorkerState};

/// A larger number is taken for a typing error.
const MAX_WORKERS: i64 = 100_000;

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

    fn start_pool(&mut self, wait: crate::supervisor::clients::tickets::WaitId, pool: PoolId) {
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
        let wanted = match to {
            ScaleTo::Exactly(count) => i64::from(count),
            ScaleTo::By(by) => i64::from(from).saturating_add(by),
        };
        let ports = self
            .pools
            .plan(pool)
            .and_then(|plan| plan.ports)
            .map(|ports| ports.count());
        let refused = if self
            .pools
            .plan(pool)
            .is_some_and(|plan| plan.kind == Kind::Oneshot)
        {
            Some("a oneshot is one run: it has no number of workers".to_owned())
        } else if !(0..=MAX_WORKERS).contains(&wanted) {
            Some(format!(
                "{wanted} is not a possible number of workers: 0 to {MAX_WORKERS}"
            ))
        } else if let Some(have) =
            ports.filter(|have| i64::from(*have) < wanted + i64::from(policy.reload.surge))
        {
            let surge = policy.reload.surge;
            Some(format!(
                "its `ports` are {have}, and {wanted} workers with a surge of {surge} need more"
            ))
        } else {
            self.lookup().has_room_to_scale(pool, wanted as u32).err()
        };
        if let Some(why) = refused {
            return self.done(
                client,
                ExitCode::FAILED,
                format!("{name}: {why}\nnothing was changed: {from} workers are wanted"),
            );
        }
        let count = wanted as u32;
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
        let all: Vec<_> = self
            .engine
            .view()
            .workers()
            .filter(|worker| worker.pool == pool)
            .collect();
        let meant: Vec<_> = all
            .iter()
            .filter(|worker| slot.is_none_or(|slot| worker.slot.0 == slot))
            .collect();
        let ready = |state| matches!(state, WorkerState::Ready | WorkerState::Soaking);
        let targets: Vec<WorkerId> = meant
            .iter()
            .filter(|w| ready(w.state))
            .map(|w| w.id)
            .collect();
        let target = slot.map_or_else(|| name.to_owned(), |slot| format!("{name}/{slot}"));
        if targets.is_empty() {
            let why = match (slot, meant.is_empty()) {
                (Some(_), true) => "there is no such worker",
                (Some(_), false) => "is not ready: before that, a signal would end it",
                (None, _) => "no worker is ready",
            };
            return self.done(
                client,
                ExitCode::FAILED,
                format!("{target}: {why}; nothing was sent"),
            );
        }
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
