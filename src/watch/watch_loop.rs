//! The watch thread: receives events, waits until there are none for a while, compares, reports.

use super::fingerprint::{self, Fingerprint, Fingerprints};
use super::inotify::{Heard, InotifySet, Inside};
use super::patterns::{MatchState, PatternSet};
use super::walk::{Found, MOST, Walk};
use super::{WatchPlan, WatchReport};
use crate::event_loop::waker::Waker;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::AddWatchFlags;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Files that never stop changing delay a report by at most this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// After each batch of events: a busy folder wakes the thread no more often than this.
const REST: Duration = Duration::from_millis(20);

/// The interval between two scans where the kernel reports no events: at least this, and long enough that scanning
/// takes a twentieth of the time.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_SHARE: u32 = 20;

/// Files that a report names.
const MOST_NAMED: usize = 5;

/// One plan and its state.
struct WatchState {
    plan: WatchPlan,
    globs: Vec<PatternSet>,
    /// As of the last report.
    prints: Fingerprints,
    /// Symlinks to directories that the walk followed.
    links: HashSet<PathBuf>,
    /// The first and the last event since the last comparison.
    stirred: Option<(Instant, Instant)>,
    /// The kernel does not report everything: when to scan next.
    look_at: Option<Instant>,
    /// The fingerprint of the last scan.
    seen: u64,
    /// Problems that were reported.
    told: BTreeSet<String>,
    /// Given up until the plan changes.
    off: bool,
}

impl WatchState {
    fn new(plan: WatchPlan, globs: Vec<PatternSet>) -> Self {
        let (prints, links, told) = (Fingerprints::new(), HashSet::new(), BTreeSet::new());
        Self {
            plan,
            globs,
            prints,
            links,
            stirred: None,
            look_at: None,
            seen: 0,
            told,
            off: false,
        }
    }

    fn stir(&mut self, now: Instant) {
        let first = self.stirred.map_or(now, |(first, _)| first);
        self.stirred = Some((first, now));
    }

    /// When to compare at the latest.
    fn latest(&self) -> Option<Instant> {
        self.stirred
            .map(|(first, _)| first + LONGEST_WAIT.max(self.plan.debounce))
    }

    fn due(&self) -> Option<Instant> {
        if self.off {
            return None;
        }
        let quiet = self.stirred.map(|(_, last)| last + self.plan.debounce);
        self.look_at.or_else(|| quiet.min(self.latest()))
    }
}

/// What the events of a batch mean to one plan: many say the same.
#[derive(Default)]
struct PendingChanges {
    files: BTreeSet<PathBuf>,
    stirred: bool,
    way: bool,
    /// New folders or links: where they stand in which globs.
    places: BTreeMap<(usize, PathBuf), MatchState>,
}

pub(super) struct WatchLoop {
    ears: InotifySet,
    kept: BTreeMap<usize, WatchState>,
    next: usize,
    outbox: Sender<WatchReport>,
    wake: Waker,
}

impl WatchLoop {
    pub(super) fn new(ears: InotifySet, outbox: Sender<WatchReport>, wake: Waker) -> Self {
        Self {
            ears,
            kept: BTreeMap::new(),
            next: 0,
            outbox,
            wake,
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Vec<WatchPlan>>, bell: &Waker) {
        loop {
            bell.clear();
            match inbox.try_recv() {
                Ok(plans) => {
                    self.set(plans);
                    bell.wake(); // there may be more
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            self.hear(None);
            let now = Instant::now();
            let due: Vec<usize> = self
                .due()
                .filter(|(at, _)| *at <= now)
                .map(|(_, id)| id)
                .collect();
            for id in due {
                self.compare(id);
            }
            self.wait(bell);
        }
    }

    fn due(&self) -> impl Iterator<Item = (Instant, usize)> {
        self.kept
            .iter()
            .filter_map(|(id, kept)| Some((kept.due()?, *id)))
    }

    fn wait(&self, bell: &Waker) {
        let due = self
            .due()
            .map(|(at, _)| at.saturating_duration_since(Instant::now()))
            .min();
        // Rounded up: a poll that ends a moment early would spin.
        let timeout = due
            .map(|due| due + Duration::from_millis(1))
            .and_then(|due| PollTimeout::try_from(due).ok());
        let mut sources = vec![PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        sources.extend(self.ears.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        poll(&mut sources, timeout.unwrap_or(PollTimeout::NONE)).ok();
        if sources
            .get(1)
            .is_some_and(|ears| ears.any().unwrap_or(false))
        {
            let rest = PollTimeout::try_from(REST).unwrap_or(PollTimeout::ZERO);
            poll(&mut sources[..1], rest).ok();
        }
    }

    /// Replaces the plans; those that stay keep their state.
    fn set(&mut self, plans: Vec<WatchPlan>) {
        let same =
            |a: &WatchPlan, b: &WatchPlan| a.key == b.key && a.base == b.base && a.globs == b.globs;
        let old = std::mem::take(&mut self.kept);
        let mut new = Vec::new();
        let mut old: Vec<(usize, WatchState)> = old.into_iter().collect();
        for plan in plans {
            match old.iter().position(|(_, kept)| same(&kept.plan, &plan)) {
                Some(at) => {
                    let (id, kept) = old.swap_remove(at);
                    self.kept.insert(id, WatchState { plan, ..kept });
                }
                None => new.push(plan),
            }
        }
        old.iter().for_each(|(id, _)| self.ears.forget(*id));
        self.ears.sweep();
        new.into_iter().for_each(|plan| self.begin(plan));
    }

    fn begin(&mut self, plan: WatchPlan) {
        let (globs, errors) = PatternSet::sort(&plan.base, &plan.globs);
        let (id, key) = (self.next, plan.key);
        self.next += 1;
        self.kept.insert(id, WatchState::new(plan, globs));
        for text in errors {
            self.report(WatchReport::Trouble { key, text });
        }
        let found = self.listen(id);
        let prints = fingerprint::look(found.files, &Fingerprints::new());
        let files = prints.len();
        if let Some(kept) = self.kept.get_mut(&id) {
            kept.seen = fingerprint::digest(&prints);
            kept.prints = prints;
        }
        // A file that changed since the walk may have been read before or after, and workers that started meanwhile
        // may have read the other.
        self.hear(Some(id));
        if self.kept.get(&id).is_some_and(|kept| !kept.off) {
            self.report(WatchReport::Watching { key, files });
        }
    }

    /// Walks all of a plan's directories again, with a watch on each and on no others.
    fn listen(&mut self, id: usize) -> Found {
        let Some(kept) = self.kept.get_mut(&id) else {
            return Found::default();
        };
        self.ears.forget(id);
        let began = Instant::now();
        let mut walk = Walk::new(&mut self.ears, id);
        for (number, globs) in kept.globs.iter().enumerate() {
            walk.whole(number, globs);
        }
        let mut found = walk.found;
        kept.links = found.links.drain(..).collect();
        kept.off = found.too_many;
        if kept.off {
            self.ears.forget(id);
        }
        self.ears.sweep();
        let pause = LOOK_EVERY.max(began.elapsed() * LOOK_SHARE);
        kept.look_at = found.deaf.then(|| Instant::now() + pause);
        self.troubles(id, &found);
        found
    }

    fn troubles(&mut self, id: usize, found: &Found) {
        let Some(kept) = self.kept.get_mut(&id) else {
            return;
        };
        let mut troubles = BTreeSet::new();
        if found.too_many {
            let more = format!(
                "more than {MOST} files or folders: nothing is watched here until the patterns change"
            );
            troubles.insert(more);
        } else if found.deaf {
            let limit = self.ears.limit();
            troubles.insert(format!(
                "{limit}: the files are looked at every {} s instead",
                LOOK_EVERY.as_secs()
            ));
        }
        troubles.extend(found.unreadable.clone());
        let new: Vec<String> = troubles.difference(&kept.told).cloned().collect();
        kept.told = troubles;
        let key = kept.plan.key;
        for text in new {
            self.report(WatchReport::Trouble { key, text });
        }
    }

    /// Handles a batch of events. `first`: a plan whose files were just read for the first time.
    fn hear(&mut self, first: Option<usize>) {
        let mut news: BTreeMap<usize, PendingChanges> = BTreeMap::new();
        for heard in self.ears.hear() {
            match heard {
                Heard::Lost => self
                    .kept
                    .keys()
                    .for_each(|id| news.entry(*id).or_default().stirred = true),
                Heard::Way(id) => news.entry(id).or_default().way = true,
                Heard::Inside(inside, name, what) => {
                    if let Some(kept) = self.kept.get(&inside.plan) {
                        happened(
                            kept,
                            &inside,
                            &name,
                            what,
                            news.entry(inside.plan).or_default(),
                        );
                    }
                }
            }
        }
        for (id, news) in news {
            self.take(id, news, first == Some(id));
        }
    }

    fn take(&mut self, id: usize, mut news: PendingChanges, first: bool) {
        if news.way {
            news.stirred = true;
            news.files.extend(self.listen(id).files);
        }
        let Some(kept) = self.kept.get_mut(&id).filter(|kept| !kept.off) else {
            return;
        };
        let mut walk = Walk::new(&mut self.ears, id);
        for ((number, path), stand) in news.places {
            if let Some(globs) = kept.globs.get(number) {
                walk.below(number, globs, path, stand);
            }
        }
        let found = walk.found;
        kept.links.extend(found.links);
        news.files.extend(found.files);
        if found.deaf && kept.look_at.is_none() {
            kept.look_at = Some(Instant::now());
        }
        if news.stirred || !news.files.is_empty() {
            kept.stir(Instant::now());
        }
        if first {
            kept.prints.extend(
                news.files
                    .into_iter()
                    .map(|file| (file, Fingerprint::unsure())),
            );
        }
    }

    /// No events for a while, or time to scan: compare.
    fn compare(&mut self, id: usize) {
        let (was_deaf, latest) = match self.kept.get(&id) {
            Some(kept) => (kept.look_at.is_some(), kept.latest()),
            None => return,
        };
        let found = self.listen(id);
        let Some(kept) = self.kept.get_mut(&id).filter(|kept| !kept.off) else {
            return;
        };
        let now = Instant::now();
        // Directories that were not watched before: more files may be on their way there.
        if found.new > 0 && !found.deaf && latest.is_none_or(|latest| now < latest) {
            kept.stir(now);
            return;
        }
        let prints = fingerprint::look(found.files, &kept.prints);
        if was_deaf || found.deaf {
            // No events tell whether it is quiet: two equal scans do.
            let seen = fingerprint::digest(&prints);
            if std::mem::replace(&mut kept.seen, seen) != seen {
                return;
            }
        }
        kept.stirred = None;
        let (files, count) = fingerprint::changes(&kept.prints, &prints, MOST_NAMED);
        kept.prints = prints;
        let key = kept.plan.key;
        if count > 0 {
            self.report(WatchReport::Changed { key, files, count });
        }
    }

    fn report(&self, report: WatchReport) {
        self.outbox.send(report).ok();
        self.wake.wake();
    }
}

/// What an event in a folder means to the plan that walks there.
fn happened(
    kept: &WatchState,
    inside: &Inside,
    name: &OsStr,
    what: AddWatchFlags,
    news: &mut PendingChanges,
) {
    let Some(globs) = kept.globs.get(inside.globs) else {
        return;
    };
    if globs.leaves_out(&inside.path.join(name)) {
        return;
    }
    let stand = globs.step(inside.stand, name);
    if stand.is_lost() {
        return;
    }
    let path = inside.path.join(name);
    let came = what.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
    let went = what.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM);
    let descends = globs.descends(stand);
    if what.contains(AddWatchFlags::IN_ISDIR) {
        // One that is deleted was emptied before.
        news.stirred |= descends && what.contains(AddWatchFlags::IN_MOVED_FROM);
        if descends && !went {
            news.places.insert((inside.globs, path), stand);
        }
        return;
    }
    let by_name = globs.step_by_name(inside.stand, name);
    if globs.descends(by_name) && came && path.is_symlink() {
        news.places.insert((inside.globs, path.clone()), by_name);
    }
    news.way |= descends && went && kept.links.contains(&path);
    if globs.matches(stand) {
        news.stirred = true;
        news.files.insert(path);
    }
}

#[cfg(test)]
mod tests {
    use super::super::WatchKey;
    use super::*;

    #[test]
    fn quiet_is_waited_for_but_not_for_ever() {
        let debounce = Duration::from_millis(500);
        let mut kept = WatchState::new(
            WatchPlan {
                key: WatchKey::Config,
                base: "/".into(),
                globs: vec![],
                debounce,
            },
            vec![],
        );
        assert_eq!(kept.due(), None);
        let now = Instant::now();
        for second in 0..100 {
            kept.stir(now + Duration::from_secs(second));
            let quiet = Duration::from_secs(second) + debounce;
            assert_eq!(kept.due(), Some(now + quiet.min(LONGEST_WAIT)));
        }
        kept.plan.debounce = Duration::from_secs(60);
        assert_eq!(
            kept.due(),
            Some(now + Duration::from_secs(60)),
            "a longer debounce is its own bound"
        );
    }

    #[test]
    fn nobody_listens_where_nothing_is_watched_any_more() {
        let folder = tempfile::tempdir().expect("a folder");
        for inner in ["a/b", "c"] {
            std::fs::create_dir_all(folder.path().join(inner)).expect("a folder");
        }
        let plan = |glob: &str| WatchPlan {
            key: WatchKey::Config,
            base: folder.path().to_owned(),
            globs: vec![glob.to_owned()],
            debounce: Duration::ZERO,
        };
        let (outbox, _reports) = crossbeam_channel::unbounded();
        let mut vigil = WatchLoop::new(InotifySet::new(), outbox, Waker::new().expect("a bell"));
        vigil.set(vec![plan("**/*")]);
        let (all, above) = (vigil.ears.count(), folder.path().components().count() - 1);
        assert_eq!(all, above + 3, "the folder, three below it, those above it");
        std::fs::remove_dir_all(folder.path().join("a")).expect("a folder less");
        vigil.hear(None);
        assert_eq!(vigil.ears.count(), all - 2);
        vigil.set(vec![plan("c/*")]);
        assert_eq!(vigil.ears.count(), above + 1);
        vigil.set(vec![]);
        assert_eq!(vigil.ears.count(), 0);
    }
}
