//! Readiness and health by questions from outside: when each worker is asked, and what its answers add up to. The
//! asking itself is `probe`'s.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::health::spread;
use super::spawn_spec::Birth;
use super::watchdog::span;
use crate::observe::events::EventKind;
use crate::plan::{Address, Check, Context, Health, Ready};
use crate::probe::{Left, ProbeError, ProbeRequest, ProbeResult, Prober};
use crate::process::{PinnedPaths, SpawnerConfig};
use rotad_core::{Input, Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// A worker that is not ready yet is asked again after so long; the pauses double …
const SOON: Span = Span::from_millis(50);
/// … up to this.
const LATER: Span = Span::from_secs(1);
/// How long one try of a readiness probe may take.
const TRY: Span = Span::from_secs(10);
/// Connections under way at once; the others wait for their turn, and their time does not run.
const MOST_TALKS: usize = 256;
/// So many questions may hang; then no socket's file is asked.
const MOST_HUNG: usize = 8;
/// Commands under way at once.
const MOST_COMMANDS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Readiness,
    Health { every: Span, failures: u32 },
}

#[derive(Debug)]
enum Stage {
    Waiting(Time),
    /// Its turn has come, and others are before it.
    Queued,
    Asked(Asked),
}

#[derive(Debug)]
struct Asked {
    number: u64,
    at: Time,
    until: Time,
    command: bool,
    /// The question in words.
    shown: String,
    /// The master was paused meanwhile: a failure does not count.
    excused: bool,
}

/// What is known of one worker that is asked.
#[derive(Debug)]
struct ProbedWorker {
    purpose: Purpose,
    timeout: Span,
    stage: Stage,
    /// In a row.
    failures: u32,
    times: u64,
}

#[derive(Debug)]
pub(super) struct Probing {
    settings: SpawnerConfig,
    /// Begun with the first question.
    prober: Option<Prober>,
    subjects: BTreeMap<WorkerId, ProbedWorker>,
    due: BTreeSet<(Time, WorkerId)>,
    queue: VecDeque<WorkerId>,
    asked: BTreeMap<u64, WorkerId>,
    commands: usize,
    last: u64,
    /// Questions that threads hang at which have been written off.
    hung: Vec<(String, Left)>,
}

impl Probing {
    pub(super) fn new(settings: SpawnerConfig) -> Self {
        Self {
            settings,
            prober: None,
            subjects: BTreeMap::new(),
            due: BTreeSet::new(),
            queue: VecDeque::new(),
            asked: BTreeMap::new(),
            commands: 0,
            last: 0,
            hung: Vec::new(),
        }
    }

    /// Writes the prober off if it hangs: what others are asked is asked again, by another one. The worker that it hangs
    /// at.
    fn leave_hung(&mut self, now: Instant) -> Option<WorkerId> {
        let number = self.prober.as_ref()?.hangs(now)?;
        let left = self.prober.take()?.leave();
        let hung = self.asked.get(&number).copied();
        if let Some(Stage::Asked(asked)) = hung.and_then(|worker| Some(&self.subjects.get(&worker)?.stage)) {
            self.hung.push((asked.shown.clone(), left));
        }
        for subject in self.subjects.values_mut() {
            if let Stage::Asked(asked) = &mut subject.stage {
                asked.excused = true;
            }
        }
        hung
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The master was paused: no answer that was awaited meanwhile counts against anybody.
    pub(super) fn paused(&mut self) {
        for subject in self.subjects.values_mut() {
            if let Stage::Asked(asked) = &mut subject.stage {
                asked.excused = true;
            }
        }
    }

    /// Asks no more, and drops what is under way.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.leave_stage(worker);
        if self.subjects.remove(&worker).is_some() {
            self.queue.retain(|queued| *queued != worker);
        }
    }

    fn begin(&mut self, worker: WorkerId, purpose: Purpose, timeout: Span, at: Time) {
        self.forget(worker);
        let subject = ProbedWorker { purpose, timeout, stage: Stage::Waiting(at), failures: 0, times: 0 };
        self.subjects.insert(worker, subject);
        self.due.insert((at, worker));
    }

    fn wait(&mut self, worker: WorkerId, at: Time) {
        self.leave_stage(worker);
        if let Some(subject) = self.subjects.get_mut(&worker) {
            subject.stage = Stage::Waiting(at);
            self.due.insert((at, worker));
        }
    }

    /// Takes out of the books what the stage has in there; a question under way is dropped.
    fn leave_stage(&mut self, worker: WorkerId) {
        let Some(subject) = self.subjects.get_mut(&worker) else { return };
        match std::mem::replace(&mut subject.stage, Stage::Queued) {
            Stage::Queued => {}
            Stage::Waiting(at) => {
                self.due.remove(&(at, worker));
            }
            Stage::Asked(asked) => {
                self.due.remove(&(asked.until, worker));
                self.commands -= usize::from(asked.command);
                if self.asked.remove(&asked.number).is_some()
                    && let Some(prober) = &self.prober
                {
                    prober.forget(asked.number);
                }
            }
        }
    }

    fn has_room(&self, command: bool) -> bool {
        if command { self.commands < MOST_COMMANDS } else { self.asked.len() - self.commands < MOST_TALKS }
    }

    /// Why this question is not to be asked just now: a thread hangs at it already, or too many hang at others.
    fn hangs_at(&mut self, shown: &str) -> Option<ProbeError> {
        self.hung.retain(|(_, left)| !left.is_back());
        if self.hung.iter().any(|(hung, _)| hung == shown) {
            return Some(ProbeError::Unwell("the folder of its socket hangs (a disk?)".to_owned()));
        }
        (self.hung.len() >= MOST_HUNG)
            .then(|| ProbeError::Unasked("too many folders of sockets hang (a disk?)".to_owned()))
    }

    fn ask(&mut self, worker: WorkerId, question: ProbeRequest, now: Time) -> std::io::Result<()> {
        let prober = match self.prober.take() {
            Some(prober) => prober,
            None => Prober::start(self.settings.clone())?,
        };
        let prober = self.prober.insert(prober);
        let Some(subject) = self.subjects.get_mut(&worker) else { return Ok(()) };
        self.last += 1;
        let (number, until, command) = (self.last, now + subject.timeout, question.is_command());
        let shown = question.to_string();
        subject.times += 1;
        subject.stage = Stage::Asked(Asked { number, at: now, until, command, shown, excused: false });
        self.due.insert((until, worker));
        self.asked.insert(number, worker);
        self.commands += usize::from(command);
        prober.ask(number, question);
        Ok(())
    }

    fn answers(&mut self) -> Vec<ProbeResult> {
        self.prober.as_ref().map_or_else(Vec::new, |prober| prober.answers().try_iter().collect())
    }
}

impl Supervisor {
    pub(super) fn probe_readiness(&mut self, worker: WorkerId) {
        let Some(body) = self.processes.get(worker) else { return };
        if let Ready::Probe(_) = body.pattern.plan.ready {
            let now = self.clock.now();
            self.health.probing.begin(worker, Purpose::Readiness, TRY, now);
            self.probes_due();
        }
    }

    pub(super) fn probe_health(&mut self, worker: WorkerId) {
        let Some(body) = self.processes.get(worker) else { return };
        let Some(Health::Probe { every, timeout, failures, .. }) = body.pattern.plan.health else { return };
        let every = span(every);
        let at = self.clock.now() + spread(worker, 0, every);
        self.health.probing.begin(worker, Purpose::Health { every, failures }, span(timeout), at);
    }

    pub(super) fn probes_due(&mut self) {
        let now = self.clock.now();
        if let Some(hung) = self.health.probing.leave_hung(Instant::now()) {
            let others: Vec<WorkerId> =
                self.health.probing.asked.values().copied().filter(|one| *one != hung).collect();
            others.into_iter().for_each(|worker| self.health.probing.wait(worker, now));
            if let Some(subject) = self.health.probing.subjects.get_mut(&hung)
                && let Stage::Asked(asked) = &mut subject.stage
            {
                asked.excused = false;
            }
            self.judge(hung, Err(ProbeError::Unwell("the folder of its socket hangs (a disk?)".to_owned())));
        }
        while let Some((_, worker)) = self.health.probing.due.first().copied().filter(|(at, _)| *at <= now) {
            let Some(subject) = self.health.probing.subjects.get(&worker) else { return };
            match &subject.stage {
                Stage::Asked(_) => {
                    let took = subject.timeout;
                    self.judge(worker, Err(ProbeError::Unwell(format!("timed out after {took}"))));
                }
                Stage::Waiting(_) | Stage::Queued => {
                    self.health.probing.leave_stage(worker);
                    self.health.probing.queue.push_back(worker);
                }
            }
        }
        self.ask_queued();
    }

    /// In the order of their turns, as many as there is room for.
    fn ask_queued(&mut self) {
        let mut left = VecDeque::new();
        while let Some(worker) = self.health.probing.queue.pop_front() {
            match self.check(worker).map(|check| matches!(check, Check::Command(_))) {
                None => self.health.probing.forget(worker),
                Some(command) if self.health.probing.has_room(command) => self.ask(worker),
                Some(_) => left.push_back(worker),
            }
        }
        // Nothing is due for those: an answer, or a timeout, makes room.
        self.health.probing.queue.extend(left);
    }

    fn ask(&mut self, worker: WorkerId) {
        let now = self.clock.now();
        let asked = self.question(worker).map_err(ProbeError::Unwell).and_then(|question| {
            let shown = question.to_string();
            if question.names_a_file()
                && let Some(trouble) = self.health.probing.hangs_at(&shown)
            {
                return Err(trouble);
            }
            self.health.probing.ask(worker, question, now).map_err(|error| ProbeError::Unasked(error.to_string()))
        });
        if let Err(trouble) = asked {
            self.judge(worker, Err(trouble));
        }
    }

    /// Answers that have come.
    pub(super) fn on_probe_results(&mut self) {
        for ProbeResult { number, result } in self.health.probing.answers() {
            // Those that came too late were dropped with their number.
            if let Some(worker) = self.health.probing.asked.get(&number).copied() {
                self.judge(worker, result);
            }
        }
        if !self.health.probing.queue.is_empty() {
            self.ask_queued();
        }
    }

    /// Nobody could be asked: it counts against nobody.
    fn not_asked(&mut self, worker: WorkerId, reason: &str) {
        let Some(subject) = self.health.probing.subjects.get(&worker) else { return };
        let pause = match subject.purpose {
            Purpose::Readiness => LATER,
            Purpose::Health { every, .. } => every,
        };
        self.health.probing.wait(worker, self.clock.now() + pause);
        self.log_probe_failure(worker, &format!("cannot be asked how it is, for a lack of our own: {reason}"));
    }

    fn judge(&mut self, worker: WorkerId, result: Result<(), ProbeError>) {
        let result = match result {
            Err(ProbeError::Unasked(reason)) => return self.not_asked(worker, &reason),
            Err(ProbeError::Unwell(reason)) => Err(reason),
            Ok(()) => Ok(()),
        };
        let now = self.clock.now();
        let Some(subject) = self.health.probing.subjects.get_mut(&worker) else { return };
        let (purpose, times) = (subject.purpose, subject.times);
        let (began, shown, excused) = match &subject.stage {
            Stage::Asked(asked) => (asked.at, asked.shown.clone(), asked.excused),
            Stage::Waiting(_) | Stage::Queued => (now, "it".to_owned(), false),
        };
        if result.is_ok() {
            subject.failures = 0;
        } else if excused {
            return self.health.probing.wait(worker, now);
        } else {
            subject.failures += 1;
        }
        let failed = subject.failures;
        let unwell = result.err().map(|reason| format!("{shown}: {reason}"));
        if let Some(body) = self.processes.get_mut(worker) {
            body.unwell.clone_from(&unwell);
        }
        match (purpose, unwell) {
            (Purpose::Readiness, None) => {
                self.health.probing.forget(worker);
                self.input(Input::Ready(worker));
            }
            (Purpose::Readiness, Some(_)) => {
                let pause = SOON.as_millis() << failed.saturating_sub(1).min(10);
                self.health.probing.wait(worker, now + Span::from_millis(pause).min(LATER));
            }
            (Purpose::Health { failures, .. }, Some(reason)) if failed >= failures => {
                self.health.probing.forget(worker);
                let row = if failures > 1 { format!(", {failures} times in a row") } else { String::new() };
                self.unhealthy(worker, format!("health: {reason}{row}"));
            }
            (Purpose::Health { every, failures }, unwell) => {
                // From one question to the next, however long the answer took.
                self.health.probing.wait(worker, (began + spread(worker, times, every)).max(now));
                if let Some(reason) = unwell {
                    self.log_probe_failure(worker, &format!("health: {reason} ({failed} of {failures})"));
                }
            }
        }
    }

    fn log_probe_failure(&mut self, worker: WorkerId, text: &str) {
        self.emit(EventBuilder::new(EventKind::ProbeFailed, text).worker(worker).warn());
    }

    /// What the worker is asked just now, as its plan has it.
    fn check(&self, worker: WorkerId) -> Option<Check> {
        let purpose = self.health.probing.subjects.get(&worker)?.purpose;
        let plan = &self.processes.get(worker)?.pattern.plan;
        match (purpose, &plan.ready, &plan.health) {
            (Purpose::Readiness, Ready::Probe(check), _) => Some(check.clone()),
            (Purpose::Health { .. }, _, Some(Health::Probe { check, .. })) => Some(check.clone()),
            _ => None,
        }
    }

    fn question(&mut self, worker: WorkerId) -> Result<ProbeRequest, String> {
        let gone = || "it is gone".to_owned();
        let check = self.check(worker).ok_or_else(gone)?;
        let body = self.processes.get(worker).ok_or_else(gone)?;
        let plan = &body.pattern.plan;
        let listeners = self.listening.of(&body.pattern.listeners);
        let addresses: Vec<Address> = listeners.iter().map(|listener| listener.target().address).collect();
        let rotad = self.spawn_specs.rotad().to_owned();
        let context = Context {
            addresses: &addresses,
            pool: &plan.name,
            slot: body.slot.0,
            generation: body.generation.0,
            port: body.port,
            rotad: &rotad,
        };
        let words = match check {
            Check::Connect(place) => return ProbeRequest::connect(&place.expand(&context)),
            Check::Http(url) => return ProbeRequest::http(&url.expand(&context)),
            Check::Command(words) => words,
        };
        let birth = Birth {
            worker,
            pool: body.pool,
            slot: body.slot,
            generation: body.generation,
            tag: &body.tag,
            port: body.port,
            notify: None,
            stdout: self.null.clone(),
            stderr: self.null.clone(),
            cgroup: body.family.as_ref().and_then(|family| family.cgroup.as_ref()).map(|cgroup| cgroup.procs()),
            pid: Arc::default(),
        };
        // As the worker itself is born, but for what makes it the worker: its sockets, and who hears it.
        let mut order = self.spawn_specs.order(&body.pattern, &listeners, &birth);
        order.argv = words.iter().map(|word| word.expand(&context)).collect();
        order.stdin = None;
        order.listeners.clear();
        order.listen_names.clear();
        order.watchdog = None;
        let resolved = self.spawn_specs.resolved(body.pool, body.generation);
        let folder = resolved.map_or_else(|| plan.recipe.working_directory.clone(), |resolved| resolved.directory);
        let path = order.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
        order.pinned = Arc::new(PinnedPaths::new(order.argv.first().cloned().unwrap_or_default(), folder, path));
        Ok(ProbeRequest::Command(Box::new(order)))
    }
}
