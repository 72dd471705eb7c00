//! Memory and CPU time of workers (proc(5)), for the status: of each worker's first process, and of its whole tree. Read
//! on a thread other than the main thread: a thousand processes are two thousand files.

use crate::event_loop::clock::Deadline;
use crate::process::cgroup;
use crate::process::procfs::{self, Stat};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most processes of one tree that are read: a fork bomb must not cost the other workers their figures.
const MAX_TREE: usize = 4096;
/// Most orphans that are looked at: parents of dead masters' workers may have other children.
const MAX_ORPHANS: usize = 4096;
/// How long trees are read. The status waits a second for all of it.
const TREES_TIMEOUT: Duration = Duration::from_millis(500);

/// The first process of a worker.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its pid.
    pub pid: i32,
    /// The directory of the worker's cgroup.
    pub cgroup: Option<PathBuf>,
}

/// How much is read of each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Memory and processor time.
    Usage,
    /// Start and open descriptors, too.
    All,
}

/// Resources of one or more processes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Resident memory, shared pages included.
    pub rss_bytes: u64,
    /// User and system time of all threads, in seconds.
    pub cpu_s: f64,
}

/// Resources of a worker's tree.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TreeUsage {
    /// The sum over its processes. Shared pages (after a fork, until they are written to) count for each; the CPU time of
    /// children that have ended counts once their parent has waited for them.
    pub sum: Usage,
    /// The number of processes.
    pub processes: usize,
}

/// Resources of a worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkerUsage {
    /// When its first process began, in seconds since 1970; of [`Detail::All`] alone.
    pub start_time_s: Option<f64>,
    /// Open descriptors of its first process; of [`Detail::All`] alone. None: not ours to read.
    pub open_fds: Option<u64>,
    /// Of its first process, without children.
    pub main: Usage,
    /// Of that process, its descendants, and orphans of its session or cgroup. None: it is too large, or reading took too
    /// long.
    pub tree: Option<TreeUsage>,
}

/// The resources of those workers whose first processes are still children of this process, or of `parents`, which have
/// got the workers of dead masters. A pid that was reaped meanwhile may belong to an unrelated process.
pub fn of_workers(roots: &[Root], parents: &[i32], detail: Detail) -> Vec<(i32, WorkerUsage)> {
    read(roots, parents, detail, Deadline::after(TREES_TIMEOUT))
}

/// The resources of this process.
///
/// # Errors
/// EACCES, ENOENT: /proc is not there.
pub fn of_myself() -> io::Result<WorkerUsage> {
    let stat = Stat::of(std::process::id().cast_signed())?;
    Ok(WorkerUsage {
        start_time_s: Boot::now().map(|boot| boot.at(&stat)),
        open_fds: procfs::open_fds(stat.pid),
        main: own(&stat),
        tree: None,
    })
}

/// When this machine was booted.
struct Boot(f64);

impl Boot {
    fn now() -> Option<Self> {
        procfs::boot_time().map(|seconds| Self(seconds as f64))
    }

    /// When a process began, in seconds since 1970.
    fn at(&self, stat: &Stat) -> f64 {
        self.0 + procfs::ticks(stat.start_time).as_secs_f64()
    }
}

fn read(
    roots: &[Root],
    parents: &[i32],
    detail: Detail,
    until: Deadline,
) -> Vec<(i32, WorkerUsage)> {
    let boot = match detail {
        Detail::Usage => None,
        Detail::All => Boot::now(),
    };
    let me = std::process::id().cast_signed();
    let parents: Vec<i32> = parents.iter().copied().chain([me]).collect();
    let living = roots
        .iter()
        .filter_map(|root| Some((root, Stat::of(root.pid).ok()?)));
    let roots: Vec<(&Root, Stat)> = living
        .filter(|(_, stat)| parents.contains(&stat.parent))
        .collect();
    let children = Children::new();
    let mut orphans = orphans(&roots, &parents, &children, until);
    let of_root = |(root, stat): &(&Root, Stat)| {
        let orphans = orphans.remove(&root.pid).unwrap_or_default();
        let usage = WorkerUsage {
            start_time_s: boot.as_ref().map(|boot| boot.at(stat)),
            open_fds: match detail {
                Detail::Usage => None,
                Detail::All => procfs::open_fds(root.pid),
            },
            main: own(stat),
            tree: tree(stat, orphans, &children, until),
        };
        (root.pid, usage)
    };
    roots.iter().map(of_root).collect()
}

/// How children are found.
enum Children {
    /// The kernel lists them.
    Listed,
    /// It does not: the children of each process, from one reading of all.
    ByParent(HashMap<i32, Vec<i32>>),
}

impl Children {
    fn new() -> Self {
        if procfs::lists_children() {
            return Self::Listed;
        }
        let mut by_parent: HashMap<i32, Vec<i32>> = HashMap::new();
        for stat in procfs::all_stats() {
            by_parent.entry(stat.parent).or_default().push(stat.pid);
        }
        Self::ByParent(by_parent)
    }

    fn of(&self, stat: &Stat) -> Vec<i32> {
        match self {
            Self::Listed => procfs::children_of(stat),
            Self::ByParent(all) => all.get(&stat.pid).cloned().unwrap_or_default(),
        }
    }

    fn of_pid(&self, pid: i32) -> Vec<i32> {
        match self {
            Self::Listed => procfs::children(pid),
            Self::ByParent(all) => all.get(&pid).cloned().unwrap_or_default(),
        }
    }
}

/// The orphans of each worker, by its pid: processes whose parents have ended, and which are of its session or cgroup.
fn orphans(
    roots: &[(&Root, Stat)],
    parents: &[i32],
    children: &Children,
    until: Deadline,
) -> HashMap<i32, Vec<Stat>> {
    let pids: HashSet<i32> = roots.iter().map(|(root, _)| root.pid).collect();
    let cgroups = roots
        .iter()
        .filter_map(|(root, _)| Some((root.cgroup.as_deref()?, root.pid)));
    let cgroups: HashMap<&Path, i32> = cgroups.collect();
    let is_stranger = |pid: &i32| !pids.contains(pid) && !parents.contains(pid);
    let all = parents.iter().flat_map(|pid| children.of_pid(*pid));
    let mut found: HashMap<i32, Vec<Stat>> = HashMap::new();
    for pid in all.filter(is_stranger).take(MAX_ORPHANS) {
        if until.has_passed() {
            break;
        }
        let Ok(stat) = Stat::of(pid) else { continue };
        let owner = if pids.contains(&stat.session) {
            Some(stat.session)
        } else {
            owner_by_cgroup(&cgroups, pid)
        };
        if let Some(owner) = owner {
            found.entry(owner).or_default().push(stat);
        }
    }
    found
}

fn owner_by_cgroup(cgroups: &HashMap<&Path, i32>, pid: i32) -> Option<i32> {
    if cgroups.is_empty() {
        return None;
    }
    let dir = cgroup::of(pid)?;
    dir.ancestors().find_map(|dir| cgroups.get(dir).copied())
}

fn tree(
    root: &Stat,
    orphans: Vec<Stat>,
    children: &Children,
    until: Deadline,
) -> Option<TreeUsage> {
    let mut todo = orphans;
    todo.push(root.clone());
    let mut seen: HashSet<i32> = todo.iter().map(|stat| stat.pid).collect();
    let mut tree = TreeUsage::default();
    while let Some(stat) = todo.pop() {
        if seen.len() > MAX_TREE || until.has_passed() {
            return None;
        }
        tree.sum.rss_bytes += own(&stat).rss_bytes;
        let ticks = stat.cpu_ticks.saturating_add(stat.children_cpu_ticks);
        tree.sum.cpu_s += procfs::ticks(ticks).as_secs_f64();
        tree.processes += usize::from(!stat.is_zombie());
        let below = children.of(&stat).into_iter();
        todo.extend(
            below
                .filter(|pid| seen.insert(*pid))
                .filter_map(|pid| Stat::of(pid).ok()),
        );
    }
    Some(tree)
}

fn own(stat: &Stat) -> Usage {
    Usage {
        rss_bytes: procfs::pages(stat.rss_pages),
        cpu_s: procfs::ticks(stat.cpu_ticks).as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A process group of its own that ends with the test.
    struct Shell(Child);

    impl Shell {
        fn new(script: &str) -> Self {
            let mut command = Command::new("sh");
            Self(command.args(["-c", script]).spawn().expect("sh"))
        }

        fn root(&self) -> Root {
            Root {
                pid: self.0.id().cast_signed(),
                cgroup: None,
            }
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            for pid in procfs::children(self.root().pid) {
                let pid = nix::unistd::Pid::from_raw(pid);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
            }
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    #[test]
    fn a_tree_is_the_process_and_its_descendants() {
        let shell = Shell::new("sleep 60 & wait");
        let root = [shell.root()];
        let until = Deadline::after(Duration::from_secs(20));
        let (main, tree) = loop {
            let found = of_workers(&root, &[], Detail::All);
            let usage = found[0].1;
            match usage.tree {
                // Between its fork and its exec the child may have no memory of its own.
                // The kernel adds up resident pages late: a young process may have none for a moment.
                Some(tree)
                    if tree.processes == 2
                        && usage.main.rss_bytes > 0
                        && tree.sum.rss_bytes > usage.main.rss_bytes =>
                {
                    break (usage.main, tree);
                }
                _ => assert!(!until.has_passed(), "{found:?}"),
            }
        };
        assert!(tree.sum.cpu_s >= main.cpu_s);
        let late = read(&root, &[], Detail::Usage, Deadline::after(Duration::ZERO));
        assert_eq!(late[0].1.tree, None, "the first processes are read anyway");
        assert!(late[0].1.main.rss_bytes > 0);
        assert_eq!((late[0].1.open_fds, late[0].1.start_time_s), (None, None));
    }

    #[test]
    fn start_and_descriptors_are_those_of_the_process() {
        let before = open_now();
        let held = std::fs::File::open("/proc/self/stat").unwrap();
        let mine = of_myself().unwrap();
        // Other tests of this process open and close some meanwhile.
        assert!(mine.open_fds.is_some_and(|fds| fds.abs_diff(before) < 100));
        drop(held);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let age = now.as_secs_f64() - mine.start_time_s.unwrap();
        // The boot time is known in whole seconds.
        assert!((-2.0..600.0).contains(&age), "{age}");
    }

    fn open_now() -> u64 {
        std::fs::read_dir("/proc/self/fd").unwrap().count() as u64
    }

    #[test]
    fn strangers_are_not_read() {
        let me = Root {
            pid: std::process::id().cast_signed(),
            cgroup: None,
        };
        assert_eq!(of_workers(&[me], &[], Detail::All), []);
    }
}
