//! Notices: what the engine reports, as events for people and progress for waiting clients.
//!
//! `effects.rs` calls [`Supervisor::report`] for each notice, in the engine's order. Nothing here decides anything.
//! One file has the notices about workers, pools and rolling restarts each; `progress` tells waiting clients, and `text`
//! has the words.

mod pools;
mod progress;
mod rolls;
mod text;
mod workers;

use super::Supervisor;
use progress::Step;
use rotad_core::Notice;
use workers::Death;

impl Supervisor {
    /// Reports the notices of the engine's last input.
    pub(super) fn report_all(&mut self, notices: Vec<Notice>) {
        self.counters.notices_begin(self.engine.handled());
        for notice in notices {
            self.report(notice);
        }
        self.counters.notices_end();
    }

    fn report(&mut self, notice: Notice) {
        match notice {
            Notice::Ready {
                worker,
                took,
                by_age,
                soak,
            } => self.report_ready(worker, took, by_age, soak),
            Notice::Confirmed { worker, took } => self.report_confirmed(worker, took),
            Notice::Died {
                worker,
                cause,
                failure,
                early_exits,
                retry_in,
                given_up,
                ..
            } => {
                let death = Death {
                    cause,
                    failure,
                    early_exits,
                    retry_in,
                    given_up,
                };
                self.report_death(worker, &death);
            }
            Notice::Stopped { worker, exit, took } => self.report_stopped(worker, exit, took),
            Notice::Retired { worker, why } => self.report_retired(worker, why),
            Notice::Killed {
                worker,
                reason,
                waited,
            } => self.report_kill(worker, reason, waited),
            Notice::Unkillable { worker } => self.report_unkillable(worker),
            Notice::WorkerReplaced {
                pool,
                slot,
                worker,
                took,
            } => self.report_worker_replaced(pool, slot, worker, took),

            Notice::CrashLoop { pool, deaths, span } => self.report_crash_loop(pool, deaths, span),
            Notice::CrashLoopEases { pool } => self.report_crash_loop_eases(pool),
            Notice::CrashLoopOver { pool } => self.report_crash_loop_over(pool),
            Notice::PoolReady { pool, generation } => self.report_pool_ready(pool, generation),
            Notice::PoolStopped { pool } => self.report_pool_stopped(pool),
            Notice::Waiting { pool, by } => self.report_pool_waits(pool, &by),
            Notice::BeginsWith {
                pool,
                generation,
                by,
            } => self.report_beginning(pool, generation, &by),
            Notice::OneshotDone {
                pool,
                generation,
                took,
            } => self.report_oneshot_done(pool, generation, took),
            Notice::EssentialLost { pool, span } => self.report_essential_lost(pool, span),
            Notice::EssentialEnded { pool, exit } => self.report_essential_ended(pool, exit),

            Notice::RollStarted {
                pool,
                generation,
                of,
            } => self.report_roll_started(pool, generation, of),
            Notice::RollAfter { pool, by } => self.report_roll_after(pool, &by),
            Notice::RollWaits { pool } => self.report_roll_waits(pool),
            Notice::CanaryPassed { worker } => self.report_canary_passed(worker),
            Notice::SlotReplaced {
                pool,
                slot,
                worker,
                done,
                of,
            } => {
                let took = self.engine.view().worker(worker).and_then(|of| of.ready_in);
                self.report_slot_replaced(&Step {
                    pool,
                    slot,
                    worker,
                    done,
                    of,
                    took,
                });
            }
            Notice::Watched { pool, span } => self.report_watched(pool, span),
            Notice::RollingBack {
                pool,
                generation,
                to,
                failure,
            } => self.report_rolling_back(pool, generation, to, &failure),
            Notice::RollSuperseded {
                pool,
                generation,
                by,
                retired_any,
            } => self.report_roll_superseded(pool, generation, by, retired_any),
            Notice::RollEnded { pool, outcome } => self.report_roll_ended(pool, &outcome),
        }
    }
}
