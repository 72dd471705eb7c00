//! Orders, carried out: one arm each. Nothing here waits for anything.

use super::Keeper;
use super::recipes::Birth;
use super::roster::{Body, Stage};
use crate::os::cgroup::Cgroup;
use crate::os::notify::NotifySocket;
use crate::os::pen::{Stream, Worker};
use crate::plan::{LogPlan, Sink};
use rotad_core::{Event, Generation, Order, PoolId, Slot, WorkerId};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

impl Keeper {
    /// Gives the core one fact, and carries out what follows, and what follows from that.
    pub(super) fn fact(&mut self, event: Event) {
        self.facts.push_back(event);
        self.drain_facts();
    }

    /// Carries out facts that were noted in passing. One step's orders are all carried out before the next step.
    pub(super) fn drain_facts(&mut self) {
        if std::mem::replace(&mut self.busy, true) {
            return;
        }
        let mut buried = false;
        while let Some(event) = self.facts.pop_front() {
            buried |= matches!(event, Event::Swept(_) | Event::SpawnFailed(_));
            let now = self.clock.now().max(self.told);
            self.told = now;
            // What brings a worker back or ends one goes first: lines and sweeps can wait, capacity cannot.
            let acts = |order: &Order| matches!(order, Order::Spawn { .. } | Order::Signal(..) | Order::Kill(_));
            let orders = self.core.step(now, event);
            self.foresee(&orders);
            let (first, then): (Vec<Order>, Vec<Order>) = orders.into_iter().partition(acts);
            for order in first.into_iter().chain(then) {
                self.carry_out(order);
            }
        }
        self.busy = false;
        self.forget_pools();
        if buried {
            self.buried();
        }
        if self.applying.stirred {
            self.go_on_stepping();
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Spawn { worker, pool, slot, generation } => self.spawn(worker, pool, slot, generation),
            Order::Signal(worker, signal) => self.roster.signal(worker, signal),
            Order::Kill(worker) => self.roster.kill(worker),
            Order::Sweep(worker) => self.sweep(worker),
            Order::Reply(ticket, pool, outcome) => self.reply(ticket, pool, &outcome),
            Order::Record(record) => self.recorded(record),
            Order::Leave { lost } => self.leave(&lost),
        }
    }

    fn spawn(&mut self, worker: WorkerId, pool: PoolId, slot: Slot, generation: Generation) {
        // The core orders workers of pools that it was given alone.
        let Some(pattern) = self.posts.pattern(pool, generation) else { return };
        self.launch.begun(pool);
        let tag = format!("{}-{}", self.tag, worker);
        let body = Body {
            pool,
            slot,
            generation,
            pattern,
            tag,
            stage: Stage::Unborn(Vec::new()),
            verdict: None,
            notify: None,
            stream: None,
            cgroup: None,
            family: None,
            says: None,
            exit: None,
            error: None,
            ready: false,
        };
        self.roster.add(worker, body);
        if let Err(error) = self.prepare(worker, pool, slot, generation) {
            if let Some(body) = self.roster.get_mut(worker) {
                body.error = Some(format!("preparing it: {error}"));
            }
            self.not_born(worker);
        }
    }

    fn prepare(&mut self, worker: WorkerId, pool: PoolId, slot: Slot, generation: Generation) -> io::Result<()> {
        let Some(pattern) = self.roster.get(worker).map(|body| body.pattern.clone()) else { return Ok(()) };
        let plan = &pattern.plan;
        let owner = plan.recipe.account.as_ref().map(|account| account.uid);
        let notify = NotifySocket::open(&self.notify_dir, worker, owner)?;
        let label = Worker { pool: plan.name.clone(), slot: slot.0 };
        let (stream, stdout, stderr) = outputs(&plan.log, label, owner, &self.null)?;
        let value = notify.env_value();
        let Some(body) = self.roster.get_mut(worker) else { return Ok(()) };
        body.notify = Some(notify);
        body.stream = stream.clone();
        body.cgroup = self.fence.make(worker);
        let cgroup = body.cgroup.as_ref().map(Cgroup::procs);
        let birth =
            Birth { worker, pool, slot, generation, tag: &body.tag, notify: Some(value), stdout, stderr, cgroup };
        let order = self.recipes.order(&pattern, &self.listening.of(&pattern.listeners), &birth);
        self.spawner.order(order);
        if let Some(stream) = stream {
            self.pen.adopt(stream);
        }
        Ok(())
    }

    /// Kills what is left of a worker's tree; once nothing is, reaps it and tells the core.
    pub(super) fn sweep(&mut self, id: WorkerId) {
        let Some(body) = self.roster.get(id) else { return };
        let pid = body.pid();
        let Some(result) = self.roster.sweep(id) else { return self.swept(id) };
        if !result.killed.is_empty() {
            tracing::info!(pid, "swept {} processes that the worker left behind", result.killed.len());
        }
        if result.left == 0 {
            self.swept(id);
        } else {
            self.roster.sweep_later(id);
        }
    }

    fn swept(&mut self, id: WorkerId) {
        if let Some(body) = self.roster.remove(id) {
            self.bury(&body);
        }
        self.facts.push_back(Event::Swept(id));
    }

    /// The last of a worker: its entry in the process table, its socket, its line in the journal.
    pub(super) fn bury(&mut self, body: &Body) {
        if let Some(process) = body.process() {
            if let Some(pidfd) = process.pidfd()
                && body.exit.is_none()
            {
                self.reactor.unwatch(pidfd);
            }
            process.reap().ok();
            self.roster.reaped(process.pid());
            self.journal_gone(process.pid());
        }
        if let Some(notify) = &body.notify {
            self.reactor.unwatch(notify.as_fd());
        }
    }
}

/// The worker's stdout and stderr, and our end of the pipe if one of them goes to the master's log.
type Outputs = (Option<Arc<Stream>>, Arc<OwnedFd>, Arc<OwnedFd>);

fn outputs(log: &LogPlan, label: Worker, owner: Option<u32>, null: &Arc<OwnedFd>) -> io::Result<Outputs> {
    let mut stream = None;
    let mut end = |sink: &Sink, inherited: BorrowedFd<'_>| -> io::Result<Arc<OwnedFd>> {
        match sink {
            Sink::Null | Sink::Stdout => Ok(null.clone()),
            Sink::Inherit => Ok(Arc::new(inherited.try_clone_to_owned()?)),
            Sink::File(_) => Err(io::Error::other("not supported yet: a log file of a pool")),
            Sink::Master => {
                if stream.is_none() {
                    let (ours, theirs) = Stream::open(label.clone(), owner)?;
                    stream = Some((Arc::new(ours), Arc::new(theirs)));
                }
                Ok(stream.as_ref().map_or_else(|| null.clone(), |(_, theirs)| theirs.clone()))
            }
        }
    };
    let out = end(&log.stdout, io::stdout().as_fd())?;
    let err = match &log.stderr {
        Sink::Stdout => out.clone(),
        other => end(other, io::stderr().as_fd())?,
    };
    Ok((stream.map(|(ours, _)| ours), out, err))
}
