//! The timer table: every deadline of the supervisor, in the order in which those that are due run.
//!
//! The main loop asks [`Supervisor::poll_timeout`] how long it may wait, and calls [`Supervisor::run_due_timers`] once
//! in each turn, after all that has arrived was handled. Each deadline is a part of the state of its owner and is asked
//! for here, so there is no copy of it to be kept in step. All are in the clock's time, which stands still while the
//! master is paused.
//!
//! A new deadline needs a variant in [`Timer`]; the compiler then asks when it is due and what happens.

use super::Supervisor;
use super::health::boot_samples::StartingWorker;
use rotad_core::{Input, Span, Time};
use std::time::Duration;

/// A deadline of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// A spawn takes too long.
    Spawner,
    /// Runtime files are to be checked or repaired.
    RuntimeFiles,
    /// Clients have not sent their request or read their response in time, or connections are accepted again.
    Clients,
    /// A status has waited long enough for the memory and CPU time of workers.
    Statuses,
    /// Trees that are being killed, or that may finish, are to be checked.
    Trees,
    /// A journal that could not be written is tried again.
    Journal,
    /// A scan of orphans is due or hangs, or more of them are to be reaped.
    Orphans,
    /// The blocking job of a reload hangs.
    Reload,
    /// A comparison for `reload.on = "change"` hangs.
    Comparisons,
    /// A scan of the accept probe hangs.
    AcceptProbe,
    /// A worker that cannot be observed is old enough to count as alive.
    AliveAge,
    /// The file of a unix listener is checked again.
    ListenerRepair,
    /// A worker has not sent WATCHDOG=1 in time.
    Watchdogs,
    /// A probe is due or takes too long.
    Probes,
    /// A worker is too old, or the memory of workers is to be sampled.
    Recycling,
    /// A spawn waits for a port: ports are tried again.
    Ports,
    /// What starting workers want of the processors is to be sampled.
    BootSamples,
    /// The engine's earliest deadline.
    Engine,
    /// The service manager is to be sent a watchdog ping or a request for more time.
    ServiceManager,
    /// The program of an upgrade has worked long enough.
    Upgrade,
    /// A hook may be run, or takes too long.
    Hooks,
    /// The guardian is to see that the loop turns.
    Heartbeat,
    /// Memory that a start or a rolling restart has used is to be given back.
    MemoryRelease,
    /// What is left at the end is looked at again.
    Shutdown,
}

/// Those that find out that other parts hang come first; what they report is handed to the engine before its deadlines
/// count.
const ALL: [Timer; 24] = [
    Timer::Spawner,
    Timer::RuntimeFiles,
    Timer::Clients,
    Timer::Statuses,
    Timer::Trees,
    Timer::Journal,
    Timer::Orphans,
    Timer::Reload,
    Timer::Comparisons,
    Timer::AcceptProbe,
    Timer::AliveAge,
    Timer::ListenerRepair,
    Timer::Watchdogs,
    Timer::Probes,
    Timer::Recycling,
    Timer::Ports,
    Timer::BootSamples,
    Timer::Engine,
    Timer::ServiceManager,
    Timer::Upgrade,
    Timer::Hooks,
    Timer::Heartbeat,
    Timer::MemoryRelease,
    Timer::Shutdown,
];

impl Timer {
    /// Whether a worker or a start may fail by it, so that a pause of the master must be noticed before. Such a deadline
    /// is awaited in ticks; the others may be far off and must not wake a master that has nothing to do.
    fn is_awaited_in_ticks(self) -> bool {
        match self {
            Self::AliveAge | Self::ListenerRepair | Self::Engine => true,
            Self::Spawner
            | Self::RuntimeFiles
            | Self::Clients
            | Self::Statuses
            | Self::Trees
            | Self::Journal
            | Self::Orphans
            | Self::Reload
            | Self::Comparisons
            | Self::AcceptProbe
            | Self::Watchdogs
            | Self::Probes
            | Self::Recycling
            | Self::Ports
            | Self::BootSamples
            | Self::ServiceManager
            | Self::Upgrade
            | Self::Hooks
            | Self::Heartbeat
            | Self::MemoryRelease
            | Self::Shutdown => false,
        }
    }
}

impl Supervisor {
    /// How long the loop may sleep. None: until an event arrives.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let wait = |timer: &Timer| {
            let at = self.due_at(*timer)?;
            match timer.is_awaited_in_ticks() {
                true => self.clock.poll_timeout(Some(at)),
                false => Some(self.clock.until(at)),
            }
        };
        ALL.iter().filter_map(wait).min()
    }

    /// Runs what is due, each at most once.
    pub(super) fn run_due_timers(&mut self) {
        for timer in ALL {
            let now = self.clock.now();
            if self.due_at(timer).is_some_and(|at| at <= now) {
                self.run_timer(timer, now);
                self.settle();
            }
        }
    }

    /// When this is due; None: not until something happens.
    fn due_at(&self, timer: Timer) -> Option<Time> {
        match timer {
            Timer::Spawner => self.workers.spawn_deadline(),
            Timer::RuntimeFiles => self.runtime.deadline(),
            Timer::Clients => self.clients.deadline(),
            Timer::Statuses => self.clients.statuses.deadline(),
            Timer::Trees => self.workers.tree_deadline(),
            Timer::Journal => self.workers.journal.deadline(),
            Timer::Orphans => self.workers.orphan_deadline(),
            Timer::Reload => self.reload.state.deadline(),
            Timer::Comparisons => self.reload.on_change.deadline(),
            Timer::AcceptProbe => self.health.readiness.probe_deadline(),
            Timer::AliveAge => self.health.readiness.alive_deadline(),
            Timer::ListenerRepair => self.listening.deadline(),
            Timer::Watchdogs => self.health.watchdog_deadline(),
            Timer::Probes => self.health.probing.deadline(),
            Timer::Recycling => self.health.recycling_deadline(),
            Timer::Ports => self.health.ports.deadline(),
            Timer::BootSamples => self.health.boot_samples.deadline(),
            Timer::Engine => self.engine.deadline(),
            Timer::ServiceManager => self.service_manager.deadline(),
            Timer::Upgrade => self.upgrade.deadline(),
            Timer::Hooks => self.hook_deadline(),
            Timer::Heartbeat => self.heartbeat.deadline(),
            Timer::MemoryRelease => self.memory_release.deadline(),
            Timer::Shutdown => {
                let shutdown = self.shutdown.exiting.as_ref()?;
                Some(shutdown.next_check(self.clock.now()))
            }
        }
    }

    fn run_timer(&mut self, timer: Timer, now: Time) {
        match timer {
            Timer::Spawner => self.workers.end_overdue_spawns(now),
            Timer::RuntimeFiles => {
                let action = self.runtime.run_due(now);
                self.perform(action);
            }
            Timer::Clients => self.clients.run_due(now, &self.event_loop.poller),
            Timer::Statuses => self.answer_overdue_statuses(false),
            Timer::Trees => {
                let context = self.event_loop.context(&self.log, &self.clock);
                let actions = self.workers.run_due_trees(&context);
                self.perform(actions);
            }
            Timer::Journal => {
                let action = self.workers.journal.rewrite();
                self.perform(action);
            }
            Timer::Orphans => self.workers.run_due_orphans(now),
            Timer::Reload => self.check_blocking_job(),
            Timer::Comparisons => self.expire_comparisons(now),
            Timer::AcceptProbe => {
                let action = self.health.readiness.check_probe(now);
                self.perform(action);
            }
            Timer::AliveAge => {
                let actions = self.health.readiness.mark_alive(now);
                self.perform(actions);
            }
            Timer::ListenerRepair => {
                let actions = self.listening.run_due(now, &self.event_loop.poller);
                self.perform(actions);
            }
            Timer::Watchdogs => {
                let actions = self.health.run_due_watchdogs(now);
                self.perform(actions);
            }
            Timer::Probes => {
                let actions = self.health.probing.run_due(now);
                self.perform(actions);
            }
            Timer::Recycling => {
                let actions = self.health.run_due_recycling(now);
                self.perform(actions);
            }
            Timer::Ports => {
                let actions = self.health.ports.run_due(now);
                self.perform(actions);
            }
            Timer::BootSamples => {
                let starting = self.starting_workers(now);
                let action = self.health.boot_samples.run_due(&starting, now);
                self.perform(action);
            }
            Timer::Engine => self.engine.push(Input::TimerFired),
            Timer::Upgrade => self.settle_upgrade(),
            // They only end the wait: each turn of the loop sees to the service manager, the hooks, the guardian, the memory
            // and the end.
            Timer::ServiceManager
            | Timer::Hooks
            | Timer::Heartbeat
            | Timer::MemoryRelease
            | Timer::Shutdown => {}
        }
    }

    fn starting_workers(&self, now: Time) -> Vec<StartingWorker> {
        let view = self.engine.view();
        let starting = |worker| StartingWorker {
            worker,
            age: view
                .worker(worker)
                .map_or(Span::ZERO, |worker| now - worker.began),
            pid: self
                .workers
                .processes
                .get(worker)
                .and_then(|process| process.pid()),
        };
        view.starting().into_iter().map(starting).collect()
    }
}
