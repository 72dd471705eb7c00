//! One cgroup per worker where they can be created: the only boundary that no process can leave (cgroups(7), version
//! 2). When that is worth its cost: `docs/decisions/0002-trees.md`.

use crate::process::procfs;
use crate::sys::process::Process;
use crate::sys::xattr;
use rotad_core::WorkerId;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// How many levels of a worker's own cgroups are visited.
const MAX_DEPTH: u32 = 16;

/// The cgroup below the master's own in which the workers' cgroups are created.
#[derive(Debug)]
pub struct Cgroups {
    base: PathBuf,
}

/// What is saved of a cgroup: its directory, which need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedCgroup(#[serde(with = "crate::saved_state::os_text")] OsString);

/// Why workers get no cgroups of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotDelegated {
    /// No version 2 hierarchy is mounted, or this process is in none of its cgroups.
    NoHierarchy,
    /// This process's own cgroup belongs to systemd or to another manager.
    NotOurs(PathBuf),
}

/// One worker's cgroup. Dropping it removes the directory if it is empty.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroups {
    /// Finds out whether the master may create cgroups: there is a version 2 hierarchy (alone, or beside version 1),
    /// the master's own cgroup in it is writable, and it is delegated: it, or one above, carries `user.delegate` or
    /// `trusted.delegate`, as systemd sets it for `Delegate=`. `name` is the master's, for the directory.
    pub fn find(name: &str) -> Option<Self> {
        let own = delegated().ok()?;
        remove_stale(&own, name);
        let base = own.join(format!("rotad-{name}-{}", std::process::id()));
        match fs::create_dir(&base) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return None,
            _ => {}
        }
        let found = Self { base };
        // Below a threaded cgroup only threads can live.
        let kind = procfs::read(found.base.join("cgroup.type")).ok()?;
        (kind.trim() == "domain").then_some(found)
    }

    /// What the next master needs to go on with it.
    pub fn saved(&self) -> SavedCgroup {
        SavedCgroup(self.base.clone().into_os_string())
    }

    /// Goes on with the cgroup of a dead master, whose pid is in its name.
    ///
    /// # Errors
    /// ENOENT: it was removed.
    pub fn restore(saved: SavedCgroup) -> io::Result<Self> {
        let base = existing(saved)?;
        Ok(Self { base })
    }

    /// Goes on with the cgroup of a dead master at this path.
    pub fn at(base: PathBuf) -> Self {
        Self { base }
    }

    /// The cgroup of an adopted worker. None: it has none.
    pub fn existing(&self, worker: WorkerId) -> Option<Cgroup> {
        let dir = self.base.join(worker.to_string());
        dir.is_dir().then_some(Cgroup { dir })
    }

    /// The directory of the workers' cgroups.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Creates the cgroup of one worker.
    ///
    /// # Errors
    /// EAGAIN: cgroup.max.descendants; ENOSPC; EROFS.
    pub fn make(&self, worker: WorkerId) -> io::Result<Cgroup> {
        let dir = self.base.join(worker.to_string());
        fs::create_dir(&dir)?;
        Ok(Cgroup { dir })
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // Including the cgroups of spawns that hung.
        remove_tree(&self.base);
    }
}

impl Cgroup {
    /// What the next master needs to go on with it.
    pub fn saved(&self) -> SavedCgroup {
        SavedCgroup(self.dir.clone().into_os_string())
    }

    /// Goes on with the cgroup of a worker of a dead master.
    ///
    /// # Errors
    /// ENOENT: it was removed.
    pub fn restore(saved: SavedCgroup) -> io::Result<Self> {
        let dir = existing(saved)?;
        Ok(Self { dir })
    }

    /// Moves a process here, with all its threads.
    ///
    /// # Errors
    /// EACCES: its cgroup is not ours; ESRCH: it is gone.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        write(&self.procs(), &pid.to_string())
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file to which a pid is written to move that process here; 0 moves the writer.
    pub fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Sends SIGKILL to all processes here and below: with cgroup.kill (Linux 5.14), else one by one, which takes
    /// several calls to catch those that are being forked.
    ///
    /// # Errors
    /// EACCES; EOPNOTSUPP: a threaded cgroup.
    pub fn kill(&self) -> io::Result<()> {
        match write(&self.dir.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        for pid in self.members() {
            let Ok(process) = Process::open_pid(pid) else {
                continue;
            };
            // Open the pidfd first, then check again: the pid may have been reused in between.
            if self.contains(pid) {
                process.signal(nix::libc::SIGKILL).ok();
            }
        }
        Ok(())
    }

    /// Whether there is no process here or below; zombies do not count.
    ///
    /// # Errors
    /// ENODEV or ENOENT: the cgroup was removed.
    pub fn is_empty(&self) -> io::Result<bool> {
        let events = procfs::read(self.dir.join("cgroup.events"))?;
        Ok(events.lines().any(|line| line == "populated 0"))
    }

    /// The pids of the processes here and below.
    pub fn members(&self) -> Vec<i32> {
        collect_members(&self.dir)
    }

    /// Whether a process is here or below, by its /proc/PID/cgroup.
    pub fn contains(&self, pid: i32) -> bool {
        let Some((mount, own)) = cgroup_of(pid) else {
            return false;
        };
        own.starts_with(&self.dir) && own.starts_with(mount)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove_tree(&self.dir);
    }
}

fn existing(SavedCgroup(dir): SavedCgroup) -> io::Result<PathBuf> {
    let dir = PathBuf::from(dir);
    fs::metadata(&dir).map(|_| dir)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// The processes in the cgroups that a master created in `base`, each with the name of its worker's cgroup.
pub fn members_below(base: &Path) -> Vec<(String, i32)> {
    let dirs = fs::read_dir(base).into_iter().flatten().flatten();
    let dirs = dirs.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let members = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        collect_members(&entry.path())
            .into_iter()
            .map(move |pid| (name.clone(), pid))
    };
    dirs.flat_map(members).collect()
}

fn collect_members(dir: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    each_below(dir, MAX_DEPTH, &mut |dir| {
        let text = procfs::read(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    });
    found
}

/// Visits each cgroup, parents first.
fn each_below(dir: &Path, depth: u32, visit: &mut dyn FnMut(&Path)) {
    visit(dir);
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            each_below(&entry.path(), depth - 1, visit);
        }
    }
}

/// Removes the empty cgroups, children first. rmdir(2) fails with EBUSY where a process lives: nothing is lost.
fn remove_tree(dir: &Path) {
    let mut dirs = Vec::new();
    if fs::remove_dir(dir).is_ok() {
        return;
    }
    each_below(dir, MAX_DEPTH, &mut |dir| dirs.push(dir.to_owned()));
    for dir in dirs.iter().rev() {
        fs::remove_dir(dir).ok();
    }
}

/// Removes the empty cgroups of killed masters of this name.
fn remove_stale(own: &Path, name: &str) {
    let prefix = format!("rotad-{name}-");
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let pid = file
            .to_str()
            .and_then(|file| file.strip_prefix(&prefix)?.parse::<i32>().ok());
        let lives = |pid| procfs::Stat::of(pid).is_ok_and(|stat| !stat.is_zombie());
        if pid.is_some_and(|pid| !lives(pid)) {
            remove_tree(&entry.path());
        }
    }
}

/// The cgroup of this process, if it is delegated to it.
///
/// # Errors
/// Why none is.
pub fn delegated() -> Result<PathBuf, NotDelegated> {
    let (mount, own) = cgroup_of(std::process::id() as i32).ok_or(NotDelegated::NoHierarchy)?;
    match is_delegated(&mount, &own) {
        true => Ok(own),
        false => Err(NotDelegated::NotOurs(own)),
    }
}

/// The directory of a process's cgroup.
pub fn of(pid: i32) -> Option<PathBuf> {
    cgroup_of(pid).map(|(_, own)| own)
}

fn cgroup_of(pid: i32) -> Option<(PathBuf, PathBuf)> {
    let lines = procfs::read_bytes(format!("/proc/{pid}/cgroup")).ok()?;
    let own = lines
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"))?;
    let own = PathBuf::from(OsString::from_vec(own.to_vec()));
    let (root, mount) = mount()?;
    // The mount may show only a part of the hierarchy; what lies outside cannot be reached (and reads `/..`).
    let below = own.strip_prefix(root).ok()?;
    if below
        .components()
        .any(|part| !matches!(part, std::path::Component::Normal(_)))
    {
        return None;
    }
    // Without the slash that joining nothing would leave.
    let own = mount.join(below).components().collect();
    Some((mount, own))
}

/// Root and mount point of the first cgroup2 in /proc/self/mountinfo (proc_pid_mountinfo(5)).
fn mount() -> Option<(PathBuf, PathBuf)> {
    let text = procfs::read("/proc/self/mountinfo").ok()?;
    text.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut words = head.split(' ').skip(3);
        (tail.split(' ').next()? == "cgroup2").then_some(())?;
        Some((PathBuf::from(words.next()?), PathBuf::from(words.next()?)))
    })
}

/// Whether our cgroup, or one above it in the mount, is delegated to us.
///
/// The nearest systemd unit decides: what is delegated to a user's systemd, or to that of a container, is not thereby
/// ours. The cgroup of each unit has an invocation_id.
fn is_delegated(mount: &Path, own: &Path) -> bool {
    let mark = |dir: &Path, name: &str| {
        ["trusted", "user"]
            .iter()
            .find_map(|space| xattr::get(dir, &format!("{space}.{name}")).ok())
    };
    let up = own.ancestors().take_while(|dir| dir.starts_with(mount));
    let mut answers = up.filter_map(|dir| match mark(dir, "delegate") {
        Some(value) => Some(value == b"1"),
        None => mark(dir, "invocation_id").map(|_| false),
    });
    answers.next().unwrap_or(false)
}
