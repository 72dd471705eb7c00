//! Essential pools: reports one that has had no ready worker for too long, or whose workers have all ended.
//! `reconcile.rs` calls it for every dirty pool; the supervisor ends the master on [`Command::GiveUp`].

use crate::activity::Activity;
use crate::pool::Pool;
use crate::timers::Key;
use crate::{
    Command, Engine, Essential, EssentialLoss, Notice, Policy, PoolId, PoolKind, Span, Time,
};

/// Since when an essential pool has had no ready worker, and whether that was reported.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct UnreadySince {
    since: Time,
    reported: bool,
}

impl Engine {
    pub(crate) fn watch_essential(&mut self, id: PoolId) {
        let now = self.now;
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        if !pool.is_unready() {
            pool.unready_since = None;
            return self.deadlines.set(Key::Essential(id), None);
        }
        let unready = *pool.unready_since.get_or_insert(UnreadySince {
            since: now,
            reported: false,
        });
        let at = pool
            .policy
            .unready_limit()
            .filter(|_| !unready.reported)
            .map(|span| unready.since + span);
        self.deadlines.set(Key::Essential(id), at);
    }

    /// Reports the end of the pool: no worker is alive, and none will be started.
    pub(crate) fn watch_end(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let watched =
            pool.policy.essential == Some(Essential::Exit) && pool.activity == Activity::Running;
        if !watched || !pool.has_ended() || pool.present > 0 {
            pool.end_reported = false;
            return;
        }
        if core::mem::replace(&mut pool.end_reported, true) {
            return;
        }
        let exit = pool.ended_with.and_then(|(exit, _)| exit);
        self.emit(Notice::EssentialEnded { pool: id, exit });
        let cause = EssentialLoss::Ended(exit);
        self.command(Command::GiveUp { pool: id, cause });
    }

    pub(crate) fn essential_due(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id).filter(|pool| pool.is_unready()) else {
            return;
        };
        if let (Some(unready), Some(span)) = (&mut pool.unready_since, pool.policy.unready_limit())
        {
            unready.reported = true;
            self.emit(Notice::EssentialLost { pool: id, span });
            let cause = EssentialLoss::NotReady(span);
            self.command(Command::GiveUp { pool: id, cause });
        }
    }
}

impl Policy {
    /// How long the pool may be without a ready worker; `None`: it does not matter.
    fn unready_limit(&self) -> Option<Span> {
        match self.essential {
            Some(Essential::Ready(span)) => Some(span),
            Some(Essential::Exit) | None => None,
        }
    }
}

impl Pool {
    /// Every desired slot stays empty until an operator acts.
    pub(crate) fn has_ended(&self) -> bool {
        self.policy.count > 0 && self.tally.ended() == self.policy.count
    }

    fn is_unready(&self) -> bool {
        self.activity == Activity::Running
            && self.begun
            && self.policy.kind == PoolKind::Service
            && self.policy.unready_limit().is_some()
            && self.policy.count > 0
            && self.serving == 0
    }
}
