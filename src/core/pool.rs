//! What is known of one pool. `settle.rs` compares it with what is wanted.

use crate::roll::{LastRoll, Roll};
use crate::{Generation, Policy, Slot, Ticket, Time, WorkerId};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Whether the pool is wanted at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    Running,
    Stopping,
    Stopped,
}

/// Policy `never`, or `on-failure` after an end: the slot stays empty until a person acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    Failed,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) current: Option<WorkerId>,
    pub(crate) successor: Option<WorkerId>,
    /// Deaths in a row that count, and how many of them were followed by a delay.
    pub(crate) deaths: u32,
    pub(crate) delays: u32,
    pub(crate) not_before: Option<Time>,
    pub(crate) ended: Option<Ended>,
    /// Starts after deaths that nobody asked for.
    pub(crate) restarts: u32,
    pub(crate) restart_due: bool,
    /// Workers of this slot that are leaving and not gone.
    pub(crate) leaving: u32,
}

/// The pool crash-loops: one slot tries, the other empty ones wait for its success.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Breaker {
    pub(crate) probe: Slot,
    /// A worker that has become ready since; at that time it counts as a success.
    pub(crate) hope: Option<WorkerId>,
}

pub(crate) struct Pool {
    pub(crate) policy: Policy,
    pub(crate) activity: Activity,
    pub(crate) slots: Vec<Place>,
    /// The newest generation ever made; the one that slots are filled with; the last that served in full.
    pub(crate) latest: Generation,
    pub(crate) wanted: Generation,
    pub(crate) proven: Generation,
    pub(crate) roll: Option<Roll>,
    pub(crate) waiting: Option<Vec<Ticket>>,
    pub(crate) last: LastRoll,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) early_deaths: VecDeque<Time>,
    /// Every wanted worker has been ready at once since the last change.
    pub(crate) full: bool,
    /// Counted as they change: workers that live, that serve, that got their stop and still finish, slots with a
    /// successor, slots whose current one is ready.
    pub(crate) alive: u32,
    /// Lives, or something of its tree does; not counting what the kernel could not end.
    pub(crate) present: u32,
    pub(crate) serving: u32,
    pub(crate) draining: u32,
    pub(crate) in_flight: u32,
}

impl Pool {
    pub(crate) fn new(policy: Policy) -> Self {
        let mut pool = Self {
            policy,
            activity: Activity::Running,
            slots: Vec::new(),
            latest: Generation(1),
            wanted: Generation(1),
            proven: Generation::NONE,
            roll: None,
            waiting: None,
            last: LastRoll::default(),
            breaker: None,
            early_deaths: VecDeque::new(),
            full: false,
            alive: 0,
            present: 0,
            serving: 0,
            draining: 0,
            in_flight: 0,
        };
        pool.fit();
        pool
    }

    /// Makes room for `count` slots; surplus ones stay until their workers are gone.
    pub(crate) fn fit(&mut self) {
        let count = self.policy.count as usize;
        if self.slots.len() < count {
            self.slots.resize(count, Place::default());
        }
        while self.slots.len() > count {
            match self.slots.last() {
                Some(slot) if slot.current.is_none() && slot.successor.is_none() && slot.leaving == 0 => {
                    self.slots.pop();
                }
                _ => break,
            }
        }
    }

    /// Deaths before ready within ten seconds that make a crash loop: half of the pool, at least two.
    pub(crate) fn breaker_limit(&self) -> usize {
        (self.policy.count.div_ceil(2) as usize).max(2)
    }

    /// One more process keeps the promised ceiling.
    pub(crate) fn has_room(&self) -> bool {
        let reload = &self.policy.reload;
        let most = self.policy.count.saturating_add(reload.surge).saturating_add(reload.max_draining);
        self.alive < most
    }

    pub(crate) fn wanted_slots(&self) -> u32 {
        let gone = self.slots.iter().take(self.policy.count as usize).filter(|s| s.ended == Some(Ended::Done)).count();
        self.policy.count - gone as u32
    }
}
