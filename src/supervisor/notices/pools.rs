//! Notices about pools.

use crate::observe::events::EventKind;
use crate::supervisor::Supervisor;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::shutdown::ended_text;
use rotad_core::{Exit, Generation, PoolId, Span};

impl Supervisor {
    pub(super) fn report_crash_loop(&mut self, pool: PoolId, deaths: u32, span: Span) {
        let span = span.max(Span::from_secs(1));
        let text = format!(
            "crash loop: {deaths} workers died within {span}; one is tried at a time, the others are not touched"
        );
        let event = EventBuilder::new(EventKind::CrashLoop, text);
        self.emit(event.pool(pool).error());
    }

    pub(super) fn report_crash_loop_eases(&mut self, pool: PoolId) {
        let text =
            "one serves for a second: starting the rest; the crash loop is over once one lasts";
        self.emit(EventBuilder::new(EventKind::CrashLoopEases, text).pool(pool));
    }

    pub(super) fn report_crash_loop_over(&mut self, pool: PoolId) {
        let text = "the crash loop is over: starting the rest";
        self.emit(EventBuilder::new(EventKind::CrashLoopOver, text).pool(pool));
    }

    pub(super) fn report_pool_ready(&mut self, pool: PoolId, generation: Generation) {
        let text = self.describer().all_up(pool, &self.served_at(pool));
        let event = EventBuilder::new(EventKind::PoolReady, text);
        self.emit(event.pool(pool).generation(generation));
        self.memory_release.later(self.clock.now());
    }

    pub(super) fn report_pool_stopped(&mut self, pool: PoolId) {
        self.emit(EventBuilder::new(EventKind::PoolStopped, "stopped").pool(pool));
    }

    pub(super) fn report_pool_waits(&mut self, pool: PoolId, by: &[PoolId]) {
        let text = format!("starts after {}", self.pools.list(by));
        self.emit(EventBuilder::new(EventKind::Waiting, text.as_str()).pool(pool));
        self.tell_progress(pool, &text);
    }

    /// A request for a rolling restart has changed what the pool, which has not begun, will begin with.
    pub(super) fn report_beginning(&mut self, pool: PoolId, generation: Generation, by: &[PoolId]) {
        let how = if by.is_empty() {
            "starts".to_owned()
        } else {
            format!("waits for {}, and starts after that", self.pools.list(by))
        };
        self.tell_progress(pool, &format!("{how}, with generation {generation}"));
    }

    pub(super) fn report_oneshot_done(&mut self, pool: PoolId, generation: Generation, took: Span) {
        let event = EventBuilder::new(EventKind::OneshotDone, format!("done after {took}"));
        self.emit(event.pool(pool).generation(generation));
    }

    pub(super) fn report_essential_lost(&mut self, pool: PoolId, span: Span) {
        let text = format!("essential, and no worker ready for {span}");
        let event = EventBuilder::new(EventKind::EssentialLost, text);
        self.emit(event.pool(pool).error());
    }

    pub(super) fn report_essential_ended(&mut self, pool: PoolId, exit: Option<Exit>) {
        let how = ended_text(exit);
        let text = format!("essential, and its workers have ended: {how}");
        let event = EventBuilder::new(EventKind::EssentialEnded, text);
        self.emit(event.pool(pool).warn());
    }
}
