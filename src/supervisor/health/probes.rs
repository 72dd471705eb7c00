//! Probes: readiness and health as seen from outside. Decides when each worker is probed and what the results amount
//! to; `crate::probe` carries the probes out.

use crate::event_loop::clock::span;
use crate::event_loop::mailbox::Mailbox;
use crate::observe::events::EventKind;
use crate::plan::{Address, Check, Context, Health, Ready};
use crate::probe::{AbandonedThread, ProbeError, ProbeRequest, ProbeResult, Prober};
use crate::process::{PinnedPaths, SpawnerConfig};
use crate::supervisor::Supervisor;
use crate::supervisor::event_log::EventBuilder;
use crate::supervisor::health::Unhealthy;
use crate::supervisor::health::spread::spread;
use crate::supervisor::workers::spawn_spec::SpawnParams;
use rotad_core::{Input, Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// First pause between readiness probes of a worker that is not ready; the pauses double …
const FIRST_PAUSE: Span = Span::from_millis(50);
/// … up to this.
const MAX_PAUSE: Span = Span::from_secs(1);
/// Timeout of one readiness probe.
const READINESS_TIMEOUT: Span = Span::from_secs(10);
/// Maximum connections at once. Other probes wait in the queue, and their timeouts do not run.
const MAX_CONNECTIONS: usize = 256;
/// If this many probes hang, no probe that has to open a socket file is started.
const MAX_HUNG: usize = 8;
/// Maximum commands at once.
const MAX_COMMANDS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Readiness,
    Health { every: Span, failures: u32 },
}

#[derive(Debug)]
enum ProbeStage {
    Waiting(Time),
    /// It is due, and waits for a free place.
    Queued,
    Active(ActiveProbe),
}

#[derive(Debug)]
struct ActiveProbe {
    number: u64,
    at: Time,
    until: Time,
    command: bool,
    /// The request, for people.
    shown: String,
    /// The master was paused meanwhile: a failure does not count.
    excused: bool,
}

/// The probe state of one worker.
#[derive(Debug)]
struct ProbedWorker {
    purpose: Purpose,
    timeout: Span,
    stage: ProbeStage,
    /// Failures in a row.
    failures: u32,
    times: u64,
}

#[derive(Debug)]
pub(crate) struct Probing {
    settings: SpawnerConfig,
    results: Mailbox<ProbeResult>,
    /// Started with the first probe.
    prober: Option<Prober>,
    probed: BTreeMap<WorkerId, ProbedWorker>,
    due: BTreeSet<(Time, WorkerId)>,
    queue: VecDeque<WorkerId>,
    active: BTreeMap<u64, WorkerId>,
    commands: usize,
    last: u64,
    /// Requests at which abandoned prober threads hang.
    hung: Vec<(String, AbandonedThread)>,
}

impl Probing {
    pub(crate) fn new(settings: SpawnerConfig, results: Mailbox<ProbeResult>) -> Self {
        Self {
            settings,
            results,
            prober: None,
            probed: BTreeMap::new(),
            due: BTreeSet::new(),
            queue: VecDeque::new(),
            active: BTreeMap::new(),
            commands: 0,
            last: 0,
            hung: Vec::new(),
        }
    }

    /// Abandons the prober if it hangs; the other active probes are repeated by a new one. Returns the worker whose
    /// probe hangs.
    fn abandon_hung(&mut self, now: Time) -> Option<WorkerId> {
        let number = self.prober.as_ref()?.hangs(now)?;
        let left = self.prober.take()?.abandon();
        let hung = self.active.get(&number).copied();
        if let Some(ProbeStage::Active(active_probe)) =
            hung.and_then(|worker| Some(&self.probed.get(&worker)?.stage))
        {
            self.hung.push((active_probe.shown.clone(), left));
        }
        for probed in self.probed.values_mut() {
            if let ProbeStage::Active(active_probe) = &mut probed.stage {
                active_probe.excused = true;
            }
        }
        hung
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The master was paused: failures of the active probes do not count.
    pub(crate) fn paused(&mut self) {
        for probed in self.probed.values_mut() {
            if let ProbeStage::Active(active_probe) = &mut probed.stage {
                active_probe.excused = true;
            }
        }
    }

    /// Stops probing a worker, and drops an active probe.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.leave_stage(worker);
        if self.probed.remove(&worker).is_some() {
            self.queue.retain(|queued| *queued != worker);
        }
    }

    fn begin(&mut self, worker: WorkerId, purpose: Purpose, timeout: Span, at: Time) {
        self.forget(worker);
        let probed = ProbedWorker {
            purpose,
            timeout,
            stage: ProbeStage::Waiting(at),
            failures: 0,
            times: 0,
        };
        self.probed.insert(worker, probed);
        self.due.insert((at, worker));
    }

    fn wait(&mut self, worker: WorkerId, at: Time) {
        self.leave_stage(worker);
        if let Some(probed) = self.probed.get_mut(&worker) {
            probed.stage = ProbeStage::Waiting(at);
            self.due.insert((at, worker));
        }
    }

    /// Removes what the current stage has registered, and drops an active probe.
    fn leave_stage(&mut self, worker: WorkerId) {
        let Some(probed) = self.probed.get_mut(&worker) else {
            return;
        };
        match std::mem::replace(&mut probed.stage, ProbeStage::Queued) {
            ProbeStage::Queued => {}
            ProbeStage::Waiting(at) => {
                self.due.remove(&(at, worker));
            }
            ProbeStage::Active(active_probe) => {
                self.due.remove(&(active_probe.until, worker));
                self.commands -= usize::from(active_probe.command);
                if self.active.remove(&active_probe.number).is_some()
                    && let Some(prober) = &self.prober
                {
                    prober.cancel(active_probe.number);
                }
            }
        }
    }

    fn has_room(&self, command: bool) -> bool {
        if command {
            self.commands < MAX_COMMANDS
        } else {
            self.active.len() - self.commands < MAX_CONNECTIONS
        }
    }

    /// Why this request cannot be made now: a thread already hangs at it, or too many hang at others.
    fn hang_error(&mut self, shown: &str) -> Option<ProbeError> {
        self.hung.retain(|(_, left)| !left.has_ended());
        if self.hung.iter().any(|(hung, _)| hung == shown) {
            return Some(ProbeError::Failed(
                "the folder of its socket hangs (a disk?)".to_owned(),
            ));
        }
        (self.hung.len() >= MAX_HUNG).then(|| {
            ProbeError::Indeterminate("too many folders of sockets hang (a disk?)".to_owned())
        })
    }

    fn ask(&mut self, worker: WorkerId, request: ProbeRequest, now: Time) -> std::io::Result<()> {
        let prober = match self.prober.take() {
            Some(prober) => prober,
            None => Prober::start(self.settings.clone(), self.results.clone())?,
        };
        let prober = self.prober.insert(prober);
        let Some(probed) = self.probed.get_mut(&worker) else {
            return Ok(());
        };
        self.last += 1;
        let (number, until, command) = (self.last, now + probed.timeout, request.is_command());
        let shown = request.to_string();
        probed.times += 1;
        probed.stage = ProbeStage::Active(ActiveProbe {
            number,
            at: now,
            until,
            command,
            shown,
            excused: false,
        });
        self.due.insert((until, worker));
        self.active.insert(number, worker);
        self.commands += usize::from(command);
        prober.start_probe(number, request);
        Ok(())
    }
}

impl Supervisor {
    pub(crate) fn probe_readiness(&mut self, worker: WorkerId) {
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        if let Ready::Probe(_) = process.spec.plan.ready {
            let now = self.clock.now();
            self.health
                .probing
                .begin(worker, Purpose::Readiness, READINESS_TIMEOUT, now);
            self.run_due_probes();
        }
    }

    pub(crate) fn probe_health(&mut self, worker: WorkerId) {
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        let Some(Health::Probe {
            every,
            timeout,
            failures,
            ..
        }) = process.spec.plan.health
        else {
            return;
        };
        let every = span(every);
        let at = self.clock.now() + spread(worker, 0, every);
        self.health.probing.begin(
            worker,
            Purpose::Health { every, failures },
            span(timeout),
            at,
        );
    }

    pub(crate) fn run_due_probes(&mut self) {
        let now = self.clock.now();
        if let Some(hung) = self.health.probing.abandon_hung(now) {
            let others: Vec<WorkerId> = self
                .health
                .probing
                .active
                .values()
                .copied()
                .filter(|one| *one != hung)
                .collect();
            others
                .into_iter()
                .for_each(|worker| self.health.probing.wait(worker, now));
            if let Some(probed) = self.health.probing.probed.get_mut(&hung)
                && let ProbeStage::Active(active_probe) = &mut probed.stage
            {
                active_probe.excused = false;
            }
            self.record_result(
                hung,
                Err(ProbeError::Failed(
                    "the folder of its socket hangs (a disk?)".to_owned(),
                )),
            );
        }
        while let Some((_, worker)) = self
            .health
            .probing
            .due
            .first()
            .copied()
            .filter(|(at, _)| *at <= now)
        {
            let Some(probed) = self.health.probing.probed.get(&worker) else {
                return;
            };
            match &probed.stage {
                ProbeStage::Active(_) => {
                    let took = probed.timeout;
                    self.record_result(
                        worker,
                        Err(ProbeError::Failed(format!("timed out after {took}"))),
                    );
                }
                ProbeStage::Waiting(_) | ProbeStage::Queued => {
                    self.health.probing.leave_stage(worker);
                    self.health.probing.queue.push_back(worker);
                }
            }
        }
        self.start_queued_probes();
    }

    /// Starts queued probes, in order, as many as there is room for.
    fn start_queued_probes(&mut self) {
        let mut left = VecDeque::new();
        while let Some(worker) = self.health.probing.queue.pop_front() {
            match self
                .check_of(worker)
                .map(|check| matches!(check, Check::Command(_)))
            {
                None => self.health.probing.forget(worker),
                Some(command) if self.health.probing.has_room(command) => self.ask(worker),
                Some(_) => left.push_back(worker),
            }
        }
        // These have no deadline: a result or a timeout makes room.
        self.health.probing.queue.extend(left);
    }

    fn ask(&mut self, worker: WorkerId) {
        let now = self.clock.now();
        let active_probe = self
            .probe_request(worker)
            .map_err(ProbeError::Failed)
            .and_then(|request| {
                let shown = request.to_string();
                if request.names_a_file()
                    && let Some(trouble) = self.health.probing.hang_error(&shown)
                {
                    return Err(trouble);
                }
                self.health
                    .probing
                    .ask(worker, request, now)
                    .map_err(|error| ProbeError::Indeterminate(error.to_string()))
            });
        if let Err(trouble) = active_probe {
            self.record_result(worker, Err(trouble));
        }
    }

    /// Takes a result.
    pub(crate) fn on_probe_result(&mut self, ProbeResult { number, result }: ProbeResult) {
        // A result that arrives too late was dropped with its number.
        if let Some(worker) = self.health.probing.active.get(&number).copied() {
            self.record_result(worker, result);
        }
        if !self.health.probing.queue.is_empty() {
            self.start_queued_probes();
        }
    }

    /// The probe could not be made, for a reason of our own: it does not count as a failure.
    fn not_asked(&mut self, worker: WorkerId, reason: &str) {
        let Some(probed) = self.health.probing.probed.get(&worker) else {
            return;
        };
        let pause = match probed.purpose {
            Purpose::Readiness => MAX_PAUSE,
            Purpose::Health { every, .. } => every,
        };
        self.health.probing.wait(worker, self.clock.now() + pause);
        self.log_probe_failure(
            worker,
            &format!("cannot be asked how it is, for a lack of our own: {reason}"),
        );
    }

    fn record_result(&mut self, worker: WorkerId, result: Result<(), ProbeError>) {
        let result = match result {
            Err(ProbeError::Indeterminate(reason)) => return self.not_asked(worker, &reason),
            Err(ProbeError::Failed(reason)) => Err(reason),
            Ok(()) => Ok(()),
        };
        let now = self.clock.now();
        let Some(probed) = self.health.probing.probed.get_mut(&worker) else {
            return;
        };
        let (purpose, times) = (probed.purpose, probed.times);
        let (began, shown, excused) = match &probed.stage {
            ProbeStage::Active(active_probe) => (
                active_probe.at,
                active_probe.shown.clone(),
                active_probe.excused,
            ),
            ProbeStage::Waiting(_) | ProbeStage::Queued => (now, "it".to_owned(), false),
        };
        if result.is_ok() {
            probed.failures = 0;
        } else if excused {
            return self.health.probing.wait(worker, now);
        } else {
            probed.failures += 1;
        }
        let failed = probed.failures;
        let probe_error = result.err().map(|reason| format!("{shown}: {reason}"));
        if let Some(process) = self.workers.processes.get_mut(worker) {
            process.probe_error.clone_from(&probe_error);
        }
        match (purpose, probe_error) {
            (Purpose::Readiness, None) => {
                self.health.probing.forget(worker);
                self.engine.push(Input::Ready(worker));
            }
            (Purpose::Readiness, Some(_)) => {
                let pause = FIRST_PAUSE.as_millis() << failed.saturating_sub(1).min(10);
                self.health
                    .probing
                    .wait(worker, now + Span::from_millis(pause).min(MAX_PAUSE));
            }
            (Purpose::Health { failures, .. }, Some(reason)) if failed >= failures => {
                self.health.probing.forget(worker);
                let row = if failures > 1 {
                    format!(", {failures} times in a row")
                } else {
                    String::new()
                };
                let reason = format!("health: {reason}{row}");
                self.perform(Unhealthy { worker, reason }.actions());
            }
            (Purpose::Health { every, failures }, probe_error) => {
                // From the start of one probe to the next, however long it took.
                self.health
                    .probing
                    .wait(worker, (began + spread(worker, times, every)).max(now));
                if let Some(reason) = probe_error {
                    self.log_probe_failure(
                        worker,
                        &format!("health: {reason} ({failed} of {failures})"),
                    );
                }
            }
        }
    }

    fn log_probe_failure(&mut self, worker: WorkerId, text: &str) {
        self.emit(
            EventBuilder::new(EventKind::ProbeFailed, text)
                .worker(worker)
                .warn(),
        );
    }

    /// The current check of the worker, from its plan.
    fn check_of(&self, worker: WorkerId) -> Option<Check> {
        let purpose = self.health.probing.probed.get(&worker)?.purpose;
        let plan = &self.workers.processes.get(worker)?.spec.plan;
        match (purpose, &plan.ready, &plan.health) {
            (Purpose::Readiness, Ready::Probe(check), _) => Some(check.clone()),
            (Purpose::Health { .. }, _, Some(Health::Probe { check, .. })) => Some(check.clone()),
            _ => None,
        }
    }

    fn probe_request(&mut self, worker: WorkerId) -> Result<ProbeRequest, String> {
        let gone = || "it is gone".to_owned();
        let check = self.check_of(worker).ok_or_else(gone)?;
        let process = self.workers.processes.get(worker).ok_or_else(gone)?;
        let plan = &process.spec.plan;
        let listeners = self.listening.of(&process.spec.listeners);
        let addresses: Vec<Address> = listeners
            .iter()
            .map(|listener| listener.target().address)
            .collect();
        let rotad = self.workers.spawn_specs.rotad().to_owned();
        let context = Context {
            addresses: &addresses,
            pool: &plan.name,
            slot: process.slot.0,
            generation: process.generation.0,
            port: process.port,
            rotad: &rotad,
        };
        let words = match check {
            Check::Connect(place) => return ProbeRequest::connect(&place.expand(&context)),
            Check::Http(url) => return ProbeRequest::http(&url.expand(&context)),
            Check::Command(words) => words,
        };
        let params = SpawnParams {
            worker,
            pool: process.pool,
            slot: process.slot,
            generation: process.generation,
            tag: &process.tag,
            port: process.port,
            notify: None,
            stdout: self.workers.null.clone(),
            stderr: self.workers.null.clone(),
            cgroup: process
                .tree
                .as_ref()
                .and_then(|tree| tree.cgroup.as_ref())
                .map(|cgroup| cgroup.procs()),
            pid: Arc::default(),
        };
        // Like the worker's own spawn, without what makes it a worker: listeners, stdin, watchdog.
        let mut spawn_request =
            self.workers
                .spawn_specs
                .request(&process.spec, &listeners, &params);
        spawn_request.argv = words.iter().map(|word| word.expand(&context)).collect();
        spawn_request.stdin = None;
        spawn_request.listeners.clear();
        spawn_request.listen_names.clear();
        spawn_request.watchdog = None;
        let resolved = self
            .workers
            .spawn_specs
            .resolved(process.pool, process.generation);
        let folder = resolved.map_or_else(
            || plan.recipe.working_directory.clone(),
            |resolved| resolved.directory,
        );
        let path = spawn_request
            .env
            .iter()
            .find(|(name, _)| name == "PATH")
            .map(|(_, value)| value.clone());
        spawn_request.pinned = Arc::new(PinnedPaths::new(
            spawn_request.argv.first().cloned().unwrap_or_default(),
            folder,
            path,
        ));
        Ok(ProbeRequest::Command(Box::new(spawn_request)))
    }
}
