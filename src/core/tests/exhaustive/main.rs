//! All short histories of inputs to a small pool. The promises hold after each input; then everything works, and the
//! pool must reach its desired run.
//!
//! `ROTAD_DEPTH=n` plays longer histories than the five inputs of a normal run.

#[path = "../sim/checks.rs"]
mod checks;
#[allow(dead_code, reason = "the simulator uses more of it")]
#[path = "../sim/model.rs"]
mod model;
#[path = "../sim/notices.rs"]
mod notices;
#[allow(dead_code, reason = "the simulator uses more of it")]
#[path = "../sim/oracle.rs"]
mod oracle;
#[path = "../sim/requests.rs"]
mod requests;

use oracle::{Checked, Oracle};
use rotad_core::{
    Engine, Exit, Generation, Input, OnFailure, Policy, PoolId, PoolKind, Readiness, Reload,
    Request, Restart, RestartPolicy, Signal, Slot, Span, StopStep, Ticket, Time, To, WorkerId,
};

const POOL: PoolId = PoolId(1);

#[derive(Clone, Copy, Debug)]
enum Action {
    Roll,
    Cancel,
    Scale(u32),
    StopPool,
    Ensure,
    Reconfigure,
    /// Roll back to the first generation.
    RollBack,
    ReplaceWorker(u32),
    Stop,
    StopNow,
    /// The oldest starting worker becomes ready.
    ReadyOldest,
    /// The youngest starting worker becomes ready.
    ReadyYoungest,
    /// The oldest worker that was not asked to stop exits.
    FailsOldest,
    /// The youngest worker that was not asked to stop exits.
    FailsYoungest,
    /// The oldest worker that serves fails its health check.
    UnhealthyOldest,
    /// The youngest worker that serves fails its health check.
    UnhealthyYoungest,
    /// The listening socket of all workers was replaced.
    ReplaceListener,
    /// The oldest worker that was asked to stop is gone with its tree.
    Gone,
    /// The first process of the oldest worker that was asked to stop exits; its tree does not.
    ExitsInStop,
    /// The engine's next deadline is reached.
    Deadline,
}

const ACTIONS: [Action; 14] = [
    Action::Roll,
    Action::Cancel,
    Action::Scale(0),
    Action::Scale(1),
    Action::Scale(3),
    Action::StopPool,
    Action::Ensure,
    Action::Stop,
    Action::StopNow,
    Action::ReadyOldest,
    Action::ReadyYoungest,
    Action::FailsOldest,
    Action::FailsYoungest,
    Action::Gone,
];

/// Further actions; histories with these are shorter by one.
const MORE: [Action; 8] = [
    Action::ExitsInStop,
    Action::Reconfigure,
    Action::RollBack,
    Action::ReplaceWorker(0),
    Action::ReplaceWorker(1),
    Action::UnhealthyOldest,
    Action::UnhealthyYoungest,
    Action::ReplaceListener,
];

#[derive(Clone)]
struct Run {
    engine: Engine,
    oracle: Oracle,
    policy: Policy,
    now: u64,
    tickets: u64,
}

impl Run {
    fn step(&mut self, input: Input) -> Checked {
        let now = Time(self.now);
        self.oracle.before(now, &input);
        for entry in self.engine.handle(now, input.clone()) {
            self.oracle.entry(now, &entry)?;
        }
        self.oracle.after(now, &input, &self.engine)
    }

    fn request(&mut self, request: Request) -> Checked {
        self.tickets += 1;
        let is_stop = matches!(request, Request::Stop { .. } | Request::StopNow);
        let ticket = (!is_stop).then(|| Ticket::new(self.tickets));
        self.step(Input::Requested(ticket, request))
    }

    fn find(&self, youngest: bool, fits: impl Fn(&model::Worker) -> bool) -> Option<WorkerId> {
        let mut found = self
            .oracle
            .model
            .workers
            .iter()
            .filter(|(_, w)| fits(w))
            .map(|(id, _)| WorkerId(*id));
        if youngest {
            found.next_back()
        } else {
            found.next()
        }
    }

    /// Plays one action. `None`: it does not apply, because there is no such worker.
    fn play(&mut self, action: Action) -> Option<Checked> {
        // Time passes, but not beyond a deadline: that is an action of its own.
        self.now = (self.now + 1).min(
            self.engine
                .deadline()
                .map_or(u64::MAX, |at| at.0.max(self.now)),
        );
        let policy = |run: &Self| {
            run.oracle
                .policy(POOL.0)
                .unwrap_or_else(|| run.policy.clone())
        };
        Some(match action {
            Action::Roll => self.request(Request::Roll(POOL)),
            Action::Cancel => self.request(Request::Cancel(POOL)),
            Action::Scale(count) => self.request(Request::Scale(POOL, count)),
            Action::StopPool => self.request(Request::StopPool(POOL)),
            Action::Ensure => {
                let policy = policy(self);
                self.request(Request::EnsurePool(POOL, policy))
            }
            Action::Reconfigure => {
                let policy = policy(self);
                self.request(Request::Reconfigure { pool: POOL, policy })
            }
            Action::RollBack => {
                let policy = policy(self);
                self.request(Request::RollBack {
                    pool: POOL,
                    to: Generation(1),
                    policy,
                })
            }
            Action::ReplaceWorker(slot) => self.request(Request::Replace(POOL, Slot(slot))),
            Action::Stop => self.request(Request::Stop { cap: None }),
            Action::StopNow => self.request(Request::StopNow),
            Action::ReadyOldest | Action::ReadyYoungest => {
                let youngest = matches!(action, Action::ReadyYoungest);
                let worker = self.find(youngest, |w| w.stays() && w.ready.is_none())?;
                self.step(Input::Ready(worker))
            }
            Action::FailsOldest | Action::FailsYoungest => {
                let worker = self.find(
                    matches!(action, Action::FailsYoungest),
                    model::Worker::stays,
                )?;
                self.end(worker, Exit::Code(1))
            }
            Action::UnhealthyOldest | Action::UnhealthyYoungest => {
                let worker = self.find(
                    matches!(action, Action::UnhealthyYoungest),
                    model::Worker::serves,
                )?;
                self.step(Input::Unhealthy(worker))
            }
            Action::ReplaceListener => {
                let known = self.oracle.model.workers.iter().filter(|(_, w)| w.stays());
                let known: Vec<WorkerId> = known.map(|(id, _)| WorkerId(*id)).collect();
                if known.is_empty() {
                    return None;
                }
                self.step(Input::Unreachable(known))
            }
            Action::Gone => {
                let worker = self.find(false, |w| w.stop_began.is_some() && !w.gone)?;
                self.end(worker, Exit::Code(0))
            }
            Action::ExitsInStop => {
                let worker = self.find(false, |w| w.stop_began.is_some() && w.exited.is_none())?;
                self.step(Input::Exited(worker, Exit::Code(0)))
            }
            Action::Deadline => {
                self.now = self.engine.deadline()?.0.max(self.now);
                self.step(Input::TimerFired)
            }
        })
    }

    fn end(&mut self, worker: WorkerId, exit: Exit) -> Checked {
        self.step(Input::Exited(worker, exit))?;
        self.step(Input::TreeGone(worker))
    }

    /// From here on everything works: stops succeed, workers become ready, deadlines are met.
    fn settle(&mut self) -> Checked {
        for _ in 0..300 {
            let verdict = [Action::Gone, Action::ReadyOldest, Action::Deadline]
                .into_iter()
                .find_map(|action| self.play(action));
            match verdict {
                Some(verdict) => verdict?,
                None => return Ok(()),
            }
        }
        oracle::fail("spin", "not settled after 300 actions")
    }

    fn finish(mut self) -> Checked {
        self.settle()?;
        if self.oracle.model.stop_at.is_none() {
            self.oracle.check_converged(Time(self.now), &self.engine)?;
            self.request(Request::Stop { cap: None })?;
            self.settle()?;
        }
        self.oracle.finish(self.oracle.model.master_exited)
    }
}

fn explore(run: &Run, more: bool, depth: usize, history: &mut Vec<Action>, histories: &mut u64) {
    *histories += 1;
    if let Err(violation) = run.clone().finish() {
        panic!("{history:?} then everything works: {violation:?}");
    }
    if depth == 0 || run.oracle.model.master_exited {
        return;
    }
    let others = MORE.into_iter().filter(|_| more);
    for action in ACTIONS.into_iter().chain(others).chain([Action::Deadline]) {
        let mut next = run.clone();
        history.push(action);
        match next.play(action) {
            Some(Ok(())) => explore(&next, more, depth - 1, history, histories),
            Some(Err(violation)) => panic!("{history:?}: {violation:?}"),
            None => {}
        }
        history.pop();
    }
}

fn all(count: u32, surge: u32, on_failure: OnFailure, restart: RestartPolicy) {
    let policy = Policy {
        count,
        readiness: Readiness::Reported,
        ready_timeout: Span(60_000),
        stop: vec![StopStep {
            signal: Some(Signal::TERM),
            wait: Span(5000),
            to: To::Main,
        }],
        reload: Reload {
            surge,
            max_draining: 1,
            soak: Some(Span(1000)),
            on_failure,
        },
        restart: Restart {
            policy: restart,
            delay: Span(100),
            max_delay: Span(1000),
            stable_after: Span(10_000),
            success_exit_codes: Vec::new(),
            never_on: Vec::new(),
        },
        kind: PoolKind::Service,
        after: Vec::new(),
        max_starting: None,
        essential: None,
    };
    let mut run = Run {
        engine: Engine::new(),
        oracle: Oracle::new(0, 1),
        policy: policy.clone(),
        now: 0,
        tickets: 0,
    };
    run.request(Request::EnsurePool(POOL, policy))
        .expect("a pool starts");
    let depth = std::env::var("ROTAD_DEPTH")
        .ok()
        .and_then(|depth| depth.parse().ok())
        .unwrap_or(4);
    let mut histories = 0;
    explore(&run, true, depth - 1, &mut Vec::new(), &mut histories);
    explore(&run, false, depth, &mut Vec::new(), &mut histories);
    // Then from a pool that serves.
    run.settle().expect("a pool comes up");
    explore(&run, true, depth, &mut Vec::new(), &mut histories);
    explore(&run, false, depth + 1, &mut Vec::new(), &mut histories);
    assert!(histories > 1000);
}

#[test]
fn one_slot() {
    all(1, 1, OnFailure::Rollback, RestartPolicy::Always);
}

#[test]
fn one_slot_in_place() {
    all(1, 0, OnFailure::Rollback, RestartPolicy::Always);
}

#[test]
fn two_slots() {
    all(2, 1, OnFailure::Rollback, RestartPolicy::Always);
}

#[test]
fn two_slots_in_place() {
    all(2, 0, OnFailure::Rollback, RestartPolicy::Always);
}

#[test]
fn two_slots_two_at_a_time() {
    all(2, 2, OnFailure::Abort, RestartPolicy::Always);
}

#[test]
fn two_slots_that_never_restart() {
    all(2, 1, OnFailure::Rollback, RestartPolicy::Never);
}
