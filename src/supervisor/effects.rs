//! Effects: executes the engine's commands on the operating system, one match arm each. Nothing here waits.

use super::Supervisor;
use super::action::Action;
use super::bug::bug;
use super::clients::launch::StartAction;
use super::clients::tickets::Owner;
use super::health::ports::PortRequest;
use rotad_core::{
    Command, Generation, Input, Outcome, PoolId, Signal, Slot, Ticket, Time, WorkerId,
};

impl Supervisor {
    /// Gives the engine what is queued, executes its commands, and lets the reload act on what has happened, until
    /// nothing is left to do. The loop calls it after each event, report and timer; nothing that it calls calls it.
    pub(super) fn settle(&mut self) {
        loop {
            self.settle_inputs();
            let Some(actions) = self.reload.state.next_actions(self.clock.now()) else {
                return;
            };
            for action in actions {
                self.execute_reload(action);
            }
        }
    }

    /// All commands of one call of the engine are executed before the next call.
    fn settle_inputs(&mut self) {
        let mut worker_gone = false;
        while let Some((at, input)) = self.next_input() {
            worker_gone |= matches!(input, Input::TreeGone(_) | Input::SpawnFailed(_));
            let gone = if let Input::TreeGone(worker) = input {
                Some(worker)
            } else {
                None
            };
            if input == Input::TimerFired {
                let starting = self.engine.view().starting_count();
                self.health.boot_samples.before_deadline(starting);
            }
            let (commands, notices) = self.engine.handle(at, input).split();
            // Capacity first; what a notice says is read from the tables before the rest of the commands changes them.
            self.output_begins();
            let (first, then) = in_order(commands);
            let sent: Vec<(WorkerId, Signal)> = first.iter().filter_map(signal_of).collect();
            for command in first {
                self.execute(command);
                self.prepare_spawns();
                self.step_done();
            }
            if !notices.is_empty() {
                self.report_all(notices);
                self.step_done();
            }
            for command in then {
                self.execute(command);
                self.step_done();
            }
            for (worker, signal) in sent {
                let action = self.workers.report_signal(worker, signal);
                self.perform(action);
            }
            if let Some(worker) = gone {
                self.workers.forget_label(worker);
            }
        }
        self.forget_pools();
        if worker_gone {
            self.on_worker_gone();
        }
        if self.listening.may_be_unused {
            self.listening.may_be_unused = false;
            self.close_unused();
        }
    }

    /// The next input of the engine: what it follows from is saved before, and told after that.
    fn next_input(&mut self) -> Option<(Time, Input)> {
        self.prepare_spawns();
        self.save();
        self.tell_events();
        self.compact(false);
        self.engine.pop(self.clock.now())
    }

    /// Prepares spawns that wait, as many as the spawner has room for; it gets them with the next [`Supervisor::save`].
    fn prepare_spawns(&mut self) {
        let context = self.event_loop.context(&self.log, &self.clock);
        let actions = self.workers.prepare_next(&context, &self.listening);
        self.perform(actions);
    }

    pub(super) fn execute(&mut self, command: Command) {
        match command {
            Command::Spawn {
                worker,
                pool,
                slot,
                generation,
            } => self.spawn(worker, pool, slot, generation),
            Command::Signal(worker, signal) => {
                self.workers.processes.signal(worker, signal);
                self.cancel_port_wait(worker);
            }
            Command::Kill(worker) => {
                self.workers.processes.kill(worker);
                self.cancel_port_wait(worker);
            }
            Command::SignalTree(worker, signal) => {
                let context = self.event_loop.context(&self.log, &self.clock);
                let action = self.workers.signal_tree(&context, worker, signal);
                self.perform(action);
                self.cancel_port_wait(worker);
            }
            Command::SignalRemaining(worker, signal) => {
                let context = self.event_loop.context(&self.log, &self.clock);
                let actions = self.workers.signal_remaining(&context, worker, signal);
                self.perform(actions);
            }
            Command::KillTree(worker) => {
                let context = self.event_loop.context(&self.log, &self.clock);
                let actions = self.workers.kill_tree(&context, worker);
                self.perform(actions);
            }
            Command::Reply(ticket, pool, outcome) => self.reply(ticket, pool, &outcome),
            Command::BeginGeneration { pool, generation } => {
                self.pools.reverted.remove(&pool);
                self.pools
                    .begin_generation(pool, generation, self.clock.now());
            }
            Command::RevertConfig(pool) => self.revert_spec(pool),
            Command::EndGeneration { pool, to_older } => {
                if !to_older {
                    self.workers.spawn_specs.hold_to(pool, None);
                }
                self.forget_generations(pool);
            }
            Command::StartHealth(worker) => self.on_serving(worker),
            Command::StopHealth(worker) => {
                let actions = self.health.stop(worker, self.clock.now());
                self.perform(actions);
            }
            Command::GiveUp { pool, cause } => self.give_up(pool, cause),
            Command::Exit { lost } => self.begin_shutdown(&lost),
        }
    }

    /// The engine's reply to one request goes to who has asked.
    fn reply(&mut self, ticket: Ticket, pool: PoolId, outcome: &Outcome) {
        match self.clients.tickets.take(ticket) {
            Some(Owner::Wait(wait)) => {
                let (code, text) = self.describer().outcome(pool, outcome);
                self.clients
                    .settle(wait, code, text, &self.event_loop.poller);
            }
            // Said when the master exits.
            Some(Owner::Start) if self.shutdown.stopping => {}
            Some(Owner::Start) => {
                let up_line = |how| self.up_line(pool, how);
                let how = self.describer().start(pool, outcome, up_line);
                match self.clients.start_watch.started(pool, how) {
                    StartAction::Nothing => {}
                    StartAction::StopAll => self.stop_failed_start(),
                }
            }
            Some(Owner::Oneshot) => self.oneshot_replied(pool, outcome),
            Some(Owner::Recycling(worker)) => {
                let process = self.workers.processes.get(worker);
                let delay = process.map(|process| process.spec.plan.policy.restart.delay);
                let (delay, now) = (delay.unwrap_or_default(), self.clock.now());
                let actions = self.health.on_replace_reply(worker, outcome, delay, now);
                self.perform(actions);
            }
            None => bug!("a reply to ticket {ticket}, which is not known"),
        }
    }

    /// The worker is ready: nothing has to look for that any more, and what it may have done to its sockets is undone.
    fn on_serving(&mut self, worker: WorkerId) {
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        let (pid, now) = (process.pid(), self.clock.now());
        let mut actions = pid.map_or_else(Vec::new, |pid| {
            self.health.on_ready(worker, pid, &process.spec.plan, now)
        });
        let (listeners, poller) = (&process.spec.listeners, &self.event_loop.poller);
        actions.extend(self.listening.restore(listeners, now, poller));
        self.perform(actions);
    }

    fn spawn(&mut self, worker: WorkerId, pool: PoolId, slot: Slot, generation: Generation) {
        // To ask for the spec changes nothing, unless the generation begins with this spawn.
        let known = self.pools.spec_of(pool, generation).cloned();
        let Some(spec) = known.or_else(|| {
            self.pools
                .spec_for_spawn(pool, generation, self.clock.now())
        }) else {
            return bug!("the engine spawns for pool {pool}, which it was not given");
        };
        self.workers.add(worker, (pool, slot), generation, spec);
        self.request_spawn(worker);
    }

    /// Has a worker spawned, once it has a port if its pool has ports.
    pub(super) fn request_spawn(&mut self, worker: WorkerId) {
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        let (pool, plan) = (process.pool, &process.spec.plan);
        let (ports, ready_timeout) = (plan.ports, plan.policy.ready_timeout);
        let Some(ports) = ports else {
            return self.perform([Action::Spawn { worker, port: None }]);
        };
        let request = PortRequest {
            worker,
            pool,
            ports,
            ready_timeout,
        };
        // Without a port the spawn waits.
        if let Some(port) = self.health.ports.assign(request, self.clock.now()) {
            let port = Some(port);
            self.perform([Action::Spawn { worker, port }]);
        }
    }

    /// A worker is asked to stop.
    fn cancel_port_wait(&mut self, worker: WorkerId) {
        let actions = self.health.ports.cancel(worker);
        self.perform(actions);
    }
}

/// The commands of one output in the order in which they are executed: those before its notices are reported, and the
/// others.
pub(super) fn in_order(commands: Vec<Command>) -> (Vec<Command>, Vec<Command>) {
    commands.into_iter().partition(goes_first)
}

/// Spawns and signals, and the specification that a spawn is made from, do not wait for anything else.
fn goes_first(command: &Command) -> bool {
    match command {
        Command::BeginGeneration { .. }
        | Command::RevertConfig(_)
        | Command::Spawn { .. }
        | Command::Signal(..)
        | Command::SignalTree(..)
        | Command::Kill(_) => true,
        Command::SignalRemaining(..)
        | Command::KillTree(_)
        | Command::Reply(..)
        | Command::EndGeneration { .. }
        | Command::StartHealth(_)
        | Command::StopHealth(_)
        | Command::GiveUp { .. }
        | Command::Exit { .. } => false,
    }
}

/// The signal that a command sends, and to which worker.
fn signal_of(command: &Command) -> Option<(WorkerId, Signal)> {
    match command {
        Command::Signal(worker, signal) => Some((*worker, *signal)),
        Command::Kill(worker) => Some((*worker, Signal::KILL)),
        _ => None,
    }
}
