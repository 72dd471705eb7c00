//! The loop of the watch thread: receives events, waits until there are none for a while, compares fingerprints, and
//! reports.

use super::fingerprint::{self, Digest, Fingerprint, Fingerprints};
use super::inotify::{InotifySet, WatchEvent, WatchedDir};
use super::walk::{Found, MAX_ENTRIES, Walk};
use super::{WatchPlan, WatchReport};
use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox::Mailbox;
use crate::event_loop::waker::Waker;
use crate::plan::{MatchState, PatternSet};
use crate::sys::poll::poll;
use crossbeam_channel::{Receiver, TryRecvError};
use nix::poll::{PollFd, PollFlags};
use nix::sys::inotify::AddWatchFlags;
use rotad_core::{Span, Time};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

/// Maximum delay of a report while files keep changing.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Pause after each batch of events, so that a busy directory wakes the thread no more often.
const BATCH_PAUSE: Duration = Duration::from_millis(20);

/// The interval between two scans where the kernel reports no events: at least this, and long enough that scanning
/// takes a twentieth of the time.
const SCAN_INTERVAL: Duration = Duration::from_secs(5);
const SCAN_SHARE: u32 = 20;

/// Maximum number of files that a report names.
const MAX_NAMED: usize = 5;

/// One plan and its state.
struct WatchState {
    plan: WatchPlan,
    globs: Vec<PatternSet>,
    /// As of the last report.
    fingerprints: Fingerprints,
    /// What the files were for the master before this one, while it is not clear that they have changed since.
    baseline: Option<Digest>,
    /// Symlinks to directories that the walk followed.
    links: HashSet<PathBuf>,
    /// The first and the last event since the last comparison.
    pending: Option<(Time, Time)>,
    /// When to scan next, if the kernel does not report everything.
    scan_at: Option<Time>,
    /// The digest of the last scan, where two equal ones are needed.
    digest: Option<Digest>,
    /// The problems that were reported.
    reported: BTreeSet<String>,
    /// There are too many files: nothing is watched until the plan changes.
    gave_up: bool,
}

impl WatchState {
    fn new(plan: WatchPlan, globs: Vec<PatternSet>) -> Self {
        let (fingerprints, links, reported) =
            (Fingerprints::new(), HashSet::new(), BTreeSet::new());
        Self {
            plan,
            globs,
            fingerprints,
            baseline: None,
            links,
            pending: None,
            scan_at: None,
            digest: None,
            reported,
            gave_up: false,
        }
    }

    fn note_event(&mut self, now: Time) {
        let first = self.pending.map_or(now, |(first, _)| first);
        self.pending = Some((first, now));
    }

    /// When to compare at the latest.
    fn latest(&self) -> Option<Time> {
        self.pending
            .map(|(first, _)| first + Span::from(MAX_WAIT.max(self.plan.debounce)))
    }

    fn due(&self) -> Option<Time> {
        if self.gave_up {
            return None;
        }
        let quiet = self
            .pending
            .map(|(_, last)| last + Span::from(self.plan.debounce));
        self.scan_at.or_else(|| quiet.min(self.latest()))
    }
}

/// What the events of a batch mean for one plan; many mean the same.
#[derive(Default)]
struct PlanChanges {
    files: BTreeSet<PathBuf>,
    changed: bool,
    root_path: bool,
    /// New directories or symlinks, by the index of the pattern set, with their match state.
    new_dirs: BTreeMap<(usize, PathBuf), MatchState>,
}

pub(super) struct WatchLoop {
    inotify: InotifySet,
    clock: Clock,
    watches: BTreeMap<usize, WatchState>,
    next: usize,
    reports: Mailbox<WatchReport>,
}

impl WatchLoop {
    pub(super) fn new(inotify: InotifySet, reports: Mailbox<WatchReport>, clock: Clock) -> Self {
        Self {
            inotify,
            clock,
            watches: BTreeMap::new(),
            next: 0,
            reports,
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Vec<WatchPlan>>, waker: &Waker) {
        loop {
            waker.clear();
            match inbox.try_recv() {
                Ok(plans) => {
                    self.set(plans);
                    waker.wake(); // there may be more
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            self.read_events(None);
            let now = self.clock.now();
            let due: Vec<usize> = self
                .due()
                .filter(|(at, _)| *at <= now)
                .map(|(_, id)| id)
                .collect();
            for id in due {
                self.compare(id);
            }
            self.wait(waker);
        }
    }

    fn due(&self) -> impl Iterator<Item = (Time, usize)> {
        self.watches
            .iter()
            .filter_map(|(id, watch)| Some((watch.due()?, *id)))
    }

    fn wait(&self, waker: &Waker) {
        let due = self.due().map(|(at, _)| self.clock.until(at)).min();
        let mut sources = vec![PollFd::new(waker.as_fd(), PollFlags::POLLIN)];
        sources.extend(
            self.inotify
                .fd()
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
        );
        poll(&mut sources, due).ok();
        if sources
            .get(1)
            .is_some_and(|source| source.any().unwrap_or(false))
        {
            poll(&mut sources[..1], Some(BATCH_PAUSE)).ok();
        }
    }

    /// Replaces the plans; unchanged ones keep their state.
    fn set(&mut self, plans: Vec<WatchPlan>) {
        let same =
            |a: &WatchPlan, b: &WatchPlan| a.key == b.key && a.base == b.base && a.globs == b.globs;
        let old = std::mem::take(&mut self.watches);
        let mut new = Vec::new();
        let mut old: Vec<(usize, WatchState)> = old.into_iter().collect();
        for plan in plans {
            match old.iter().position(|(_, watch)| same(&watch.plan, &plan)) {
                Some(at) => {
                    let (id, watch) = old.swap_remove(at);
                    self.watches.insert(id, WatchState { plan, ..watch });
                }
                None => new.push(plan),
            }
        }
        old.iter().for_each(|(id, _)| self.inotify.forget(*id));
        self.inotify.remove_unused();
        new.into_iter().for_each(|plan| self.begin(plan));
    }

    fn begin(&mut self, plan: WatchPlan) {
        let (globs, errors) = PatternSet::group(&plan.base, &plan.globs);
        let (id, key) = (self.next, plan.key);
        self.next += 1;
        self.watches.insert(id, WatchState::new(plan, globs));
        for text in errors {
            self.report(WatchReport::Trouble { key, text });
        }
        let found = self.walk(id);
        let fingerprints = fingerprint::scan(found.files, &Fingerprints::new());
        let files = fingerprints.len();
        let now = self.clock.now();
        if let Some(watch) = self.watches.get_mut(&id) {
            let digest = Digest::of(&fingerprints);
            watch.digest = Some(digest);
            watch.fingerprints = fingerprints;
            let baseline = watch.plan.baseline.take();
            watch.baseline = baseline.filter(|baseline| baseline.differs(digest));
            if watch.baseline.is_some() {
                // Compared again when things are quiet.
                watch.note_event(now);
            }
        }
        // A file that changed since the walk may have been read before or after the change, and workers that started
        // meanwhile may have read the other version.
        self.read_events(Some(id));
        if let Some(watch) = self.watches.get(&id).filter(|watch| !watch.gave_up) {
            let digest = watch.baseline;
            let digest = digest.unwrap_or_else(|| Digest::of(&watch.fingerprints));
            self.report(WatchReport::Watching { key, files, digest });
        }
    }

    /// Walks all of a plan's directories again, and watches these and no others.
    fn walk(&mut self, id: usize) -> Found {
        let Some(watch) = self.watches.get_mut(&id) else {
            return Found::default();
        };
        self.inotify.forget(id);
        let began = self.clock.elapsed();
        let mut walk = Walk::new(&mut self.inotify, id);
        for (number, globs) in watch.globs.iter().enumerate() {
            walk.whole(number, globs);
        }
        let mut found = walk.found;
        watch.links = found.links.drain(..).collect();
        watch.gave_up = found.too_many;
        if watch.gave_up {
            self.inotify.forget(id);
        }
        self.inotify.remove_unused();
        let took = self.clock.elapsed().saturating_sub(began);
        let pause = SCAN_INTERVAL.max(took * SCAN_SHARE);
        watch.scan_at = found
            .incomplete
            .then(|| self.clock.now() + Span::from(pause));
        self.troubles(id, &found);
        found
    }

    fn troubles(&mut self, id: usize, found: &Found) {
        let Some(watch) = self.watches.get_mut(&id) else {
            return;
        };
        let mut troubles = BTreeSet::new();
        if found.too_many {
            let more = format!(
                "more than {MAX_ENTRIES} files or directories: nothing is watched here until the patterns change"
            );
            troubles.insert(more);
        } else if found.incomplete {
            let limit = self.inotify.limit();
            troubles.insert(format!(
                "{limit}: the files are looked at every {} s instead",
                SCAN_INTERVAL.as_secs()
            ));
        }
        troubles.extend(found.unreadable.clone());
        let new: Vec<String> = troubles.difference(&watch.reported).cloned().collect();
        watch.reported = troubles;
        let key = watch.plan.key;
        for text in new {
            self.report(WatchReport::Trouble { key, text });
        }
    }

    /// Handles a batch of events. `first`: a plan whose files were read for the first time just before.
    fn read_events(&mut self, first: Option<usize>) {
        let mut changes: BTreeMap<usize, PlanChanges> = BTreeMap::new();
        for event in self.inotify.read_events() {
            match event {
                WatchEvent::Lost => self
                    .watches
                    .keys()
                    .for_each(|id| changes.entry(*id).or_default().changed = true),
                WatchEvent::RootPath(id) => changes.entry(id).or_default().root_path = true,
                WatchEvent::Inside(dir, name, what) => {
                    if let Some(watch) = self.watches.get(&dir.plan) {
                        note_change(
                            watch,
                            &dir,
                            &name,
                            what,
                            changes.entry(dir.plan).or_default(),
                        );
                    }
                }
            }
        }
        for (id, changes) in changes {
            self.take(id, changes, first == Some(id));
        }
    }

    fn take(&mut self, id: usize, mut changes: PlanChanges, first: bool) {
        if changes.root_path {
            changes.changed = true;
            changes.files.extend(self.walk(id).files);
        }
        let Some(watch) = self.watches.get_mut(&id).filter(|watch| !watch.gave_up) else {
            return;
        };
        let mut walk = Walk::new(&mut self.inotify, id);
        for ((number, path), state) in changes.new_dirs {
            if let Some(globs) = watch.globs.get(number) {
                walk.below(number, globs, path, state);
            }
        }
        let found = walk.found;
        watch.links.extend(found.links);
        changes.files.extend(found.files);
        if found.incomplete && watch.scan_at.is_none() {
            watch.scan_at = Some(self.clock.now());
        }
        if changes.changed || !changes.files.is_empty() {
            watch.note_event(self.clock.now());
        }
        if first {
            watch.fingerprints.extend(
                changes
                    .files
                    .into_iter()
                    .map(|file| (file, Fingerprint::unsure())),
            );
        }
    }

    /// Compares the files of a plan with the last report: there were no events for a while, or a scan is due.
    fn compare(&mut self, id: usize) {
        let (was_deaf, latest) = match self.watches.get(&id) {
            Some(watch) => (watch.scan_at.is_some(), watch.latest()),
            None => return,
        };
        let found = self.walk(id);
        let Some(watch) = self.watches.get_mut(&id).filter(|watch| !watch.gave_up) else {
            return;
        };
        let now = self.clock.now();
        // There are directories that were not watched before: more files may be written there.
        if found.new > 0 && !found.incomplete && latest.is_none_or(|latest| now < latest) {
            watch.note_event(now);
            return;
        }
        let fingerprints = fingerprint::scan(found.files, &watch.fingerprints);
        if was_deaf || found.incomplete {
            // Without events, two equal scans show that the files no longer change.
            let digest = Some(Digest::of(&fingerprints));
            if std::mem::replace(&mut watch.digest, digest) != digest {
                return;
            }
        }
        watch.pending = None;
        let (files, count) = fingerprint::changes(&watch.fingerprints, &fingerprints, MAX_NAMED);
        watch.fingerprints = fingerprints;
        let key = watch.plan.key;
        let digest = Digest::of(&watch.fingerprints);
        let report = |files, count| WatchReport::Changed {
            key,
            files,
            count,
            digest,
        };
        match watch.baseline.take() {
            Some(baseline) if baseline.differs(digest) => self.report(report(Vec::new(), 0)),
            None if count > 0 => self.report(report(files, count)),
            _ => {}
        }
    }

    fn report(&self, report: WatchReport) {
        self.reports.send(report);
    }
}

/// Notes what an event in a watched directory means for its plan.
fn note_change(
    watch: &WatchState,
    dir: &WatchedDir,
    name: &OsStr,
    what: AddWatchFlags,
    changes: &mut PlanChanges,
) {
    let Some(globs) = watch.globs.get(dir.globs) else {
        return;
    };
    if globs.excludes(&dir.path.join(name)) {
        return;
    }
    let state = globs.step(dir.state, name);
    if state.is_dead() {
        return;
    }
    let path = dir.path.join(name);
    let came = what.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
    let went = what.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM);
    let descends = globs.descends(state);
    if what.contains(AddWatchFlags::IN_ISDIR) {
        // A directory that is deleted was emptied before.
        changes.changed |= descends && what.contains(AddWatchFlags::IN_MOVED_FROM);
        if descends && !went {
            changes.new_dirs.insert((dir.globs, path), state);
        }
        return;
    }
    let by_name = globs.step_by_name(dir.state, name);
    if globs.descends(by_name) && came && path.is_symlink() {
        changes.new_dirs.insert((dir.globs, path.clone()), by_name);
    }
    changes.root_path |= descends && went && watch.links.contains(&path);
    if globs.matches(state) {
        changes.changed = true;
        changes.files.insert(path);
    }
}

#[cfg(test)]
mod tests {
    use super::super::WatchKey;
    use super::*;
    use crate::event_loop::mailbox;

    #[test]
    fn a_report_waits_for_quiet_up_to_a_bound() {
        let debounce = Duration::from_millis(500);
        let mut watch = WatchState::new(
            WatchPlan {
                key: WatchKey::Config,
                base: "/".into(),
                globs: vec![],
                debounce,
                baseline: None,
            },
            vec![],
        );
        assert_eq!(watch.due(), None);
        let now = Time(0);
        for second in 0..100 {
            watch.note_event(now + Span::from_secs(second));
            let quiet = Duration::from_secs(second) + debounce;
            assert_eq!(watch.due(), Some(now + Span::from(quiet.min(MAX_WAIT))));
        }
        watch.plan.debounce = Duration::from_secs(60);
        assert_eq!(
            watch.due(),
            Some(now + Span::from_secs(60)),
            "a longer debounce is its own bound"
        );
    }

    #[test]
    fn directories_that_no_plan_uses_are_not_watched() {
        let directory = tempfile::tempdir().expect("a directory");
        for inner in ["a/b", "c"] {
            std::fs::create_dir_all(directory.path().join(inner)).expect("a directory");
        }
        let plan = |glob: &str| WatchPlan {
            key: WatchKey::Config,
            base: directory.path().to_owned(),
            globs: vec![glob.to_owned()],
            debounce: Duration::ZERO,
            baseline: None,
        };
        let (reports, _received) = mailbox::channel(Waker::new().expect("a waker"));
        let mut watch_loop = WatchLoop::new(InotifySet::new(), reports, Clock::start());
        watch_loop.set(vec![plan("**/*")]);
        let (all, above) = (
            watch_loop.inotify.count(),
            directory.path().components().count() - 1,
        );
        assert_eq!(
            all,
            above + 3,
            "the directory, three below it, those above it"
        );
        std::fs::remove_dir_all(directory.path().join("a")).expect("a directory less");
        watch_loop.read_events(None);
        assert_eq!(watch_loop.inotify.count(), all - 2);
        watch_loop.set(vec![plan("c/*")]);
        assert_eq!(watch_loop.inotify.count(), above + 1);
        watch_loop.set(vec![]);
        assert_eq!(watch_loop.inotify.count(), 0);
    }
}
