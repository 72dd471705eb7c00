//! The output pipes of stale workers: their content is logged, and a worker that blocks on a full one continues.

use super::StaleWorkers;
use crate::log::{StalePipe, Stream};
use crate::process::procfs;
use nix::fcntl::OFlag;
use nix::libc::{O_ACCMODE, O_RDWR};
use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

impl StaleWorkers {
    /// The reading ends of the pipes that they print to, each once. A pipe that none of them holds any more is gone with
    /// what was in it; one that may not be opened (no CAP_SYS_PTRACE over another user's process) is left out.
    pub fn pipes(&self) -> Vec<StalePipe> {
        let mut pipes: Vec<StalePipe> = Vec::new();
        let mut seen = HashSet::new();
        for one in &self.found {
            let living = self.record.as_ref().map(|record| &record.living);
            let noted = living.and_then(|living| living.iter().find(|entry| entry.tag == one.tag));
            let (pid, streams) = match noted {
                // Other pipes are theirs: a shell reads there what its neighbour prints.
                Some(entry) => (entry.pid, entry.pipes.clone()),
                None => (one.pid, printed_to(one.pid)),
            };
            for (inode, path) in pipes_of(one.pid) {
                let Some((stream, _)) = streams.iter().find(|(_, ours)| *ours == inode) else {
                    continue;
                };
                if seen.contains(&inode) {
                    continue;
                }
                let Some(fd) = open_pipe(&path, inode) else {
                    continue;
                };
                seen.insert(inode);
                pipes.push(StalePipe {
                    pool: one.pool.clone(),
                    slot: one.slot,
                    pid,
                    stream: *stream,
                    fd,
                });
            }
        }
        pipes
    }
}

/// Whether a process has one of these pipes open.
pub(super) fn holds_one(pid: i32, pipes: &[(Stream, u64)]) -> bool {
    !pipes.is_empty()
        && pipes_of(pid)
            .iter()
            .any(|(inode, _)| pipes.iter().any(|(_, ours)| ours == inode))
}

/// The pipes of a process, by the kernel's number, and the name of a descriptor of it.
fn pipes_of(pid: i32) -> Vec<(u64, String)> {
    let numbers = procfs::numbers(format!("/proc/{pid}/fd"))
        .unwrap_or_default()
        .into_iter();
    let named = numbers.map(|number| format!("/proc/{pid}/fd/{number}"));
    named
        .filter_map(|path| Some((procfs::pipe_inode(&std::fs::read_link(&path).ok()?)?, path)))
        .collect()
}

/// Of a worker that no journal tells of: its stdout and stderr, as far as they are pipes as a master makes them, open for
/// reading and writing. The pipes between programs are never that.
fn printed_to(pid: i32) -> Vec<(Stream, u64)> {
    let made_by_a_master = |number: i32| {
        let inode =
            procfs::pipe_inode(&std::fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?)?;
        let about = procfs::read(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let flags = about.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
        (flags & O_ACCMODE == O_RDWR).then_some(inode)
    };
    match (made_by_a_master(1), made_by_a_master(2)) {
        (Some(out), Some(err)) if out == err => vec![(Stream::Both, out)],
        (out, err) => {
            let streams = [(Stream::Stdout, out), (Stream::Stderr, err)];
            streams
                .into_iter()
                .filter_map(|(stream, inode)| Some((stream, inode?)))
                .collect()
        }
    }
}

/// The reading end of a pipe by a name in /proc, if it still is this one.
fn open_pipe(path: &str, inode: u64) -> Option<OwnedFd> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .ok()?;
    let found = file.metadata().ok()?;
    (found.file_type().is_fifo() && found.ino() == inode).then(|| file.into())
}
