//! An essential pool that has had nobody ready for too long.

use crate::deadline::Key;
use crate::pool::{Activity, Pool};
use crate::{Master, PoolId, PoolKind, Record, Time};

/// Nobody of an essential pool is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dark {
    since: Time,
    told: bool,
}

impl Master {
    pub(crate) fn watch_essential(&mut self, id: PoolId) {
        let now = self.now;
        let Some(pool) = self.pools.get_mut(&id) else { return };
        if !pool.is_dark() {
            pool.dark = None;
            return self.deadlines.set(Key::Essential(id), None);
        }
        let dark = *pool.dark.get_or_insert(Dark { since: now, told: false });
        let at = pool.policy.essential.filter(|_| !dark.told).map(|span| dark.since + span);
        self.deadlines.set(Key::Essential(id), at);
    }

    pub(crate) fn essential_due(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id).filter(|pool| pool.is_dark()) else { return };
        if let (Some(dark), Some(span)) = (&mut pool.dark, pool.policy.essential) {
            dark.told = true;
            self.record(Record::EssentialLost { pool: id, span });
        }
    }
}

impl Pool {
    fn is_dark(&self) -> bool {
        self.activity == Activity::Running
            && self.begun
            && self.policy.kind == PoolKind::Service
            && self.policy.essential.is_some()
            && self.policy.count > 0
            && self.serving == 0
    }
}
