//! Adoption: what the next master takes over of the workers that still run, so that it can go on with them. Nothing is
//! stopped, and no worker notices.
//!
//! A worker is adopted if its pidfd could be opened, it is the process that the journal names (or carries a
//! ROTAD_WORKER of that master), and the configuration still has its pool. All others are left to
//! [`StaleWorkers::take_over`]: workers of pools that are gone, and what workers have left behind that have ended.

use super::worker_journal::{JournalEntry, ListenerNote, PoolNote, number_of};
use super::{StaleWorkers, environments};
use crate::log::Stream;
use crate::process::procfs;
use crate::sys::process::Process;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A worker that is adopted.
#[derive(Debug)]
pub struct AdoptedProcess {
    /// Its pidfd.
    pub process: Process,
    /// Its number, by its ROTAD_WORKER.
    pub number: u64,
    /// What the journal has of it, or else its environment.
    pub entry: JournalEntry,
    /// The journal has no whole entry of it: it is not known whether it has become ready.
    pub in_doubt: bool,
    /// Reading ends of its output pipes.
    pub pipes: Vec<(Stream, OwnedFd)>,
    /// Its NOTIFY_SOCKET, if that is an abstract address.
    pub abstract_notify: Option<OsString>,
}

/// A listening socket that is adopted.
#[derive(Debug)]
pub struct AdoptedSocket {
    /// What is known of it.
    pub note: ListenerNote,
    /// The socket, or why no worker gives it back.
    pub fd: io::Result<OwnedFd>,
}

/// What is adopted of a dead master.
#[derive(Debug)]
pub struct Adoption {
    /// The pid of that master.
    pub master: i32,
    /// The prefix of its workers' ROTAD_WORKER.
    pub tag: String,
    /// The number of its last worker.
    pub last: u64,
    /// The directory of its workers' cgroups.
    pub cgroup: Option<PathBuf>,
    /// The workers.
    pub workers: Vec<AdoptedProcess>,
    /// The listening sockets that a worker holds.
    pub sockets: Vec<AdoptedSocket>,
    /// The pools that an operator has scaled or stopped.
    pub pools: Vec<PoolNote>,
    /// None of its events has a number above this.
    pub events: u64,
    /// All processes that belong to the workers, by pid and start time.
    pub members: HashSet<(i32, u64)>,
}

impl StaleWorkers {
    /// Takes the workers that can be adopted out of those that were found, and all that belongs to them: they are not
    /// taken over any more. None: there is none, or the journal is one of an older version.
    ///
    /// `has_pool`: the configuration has a pool of this name. `kept`: listening sockets that this process has already.
    pub fn adopt(
        &mut self,
        has_pool: impl Fn(&str) -> bool,
        kept: Vec<(u64, OwnedFd)>,
    ) -> Option<Adoption> {
        let journal = self.journal.clone()?;
        let (tag, last) = (journal.tag.clone()?, journal.last?);
        let of_master = |tag_of: &str| {
            let rest = tag_of.strip_prefix(&tag)?.strip_prefix('-')?;
            rest.parse::<u64>().ok()
        };
        let adoptable = self.found.iter().filter(|one| {
            one.is_worker
                && one.process.is_some()
                && has_pool(&one.pool)
                && of_master(&one.tag).is_some()
        });
        let tags: HashSet<String> = adoptable.map(|one| one.tag.clone()).collect();
        if tags.is_empty() {
            return None;
        }
        let mut pipes: BTreeMap<i32, Vec<(Stream, OwnedFd)>> = BTreeMap::new();
        for pipe in self.pipes() {
            pipes
                .entry(pipe.pid)
                .or_default()
                .push((pipe.stream, pipe.fd));
        }
        let found = std::mem::take(&mut self.found);
        let (taken, left) = found
            .into_iter()
            .partition::<Vec<_>, _>(|one| tags.contains(&one.tag));
        self.found = left;
        let members = taken.iter().map(|one| (one.pid, one.start_time)).collect();
        let processes: Vec<(i32, &Process)> = taken
            .iter()
            .filter_map(|one| Some((one.pid, one.process.as_ref()?)))
            .collect();
        let sockets = sockets(&journal.notes.listeners, kept, &processes);
        let first: Vec<_> = taken.into_iter().filter(|one| one.is_worker).collect();
        let pids: Vec<i32> = first.iter().map(|one| one.pid).collect();
        let mut last = last;
        let workers = first
            .into_iter()
            .zip(environments::of(&pids))
            .filter_map(|(one, environment)| {
                let environment = environment.unwrap_or_default();
                let number = number_of(&one.tag)?;
                last = last.max(number);
                let known = journal.living.iter().find(|entry| entry.tag == one.tag);
                let mut entry = known.cloned().unwrap_or_else(|| JournalEntry {
                    pid: one.pid,
                    start_time: one.start_time,
                    slot: one.slot,
                    pool: one.pool.clone(),
                    tag: one.tag.clone(),
                    ..JournalEntry::default()
                });
                let in_doubt = entry.generation.is_none();
                entry.generation = entry.generation.or(environment.generation);
                entry.port = entry.port.or(environment.port);
                let notify = environment.notify;
                Some(AdoptedProcess {
                    process: one.process?,
                    number,
                    in_doubt,
                    pipes: pipes.remove(&entry.pid).unwrap_or_default(),
                    abstract_notify: notify
                        .filter(|name| name.as_encoded_bytes().first() == Some(&b'@')),
                    entry,
                })
            })
            .collect();
        self.spared = tags;
        Some(Adoption {
            master: journal.master.0,
            tag,
            last,
            cgroup: journal.cgroup.filter(|base| base.is_dir()),
            workers,
            sockets,
            pools: journal.notes.pools,
            events: journal.notes.events,
            members,
        })
    }
}

/// Takes the listening sockets of a dead master: from those that this process has kept, or from a process that holds them
/// (pidfd_getfd(2)). Leaves out those that nothing holds.
fn sockets(
    wanted: &[ListenerNote],
    kept: Vec<(u64, OwnedFd)>,
    processes: &[(i32, &Process)],
) -> Vec<AdoptedSocket> {
    let mut missing: BTreeMap<u64, &ListenerNote> =
        wanted.iter().map(|note| (note.inode, note)).collect();
    let mut found = Vec::new();
    for (inode, fd) in kept {
        if let Some(note) = missing.remove(&inode) {
            let (note, fd) = (note.clone(), Ok(fd));
            found.push(AdoptedSocket { note, fd });
        }
    }
    let mut refused: BTreeMap<u64, io::Error> = BTreeMap::new();
    for (pid, process) in processes {
        if missing.is_empty() {
            break;
        }
        let mut numbers = match procfs::numbers(format!("/proc/{pid}/fd")) {
            Ok(numbers) => numbers,
            Err(error) => {
                refused.extend(missing.keys().map(|inode| (*inode, same_error(&error))));
                continue;
            }
        };
        numbers.sort_unstable();
        for number in numbers {
            let link = match std::fs::read_link(format!("/proc/{pid}/fd/{number}")) {
                Ok(link) => link,
                // It may hold any of them.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    refused.extend(missing.keys().map(|inode| (*inode, same_error(&error))));
                    break;
                }
                Err(_) => continue,
            };
            let Some(inode) = procfs::socket_inode(&link) else {
                continue;
            };
            let Some(note) = missing.get(&inode) else {
                continue;
            };
            match process.dup_fd(number).and_then(|fd| same_socket(fd, inode)) {
                Ok(fd) => {
                    let note = (*note).clone();
                    found.push(AdoptedSocket { note, fd: Ok(fd) });
                    missing.remove(&inode);
                    refused.remove(&inode);
                }
                Err(error) => drop(refused.insert(inode, error)),
            }
        }
    }
    for (inode, error) in refused {
        if let Some(note) = missing.remove(&inode) {
            let (note, fd) = (note.clone(), Err(error));
            found.push(AdoptedSocket { note, fd });
        }
    }
    found
}

fn same_error(error: &io::Error) -> io::Error {
    io::Error::from_raw_os_error(error.raw_os_error().unwrap_or_default())
}

/// The process may have closed the number and opened it again since it was looked at.
fn same_socket(fd: OwnedFd, inode: u64) -> io::Result<OwnedFd> {
    match nix::sys::stat::fstat(&fd)?.st_ino == inode {
        true => Ok(fd),
        false => Err(nix::errno::Errno::ESTALE.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::fstat;
    use std::net::TcpListener;
    use std::process::{Child, Command, Stdio};

    /// A process that holds the socket as its stdin.
    fn holder(socket: &TcpListener) -> Child {
        let mut command = Command::new("/bin/sleep");
        let stdin = Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
        command.arg("600").stdin(stdin).spawn().unwrap()
    }

    #[test]
    fn a_socket_is_taken_from_a_process_that_holds_it() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = |socket: &TcpListener| fstat(socket).unwrap().st_ino;
        let mut child = holder(&socket);
        let process = Process::open_pid(child.id().cast_signed()).unwrap();
        let processes = [(process.pid(), &process)];
        let wanted = [
            (inode(&socket), "http"),
            (inode(&other), "admin"),
            (1, "gone"),
        ];
        let wanted = wanted.map(|(inode, name)| ListenerNote {
            name: name.to_owned(),
            inode,
            file: None,
        });
        let kept = vec![(inode(&other), OwnedFd::from(other.try_clone().unwrap()))];
        let taken = sockets(&wanted, kept, &processes);
        child.kill().unwrap();
        child.wait().unwrap();
        let names: Vec<&str> = taken.iter().map(|one| one.note.name.as_str()).collect();
        assert_eq!(names, ["admin", "http"]);
        let fds = taken.iter().map(|one| one.fd.as_ref().unwrap());
        let inodes: Vec<u64> = fds.map(|fd| fstat(fd).unwrap().st_ino).collect();
        assert_eq!(inodes, [inode(&other), inode(&socket)]);
    }

    #[test]
    fn a_number_that_is_another_socket_by_now_is_not_taken() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = fstat(&socket).unwrap().st_ino;
        let error = same_socket(socket.into(), inode + 1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ESTALE));
    }
}
