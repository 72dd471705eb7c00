//! Watched files: what a changed one sets off.

use super::Supervisor;
use super::event_log::EventBuilder;
use crate::event_loop::waker::Waker;
use crate::observe::events::EventKind;
use crate::observe::print::harmless;
use crate::plan::{Plan, SignalAction, Sink};
use crate::watch::{WatchKey, WatchPlan, WatchReport, Watcher};
use glob::Pattern;
use rotad_core::{PoolId, Span, Time};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Quiet time before a changed configuration is applied.
const CONFIG_DEBOUNCE: Duration = Duration::from_millis(500);

/// The watcher, while there is something to watch.
pub(super) struct FileWatch {
    wake: Waker,
    watcher: Option<Watcher>,
    /// When files have rolled a pool, the last times; and when that was complained about.
    rolled: BTreeMap<PoolId, (VecDeque<Time>, Option<Time>)>,
}

/// So many rolls within [`WINDOW`] by files alone look like a circle: the pool writes what it watches.
const OFTEN: usize = 3;
const WINDOW: Span = Span::from_secs(60);

impl FileWatch {
    pub(super) fn new(wake: Waker) -> Self {
        Self { wake, watcher: None, rolled: BTreeMap::new() }
    }

    /// Watches these and nothing else.
    fn set(&mut self, plans: Vec<WatchPlan>) {
        if plans.is_empty() {
            self.watcher = None;
            return;
        }
        if self.watcher.is_none() {
            match Watcher::start(self.wake.clone()) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => tracing::warn!(
                    "files cannot be watched: {error}; all pools serve, and `rotad reload` rolls them after a change"
                ),
            }
        }
        if let Some(watcher) = &self.watcher {
            watcher.watch(plans);
        }
    }

    fn reports(&self) -> Vec<WatchReport> {
        self.watcher.iter().flat_map(|watcher| watcher.reports().try_iter()).collect()
    }
}

impl Supervisor {
    /// Watches what the plan says: to be called whenever it has changed.
    pub(super) fn watch_files(&mut self) {
        let own = self.own_files();
        let pools = self.pools.iter().filter_map(|(id, pool)| {
            let watch = pool.watch.clone()?;
            let (key, base) = (WatchKey::Pool(id), watch.base);
            let globs = watch.globs.into_iter().chain(own.iter().cloned()).collect();
            Some(WatchPlan { key, base, globs, debounce: watch.debounce })
        });
        let config = self.plan.master.watch_config.then(|| config(&self.plan));
        let plans = pools.chain(config).collect();
        self.file_watch.set(plans);
    }

    /// What the master writes itself, as patterns that leave it out: logs, those that were put aside, the pid file, and
    /// what is in its runtime folder.
    fn own_files(&self) -> Vec<String> {
        let master = &self.plan.master;
        let own = |path: &Path| Pattern::escape(&path.to_string_lossy());
        let pools = self.pools.iter().flat_map(|(_, pool)| [&pool.log.stdout, &pool.log.stderr]);
        let pools = pools.filter_map(|sink| if let Sink::File(path) = sink { Some(path) } else { None });
        let logs = pools.chain(&self.log_file).flat_map(|path| {
            let path = own(path);
            [format!("!{path}"), format!("!{path}.[0-9]"), format!("!{path}.[0-9][0-9]*")]
        });
        let house = own(self.runtime_dir());
        let house =
            ["control.sock", "master.lock", "master.pid", "notify", "workers*"].map(|name| format!("!{house}/{name}"));
        logs.chain([format!("!{}", own(&master.pid_file))]).chain(house).collect()
    }

    /// What the watcher has found out.
    pub(super) fn on_file_changes(&mut self) {
        for report in self.file_watch.reports() {
            match report {
                WatchReport::Watching { key, files } => {
                    let text = format!("{}: {}", self.watched(key), begun(files));
                    self.emit(EventBuilder::new(EventKind::Watch, text).cause("watching"));
                }
                WatchReport::Trouble { key, text } => {
                    let text = format!("{}: {}", self.watched(key), harmless(&text));
                    self.emit(EventBuilder::new(EventKind::Watch, text).cause("trouble").warn());
                }
                WatchReport::Changed { .. } if self.stopping => {}
                WatchReport::Changed { key: WatchKey::Pool(pool), files, count } => {
                    self.code_changed(pool, &files, count);
                }
                WatchReport::Changed { key: WatchKey::Config, files, count } => {
                    let text = changed(self.plan.config.parent().unwrap_or(Path::new("/")), &files, count);
                    self.act(SignalAction::ApplyConfig, &text);
                }
            }
        }
    }

    fn code_changed(&mut self, pool: PoolId, files: &[PathBuf], count: usize) {
        let Some(watch) = self.pools.plan(pool).and_then(|plan| plan.watch.as_ref()) else { return };
        let (text, name) = (changed(&watch.base, files, count), self.pool_name(pool));
        if self.pools.rests(pool) {
            let text = format!("{text}: {name} is stopped, and stays so until `rotad start {name}`");
            return self.emit(EventBuilder::new(EventKind::FilesChanged, text).pool(pool));
        }
        let text = format!("{text}: rolling {name}");
        self.emit(EventBuilder::new(EventKind::FilesChanged, text).pool(pool));
        self.warn_of_a_circle(pool, files.first());
        self.roll(None, false, &[pool]);
    }

    /// Once a minute at most.
    fn warn_of_a_circle(&mut self, pool: PoolId, file: Option<&PathBuf>) {
        let now = self.clock.now();
        let (times, told) = self.file_watch.rolled.entry(pool).or_default();
        times.push_back(now);
        while times.front().is_some_and(|at| now - *at > WINDOW) {
            times.pop_front();
        }
        let often = times.len();
        if often < OFTEN || told.is_some_and(|at| now - at < WINDOW) {
            return;
        }
        *told = Some(now);
        let file = file.map_or_else(|| "?".to_owned(), |file| harmless(file.as_os_str().as_encoded_bytes()));
        let text = format!(
            "changed files alone have rolled it {often} times within {WINDOW}, the last one was {file}: if the pool writes \
             that itself, leave it out of `watch` by a pattern that begins with `!`"
        );
        self.emit(EventBuilder::new(EventKind::Watch, text).pool(pool).cause("circle").warn());
    }

    fn watched(&self, key: WatchKey) -> &str {
        match key {
            WatchKey::Pool(pool) => self.pool_name(pool),
            WatchKey::Config => "the configuration",
        }
    }
}

/// The files that the plan was read from, and those that would be read besides them.
fn config(plan: &Plan) -> WatchPlan {
    let escape = |path: &Path| Pattern::escape(&path.to_string_lossy());
    let sources = plan.sources.iter().map(|source| escape(&source.path));
    let include = plan.include.iter().map(|glob| match glob.text.starts_with('/') {
        true => glob.text.clone(),
        false => format!("{}/{}", escape(&glob.base), glob.text),
    });
    let globs = sources.chain(include).collect();
    WatchPlan { key: WatchKey::Config, base: "/".into(), globs, debounce: CONFIG_DEBOUNCE }
}

fn begun(files: usize) -> String {
    match files {
        0 => "watching: no file matches now; the first that does counts as a change".to_owned(),
        1 => "watching one file".to_owned(),
        many => format!("watching {many} files"),
    }
}

/// `src/app.py and 3 more changed`
fn changed(base: &Path, files: &[PathBuf], count: usize) -> String {
    let first = files.first().map_or(Path::new("?"), PathBuf::as_path);
    let first = harmless(first.strip_prefix(base).unwrap_or(first).as_os_str().as_encoded_bytes());
    match count {
        0 | 1 => format!("{first} changed"),
        _ => format!("{first} and {} more changed", count - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told_from_the_base() {
        let files = [PathBuf::from("/srv/shop/src/a\n.py"), PathBuf::from("/srv/shop/src/b.py")];
        assert_eq!(changed(Path::new("/srv/shop"), &files, 4), "src/a\\x0a.py and 3 more changed");
        assert_eq!(changed(Path::new("/etc"), &files[1..], 1), "/srv/shop/src/b.py changed");
    }
}
