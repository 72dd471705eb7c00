//! What a master killed by -9 left behind, and how to take it over. All of this runs before the main loop, so it may
//! wait.
//!
//! A leftover is held by a pidfd first and looked at afterwards: its start time says whether the number still means the
//! worker of the journal. Without pidfds (a seccomp filter: every supported kernel has them) strangers cannot be held;
//! then leftovers are named, but never signalled.

mod journal;

pub use journal::Journal;

use crate::os::lineage::TAG;
use crate::os::pen::LeftPipe;
use crate::os::proc::{self, Stat};
use crate::os::sys::process::Process;
use journal::Entry;
use nix::fcntl::OFlag;
use nix::libc::{SIGCONT, SIGKILL};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel may take to end what was killed.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// A living process that a dead master has left.
#[derive(Debug)]
pub struct Leftover {
    pub pid: i32,
    /// In clock ticks since boot.
    pub start_time: u64,
    pub pool: String,
    pub slot: u32,
    /// The worker's own process, as the journal has it; else another one of its tree.
    pub is_worker: bool,
    /// `ROTAD_WORKER` of the worker.
    tag: String,
    /// None: no pidfds here.
    process: Option<Process>,
}

/// All leftovers of one runtime directory.
#[derive(Debug, Default)]
pub struct Leftovers {
    entries: Vec<Entry>,
    pub found: Vec<Leftover>,
}

impl Leftovers {
    /// Reads the journal of a dead master and looks who of them is still alive, with what is left of their sessions.
    /// Nothing where that master lives, or the machine was started anew since. Only processes of our own uid are
    /// taken, or any when we are root.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn find(dir: &Path) -> io::Result<Self> {
        let entries = journal::read(dir)?;
        let found = if entries.is_empty() { Vec::new() } else { look(&entries) };
        Ok(Self { entries, found })
    }

    /// The reading ends of the pipes that they print to, each once. A pipe that none of them holds any more is gone with
    /// what was in it; one that may not be opened (no CAP_SYS_PTRACE over another user's process) is left out.
    pub fn pipes(&self) -> Vec<LeftPipe> {
        let mut pipes: Vec<LeftPipe> = Vec::new();
        let mut seen = HashSet::new();
        for one in &self.found {
            let Some(entry) = self.entries.iter().find(|entry| entry.tag == one.tag) else { continue };
            for number in proc::numbers(format!("/proc/{}/fd", one.pid)).unwrap_or_default() {
                let path = format!("/proc/{}/fd/{number}", one.pid);
                let Some(inode) = std::fs::read_link(&path).ok().and_then(|link| proc::pipe_inode(&link)) else {
                    continue;
                };
                // Other pipes are theirs: a shell reads there what its neighbour prints.
                let Some((stream, _)) = entry.pipes.iter().find(|(_, ours)| *ours == inode) else { continue };
                if seen.contains(&inode) {
                    continue;
                }
                let Some(fd) = open_pipe(&path, inode) else { continue };
                seen.insert(inode);
                pipes.push(LeftPipe {
                    pool: entry.pool.clone(),
                    slot: entry.slot,
                    pid: entry.pid,
                    stream: *stream,
                    fd,
                });
            }
        }
        pipes
    }

    /// Ends them: the workers get `stop` (and SIGCONT, lest a stopped one sleeps through it), up to `patience` to
    /// leave, then SIGKILL; then the rest of their trees. Gives those that could not be ended.
    pub fn take_over(self, patience: Duration, stop: i32) -> Vec<Leftover> {
        for process in self.found.iter().filter(|one| one.is_worker).filter_map(|one| one.process.as_ref()) {
            process.signal(stop).ok();
            process.signal(SIGCONT).ok();
        }
        let workers: Vec<&Leftover> = self.found.iter().filter(|one| one.is_worker).collect();
        wait_all(&workers, Instant::now() + patience);
        let until = Instant::now() + KILL_WAIT;
        loop {
            // Those that were born or orphaned meanwhile are found by looking anew.
            let left = look(&self.entries);
            if left.is_empty() || Instant::now() >= until || left.iter().all(|one| one.process.is_none()) {
                return left;
            }
            for process in left.iter().filter_map(|one| one.process.as_ref()) {
                process.signal(SIGKILL).ok();
            }
            wait_all(&left.iter().collect::<Vec<_>>(), until);
        }
    }
}

/// The reading end of a pipe by a name in /proc, if it still is this one.
fn open_pipe(path: &str, inode: u64) -> Option<OwnedFd> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::options().read(true).custom_flags(flags.bits()).open(path).ok()?;
    let found = file.metadata().ok()?;
    (found.file_type().is_fifo() && found.ino() == inode).then(|| file.into())
}

/// The living ones of these workers' trees.
fn look(entries: &[Entry]) -> Vec<Leftover> {
    let me = nix::unistd::geteuid();
    let tags: HashSet<&str> = entries.iter().map(|entry| entry.tag.as_str()).filter(|tag| !tag.is_empty()).collect();
    let stats = proc::all_stats();
    let mut found = Vec::new();
    for stat in stats.iter().filter(|stat| !stat.is_zombie() && stat.pid != std::process::id() as i32) {
        let Some(entry) = entry_of(stat, entries, &stats, &tags) else { continue };
        if !me.is_root() && proc::uid(stat.pid) != Some(me.as_raw()) {
            continue;
        }
        found.extend(hold(stat, entry));
    }
    found
}

/// Whose process this is, if it is one of theirs.
fn entry_of<'a>(stat: &Stat, entries: &'a [Entry], stats: &[Stat], tags: &HashSet<&str>) -> Option<&'a Entry> {
    let same = |stat: &Stat, entry: &Entry| stat.pid == entry.pid && stat.start_time == entry.start_time;
    if let Some(entry) = entries.iter().find(|entry| same(stat, entry)) {
        return Some(entry);
    }
    let tag = || proc::environment_value(stat.pid, TAG).filter(|tag| tags.contains(tag.as_str()));
    // The session of a worker that is still there, if only as a zombie, is the worker's. Once it is gone, its number
    // may be somebody else's by now: then the environment has to say so as well.
    let session = entries.iter().find(|entry| entry.pid == stat.session);
    if let Some(entry) = session
        && stats.iter().any(|leader| same(leader, entry))
    {
        return Some(entry);
    }
    let tag = tag()?;
    entries.iter().find(|entry| entry.tag == tag)
}

/// Holds it by a pidfd and then makes sure that it is the one that was seen. None: it is gone.
fn hold(stat: &Stat, entry: &Entry) -> Option<Leftover> {
    let process = match Process::of_stranger(stat.pid) {
        Ok(process) => Some(process),
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return None,
        Err(_) => None,
    };
    let now = Stat::of(stat.pid).ok().filter(|now| now.start_time == stat.start_time && !now.is_zombie())?;
    Some(Leftover {
        pid: now.pid,
        start_time: now.start_time,
        pool: entry.pool.clone(),
        slot: entry.slot,
        tag: entry.tag.clone(),
        is_worker: now.pid == entry.pid && now.start_time == entry.start_time,
        process,
    })
}

/// Waits until all of them have ended, or the time is over.
fn wait_all(list: &[&Leftover], until: Instant) {
    let mut waiting: Vec<_> = list.iter().filter_map(|one| one.process.as_ref()?.pidfd()).collect();
    while !waiting.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let mut fds: Vec<PollFd<'_>> = waiting.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        // One millisecond more, lest the last one be spent turning.
        let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        poll(&mut fds, wait).ok();
        let ended: Vec<bool> = fds.iter().map(|fd| fd.any() != Some(false)).collect();
        let mut ended = ended.into_iter();
        waiting.retain(|_| !ended.next().unwrap_or(false));
    }
}
