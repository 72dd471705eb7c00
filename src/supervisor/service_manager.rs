//! The service manager: sends systemd what sd_notify(3) defines, and stops the master when an essential pool has ended.
//! `mod.rs` calls [`Supervisor::notify_service_manager`] each turn, which sends only what has changed.

use super::Supervisor;
use super::clients::outcome_text::reason;
use super::sd_notify::{self, PoolLine, ServiceManagerSocket};
use super::workers::exit_report::exit_text;
use crate::event_loop::clock::{Clock, span};
use crate::exit_code::ExitCode;
use crate::observe::status::outdated;
use nix::time::{ClockId, clock_gettime};
use rotad_core::{Cause, EssentialLoss, Exit, PoolId, PoolState, PoolView, RollState, Span, Time};
use std::time::Duration;

/// While everything stops, the manager is asked for this much more time …
const EXTENSION: Duration = Duration::from_secs(20);
/// … this often.
const EXTEND_EVERY: Span = Span::from_secs(5);

/// What the service manager has been told.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: ServiceManagerSocket,
    clock: Clock,
    /// READY=1 has been sent.
    ready: bool,
    /// RELOADING=1 has been sent, and no READY=1 since.
    reloading: bool,
    status: String,
    /// When to ask for more time next.
    extend: Option<Time>,
    /// The interval of its watchdog, and when the next ping is due.
    watchdog: Option<(Span, Time)>,
}

impl ServiceManager {
    /// `activation_pid`: the process that the manager has started; a daemon has another pid.
    pub(super) fn begin(activation_pid: u32, clock: Clock) -> Self {
        let socket = ServiceManagerSocket::find();
        let watchdog = sd_notify::watchdog(activation_pid).filter(|_| socket.is_open());
        Self {
            socket,
            ready: false,
            reloading: false,
            status: String::new(),
            extend: None,
            watchdog: watchdog.map(|every| (span(every), clock.now())),
            clock,
        }
    }

    /// When the next watchdog ping or request for time is due: a long stop may be quiet.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.watchdog
            .map(|(_, at)| at)
            .into_iter()
            .chain(self.extend)
            .min()
    }

    /// The master was paused, and the manager's clock was not: it is due to hear from us.
    pub(super) fn paused(&mut self) {
        let now = self.clock.now();
        if let Some((_, at)) = &mut self.watchdog {
            *at = now;
        }
        self.extend = self.extend.map(|_| now);
    }

    /// Pings the watchdog. Every turn of the main loop comes by here, so the ping proves that the loop turns.
    fn ping_watchdog(&mut self) {
        let now = self.clock.now();
        if let Some((every, at)) = &mut self.watchdog
            && *at <= now
        {
            *at = now + *every;
            self.socket.send("WATCHDOG=1");
        }
    }

    /// Workers of a killed master are being stopped before anything is started: that may take as long as a stop.
    pub(super) fn report_take_over(&mut self, left: usize) {
        if !self.socket.is_open() {
            return;
        }
        self.ping_watchdog();
        self.ask_for_time();
        let status = format!("stopping {left} processes that a killed master left");
        if status != self.status {
            self.socket.send(&format!("STATUS={status}"));
            self.status = status;
        }
    }

    /// They are gone: the start has the manager's own timeout again.
    pub(super) fn take_over_done(&mut self) {
        self.extend = None;
    }

    /// Asks for more time: our stop steps bound the stop, and the manager's timeout would only cut them short.
    fn ask_for_time(&mut self) {
        let now = self.clock.now();
        if self.extend.is_none_or(|at| at <= now) {
            self.extend = Some(now + EXTEND_EVERY);
            self.socket
                .send(&format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()));
        }
    }
}

impl Supervisor {
    /// A reload or roll begins. `Type=notify-reload` (systemd.service(5)) waits for RELOADING=1 with a time after its
    /// signal, and then for READY=1; a second reload sends it again.
    pub(super) fn reloading(&mut self) {
        if !self.service_manager.ready || self.shutdown.stopping {
            return;
        }
        let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
            return;
        };
        let micros = now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000;
        self.service_manager
            .socket
            .send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
        self.service_manager.reloading = true;
    }

    /// Called at the end of each turn: sends what has changed.
    pub(super) fn notify_service_manager(&mut self) {
        if !self.service_manager.socket.is_open() {
            return;
        }
        self.service_manager.ping_watchdog();
        if self.shutdown.stopping {
            self.service_manager.ask_for_time();
        }
        let pools: Vec<(PoolId, PoolView)> = self.engine.view().pools().collect();
        let asked = self.reload.state.is_active() || self.reload.on_change.is_active();
        let rolls = asked
            || pools
                .iter()
                .any(|(_, pool)| pool.roll.state == RollState::Running);
        let settled = |(_, pool): &(PoolId, PoolView)| is_settled(pool) || is_held_up(pool, &pools);
        let mut text = String::new();
        if !self.shutdown.stopping && !self.service_manager.ready && pools.iter().all(settled) {
            self.service_manager.ready = true;
            text = format!("READY=1\nMAINPID={}", std::process::id());
        }
        if !self.shutdown.stopping && self.service_manager.reloading && !rolls {
            self.service_manager.reloading = false;
            text = "READY=1".to_owned();
        }
        let word = match (self.shutdown.stopping, self.service_manager.ready, rolls) {
            (true, _, _) => "stopping",
            (_, false, _) => "starting",
            (_, _, true) => "reloading",
            _ => "running",
        };
        let lines: Vec<PoolLine> = pools
            .iter()
            .map(|(id, pool)| self.pool_line(*id, pool))
            .collect();
        let status = sd_notify::status(word, &lines);
        if status != self.service_manager.status || !text.is_empty() {
            let separator = if text.is_empty() { "" } else { "\n" };
            self.service_manager
                .socket
                .send(&format!("{text}{separator}STATUS={status}"));
            self.service_manager.status = status;
        }
    }

    /// `web 4/4`, and what is not as it should be.
    fn pool_line(&self, id: PoolId, pool: &PoolView) -> PoolLine {
        let name = self.pools.name(id);
        if self.shutdown.stopping {
            return PoolLine {
                text: format!("{name} {} left", pool.alive),
                well: pool.alive == 0,
            };
        }
        let mut text = format!("{name} {}/{}", pool.ready, pool.wanted);
        let roll = &pool.roll;
        let state = match pool.state {
            PoolState::Ok => String::new(),
            PoolState::Starting => " starting".to_owned(),
            PoolState::Mixed => format!(" mixed ({})", mixture(pool)),
            PoolState::Degraded => " degraded".to_owned(),
            PoolState::Reloading => format!(" rolling, {} of {} replaced", roll.replaced, roll.of),
            PoolState::RollingBack => " rolling back".to_owned(),
            PoolState::CrashLoop => " crash-loop".to_owned(),
            PoolState::Stopping => " stopping".to_owned(),
            PoolState::Stopped => " stopped".to_owned(),
            PoolState::Done => " done".to_owned(),
            PoolState::Failed => " failed".to_owned(),
        };
        text.push_str(&state);
        if let (RollState::Aborted | RollState::RolledBack, Some(failure)) =
            (roll.state, &roll.failure)
        {
            let culprit = failure
                .worker
                .and_then(|worker| self.workers.exit_reports.of_worker(worker));
            let why = reason(failure, culprit);
            let why = why.lines().next().unwrap_or_default();
            let (what, why) = match failure.cause {
                Cause::Cancelled => ("was cancelled", String::new()),
                Cause::After(_) => ("was not begun", format!(": {why}")),
                _ => ("did not come up", format!(": {why}")),
            };
            text.push_str(&format!(" (generation {} {what}{why})", roll.generation));
        }
        if pool.outdated > 0 {
            text.push_str(&format!(" ({})", outdated(pool.outdated)));
        }
        PoolLine {
            well: matches!(pool.state, PoolState::Ok | PoolState::Done),
            text,
        }
    }

    /// Everything stops: sent once.
    pub(super) fn tell_stopping(&self) {
        self.service_manager
            .socket
            .send("STOPPING=1\nSTATUS=stopping");
    }

    /// An essential pool is lost: everything stops, and the master exits with a code that tells why.
    pub(super) fn give_up(&mut self, pool: PoolId, cause: EssentialLoss) {
        if self.shutdown.stopping {
            return;
        }
        let name = self.pools.name(pool);
        let (code, text) = match cause {
            EssentialLoss::NotReady(span) => (
                ExitCode::ESSENTIAL_FAILED,
                format!("{name} is essential, and none of its workers was ready for {span}"),
            ),
            EssentialLoss::Ended(exit) => (
                ended_code(exit),
                format!("{name} is essential and has ended ({})", ended_text(exit)),
            ),
        };
        let text = format!("{text}: everything stops");
        match cause {
            EssentialLoss::NotReady(_) => tracing::error!("{text}"),
            EssentialLoss::Ended(_) => tracing::info!("{text}"),
        }
        self.clients.start_watch.abandon(code, &text);
        self.shutdown.exit_code = Some(code);
        self.stop(false);
    }
}

/// The exit code of a master whose essential pool has ended: the pool's own, or what a shell reports for a signal.
fn ended_code(exit: Option<Exit>) -> ExitCode {
    match exit {
        Some(Exit::Code(code)) => ExitCode::of_child(u8::try_from(code).unwrap_or(u8::MAX)),
        Some(Exit::Signal { signal, .. }) => ExitCode::of_signal(signal),
        Some(Exit::Unknown) | None => ExitCode::ESSENTIAL_FAILED,
    }
}

/// How the workers of an essential pool have ended.
pub(super) fn ended_text(exit: Option<Exit>) -> String {
    exit.map_or_else(|| "no worker could be started".to_owned(), exit_text)
}

/// READY=1 is sent once every pool is ready, or known to be in a crash loop.
fn is_settled(pool: &PoolView) -> bool {
    match pool.state {
        PoolState::Ok | PoolState::Reloading | PoolState::RollingBack | PoolState::CrashLoop => {
            true
        }
        PoolState::Done | PoolState::Failed | PoolState::Stopped => true,
        PoolState::Mixed | PoolState::Degraded => pool.ready >= pool.wanted,
        PoolState::Starting | PoolState::Stopping => false,
    }
}

/// "2 of generation 1, 1 of generation 2".
fn mixture(pool: &PoolView) -> String {
    let parts = pool
        .serving
        .iter()
        .map(|(generation, count)| format!("{count} of generation {generation}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// Whether a pool cannot start because a pool that it comes after does not come up. A oneshot that fails must not hold
/// up the machine's boot, which waits for READY=1.
pub(super) fn is_held_up(pool: &PoolView, all: &[(PoolId, PoolView)]) -> bool {
    let find = |id: &PoolId| {
        all.iter()
            .find(|(other, _)| other == id)
            .map(|(_, other)| other)
    };
    let stuck = |state| {
        matches!(
            state,
            PoolState::CrashLoop | PoolState::Failed | PoolState::Stopped
        )
    };
    pool.held_by
        .iter()
        .filter_map(find)
        .any(|other| stuck(other.state) || is_held_up(other, all))
}
