//! The service manager: sends systemd what sd_notify(3) defines.
//! `mod.rs` calls [`Supervisor::notify_service_manager`] each turn, which sends only what has changed.

use super::Supervisor;
use super::clients::outcome_text::reason;
use super::sd_notify::{self, PoolLine};
use super::workers::exit_report::ExitReport;
use crate::event_loop::clock::Clock;
use crate::guardian::{Link, ManagerSocket};
use crate::observe::counted::counted;
use crate::observe::status::outdated;
use nix::time::{ClockId, clock_gettime};
use rotad_core::{Cause, PoolId, PoolState, PoolView, RollState, Span, Time, WorkerId};
use std::sync::Arc;
use std::time::Duration;

/// While everything stops, the manager is asked for this much more time …
const EXTENSION: Duration = Duration::from_secs(20);
/// … this often.
const EXTEND_EVERY: Span = Span::from_secs(5);

/// What the manager is told about one pool.
#[derive(Debug)]
pub(super) struct PoolReport<'a> {
    id: PoolId,
    name: &'a str,
    view: PoolView,
    /// The worker by which its last rolling restart has failed.
    culprit: Option<&'a ExitReport>,
}

/// What the service manager has been told.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: ManagerSocket,
    /// The manager listens to the guardian alone, which passes messages on.
    guardian: Option<Arc<Link>>,
    clock: Clock,
    /// READY=1 has been sent.
    ready: bool,
    /// STOPPING=1 has been sent.
    stopping: bool,
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
    pub(super) fn begin(activation_pid: u32, clock: Clock, guardian: Option<Arc<Link>>) -> Self {
        let socket = ManagerSocket::find();
        let watchdog = sd_notify::watchdog(activation_pid).filter(|_| socket.is_open());
        Self {
            socket,
            guardian,
            ready: false,
            stopping: false,
            reloading: false,
            status: String::new(),
            extend: None,
            watchdog: watchdog.map(|every| (Span::from(every), clock.now())),
            clock,
        }
    }

    fn send(&self, text: &str) {
        match &self.guardian {
            Some(guardian) if self.socket.is_open() => guardian.notify(text.to_owned()),
            Some(_) => {}
            None => self.socket.send(text),
        }
    }

    /// The guardian is gone: messages are sent by this process.
    pub(super) fn guardian_lost(&mut self) {
        self.guardian = None;
    }

    /// The process that the manager is to watch.
    fn main_pid(&self) -> i32 {
        match &self.guardian {
            Some(guardian) => guardian.guardian().pid(),
            None => std::process::id() as i32,
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
            self.send("WATCHDOG=1");
        }
    }

    /// Workers of a killed master are being stopped before anything is started: that may take as long as a stop.
    pub(super) fn report_take_over(&mut self, left: usize) {
        if !self.socket.is_open() {
            return;
        }
        self.ping_watchdog();
        self.ask_for_time();
        let status = format!(
            "stopping {} that a killed master left",
            counted(left, "process")
        );
        if status != self.status {
            self.send(&format!("STATUS={status}"));
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
            self.send(&format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()));
        }
    }

    /// Everything stops: sent once.
    pub(super) fn tell_stopping(&mut self) {
        self.stopping = true;
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// A reload or roll begins. `Type=notify-reload` (systemd.service(5)) waits for RELOADING=1 with a time after its
    /// signal, and then for READY=1; a second reload sends it again.
    pub(super) fn reloading(&mut self) {
        if !self.ready || self.stopping {
            return;
        }
        let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
            return;
        };
        let micros = now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
        self.reloading = true;
    }

    /// There is a manager that listens.
    pub(super) fn is_open(&self) -> bool {
        self.socket.is_open()
    }

    /// Called at the end of each turn: sends what has changed. `reloads`: a reload, or a comparison for one, is under
    /// way.
    pub(super) fn update(&mut self, reloads: bool, pools: &[PoolReport<'_>]) {
        self.ping_watchdog();
        if self.stopping {
            self.ask_for_time();
        }
        if let Some(message) = self.message(reloads, pools) {
            self.send(&message);
        }
    }

    /// The message about what has changed. None: nothing has.
    fn message(&mut self, reloads: bool, pools: &[PoolReport<'_>]) -> Option<String> {
        let rolls = reloads
            || pools
                .iter()
                .any(|pool| pool.view.roll.state == RollState::Running);
        let settled =
            |pool: &PoolReport<'_>| is_settled(&pool.view) || is_held_up(&pool.view, pools);
        let mut text = String::new();
        if !self.stopping && !self.ready && pools.iter().all(settled) {
            self.ready = true;
            text = format!("READY=1\nMAINPID={}", self.main_pid());
        }
        if !self.stopping && self.reloading && !rolls {
            self.reloading = false;
            text = "READY=1".to_owned();
        }
        let word = match (self.stopping, self.ready, rolls) {
            (true, _, _) => "stopping",
            (_, false, _) => "starting",
            (_, _, true) => "reloading",
            _ => "running",
        };
        let lines: Vec<PoolLine> = pools
            .iter()
            .map(|pool| pool_line(pool, self.stopping))
            .collect();
        let status = sd_notify::status(word, &lines);
        if status == self.status && text.is_empty() {
            return None;
        }
        let separator = if text.is_empty() { "" } else { "\n" };
        let message = format!("{text}{separator}STATUS={status}");
        self.status = status;
        Some(message)
    }
}

impl Supervisor {
    /// Called at the end of each turn: tells the service manager what has changed.
    pub(super) fn notify_service_manager(&mut self) {
        if !self.service_manager.is_open() {
            return;
        }
        let reloads = self.reload.state.is_active() || self.reload.on_change.is_active();
        let report = |(id, view): (PoolId, PoolView)| PoolReport {
            id,
            name: self.pools.name(id),
            culprit: culprit_of(&view).and_then(|id| self.workers.exit_reports.of_worker(id)),
            view,
        };
        let pools: Vec<PoolReport<'_>> = self.engine.view().pools().map(report).collect();
        self.service_manager.update(reloads, &pools);
    }
}

/// The worker by which the pool's last rolling restart has failed.
fn culprit_of(pool: &PoolView) -> Option<WorkerId> {
    pool.roll.failure.as_ref()?.worker
}

/// `web 4/4`, and what is not as it should be.
fn pool_line(report: &PoolReport<'_>, stopping: bool) -> PoolLine {
    let PoolReport {
        name,
        view: pool,
        culprit,
        ..
    } = report;
    if stopping {
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
    if let (RollState::Aborted | RollState::RolledBack, Some(failure)) = (roll.state, &roll.failure)
    {
        let why = reason(failure, *culprit);
        let why = why.lines().next().unwrap_or_default();
        let (what, why) = match failure.cause {
            Cause::Cancelled => ("was cancelled", String::new()),
            Cause::MasterKeepsDying => ("was ended", format!(": {why}")),
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
fn is_held_up(pool: &PoolView, all: &[PoolReport<'_>]) -> bool {
    let find = |id: &PoolId| {
        all.iter()
            .find(|other| other.id == *id)
            .map(|other| &other.view)
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

#[cfg(test)]
mod tests {
    use super::*;
    use rotad_core::{Generation, RollView};

    fn report(id: u32, name: &'static str, state: PoolState, ready: u32) -> PoolReport<'static> {
        let roll = RollView {
            state: RollState::None,
            generation: 0,
            failure: None,
            replaced: 0,
            of: 0,
            took: Span::ZERO,
            waiting: false,
            after: Vec::new(),
        };
        let view = PoolView {
            state,
            wanted: 2,
            alive: 2,
            ready,
            starting: 2 - ready,
            draining: 0,
            fill_generation: Generation(1),
            last_good: Generation(1),
            previous_good: Generation::NONE,
            serving: Vec::new(),
            serving_since: None,
            outdated: 0,
            held_by: Vec::new(),
            roll,
        };
        PoolReport {
            id: PoolId(id),
            name,
            view,
            culprit: None,
        }
    }

    #[test]
    fn ready_is_sent_once_all_pools_are_settled() {
        let mut manager = ServiceManager::begin(0, Clock::start(), None);
        let pid = std::process::id();
        let starting = [report(0, "web", PoolState::Starting, 1)];
        assert_eq!(
            manager.message(false, &starting).as_deref(),
            Some("STATUS=starting: web 1/2 starting")
        );
        assert_eq!(
            manager.message(false, &starting),
            None,
            "nothing has changed"
        );
        let ok = [report(0, "web", PoolState::Ok, 2)];
        let text = format!("READY=1\nMAINPID={pid}\nSTATUS=running: web 2/2");
        assert_eq!(manager.message(false, &ok), Some(text));
        assert_eq!(manager.message(false, &ok), None);
    }

    #[test]
    fn a_pool_that_waits_for_a_failed_one_does_not_hold_ready_up() {
        let mut manager = ServiceManager::begin(0, Clock::start(), None);
        let mut web = report(0, "web", PoolState::Starting, 0);
        web.view.held_by = vec![PoolId(1)];
        let migrate = report(1, "migrate", PoolState::Failed, 0);
        let message = manager.message(false, &[web, migrate]).unwrap_or_default();
        assert!(message.starts_with("READY=1\n"), "{message}");
    }

    #[test]
    fn the_end_of_a_reload_is_told_once() {
        let mut manager = ServiceManager::begin(0, Clock::start(), None);
        let ok = [report(0, "web", PoolState::Ok, 2)];
        manager.reloading();
        assert!(!manager.reloading, "it was never ready");
        manager.message(false, &ok);
        manager.reloading();
        let during = manager.message(true, &ok);
        assert_eq!(during.as_deref(), Some("STATUS=reloading: web 2/2"));
        let after = manager.message(false, &ok);
        assert_eq!(after.as_deref(), Some("READY=1\nSTATUS=running: web 2/2"));
        assert_eq!(manager.message(false, &ok), None);
        manager.tell_stopping();
        manager.reloading();
        assert!(!manager.reloading);
        let stopping = manager.message(false, &ok);
        assert_eq!(stopping.as_deref(), Some("STATUS=stopping: web 2 left"));
    }
}
