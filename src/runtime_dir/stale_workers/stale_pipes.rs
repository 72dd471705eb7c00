//! The output pipes of stale workers. They are read while the workers are stopped: their content is logged, and a worker
//! that blocks on a full pipe continues.

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
    /// The reading ends of the workers' output pipes, each once. A pipe that no process holds any more is gone with its
    /// content. Leaves out pipes that may not be opened (another user's process, without CAP_SYS_PTRACE).
    pub fn pipes(&self) -> Vec<StalePipe> {
        let mut pipes: Vec<StalePipe> = Vec::new();
        let mut seen = HashSet::new();
        for one in &self.found {
            let living = self.journal.as_ref().map(|journal| &journal.living);
            let recorded =
                living.and_then(|living| living.iter().find(|entry| entry.tag == one.tag));
            let (pid, streams) = match recorded {
                // Other pipes are between the workers' own programs.
                Some(entry) => (entry.pid, entry.pipes.clone()),
                None => (one.pid, output_pipes(one.pid)),
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

/// The pipes of a process: the inode, and the path of a descriptor in /proc.
fn pipes_of(pid: i32) -> Vec<(u64, String)> {
    let numbers = procfs::numbers(format!("/proc/{pid}/fd"))
        .unwrap_or_default()
        .into_iter();
    let named = numbers.map(|number| format!("/proc/{pid}/fd/{number}"));
    named
        .filter_map(|path| Some((procfs::pipe_inode(&std::fs::read_link(&path).ok()?)?, path)))
        .collect()
}

/// The output pipes of a worker that is not in the journal: its stdout and stderr, if they are open for reading and writing,
/// as a master opens them. Pipes between programs are not.
fn output_pipes(pid: i32) -> Vec<(Stream, u64)> {
    let master_pipe = |number: i32| {
        let inode =
            procfs::pipe_inode(&std::fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?)?;
        let about = procfs::read(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let flags = about.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
        (flags & O_ACCMODE == O_RDWR).then_some(inode)
    };
    match (master_pipe(1), master_pipe(2)) {
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

/// Opens the reading end of a pipe by its path in /proc, if it still is the same pipe.
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
