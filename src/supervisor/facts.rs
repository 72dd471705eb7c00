//! What comes in, as facts: births, messages, readiness, exits, signals, hang-ups of listeners.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::exit_report::last_exit;
use super::process_table::{DeferredSignal, ProcessStage, WorkerProcess};
use super::tickets::WaitId;
use crate::event_loop::poller::{Interest, Source};
use crate::log::LogWriter;
use crate::notify_socket::Message;
use crate::observe::events::EventKind;
use crate::observe::harmless::harmless;
use crate::plan::Ready;
use crate::probe::accept::AcceptReport;
use crate::process::procfs;
use crate::process::tree::ProcessTree;
use crate::process::{self, Resolved, SpawnResult, SpawnedChild};
use rotad_core::{Exit, Input, PoolId, Request, Span, WorkerId, WorkerState};
use std::os::fd::AsFd;
use std::time::Instant;

/// Messages that are read from one worker before others have their turn.
const MESSAGES_A_TURN: usize = 100;

impl Supervisor {
    pub(super) fn on_spawn_results(&mut self) {
        while let Ok(report) = self.spawner.reports().try_recv() {
            match report {
                SpawnResult::Started { worker, child } => {
                    self.alive(worker, child);
                    self.runs(worker);
                }
                SpawnResult::ExecPending { worker, child, exec_status } => {
                    self.alive(worker, child);
                    if let Some(body) = self.processes.get_mut(worker)
                        && self.poller.watch(&exec_status, Source::ExecStatus(worker), Interest::Read).is_ok()
                    {
                        body.exec_status = Some(exec_status);
                    }
                }
                SpawnResult::Failed { worker, error, pinned, repinned } => {
                    self.without_program(worker);
                    self.pinned(worker, pinned, repinned);
                    if let Some(body) = self.processes.get_mut(worker) {
                        body.error = Some(error.to_string());
                    }
                    self.not_born(worker);
                }
            }
        }
    }

    fn pinned(&mut self, worker: WorkerId, resolved: Option<Resolved>, repinned: bool) {
        let (Some(body), Some(resolved)) = (self.processes.get(worker), resolved) else { return };
        let (pool, generation) = (body.pool, body.generation);
        if repinned {
            let text = format!(
                "the folder or program that it was pinned to is gone: resolved anew: {} in {}",
                resolved.program.display(),
                resolved.directory.display()
            );
            self.emit(EventBuilder::new(EventKind::PathsResolvedAgain, text).pool(pool).generation(generation).warn());
        }
        let base = self.engine.view().pool(pool).map(|view| view.fill_generation);
        let same = base.is_some_and(|base| base != generation && self.same_files(pool, base, generation));
        self.input(Input::Pinned { pool, generation, same });
    }

    /// The program is not there any more, in the folder that serves: that is a folder changed in place, too.
    fn without_program(&mut self, worker: WorkerId) {
        let Some(body) = self.processes.get(worker) else { return };
        let (pool, generation) = (body.pool, body.generation);
        let Some(base) =
            self.engine.view().pool(pool).map(|view| view.fill_generation).filter(|base| *base != generation)
        else {
            return;
        };
        let patterns = self.pools.made_from(pool, base).zip(self.pools.made_from(pool, generation));
        let alike = patterns.is_some_and(|(one, other)| one.is_alike(other));
        let folders = self.spawn_specs.resolved(pool, base).zip(self.spawn_specs.folder(pool, generation));
        if alike && folders.is_some_and(|(found, folder)| found.directory == folder) {
            self.input(Input::Pinned { pool, generation, same: true });
        }
    }

    fn alive(&mut self, worker: WorkerId, born: SpawnedChild) {
        let SpawnedChild { process, start_time, pinned, repinned } = born;
        self.pinned(worker, pinned, repinned);
        let pid = process.pid();
        match process.pidfd().map(|fd| self.poller.watch(fd, Source::Exit(worker), Interest::Read)) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!(pid, "cannot watch the worker: {error}");
                self.processes.without_pidfds = true;
            }
            None => self.processes.without_pidfds = true,
        }
        let Some(body) = self.processes.get_mut(worker) else { return };
        // Only now: what it said before waits in the socket until we know who speaks.
        if let Some(notify) = &body.notify
            && let Err(error) = self.poller.watch(notify.as_fd(), Source::Notify(worker), Interest::Read)
        {
            tracing::error!(pid, "cannot listen to the worker: {error}");
        }
        body.family = Some(ProcessTree { leader: pid, cgroup: body.cgroup.take() });
        let before = std::mem::replace(&mut body.stage, ProcessStage::Alive(process));
        self.emit(EventBuilder::new(EventKind::Spawn, format!("started as pid {pid}")).worker(worker).debug());
        self.journal_born(worker, start_time);
        self.processes.born(pid);
        let ProcessStage::Unborn(asked) = before else { return };
        for asked in asked {
            match asked {
                DeferredSignal::Signal(signal) => self.processes.signal(worker, signal),
                DeferredSignal::Kill => self.processes.kill(worker),
            }
        }
    }

    /// Exec has succeeded: the program runs.
    fn runs(&mut self, worker: WorkerId) {
        let Some(body) = self.processes.get(worker) else { return };
        let pid = body.pid();
        self.cgroups.prove(body);
        let plan = &body.pattern.plan;
        let looks =
            matches!(plan.ready, Ready::Accepting) || (plan.ready == Ready::Auto && !plan.recipe.listen.is_empty());
        if let (true, Some(pid)) = (looks, pid) {
            let targets = self.listening.of(&body.pattern.listeners).iter().map(|listener| listener.target()).collect();
            self.accept_probe.watch(worker, pid, targets);
            self.watched.insert(worker);
        }
        self.input(Input::Started(worker));
        self.care_begins(worker);
    }

    /// The scout need not look any more. It is not told about workers that it never looked at: that would wake it.
    pub(super) fn look_away(&mut self, worker: WorkerId) {
        if self.watched.remove(&worker) {
            self.accept_probe.forget(worker);
        }
    }

    pub(super) fn on_exec_status(&mut self, worker: WorkerId) {
        let Some(body) = self.processes.get_mut(worker) else { return };
        let Some(pipe) = &body.exec_status else { return };
        let heard = match process::exec_status(pipe) {
            Ok(None) => return,
            Ok(Some(heard)) => heard.map_err(|error| error.to_string()),
            Err(error) => Err(format!("the shim's word is lost: {error}")),
        };
        if let Some(pipe) = body.exec_status.take() {
            self.poller.unwatch(&pipe);
        }
        match heard {
            Ok(()) => self.runs(worker),
            // Its exit follows; then it is buried.
            Err(error) => body.error = Some(error),
        }
    }

    /// No program came of the order; what there was of a process is gone.
    pub(super) fn not_born(&mut self, worker: WorkerId) {
        let Some(mut body) = self.processes.remove(worker) else { return };
        let log = last_words(&self.log, &body);
        let exit = last_exit(None, body.error.take(), 0.0, log);
        self.exit_reports.add(worker, body.obituary(exit, false));
        self.bury(body);
        self.port_freed(worker);
        self.look_away(worker);
        self.inputs.push_back(Input::SpawnFailed(worker));
        self.drain_inputs();
    }

    pub(super) fn on_notify_messages(&mut self, worker: WorkerId) {
        let Some(body) = self.processes.get_mut(worker) else { return };
        let Some(notify) = &body.notify else { return };
        let plan = &body.pattern.plan;
        // With listeners, READY=1 is neither needed nor enough: servers say it before they accept.
        let counts = match plan.ready {
            Ready::Notify => true,
            Ready::Auto => plan.recipe.listen.is_empty() || self.blind.contains(&worker),
            Ready::Accepting | Ready::Spawned | Ready::After(_) | Ready::Probe(_) => false,
        };
        let (mut facts, mut watchdog) = (Vec::new(), Vec::new());
        for message in notify.drain(MESSAGES_A_TURN) {
            if message.watchdog || message.trigger || message.watchdog_interval.is_some() {
                watchdog.push(message.clone());
            }
            let Message { ready, extend, status, stopping, .. } = message;
            if let Some(status) = status {
                body.says = Some(harmless(status));
            }
            if let Some(by) = extend {
                facts.push(Input::TimeoutExtended(worker, Span::from_millis(by.as_millis() as u64)));
            }
            if ready {
                body.ready = true;
                if counts {
                    facts.push(Input::Ready(worker));
                }
            }
            if stopping {
                tracing::debug!(pid = body.pid(), "says that it is stopping");
            }
        }
        for fact in facts {
            self.input(fact);
        }
        for message in watchdog {
            self.watchdog_heard(worker, &message);
        }
    }

    pub(super) fn on_accept_reports(&mut self) {
        self.accept_probe.resume();
        while let Ok(report) = self.accept_probe.reports().try_recv() {
            match report {
                AcceptReport::Accepting(worker) => self.input(Input::Ready(worker)),
                AcceptReport::Blind(worker, reason) => self.blind(worker, &reason),
            }
        }
    }

    /// A look that hangs is given up, for the sake of all others.
    pub(super) fn check_accept_probe(&mut self, now: Instant) {
        let Some(worker) = self.accept_probe.check(now) else { return };
        let text = "whether it accepts cannot be seen: looking at it has not come back for 1 s (its memory is locked by a \
                    disk that hangs, or the machine is overloaded); the other workers are looked at meanwhile";
        self.emit(EventBuilder::new(EventKind::ProbeFailed, text).worker(worker).cause("hangs").warn());
    }

    /// /proc may not be read: READY=1, or having lived for a second, has to do.
    fn blind(&mut self, worker: WorkerId, reason: &str) {
        let Some(body) = self.processes.get(worker) else { return };
        let (pool, said_so) = (body.pool, body.ready);
        if body.pattern.plan.ready != Ready::Auto {
            tracing::error!(pool = self.pool_name(pool), "ready = \"accepting\" cannot be seen here: {reason}");
            return;
        }
        if !std::mem::replace(&mut self.blind_told, true) {
            tracing::warn!(
                pool = self.pool_name(pool),
                "cannot see whether workers accept ({reason}): READY=1 makes them ready; without it they are called \
                 alive after 1 s, and nothing says more"
            );
        }
        self.blind.insert(worker);
        if said_so {
            self.input(Input::Ready(worker));
        } else {
            self.alive_for.insert((self.clock.now() + Span::from_secs(1), worker));
        }
    }

    /// Workers that nobody can look into and that have lived for a second.
    pub(super) fn mark_alive(&mut self) {
        let now = self.clock.now();
        while let Some((at, worker)) = self.alive_for.first().copied()
            && at <= now
        {
            self.alive_for.pop_first();
            self.input(Input::AgeReached(worker));
        }
    }

    /// The worker has ended: its pidfd says so, and that counts, whatever waitid(2) lets us see of it.
    pub(super) fn on_exit(&mut self, worker: WorkerId) {
        self.ended(worker, true);
    }

    /// `surely`: the kernel has said that it has ended; else it is looked for.
    fn ended(&mut self, worker: WorkerId, surely: bool) {
        self.on_notify_messages(worker);
        self.on_exec_status(worker);
        let Some(body) = self.processes.get_mut(worker) else { return };
        if body.exit.is_some() {
            return;
        }
        let Some(process) = body.process() else { return };
        let mut unexplained = None;
        let exit = match process.peek_exit() {
            Ok(Some(exit)) => exit,
            Ok(None) if !surely => return,
            // A process that somebody traces (ptrace(2)) is his to wait for, until he lets go.
            Ok(None) => held_by_a_tracer(process.pid()).unwrap_or_else(|why| {
                unexplained = Some(why);
                Exit::Unknown
            }),
            Err(error) => {
                tracing::error!(pid = process.pid(), "cannot learn how the worker ended: {error}");
                Exit::Unknown
            }
        };
        if let Some(pidfd) = process.pidfd() {
            self.poller.unwatch(pidfd);
        }
        if body.error.is_some() {
            return self.not_born(worker);
        }
        body.exit = Some(exit);
        let log = last_words(&self.log, body);
        let view = self.engine.view().worker(worker);
        // What outlives it goes on printing: its lines are not torn.
        if view.as_ref().is_none_or(|view| view.state != WorkerState::Stopping)
            && let Some(output) = &body.output
        {
            self.log.ended(output);
        }
        let lived = view.as_ref().map_or(0.0, |v| (self.clock.now() - v.began).as_secs_f64());
        let served = view.is_some_and(|v| v.ready_in.is_some());
        let why = body.ended_for.clone().or(unexplained);
        let obituary = body.obituary(last_exit(Some(exit), why, lived, log), served);
        self.exit_reports.add(worker, obituary);
        self.look_away(worker);
        self.blind.remove(&worker);
        self.input(Input::Exited(worker, exit));
    }

    /// SIGCHLD: orphans of our workers that have ended, and, without pidfds, workers.
    pub(super) fn children_ended(&mut self) {
        self.reap_orphans();
        if self.processes.without_pidfds {
            let all: Vec<WorkerId> = self.processes.iter().map(|(id, _)| id).collect();
            for worker in all {
                self.ended(worker, false);
            }
        }
        self.processes.reap_late();
        for worker in self.processes.sweeping() {
            self.sweep(worker);
        }
        self.look_at_finishing();
        self.drain_inputs();
    }

    /// A rolling restart of these pools; the answers go to the client, or into the diary.
    pub(super) fn roll(&mut self, client: Option<u64>, drained: bool, pools: &[PoolId]) {
        self.look_after_sockets();
        self.reloading();
        let wait = self.tickets.open(client, drained);
        self.roll_in(wait, pools);
    }

    /// The same for a wait that is open; it is closed here.
    pub(super) fn roll_in(&mut self, wait: WaitId, pools: &[PoolId]) {
        let pools = self.pools.in_order(pools);
        let tickets: Vec<_> = pools.iter().map(|pool| (*pool, self.tickets.join(wait, *pool))).collect();
        self.close_wait(wait);
        for (pool, ticket) in tickets {
            self.input(Input::Requested(ticket, Request::Roll(pool)));
        }
    }
}

/// How a child ended that waitid(2) hides from us, because somebody traces it: its entry in the process table tells,
/// to whoever may trace it. Else why not, for people.
fn held_by_a_tracer(pid: i32) -> Result<Exit, String> {
    let tracer = procfs::tracer(pid);
    match tracer {
        Some(tracer) => tracing::warn!(pid, "has ended, and stays a zombie for as long as pid {tracer} traces it"),
        None => tracing::warn!(pid, "has ended, and the kernel does not let it be reaped yet"),
    }
    procfs::exit_of_zombie(pid).ok_or_else(|| match tracer {
        Some(tracer) => format!("unknown (it is traced by pid {tracer})"),
        None => "unknown (it cannot be reaped)".to_owned(),
    })
}

/// What a worker that has ended said last.
fn last_words(pen: &LogWriter, body: &WorkerProcess) -> Vec<String> {
    let Some(output) = &body.output else { return Vec::new() };
    pen.tail(output)
}
