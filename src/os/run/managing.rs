//! What the service manager is told beyond READY=1, and the end that an essential pool asks for.

use super::Keeper;
use nix::time::{ClockId, clock_gettime};
use rotad_core::{PoolId, Span};

/// The exit code of a master whose essential pool has failed.
const ESSENTIAL_FAILED: u8 = 69;

impl Keeper {
    /// `Type=notify-reload` (systemd.service(5)) waits from here …
    pub(super) fn told_reloading(&self) {
        if !self.manager_told || self.stopping {
            return;
        }
        let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return };
        let micros = now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000;
        self.manager.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// … to here: the configuration is in force, or refused. Rolling restarts go on.
    pub(super) fn told_reloaded(&self) {
        if self.manager_told && !self.stopping {
            self.manager.tell("READY=1\nSTATUS=running");
        }
    }

    pub(super) fn essential_lost(&mut self, pool: PoolId, span: Span) {
        if self.stopping {
            return;
        }
        let name = self.pool_name(pool);
        let text = format!("{name} is essential, and none of its workers was ready for {span}: everything stops");
        tracing::error!("{text}");
        self.launch.give_up(ESSENTIAL_FAILED, &text);
        self.exit_code = Some(ESSENTIAL_FAILED);
        self.stop(false);
    }
}
