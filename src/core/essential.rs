//! An essential pool that has had nobody ready for too long, or whose workers have all ended.

use crate::pool::{Activity, Pool};
use crate::timers::Key;
use crate::{Engine, Essential, Notice, Policy, PoolId, PoolKind, Span, Time};

/// Nobody of an essential pool is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnreadySince {
    since: Time,
    told: bool,
}

impl Engine {
    pub(crate) fn watch_essential(&mut self, id: PoolId) {
        let now = self.now;
        let Some(pool) = self.pools.get_mut(&id) else { return };
        if !pool.is_dark() {
            pool.dark = None;
            return self.deadlines.set(Key::Essential(id), None);
        }
        let dark = *pool.dark.get_or_insert(UnreadySince { since: now, told: false });
        let at = pool.policy.dark_for().filter(|_| !dark.told).map(|span| dark.since + span);
        self.deadlines.set(Key::Essential(id), at);
    }

    /// The pool has come to its end: nobody lives, and nobody will be started.
    pub(crate) fn watch_end(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let watched = pool.policy.essential == Some(Essential::Exit) && pool.activity == Activity::Running;
        if !watched || !pool.has_ended() || pool.present > 0 {
            pool.end_told = false;
            return;
        }
        if core::mem::replace(&mut pool.end_told, true) {
            return;
        }
        let exit = pool.ended_with.and_then(|(exit, _)| exit);
        self.record(Notice::EssentialEnded { pool: id, exit });
    }

    pub(crate) fn essential_due(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id).filter(|pool| pool.is_dark()) else { return };
        if let (Some(dark), Some(span)) = (&mut pool.dark, pool.policy.dark_for()) {
            dark.told = true;
            self.record(Notice::EssentialLost { pool: id, span });
        }
    }
}

impl Policy {
    /// How long the pool may be without a ready worker, where that matters.
    fn dark_for(&self) -> Option<Span> {
        match self.essential {
            Some(Essential::Ready(span)) => Some(span),
            Some(Essential::Exit) | None => None,
        }
    }
}

impl Pool {
    /// Every wanted slot stays empty until a person acts.
    pub(crate) fn has_ended(&self) -> bool {
        let wanted = self.slots.iter().take(self.policy.count as usize);
        self.policy.count > 0
            && self.slots.len() >= self.policy.count as usize
            && wanted.clone().all(|slot| slot.ended.is_some())
    }

    fn is_dark(&self) -> bool {
        self.activity == Activity::Running
            && self.begun
            && self.policy.kind == PoolKind::Service
            && self.policy.dark_for().is_some()
            && self.policy.count > 0
            && self.serving == 0
    }
}
