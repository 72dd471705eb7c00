//! The watcher with real directories. Every wait is for a report. That something is *not* reported is shown by the next
//! real change being the first report.

use super::inotify::InotifySet;
use super::{Digest, WatchKey, WatchPlan, WatchReport, Watcher};
use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox;
use crate::event_loop::waker::Waker;
use crossbeam_channel::Receiver;
use rotad_core::PoolId;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Quiet time of these watches (milliseconds).
const DEBOUNCE: u64 = 200;
const TIMEOUT: Duration = Duration::from_secs(30);
const KEY: WatchKey = WatchKey::Pool(PoolId(7));

struct Scene {
    dir: tempfile::TempDir,
    watcher: Watcher,
    reports: Receiver<WatchReport>,
}

impl Scene {
    fn new(new_inotify: fn() -> InotifySet) -> Self {
        let (mailbox, reports) = mailbox::channel(Waker::new().unwrap());
        let watcher = Watcher::with_inotify(mailbox, Clock::start(), new_inotify).unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            watcher,
            reports,
        }
    }

    /// Files in a directory, and a watch over them that has begun.
    fn over(files: &[&str], globs: &[&str]) -> Self {
        let scene = Self::new(InotifySet::new);
        files.iter().for_each(|file| scene.write(file, "first"));
        assert_eq!(scene.watch("", globs), files.len());
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn plan(&self, base: &str, globs: &[&str]) -> WatchPlan {
        let globs = globs.iter().map(|glob| (*glob).to_owned()).collect();
        WatchPlan {
            key: KEY,
            base: self.path(base),
            globs,
            debounce: Duration::from_millis(DEBOUNCE),
            baseline: None,
        }
    }

    /// Watches and waits until it has begun: how many files there are.
    fn watch(&self, base: &str, globs: &[&str]) -> usize {
        self.watcher.watch(vec![self.plan(base, globs)]);
        match self.report() {
            WatchReport::Watching {
                key: KEY, files, ..
            } => files,
            other => panic!("{other:?}"),
        }
    }

    fn report(&self) -> WatchReport {
        self.reports.recv_timeout(TIMEOUT).expect("a report")
    }

    /// The next report is that these files have changed.
    fn changed(&self, expected: &[&str]) {
        match self.report() {
            WatchReport::Changed {
                key: KEY,
                files,
                count,
                ..
            } => {
                let name = |path: &PathBuf| {
                    path.strip_prefix(self.dir.path())
                        .unwrap()
                        .display()
                        .to_string()
                };
                assert_eq!(
                    (files.iter().map(name).collect::<Vec<_>>(), count),
                    (owned(expected), expected.len())
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Whether the work was done within one debounce time, so that it must be one report. On a machine too busy for that the
/// test has to be repeated.
fn within_debounce(work: impl FnOnce()) -> bool {
    let began = Instant::now();
    work();
    began.elapsed() < Duration::from_millis(DEBOUNCE)
}

/// Repeats a scene until the machine was not too busy for it.
fn undisturbed(scene: impl Fn() -> bool) {
    assert!(
        (0..20).any(|_| scene()),
        "the machine was too busy each time"
    );
}

/// The key, the changed files, and how many are watched or have changed.
fn without_digest(report: WatchReport) -> (WatchKey, Vec<PathBuf>, usize) {
    match report {
        WatchReport::Watching { key, files, .. } => (key, Vec::new(), files),
        WatchReport::Changed {
            key, files, count, ..
        } => (key, files, count),
        WatchReport::Trouble { text, .. } => panic!("{text}"),
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn trouble(report: &WatchReport) -> &str {
    match report {
        WatchReport::Trouble { key: KEY, text } => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn saving_in_place_and_saving_as_editors_do() {
    undisturbed(|| {
        let scene = Scene::over(&["a.py", "b.py"], &["*.py"]);
        scene.write("a.py", "second");
        scene.changed(&["a.py"]);
        scene.write(".a.py.new", "third");
        scene.write("a.py~", "second");
        fs::rename(scene.path(".a.py.new"), scene.path("a.py")).unwrap();
        scene.changed(&["a.py"]);
        let both = || {
            fs::remove_file(scene.path("b.py")).unwrap();
            scene.write("c.py", "new");
        };
        within_debounce(both) && {
            scene.changed(&["c.py", "b.py"]);
            true
        }
    });
}

#[test]
fn touching_or_restoring_a_file_is_no_change() {
    undisturbed(|| {
        let scene = Scene::over(&["a.py", "b.py"], &["**/*.py"]);
        let touch = |name: &str| {
            let file = fs::File::options()
                .append(true)
                .open(scene.path(name))
                .unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        };
        let idle = || {
            touch("a.py");
            scene.write("b.txt", "matches nothing");
            scene.write(".hidden/x.py", "hidden");
            scene.write("a.py", "other");
            scene.write("a.py", "first");
            fs::rename(scene.path("a.py"), scene.path("x")).unwrap();
            fs::rename(scene.path("x"), scene.path("a.py")).unwrap();
        };
        within_debounce(idle) && {
            scene.write("b.py", "second");
            scene.changed(&["b.py"]);
            touch("a.py");
            scene.write("b.py", "third");
            scene.changed(&["b.py"]);
            true
        }
    });
}

#[test]
fn files_in_new_directories_are_reported() {
    let scene = Scene::over(&["src/a.py"], &["src/**/*.py"]);
    scene.write("src/x/y/z/b.py", "new");
    scene.changed(&["src/x/y/z/b.py"]);
    scene.write("src/x/y/z/b.py", "newer");
    scene.changed(&["src/x/y/z/b.py"]);
    scene.write("elsewhere/m/c.py", "made elsewhere");
    fs::rename(scene.path("elsewhere"), scene.path("src/moved")).unwrap();
    scene.changed(&["src/moved/m/c.py"]);
    fs::rename(scene.path("src/moved"), scene.path("away")).unwrap();
    scene.changed(&["src/moved/m/c.py"]);
}

#[test]
fn a_directory_is_watched_again_after_it_was_removed() {
    undisturbed(|| {
        let scene = Scene::over(&["a/src/m/x.py"], &["a/src/**/*.py"]);
        for (gone, text) in [("a/src/m", "one"), ("a/src", "two"), ("a", "three")] {
            fs::remove_dir_all(scene.path(gone)).unwrap();
            scene.changed(&["a/src/m/x.py"]);
            scene.write("a/src/m/x.py", text);
            scene.changed(&["a/src/m/x.py"]);
            scene.write("a/src/m/x.py", "again");
            scene.changed(&["a/src/m/x.py"]);
        }
        let replaced = || {
            fs::rename(scene.path("a"), scene.path("old")).unwrap();
            scene.write("a/src/m/x.py", "put in its place");
        };
        within_debounce(replaced) && {
            scene.changed(&["a/src/m/x.py"]);
            true
        }
    });
}

#[test]
fn a_base_directory_may_appear_later() {
    let scene = Scene::new(InotifySet::new);
    assert_eq!(scene.watch("not/yet", &["src/*.py"]), 0);
    scene.write("not/yet/src/a.py", "there");
    scene.changed(&["not/yet/src/a.py"]);
}

#[test]
fn ten_thousand_files_are_one_report() {
    undisturbed(|| {
        let scene = Scene::over(&["web/a.js"], &["web/**/*.js"]);
        let mut quiet = false;
        for dir in 0..100 {
            for file in 0..100 {
                quiet |= !within_debounce(|| {
                    scene.write(&format!("web/{}/{dir}/{file}.js", dir % 7), "new")
                });
            }
        }
        // A file system that took longer for one file made more reports of it: rightly.
        !quiet && {
            let WatchReport::Changed { files, count, .. } = scene.report() else {
                panic!()
            };
            assert_eq!((files.len(), count), (5, 10_000));
            scene.write("web/a.js", "after");
            scene.changed(&["web/a.js"]);
            true
        }
    });
}

#[test]
fn retargeted_symlinks_are_noticed() {
    let scene = Scene::new(InotifySet::new);
    for release in ["one", "two", "same"] {
        scene.write(
            &format!("releases/{release}/src/a.py"),
            if release == "one" { "one" } else { "two" },
        );
    }
    let turn = |to: &str| {
        symlink(format!("releases/{to}"), scene.path("next")).unwrap();
        fs::rename(scene.path("next"), scene.path("current")).unwrap();
    };
    turn("one");
    assert_eq!(scene.watch("current", &["src/*.py"]), 1);
    turn("two");
    scene.changed(&["current/src/a.py"]);
    scene.write("releases/one/src/a.py", "no longer watched");
    turn("same");
    scene.write("releases/same/src/b.py", "here");
    scene.changed(&["current/src/b.py"]);
    fs::remove_file(scene.path("current")).unwrap();
    scene.changed(&["current/src/a.py", "current/src/b.py"]);
    turn("one");
    scene.changed(&["current/src/a.py"]);
}

#[test]
fn symlinks_below_the_base_are_watched() {
    let scene = Scene::new(InotifySet::new);
    scene.write("shop/a.py", "a");
    scene.write("shared/conf.py", "first");
    scene.write("v1/lib.py", "v1");
    scene.write("v2/lib.py", "v2");
    symlink("../shared/conf.py", scene.path("shop/conf.py")).unwrap();
    symlink("../v1", scene.path("shop/lib")).unwrap();
    symlink("../shop", scene.path("v1/loop")).unwrap();
    symlink(".", scene.path("shop/self")).unwrap();
    symlink("dead", scene.path("shop/dead.py")).unwrap();
    let files = scene.watch("shop", &["**/*.py", "lib/**/*.py"]);
    assert_eq!(
        files, 3,
        "a, conf, and lib/lib, which is named: no link is followed by `**`"
    );
    scene.write("shared/conf.py", "behind a link");
    scene.changed(&["shop/conf.py"]);
    symlink("../v2", scene.path("next")).unwrap();
    fs::rename(scene.path("next"), scene.path("shop/lib")).unwrap();
    scene.changed(&["shop/lib/lib.py"]);
    fs::remove_file(scene.path("shop/lib")).unwrap();
    scene.changed(&["shop/lib/lib.py"]);
    symlink("../v2", scene.path("shop/lib")).unwrap();
    scene.changed(&["shop/lib/lib.py"]);
    scene.write("v2/lib.py", "newer");
    scene.changed(&["shop/lib/lib.py"]);
}

#[test]
fn a_change_before_the_watch_has_begun_is_not_missed() {
    let scene = Scene::new(InotifySet::new);
    for file in 0..2000 {
        scene.write(&format!("{file}.py"), "first");
    }
    scene.watcher.watch(vec![scene.plan("", &["*.py"])]);
    // Written until the first report after the beginning: some of it falls into the first look.
    let mut versions = 0;
    let deadline = Instant::now() + TIMEOUT;
    let mut begun = false;
    loop {
        assert!(Instant::now() < deadline);
        match scene.reports.try_recv() {
            Ok(WatchReport::Watching { .. }) => begun = true,
            Ok(WatchReport::Changed { .. }) if begun => return,
            Ok(other) => panic!("{other:?}"),
            Err(_) if !begun => {
                versions += 1;
                scene.write("1999.py", &format!("{versions}"));
            }
            Err(_) => {}
        }
    }
}

#[test]
fn unchanged_plans_continue_when_plans_are_replaced() {
    let scene = Scene::over(&["a/x", "b/x", "c/x"], &["a/*", "b/*", "c/*"]);
    let other = |glob: &str, pool| WatchPlan {
        key: WatchKey::Pool(PoolId(pool)),
        ..scene.plan("", &[glob])
    };
    scene.watcher.watch(vec![other("a/*", 1), other("b/*", 2)]);
    for _ in 0..2 {
        assert!(matches!(
            scene.report(),
            WatchReport::Watching { files: 1, .. }
        ));
    }
    scene.write("a/x", "second");
    scene.watcher.watch(vec![other("c/*", 3), other("a/*", 1)]);
    scene.write("b/x", "second");
    let changed = |pool, name: &str| (WatchKey::Pool(PoolId(pool)), vec![scene.path(name)], 1);
    let expected = [
        changed(1, "a/x"),
        (WatchKey::Pool(PoolId(3)), Vec::new(), 1),
    ];
    let came = [scene.report(), scene.report()].map(without_digest);
    assert!(
        expected.iter().all(|report| came.contains(report)),
        "{came:?}"
    );
    scene.write("c/x", "second");
    assert_eq!(without_digest(scene.report()), changed(3, "c/x"));
}

#[test]
fn files_are_scanned_when_a_limit_of_the_kernel_is_reached() {
    let scene = Scene::new(|| InotifySet::with_limit(3));
    scene.write("src/a/b/c/x.py", "first");
    scene.watcher.watch(vec![scene.plan("", &["src/**/*.py"])]);
    let report = scene.report();
    assert!(
        trouble(&report).contains("fs.inotify.max_user_watches"),
        "{report:?}"
    );
    assert_eq!(without_digest(scene.report()), (KEY, Vec::new(), 1));
    scene.write("src/a/b/c/x.py", "second");
    scene.changed(&["src/a/b/c/x.py"]);
}

#[test]
fn an_invalid_pattern_is_reported_once() {
    let scene = Scene::new(InotifySet::new);
    scene.write("x.py", "first");
    scene.watcher.watch(vec![scene.plan("", &["a[", "*.py"])]);
    assert!(trouble(&scene.report()).contains("a["));
    assert_eq!(without_digest(scene.report()), (KEY, Vec::new(), 1));
    scene.write("x.py", "second");
    scene.changed(&["x.py"]);
}

#[test]
fn the_thread_ends_with_its_watcher() {
    let scene = Scene::over(&["a"], &["*"]);
    let reports = scene.reports.clone();
    drop(scene.watcher);
    // The thread's end of the channel is dropped when it ends.
    assert!(
        reports
            .recv_timeout(TIMEOUT)
            .is_err_and(|error| error.is_disconnected())
    );
}

/// Files by a pattern, and directories with their content, also those that appear later.
#[test]
fn excluded_files_and_directories_are_not_watched() {
    let scene = Scene::new(InotifySet::new);
    for file in [
        "a.js",
        "node_modules/x/b.js",
        "lib/node_modules/c.js",
        "lib/d.js",
        "logs/web.log",
        ".hidden/e.js",
    ] {
        scene.write(file, "first");
    }
    let globs = [
        "**/*",
        ".hidden/*.js",
        "!**/node_modules/**",
        "!logs/",
        "!*.tmp",
    ];
    assert_eq!(
        scene.watch("", &globs),
        3,
        "a.js, lib/d.js and .hidden/e.js"
    );
    scene.write("logs/web.log", "second");
    scene.write("node_modules/x/b.js", "second");
    scene.write("late.tmp", "first");
    scene.write("lib/new/node_modules/f.js", "first");
    scene.write("lib/d.js", "second");
    scene.changed(&["lib/d.js"]);
}

/// What the first report says, of a watch that begins where another one has ended with this digest.
fn begun_after(scene: &Scene, baseline: Digest) -> Digest {
    let plan = WatchPlan {
        baseline: Some(baseline),
        ..scene.plan("", &["*"])
    };
    scene.watcher.watch(vec![]);
    scene.watcher.watch(vec![plan]);
    match scene.report() {
        WatchReport::Watching { digest, .. } => digest,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_has_changed_since_the_last_master_is_reported_once() {
    let scene = Scene::new(InotifySet::new);
    scene.write("a", "one");
    scene.watcher.watch(vec![scene.plan("", &["*"])]);
    let WatchReport::Watching { digest: first, .. } = scene.report() else {
        panic!("it has begun")
    };
    assert_eq!(begun_after(&scene, first), first, "nothing has changed");
    scene.write("b", "new");
    scene.changed(&["b"]);
    fs::remove_file(scene.path("b")).unwrap();
    scene.changed(&["b"]);
    scene.write("a", "two");
    scene.changed(&["a"]);
    // Until it is reported, the next master would have to compare with the first.
    assert_eq!(begun_after(&scene, first), first);
    let WatchReport::Changed {
        count: 0,
        digest: second,
        ..
    } = scene.report()
    else {
        panic!("it has changed")
    };
    assert_eq!(begun_after(&scene, second), second);
    scene.write("a", "three");
    scene.changed(&["a"]);
}
