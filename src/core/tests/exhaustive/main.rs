//! All short histories of a small pool, each brought to a good end: the promises hold on the way, and the pool is
//! well afterwards.
//!
//! `ROTAD_DEPTH=n` goes deeper than the five inputs of a normal run.

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

use oracle::{Oracle, Verdict};
use rotad_core::{
    Engine, Exit, Generation, Input, OnFailure, Policy, PoolId, PoolKind, Readiness, Reload,
    Request, Restart, RestartPolicy, Signal, Slot, Span, StopStep, Ticket, Time, To, WorkerId,
};

const POOL: PoolId = PoolId(1);

#[derive(Clone, Copy, Debug)]
enum Fact {
    Roll,
    Cancel,
    Scale(u32),
    Drop,
    Keep,
    Change,
    /// Back to the first generation.
    Return,
    Renew(u32),
    Stop,
    StopNow,
    /// The oldest worker that is starting becomes ready; the youngest one does.
    ReadyOldest,
    ReadyYoungest,
    /// The oldest worker that nobody has asked dies; the youngest one does.
    DiesOldest,
    DiesYoungest,
    /// The oldest worker that serves is sick; the youngest one is.
    SickOldest,
    SickYoungest,
    /// The listening socket of everybody was replaced.
    Replace,
    /// The oldest one that was asked to leave is gone.
    Gone,
    /// The first process of the oldest one that was asked to leave has ended, and its tree finishes.
    Leaves,
    /// The next deadline comes.
    Time,
}

const FACTS: [Fact; 14] = [
    Fact::Roll,
    Fact::Cancel,
    Fact::Scale(0),
    Fact::Scale(1),
    Fact::Scale(3),
    Fact::Drop,
    Fact::Keep,
    Fact::Stop,
    Fact::StopNow,
    Fact::ReadyOldest,
    Fact::ReadyYoungest,
    Fact::DiesOldest,
    Fact::DiesYoungest,
    Fact::Gone,
];

/// Facts of which shorter histories are played, together with the others.
const MORE: [Fact; 8] = [
    Fact::Leaves,
    Fact::Change,
    Fact::Return,
    Fact::Renew(0),
    Fact::Renew(1),
    Fact::SickOldest,
    Fact::SickYoungest,
    Fact::Replace,
];

#[derive(Clone)]
struct Life {
    engine: Engine,
    oracle: Oracle,
    policy: Policy,
    now: u64,
    tickets: u64,
}

impl Life {
    fn step(&mut self, event: Input) -> Verdict {
        let now = Time(self.now);
        self.oracle.before(now, &event);
        for entry in self.engine.handle(now, event.clone()) {
            self.oracle.entry(now, &entry)?;
        }
        self.oracle.after(now, &event, &self.engine)
    }

    fn ask(&mut self, request: Request) -> Verdict {
        self.tickets += 1;
        let is_stop = matches!(request, Request::Stop { .. } | Request::StopNow);
        let ticket = (!is_stop).then(|| Ticket::new(self.tickets));
        self.step(Input::Requested(ticket, request))
    }

    fn find(&self, youngest: bool, which: impl Fn(&model::Worker) -> bool) -> Option<WorkerId> {
        let mut fits = self
            .oracle
            .model
            .workers
            .iter()
            .filter(|(_, w)| which(w))
            .map(|(id, _)| WorkerId(*id));
        if youngest {
            fits.next_back()
        } else {
            fits.next()
        }
    }

    /// `None`: there is nobody of whom this could be said, or it would be said twice.
    fn happen(&mut self, fact: Fact) -> Option<Verdict> {
        // Time passes, but never over a deadline: that is a fact of its own.
        self.now = (self.now + 1).min(
            self.engine
                .deadline()
                .map_or(u64::MAX, |at| at.0.max(self.now)),
        );
        let policy = |life: &Self| {
            life.oracle
                .policy(POOL.0)
                .unwrap_or_else(|| life.policy.clone())
        };
        Some(match fact {
            Fact::Roll => self.ask(Request::Roll(POOL)),
            Fact::Cancel => self.ask(Request::Cancel(POOL)),
            Fact::Scale(count) => self.ask(Request::Scale(POOL, count)),
            Fact::Drop => self.ask(Request::StopPool(POOL)),
            Fact::Keep => {
                let policy = policy(self);
                self.ask(Request::EnsurePool(POOL, policy))
            }
            Fact::Change => {
                let policy = policy(self);
                self.ask(Request::Reconfigure { pool: POOL, policy })
            }
            Fact::Return => {
                let policy = policy(self);
                self.ask(Request::RollBack {
                    pool: POOL,
                    to: Generation(1),
                    policy,
                })
            }
            Fact::Renew(slot) => self.ask(Request::Replace(POOL, Slot(slot))),
            Fact::Stop => self.ask(Request::Stop { cap: None }),
            Fact::StopNow => self.ask(Request::StopNow),
            Fact::ReadyOldest | Fact::ReadyYoungest => {
                let youngest = matches!(fact, Fact::ReadyYoungest);
                let worker = self.find(youngest, |w| w.stays() && w.ready.is_none())?;
                self.step(Input::Ready(worker))
            }
            Fact::DiesOldest | Fact::DiesYoungest => {
                let worker = self.find(matches!(fact, Fact::DiesYoungest), model::Worker::stays)?;
                self.end(worker, Exit::Code(1))
            }
            Fact::SickOldest | Fact::SickYoungest => {
                let worker =
                    self.find(matches!(fact, Fact::SickYoungest), model::Worker::serves)?;
                self.step(Input::Unhealthy(worker))
            }
            Fact::Replace => {
                let known = self.oracle.model.workers.iter().filter(|(_, w)| w.stays());
                let known: Vec<WorkerId> = known.map(|(id, _)| WorkerId(*id)).collect();
                if known.is_empty() {
                    return None;
                }
                self.step(Input::Unreachable(known))
            }
            Fact::Gone => {
                let worker = self.find(false, |w| w.asked.is_some() && !w.gone)?;
                self.end(worker, Exit::Code(0))
            }
            Fact::Leaves => {
                let worker = self.find(false, |w| w.asked.is_some() && w.exited.is_none())?;
                self.step(Input::Exited(worker, Exit::Code(0)))
            }
            Fact::Time => {
                self.now = self.engine.deadline()?.0.max(self.now);
                self.step(Input::TimerFired)
            }
        })
    }

    fn end(&mut self, worker: WorkerId, exit: Exit) -> Verdict {
        self.step(Input::Exited(worker, exit))?;
        self.step(Input::TreeGone(worker))
    }

    /// From here on everything works.
    fn be_kind(&mut self) -> Verdict {
        for _ in 0..300 {
            let verdict = [Fact::Gone, Fact::ReadyOldest, Fact::Time]
                .into_iter()
                .find_map(|fact| self.happen(fact));
            match verdict {
                Some(verdict) => verdict?,
                None => return Ok(()),
            }
        }
        oracle::fail("spin", "no end after 300 kind facts")
    }

    fn end_well(mut self) -> Verdict {
        self.be_kind()?;
        if self.oracle.model.stop_at.is_none() {
            self.oracle.judge(Time(self.now), &self.engine)?;
            self.ask(Request::Stop { cap: None })?;
            self.be_kind()?;
        }
        self.oracle.finish(self.oracle.model.left)
    }
}

fn explore(life: &Life, more: bool, depth: usize, history: &mut Vec<Fact>, lives: &mut u64) {
    *lives += 1;
    if let Err(violation) = life.clone().end_well() {
        panic!("{history:?} and a kind end: {violation:?}");
    }
    if depth == 0 || life.oracle.model.left {
        return;
    }
    let others = MORE.into_iter().filter(|_| more);
    for fact in FACTS.into_iter().chain(others).chain([Fact::Time]) {
        let mut next = life.clone();
        history.push(fact);
        match next.happen(fact) {
            Some(Ok(())) => explore(&next, more, depth - 1, history, lives),
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
    let mut life = Life {
        engine: Engine::new(),
        oracle: Oracle::new(0, 1),
        policy: policy.clone(),
        now: 0,
        tickets: 0,
    };
    life.ask(Request::EnsurePool(POOL, policy))
        .expect("a pool starts");
    let depth = std::env::var("ROTAD_DEPTH")
        .ok()
        .and_then(|depth| depth.parse().ok())
        .unwrap_or(4);
    let mut lives = 0;
    explore(&life, true, depth - 1, &mut Vec::new(), &mut lives);
    explore(&life, false, depth, &mut Vec::new(), &mut lives);
    // And from a pool that serves.
    life.be_kind().expect("a pool comes up");
    explore(&life, true, depth, &mut Vec::new(), &mut lives);
    explore(&life, false, depth + 1, &mut Vec::new(), &mut lives);
    assert!(lives > 1000);
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
