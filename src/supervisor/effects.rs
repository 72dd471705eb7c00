//! Orders, carried out: one arm each. Nothing here waits for anything.

use super::Supervisor;
use super::process_table::{ProcessStage, WorkerProcess};
use super::spawn_spec::Birth;
use crate::log::WorkerOutput;
use crate::notify_socket::NotifySocket;
use crate::process::cgroup::Cgroup;
use rotad_core::{Command, Generation, Input, PoolId, Signal, Slot, WorkerId};
use std::io;
use std::os::fd::AsFd;

impl Supervisor {
    /// Gives the core one fact, and carries out what follows, and what follows from that.
    pub(super) fn input(&mut self, event: Input) {
        self.inputs.push_back(event);
        self.drain_inputs();
    }

    /// Carries out facts that were noted in passing. One step's orders are all carried out before the next step.
    pub(super) fn drain_inputs(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        let mut buried = false;
        while let Some(event) = self.inputs.pop_front() {
            buried |= matches!(event, Input::TreeGone(_) | Input::SpawnFailed(_));
            let gone = if let Input::TreeGone(worker) = event { Some(worker) } else { None };
            let now = self.clock.now().max(self.last_step);
            self.last_step = now;
            if let Input::TimeoutExtended(worker, by) = &event
                && let Some(body) = self.processes.get(*worker)
            {
                self.start_watch.extended(body.pool, now + *by);
            }
            if event == Input::TimerFired {
                self.health.starts.before = self.engine.view().pools().map(|(_, pool)| pool.starting as usize).sum();
            }
            // What brings a worker back or ends one goes first: lines and sweeps can wait, capacity cannot.
            let acts = |order: &Command| {
                matches!(
                    order,
                    Command::Spawn { .. } | Command::Signal(..) | Command::SignalTree(..) | Command::Kill(_)
                )
            };
            let orders = self.engine.handle(now, event);
            self.prepare_generations(&orders);
            let (first, then): (Vec<Command>, Vec<Command>) = orders.into_iter().partition(acts);
            let sent: Vec<(WorkerId, Signal)> = first.iter().filter_map(sent).collect();
            for order in first.into_iter().chain(then) {
                self.execute(order);
            }
            for (worker, signal) in sent {
                self.note_sent(worker, signal);
            }
            if let Some(worker) = gone {
                self.gone.remove(&worker);
            }
        }
        self.draining = false;
        self.forget_pools();
        if buried {
            self.buried();
        }
        if self.reloads.stirred {
            self.continue_oneshots();
        }
    }

    fn execute(&mut self, order: Command) {
        match order {
            Command::Spawn { worker, pool, slot, generation } => self.spawn(worker, pool, slot, generation),
            Command::Signal(worker, signal) => {
                self.processes.signal(worker, signal);
                self.leaves_unborn(worker);
            }
            Command::Kill(worker) => {
                self.processes.kill(worker);
                self.leaves_unborn(worker);
            }
            Command::SignalTree(worker, signal) => {
                self.signal_tree(worker, signal);
                self.leaves_unborn(worker);
            }
            Command::SignalRemaining(worker, signal) => self.outlive(worker, signal),
            Command::KillTree(worker) => {
                let cut = self.processes.no_more_patience(worker);
                if let Some(body) = self.processes.get_mut(worker) {
                    body.named = cut;
                    body.passed = None;
                }
                self.sweep(worker);
            }
            Command::Reply(ticket, pool, outcome) => self.reply(ticket, pool, &outcome),
            Command::Notice(notice) => self.recorded(notice),
            Command::Exit { lost } => self.leave(&lost),
        }
    }

    fn spawn(&mut self, worker: WorkerId, pool: PoolId, slot: Slot, generation: Generation) {
        // The core orders workers of pools that it was given alone.
        let Some(pattern) = self.pools.pattern(pool, generation) else { return };
        self.start_watch.begun(pool, slot, self.clock.now());
        let tag = self.worker_tag(worker);
        let body = WorkerProcess {
            pool,
            slot,
            generation,
            pattern,
            tag,
            stage: ProcessStage::Unborn(Vec::new()),
            exec_status: None,
            notify: None,
            output: None,
            cgroup: None,
            family: None,
            says: None,
            exit: None,
            error: None,
            ready: false,
            port: None,
            unwell: None,
            outlived: None,
            passed: None,
            named: false,
            ended_for: None,
            ended_in_vain: false,
        };
        self.processes.add(worker, body);
        if self.gets_port(worker) {
            self.give_birth(worker);
        }
    }

    /// Hands the order to the spawner.
    pub(super) fn give_birth(&mut self, worker: WorkerId) {
        if let Err(error) = self.prepare(worker) {
            if let Some(body) = self.processes.get_mut(worker) {
                body.error = Some(format!("preparing it: {error}"));
            }
            self.not_born(worker);
        }
    }

    fn prepare(&mut self, worker: WorkerId) -> io::Result<()> {
        let Some(body) = self.processes.get(worker) else { return Ok(()) };
        let (pool, slot, generation, pattern) = (body.pool, body.slot, body.generation, body.pattern.clone());
        let plan = &pattern.plan;
        let owner = plan.recipe.account.as_ref().map(|account| account.uid);
        let notify = NotifySocket::open(&self.notify_dir, worker, owner)?;
        let (output, (stdout, stderr)) = WorkerOutput::open(&plan.name, slot.0, &plan.log, owner, &self.null)?;
        self.log.adopt(&output);
        let value = notify.env_value();
        let pid = output.pid();
        let Some(body) = self.processes.get_mut(worker) else { return Ok(()) };
        body.notify = Some(notify);
        body.output = Some(output);
        body.cgroup = self.cgroups.make(worker);
        let cgroup = body.cgroup.as_ref().map(Cgroup::procs);
        let (tag, port, notify) = (&body.tag, body.port, Some(value));
        let birth = Birth { worker, pool, slot, generation, tag, port, notify, stdout, stderr, cgroup, pid };
        let order = self.spawn_specs.order(&pattern, &self.listening.of(&pattern.listeners), &birth);
        self.spawner.request(order);
        Ok(())
    }

    /// The last of a worker: its entry in the process table, its socket, its line in the journal.
    pub(super) fn bury(&mut self, body: WorkerProcess) {
        if let Some(notify) = &body.notify {
            self.poller.unwatch(notify.as_fd());
        }
        if let Some(output) = &body.output {
            self.log.ended(output);
        }
        if let ProcessStage::Alive(process) = body.stage {
            if let Some(pidfd) = process.pidfd()
                && body.exit.is_none()
            {
                self.poller.unwatch(pidfd);
            }
            self.journal_gone(process.pid());
            self.processes.reap(process);
        }
    }
}

/// What an order sends to a worker.
fn sent(order: &Command) -> Option<(WorkerId, Signal)> {
    match order {
        Command::Signal(worker, signal) => Some((*worker, *signal)),
        Command::Kill(worker) => Some((*worker, Signal::KILL)),
        _ => None,
    }
}
