//! Watched files: tells `crate::watch` what to watch, rolls a pool when its files change, reloads when the
//! configuration changes, and upgrades when the program changes. What was acted on last is saved, so that the next master
//! notices what has changed before it began.

use crate::control::protocol::ReloadScope;
use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox::Mailbox;
use crate::observe::events::EventKind;
use crate::observe::print::sanitize;
use crate::plan::{Piece, Plan, Sink};
use crate::saved_state::tracked::Tracked;
use crate::supervisor::Supervisor;
use crate::supervisor::deploys::Asker;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::pool_registry::PoolRegistry;
use crate::watch::{Digest, WatchKey, WatchPlan, WatchReport, Watcher};
use glob::Pattern;
use rotad_core::{PoolId, Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the configuration has to be quiet before a change is applied.
const CONFIG_DEBOUNCE: Duration = Duration::from_millis(500);
/// How long the program has to be quiet before it is executed: whatever replaces it writes for a while.
const PROGRAM_DEBOUNCE: Duration = Duration::from_secs(2);

/// The watch thread, while there is something to watch.
pub(crate) struct FileWatch {
    reports: Mailbox<WatchReport>,
    clock: Clock,
    watcher: Option<Watcher>,
    /// What is watched.
    plans: Vec<WatchPlan>,
    /// What was acted on last.
    seen: Tracked<Vec<SeenFiles>>,
    /// For each pool: when file changes have rolled it, and when a loop was last reported.
    rolled: BTreeMap<PoolId, (VecDeque<Time>, Option<Time>)>,
}

/// The content of watched files for which all has been done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenFiles {
    key: WatchKey,
    base: PathBuf,
    globs: Vec<String>,
    digest: Digest,
}

impl SeenFiles {
    /// Whether that was seen of what this plan watches.
    fn is_of(&self, plan: &WatchPlan) -> bool {
        self.key == plan.key && self.base == plan.base && self.globs == plan.globs
    }
}

/// This many rolls by file changes within [`LOOP_WINDOW`] look like a loop: the pool writes files that it watches.
const LOOP_ROLLS: usize = 3;
const LOOP_WINDOW: Span = Span::from_secs(60);

impl FileWatch {
    pub(crate) fn new(reports: Mailbox<WatchReport>, clock: Clock) -> Self {
        Self {
            reports,
            clock,
            watcher: None,
            plans: Vec::new(),
            seen: Tracked::default(),
            rolled: BTreeMap::new(),
        }
    }

    /// What was acted on last, for the next master. None: it is saved already.
    pub(crate) fn take_change(&mut self) -> Option<&[SeenFiles]> {
        self.seen.take_change().then_some(&**self.seen)
    }

    /// All that was acted on last.
    pub(crate) fn seen(&self) -> &[SeenFiles] {
        &self.seen
    }

    /// Goes on where a dead master has stopped. To be called before [`FileWatch::follow`].
    pub(crate) fn restore(&mut self, seen: Vec<SeenFiles>) {
        *self.seen = seen;
    }

    /// All that follows from this content is done, or was asked for.
    pub(crate) fn note(&mut self, key: WatchKey, digest: Digest) {
        let Some(plan) = self.plans.iter().find(|plan| plan.key == key) else {
            return;
        };
        let seen = SeenFiles {
            key,
            base: plan.base.clone(),
            globs: plan.globs.clone(),
            digest,
        };
        self.seen.retain(|other| other.key != key);
        self.seen.push(seen);
    }

    /// Watches what the plan in force says. `own`: patterns that exclude what the master itself writes; `program`: that of the
    /// master, if it is to be watched. Returns the event that nothing can be watched.
    pub(crate) fn follow(
        &mut self,
        plan: &Plan,
        pools: &PoolRegistry,
        own: &[String],
        program: Option<&Path>,
    ) -> Option<EventBuilder> {
        let pools = pools.iter().filter_map(|(id, pool)| {
            let watch = pool.watch.clone()?;
            let (key, base) = (WatchKey::Pool(id), watch.base);
            let globs = watch.globs.into_iter().chain(own.iter().cloned()).collect();
            Some(WatchPlan {
                key,
                base,
                globs,
                debounce: watch.debounce,
                baseline: None,
            })
        });
        let config = plan.master.watch_config.then(|| config(plan));
        let program = program.map(|path| WatchPlan {
            key: WatchKey::Program,
            base: "/".into(),
            globs: vec![escaped(path)],
            debounce: PROGRAM_DEBOUNCE,
            baseline: None,
        });
        let mut plans: Vec<WatchPlan> = pools.chain(config).chain(program).collect();
        // What is not watched any more may change without an effect.
        let watched = |seen: &SeenFiles| plans.iter().any(|plan| seen.is_of(plan));
        if !self.seen.iter().all(watched) {
            self.seen.retain(watched);
        }
        for plan in &mut plans {
            let seen = self.seen.iter().find(|seen| seen.is_of(plan));
            plan.baseline = seen.map(|seen| seen.digest);
        }
        self.plans.clone_from(&plans);
        self.set(plans)
    }

    /// Watches exactly these files.
    fn set(&mut self, plans: Vec<WatchPlan>) -> Option<EventBuilder> {
        if plans.is_empty() {
            self.watcher = None;
            return None;
        }
        let watcher = match self.watcher.take() {
            Some(watcher) => Ok(watcher),
            None => Watcher::start(self.reports.clone(), self.clock.clone()),
        };
        match watcher {
            Ok(watcher) => {
                self.watcher.insert(watcher).watch(plans);
                None
            }
            Err(error) => {
                let text = format!(
                    "files cannot be watched: {error}; all pools serve, and `rotad reload` rolls them after a change"
                );
                let event = EventBuilder::new(EventKind::Watch, text);
                Some(event.cause("trouble").warn())
            }
        }
    }
}

impl Supervisor {
    /// Takes a report of the watch thread.
    pub(crate) fn on_file_change(&mut self, report: WatchReport) {
        if self.reload.file_watch.watcher.is_none() {
            // It was sent before the thread was told to end.
            return;
        }
        match report {
            WatchReport::Watching { key, files, digest } => {
                self.reload.file_watch.note(key, digest);
                let text = format!("{}: {}", self.watch_name(key), watching_text(files));
                self.emit(EventBuilder::new(EventKind::Watch, text).cause("watching"));
            }
            WatchReport::Trouble { key, text } => {
                let text = format!("{}: {}", self.watch_name(key), sanitize(&text));
                self.emit(
                    EventBuilder::new(EventKind::Watch, text)
                        .cause("trouble")
                        .warn(),
                );
            }
            WatchReport::Changed { .. } if self.shutdown.stopping => {}
            WatchReport::Changed {
                key: WatchKey::Pool(pool),
                files,
                count,
                digest,
            } => {
                self.code_changed(pool, &files, count);
                self.reload.file_watch.note(WatchKey::Pool(pool), digest);
            }
            WatchReport::Changed {
                key: WatchKey::Config,
                files,
                count,
                digest,
            } => {
                let sources = &self.plan.sources;
                let shown = |file: PathBuf| {
                    let source = sources.iter().find(|source| source.path == file);
                    source
                        .and_then(|source| source.shown.clone())
                        .unwrap_or(file)
                };
                let files: Vec<PathBuf> = files.into_iter().map(shown).collect();
                let text = changed(
                    self.plan.config.parent().unwrap_or(Path::new("/")),
                    &files,
                    count,
                );
                self.apply_by_signal(&text, Asker::watch(), ReloadScope::ConfigOnly);
                self.reload.file_watch.note(WatchKey::Config, digest);
            }
            WatchReport::Changed {
                key: WatchKey::Program,
                digest,
                ..
            } => {
                self.program_changed(digest);
            }
        }
    }

    fn code_changed(&mut self, pool: PoolId, files: &[PathBuf], count: usize) {
        let Some(watch) = self.pools.plan(pool).and_then(|plan| plan.watch.as_ref()) else {
            return;
        };
        let (text, name) = (changed(&watch.base, files, count), self.pools.name(pool));
        if self.pools.stopped_by_operator(pool) {
            let text =
                format!("{text}: {name} is stopped, and stays so until `rotad start {name}`");
            return self.emit(EventBuilder::new(EventKind::FilesChanged, text).pool(pool));
        }
        let text = format!("{text}: rolling {name}");
        self.emit(EventBuilder::new(EventKind::FilesChanged, text).pool(pool));
        self.warn_of_loop(pool, files.first());
        self.roll(&Asker::watch(), &[pool]);
    }

    /// Reported once a minute at most.
    fn warn_of_loop(&mut self, pool: PoolId, file: Option<&PathBuf>) {
        let now = self.clock.now();
        let (times, warned_at) = self.reload.file_watch.rolled.entry(pool).or_default();
        times.push_back(now);
        while times.front().is_some_and(|at| now - *at > LOOP_WINDOW) {
            times.pop_front();
        }
        let often = times.len();
        if often < LOOP_ROLLS || warned_at.is_some_and(|at| now - at < LOOP_WINDOW) {
            return;
        }
        *warned_at = Some(now);
        let file = file.map_or_else(
            || "?".to_owned(),
            |file| sanitize(file.as_os_str().as_encoded_bytes()),
        );
        let text = format!(
            "changed files alone have rolled it {often} times within {LOOP_WINDOW}, the last one was {file}: if the pool writes \
             that itself, leave it out of `watch` by a pattern that begins with `!`"
        );
        self.emit(
            EventBuilder::new(EventKind::Watch, text)
                .pool(pool)
                .cause("circle")
                .warn(),
        );
    }

    fn watch_name(&self, key: WatchKey) -> &str {
        match key {
            WatchKey::Pool(pool) => self.pools.name(pool),
            WatchKey::Config => "the configuration",
            WatchKey::Program => "the program of the master",
        }
    }
}

/// Patterns that exclude what the master itself writes: logs, rotated logs, the pid file, and the runtime directory.
pub(crate) fn own_files(
    plan: &Plan,
    pools: &PoolRegistry,
    log_file: Option<&Path>,
    runtime_dir: &Path,
) -> Vec<String> {
    let own = escaped;
    let pools = pools
        .iter()
        .flat_map(|(_, pool)| [&pool.log.stdout, &pool.log.stderr]);
    let of_slot = |piece: &Piece| match piece {
        // A slot has at least one digit.
        Piece::Slot => "[0-9]*".to_owned(),
        Piece::Text(text) | Piece::Env { value: text, .. } => Pattern::escape(text),
        // The configuration allows no others here.
        _ => String::new(),
    };
    let pools = pools.filter_map(|sink| match sink {
        Sink::File(file) => Some(file.pieces().iter().map(of_slot).collect::<String>()),
        Sink::Master | Sink::Inherit | Sink::Null | Sink::Stdout => None,
    });
    let logs = pools.chain(log_file.map(own)).flat_map(|path| {
        [
            format!("!{path}"),
            format!("!{path}.[0-9]"),
            format!("!{path}.[0-9][0-9]*"),
        ]
    });
    let runtime_dir = own(runtime_dir);
    let runtime_dir = [
        "control.sock",
        "master.lock",
        "master.pid",
        "notify",
        "workers*",
    ]
    .map(|name| format!("!{runtime_dir}/{name}"));
    logs.chain([format!("!{}", own(&plan.master.pid_file))])
        .chain(runtime_dir)
        .collect()
}

/// The files that the plan was read from, and those that its `include` would add.
fn config(plan: &Plan) -> WatchPlan {
    let escape = escaped;
    let sources = plan.sources.iter().map(|source| escape(&source.path));
    let include = plan
        .include
        .iter()
        .map(|glob| match glob.text.starts_with('/') {
            true => glob.text.clone(),
            false => format!("{}/{}", escape(&glob.base), glob.text),
        });
    let globs = sources.chain(include).collect();
    WatchPlan {
        key: WatchKey::Config,
        base: "/".into(),
        globs,
        debounce: CONFIG_DEBOUNCE,
        baseline: None,
    }
}

/// A pattern that matches this path and no other.
fn escaped(path: &Path) -> String {
    Pattern::escape(&path.to_string_lossy())
}

fn watching_text(files: usize) -> String {
    match files {
        0 => "watching: no file matches now; the first that does counts as a change".to_owned(),
        1 => "watching one file".to_owned(),
        many => format!("watching {many} files"),
    }
}

/// `src/app.py and 3 more changed`
fn changed(base: &Path, files: &[PathBuf], count: usize) -> String {
    if count == 0 {
        return "watched files changed before this master began".to_owned();
    }
    let first = files.first().map_or(Path::new("?"), PathBuf::as_path);
    let first = sanitize(
        first
            .strip_prefix(base)
            .unwrap_or(first)
            .as_os_str()
            .as_encoded_bytes(),
    );
    match count {
        1 => format!("{first} changed"),
        _ => format!("{first} and {} more changed", count - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_files_are_named_relative_to_the_base() {
        let files = [
            PathBuf::from("/srv/shop/src/a\n.py"),
            PathBuf::from("/srv/shop/src/b.py"),
        ];
        assert_eq!(
            changed(Path::new("/srv/shop"), &files, 4),
            "src/a\\x0a.py and 3 more changed"
        );
        assert_eq!(
            changed(Path::new("/etc"), &files[1..], 1),
            "/srv/shop/src/b.py changed"
        );
        assert_eq!(
            changed(Path::new("/etc"), &[], 0),
            "watched files changed before this master began"
        );
    }
}
