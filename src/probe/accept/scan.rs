//! One scan of one worker: its processes, their descriptors, and what their threads wait for.

use super::{Target, connections, syscalls};
use crate::process::procfs;
use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

/// Maximum number of descriptors of one process that are examined; listeners come first.
const MAX_FDS: usize = 16_384;
/// Maximum number of threads of one process that are examined.
const MAX_THREADS: usize = 4096;

/// The result of a scan.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ScanResult {
    /// The worker accepts connections.
    Accepting,
    /// It does not accept connections yet.
    NotYet,
    /// Descriptors are readable, system calls are not.
    NoSyscalls(String),
    /// Descriptors are not readable.
    Refused(String),
}

/// The relevant descriptors of one process.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    /// Those that are targets.
    pub(super) listeners: HashSet<i32>,
    pub(super) epolls: Vec<i32>,
    /// All other sockets, by inode.
    pub(super) sockets: HashSet<u64>,
}

/// Scans the worker's process and all its descendants. `thorough`: search for connections too, which reads a table as
/// long as the machine has connections. `progress` is called whenever the scan advances.
pub(super) fn scan(
    pid: i32,
    targets: &[Target],
    thorough: bool,
    progress: &dyn Fn(),
) -> ScanResult {
    let mut result = ScanResult::NotYet;
    for (at, (pid, _)) in procfs::forest(&[pid]).into_iter().enumerate() {
        progress();
        match process(pid, targets, thorough, progress) {
            ScanResult::Accepting => return ScanResult::Accepting,
            // A helper that runs as another user (sudo, ping) says nothing about the worker itself.
            ScanResult::Refused(_) if at > 0 => {}
            ScanResult::NotYet => {}
            other => result = other,
        }
    }
    result
}

fn process(pid: i32, targets: &[Target], thorough: bool, progress: &dyn Fn()) -> ScanResult {
    let fds = match descriptors(pid, targets) {
        Ok(fds) => fds,
        Err(error) => return refusal(pid, &error),
    };
    if fds.listeners.is_empty() {
        return ScanResult::NotYet;
    }
    let epolls = watching_epolls(pid, &fds, targets);
    let mut unseen = None;
    // Checked once, and only if memory is to be read.
    let hangs = LazyCell::new(|| procfs::hangs(pid));
    for tid in procfs::numbers(format!("/proc/{pid}/task"))
        .unwrap_or_default()
        .into_iter()
        .take(MAX_THREADS)
    {
        progress();
        match syscalls::is_waiting(pid, tid, &fds.listeners, &epolls, &|| !*hangs) {
            Ok(true) => return ScanResult::Accepting,
            Ok(false) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => unseen = Some(error),
        }
    }
    if unseen.is_some() && !epolls.is_empty() {
        return ScanResult::Accepting;
    }
    if thorough && connections::holds_connection(pid, targets, &fds.sockets, progress) {
        return ScanResult::Accepting;
    }
    match unseen {
        Some(error) => ScanResult::NoSyscalls(format!("/proc/{pid}/syscall: {error}")),
        None => ScanResult::NotYet,
    }
}

/// The result if the descriptors are not readable. An exited process does not count, although it is unreadable.
fn refusal(pid: i32, error: &io::Error) -> ScanResult {
    if !Path::new("/proc/self/stat").exists() {
        return ScanResult::Refused("/proc is not mounted".to_owned());
    }
    let ended = procfs::Stat::of(pid).map_or(true, |stat| stat.is_zombie());
    if ended || is_gone(error) {
        ScanResult::NotYet
    } else {
        ScanResult::Refused(format!("/proc/{pid}/fd: {error}"))
    }
}

fn is_gone(error: &io::Error) -> bool {
    // A kernel without /proc/PID/syscall returns ENOENT as well, for a thread that exists.
    error.raw_os_error() == Some(nix::libc::ESRCH)
        || (error.kind() == io::ErrorKind::NotFound && Path::new("/proc/self/syscall").exists())
}

fn descriptors(pid: i32, targets: &[Target]) -> io::Result<Descriptors> {
    let mut found = Descriptors::default();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.take(MAX_FDS) {
        let Ok(entry) = entry else { break };
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let link = match std::fs::read_link(entry.path()) {
            Ok(link) => link,
            // Root without CAP_SYS_PTRACE, in a container for example, may list another user's descriptors but read
            // none of them.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(_) => continue,
        };
        let Some(fd) = number else { continue };
        match procfs::socket_inode(&link) {
            Some(inode) if targets.iter().any(|target| target.inode == inode) => {
                found.listeners.insert(fd);
            }
            Some(inode) => {
                found.sockets.insert(inode);
            }
            None if link == Path::new("anon_inode:[eventpoll]") => found.epolls.push(fd),
            None => {}
        }
    }
    Ok(found)
}

/// The epoll sets that would wake up for a connection, also by way of another epoll set.
fn watching_epolls(pid: i32, fds: &Descriptors, targets: &[Target]) -> HashSet<i32> {
    let entries: HashMap<i32, Vec<Entry>> = fds
        .epolls
        .iter()
        .map(|&epoll| (epoll, entries_of(pid, epoll)))
        .collect();
    let reads = |entry: &&Entry| entry.events & nix::libc::EPOLLIN as u64 != 0;
    let has_listener = |entry: &Entry| {
        fds.listeners.contains(&entry.fd)
            && entry
                .inode
                .is_none_or(|inode| targets.iter().any(|t| t.inode == inode))
    };
    let direct: HashSet<i32> = entries
        .iter()
        .filter(|(_, list)| list.iter().filter(reads).any(has_listener))
        .map(|(&epoll, _)| epoll)
        .collect();
    let over = entries.iter().filter(|(_, list)| {
        list.iter()
            .filter(reads)
            .any(|entry| direct.contains(&entry.fd))
    });
    over.map(|(&epoll, _)| epoll)
        .chain(direct.iter().copied())
        .collect()
}

struct Entry {
    fd: i32,
    events: u64,
    inode: Option<u64>,
}

fn entries_of(pid: i32, epoll: i32) -> Vec<Entry> {
    let text = procfs::read(format!("/proc/{pid}/fdinfo/{epoll}")).unwrap_or_default();
    text.lines().filter_map(entry).collect()
}

/// `tfd:        5 events:       19 data: 5  pos:0 ino:61ef sdev:8` (proc(5)); the numbers behind `ino` are hexadecimal.
fn entry(line: &str) -> Option<Entry> {
    let value = |key: &str| line.split_once(key)?.1.split_ascii_whitespace().next();
    line.strip_prefix("tfd:")?;
    Some(Entry {
        fd: value("tfd:")?.parse().ok()?,
        events: u64::from_str_radix(value("events:")?, 16).ok()?,
        inode: value("ino:").and_then(|text| u64::from_str_radix(text, 16).ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoll_entries_are_parsed() {
        let found =
            entry("tfd:        5 events:       19 data:                5  pos:0 ino:61ef sdev:8")
                .unwrap();
        assert_eq!(
            (found.fd, found.events, found.inode),
            (5, 0x19, Some(0x61ef))
        );
        assert!(entry("pos:\t0").is_none());
        assert!(entry("tfd: x").is_none());
    }

    #[test]
    fn a_missing_process_is_not_ready() {
        let target = Target {
            inode: 1,
            address: crate::plan::Address::Unix("/x".into()),
        };
        assert_eq!(scan(i32::MAX, &[target], true, &|| ()), ScanResult::NotYet);
    }
}
