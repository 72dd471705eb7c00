//! Readers of /proc (proc(5)). Every reader is bounded, and takes it as normal that a process vanishes between two
//! steps.

use rotad_core::Exit;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Most processes of a tree that are listed: a fork bomb must not hold the reader.
const MAX_PROCESSES: usize = 4096;
/// Most threads of a process that are read.
const MAX_THREADS: usize = 1024;
/// Most bytes of a file that are read.
const MAX_BYTES: u64 = 1 << 20;

/// The fields of /proc/PID/stat that identify a process and tell its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    pub name: String,
    /// `Z` is a zombie, `X` is dead.
    pub state: u8,
    pub parent: i32,
    pub pgrp: i32,
    pub session: i32,
    /// It is exiting (PF_EXITING): its memory, and so its environment, may be gone already.
    pub exiting: bool,
    pub threads: u32,
    /// In clock ticks since boot; with the pid it identifies a process while the machine runs.
    pub start_time: u64,
}

impl Stat {
    /// Reads /proc/PID/stat.
    ///
    /// # Errors
    /// ENOENT, ESRCH: no such process.
    pub fn of(pid: i32) -> io::Result<Self> {
        let text = read(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The name may contain spaces and parentheses: it ends at the last one.
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let (pid, name) = head.split_once('(')?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        Some(Self {
            pid: pid.trim().parse().ok()?,
            name: name.to_owned(),
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            pgrp: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            exiting: fields.get(6)?.parse::<u32>().ok()? & 4 != 0,
            threads: fields.get(17)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }

    /// Ended, and only waiting to be reaped. A process of which only the first thread has ended shows as a zombie too,
    /// but its other threads run on.
    pub fn is_zombie(&self) -> bool {
        self.main_thread_ended() && self.threads <= 1
    }

    /// Its first thread has ended or is about to. If that thread does the program's work, this is the end of it, though
    /// its files stay open until the last thread has left.
    pub fn is_leaving(&self) -> bool {
        self.exiting || self.main_thread_ended()
    }

    fn main_thread_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads a small text file of /proc; bytes that are not UTF-8 are replaced.
///
/// # Errors
/// ENOENT, ESRCH: no such process. EACCES: not ours to read.
pub fn read(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read_bytes(path)?).into_owned())
}

/// Reads a small file of /proc.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The entries of a directory of /proc that are numbers: pids, thread ids, descriptors.
///
/// # Errors
/// EACCES: not ours to read; ENOENT: the process is gone.
pub fn numbers(folder: impl AsRef<Path>) -> io::Result<Vec<i32>> {
    let entries = std::fs::read_dir(folder)?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// The children of one thread; None if the kernel does not list them (CONFIG_PROC_CHILDREN).
pub fn children_of_thread(pid: i32, tid: i32) -> Option<Vec<i32>> {
    let text = read(format!("/proc/{pid}/task/{tid}/children")).ok()?;
    Some(
        text.split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect(),
    )
}

/// Whether this kernel lists children (CONFIG_PROC_CHILDREN).
pub fn lists_children() -> bool {
    let me = std::process::id();
    Path::new(&format!("/proc/{me}/task/{me}/children")).exists()
}

/// The children of all threads of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let threads = numbers(format!("/proc/{pid}/task")).unwrap_or_default();
    threads
        .into_iter()
        .filter_map(|tid| children_of_thread(pid, tid))
        .flatten()
        .collect()
}

/// The same for a process whose stat was just read. On kernels that do not list children, every process is read.
pub fn children_of(stat: &Stat) -> Vec<i32> {
    if stat.threads == 1
        && let Some(children) = children_of_thread(stat.pid, stat.pid)
    {
        return children;
    }
    if lists_children() {
        return children(stat.pid);
    }
    all_stats()
        .into_iter()
        .filter(|other| other.parent == stat.pid)
        .map(|other| other.pid)
        .collect()
}

/// A process and all its descendants, parents before children, each with the index of its parent in the list (roots
/// point to themselves). At most a few thousand.
pub fn forest(roots: &[i32]) -> Vec<(i32, usize)> {
    let mut found: Vec<(i32, usize)> = roots
        .iter()
        .enumerate()
        .map(|(place, &pid)| (pid, place))
        .collect();
    let below = if lists_children() {
        None
    } else {
        Some(all_stats())
    };
    let mut seen: std::collections::HashSet<i32> = roots.iter().copied().collect();
    let mut at = 0;
    while at < found.len() && found.len() < MAX_PROCESSES {
        let pid = found[at].0;
        let children = match &below {
            None => children(pid),
            Some(all) => all
                .iter()
                .filter(|stat| stat.parent == pid)
                .map(|stat| stat.pid)
                .collect(),
        };
        found.extend(
            children
                .into_iter()
                .filter(|&child| seen.insert(child))
                .map(|child| (child, at)),
        );
        at += 1;
    }
    found
}

/// All processes in /proc.
pub fn all_stats() -> Vec<Stat> {
    numbers("/proc")
        .unwrap_or_default()
        .into_iter()
        .filter_map(|pid| Stat::of(pid).ok())
        .collect()
}

/// The environment with which a process was started. None: not ours to read. Empty: gone with the memory of a process
/// that is exiting. This takes locks of that process, which it may hold indefinitely if a disk hangs.
pub fn environment(pid: i32) -> Option<Vec<u8>> {
    let bytes = read_bytes(format!("/proc/{pid}/environ")).ok()?;
    if !bytes.is_empty() {
        return Some(bytes);
    }
    // The first thread has ended: another one has the same memory.
    let threads = numbers(format!("/proc/{pid}/task")).unwrap_or_default();
    let others = threads.into_iter().filter(|&tid| tid != pid).take(64);
    let mut texts =
        others.filter_map(|tid| read_bytes(format!("/proc/{pid}/task/{tid}/environ")).ok());
    Some(texts.find(|bytes| !bytes.is_empty()).unwrap_or_default())
}

/// The value of a variable in an environment.
pub fn value_in(environment: &[u8], name: &str) -> Option<String> {
    let mut lines = environment.split(|&byte| byte == 0);
    let value = lines.find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    value.map(|value| String::from_utf8_lossy(value).into_owned())
}

/// The value of a variable in the environment with which a process was started. None: not set, or as [`environment`].
pub fn environment_value(pid: i32, name: &str) -> Option<String> {
    value_in(&environment(pid)?, name)
}

/// Whether one of its threads is in uninterruptible sleep (state D): waiting for a disk, or for a page of a file. It
/// may hold locks meanwhile, and a reader of its memory would wait for them, just as unkillably.
pub fn hangs(pid: i32) -> bool {
    let threads = numbers(format!("/proc/{pid}/task")).unwrap_or_default();
    let state = |tid: i32| {
        let text = read(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
        text.rsplit_once(')')?.1.trim_start().bytes().next()
    };
    threads
        .into_iter()
        .take(MAX_THREADS)
        .any(|tid| state(tid) == Some(b'D'))
}

/// The number in `socket:[123]`, the target of a symlink in /proc/PID/fd.
pub fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// The number in `pipe:[123]`, the target of a symlink in /proc/PID/fd.
pub fn pipe_inode(link: &Path) -> Option<u64> {
    link.to_str()?
        .strip_prefix("pipe:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// The pid of the tracer of a process (ptrace(2)).
pub fn tracer(pid: i32) -> Option<i32> {
    let text = read(format!("/proc/{pid}/status")).ok()?;
    let tracer = text
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))?
        .trim()
        .parse()
        .ok()?;
    (tracer > 0).then_some(tracer)
}

/// How a zombie ended: field 52 of /proc/PID/stat (proc(5)). None: it is not a zombie, or the field is not ours to
/// read.
pub fn exit_of_zombie(pid: i32) -> Option<Exit> {
    let text = read(format!("/proc/{pid}/stat")).ok()?;
    if !Stat::parse(&text)?.is_zombie() {
        return None;
    }
    let status: i32 = text
        .rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(49)?
        .parse()
        .ok()?;
    // Without the right to trace it we would read 0, which looks like success; the same check refuses us its `exe` with
    // EACCES. Otherwise a zombie has no `exe` (ENOENT).
    let refused = std::fs::read_link(format!("/proc/{pid}/exe"))
        .err()
        .map(|error| error.kind());
    (refused == Some(io::ErrorKind::NotFound)).then_some(match status & 0x7f {
        0 => Exit::Code(status >> 8 & 0xff),
        signal => Exit::Signal {
            signal,
            core_dumped: status & 0x80 != 0,
        },
    })
}

/// The real uid of a process. The owner of its directory will not do: that is root if the process is not dumpable.
pub fn uid(pid: i32) -> Option<u32> {
    let text = read(format!("/proc/{pid}/status")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Identifies this boot: start times of another boot mean nothing.
pub fn boot_id() -> String {
    read("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_contain_parentheses() {
        let text = "7 (a) b (c)) S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(
            (stat.name.as_str(), stat.state, stat.parent),
            ("a) b (c)", b'S', 1)
        );
        assert_eq!((stat.pgrp, stat.session, stat.start_time), (2, 3, 4242));
        assert_eq!((stat.exiting, stat.threads), (false, 1));
        assert_eq!(Stat::parse("7 (a"), None);
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn our_own_process_is_found() {
        let me = std::process::id() as i32;
        assert_eq!(Stat::of(me).unwrap().pid, me);
        assert!(all_stats().iter().any(|stat| stat.pid == me));
        assert_eq!(socket_inode(Path::new("socket:[12]")), Some(12));
        assert_eq!(uid(me), Some(nix::unistd::getuid().as_raw()));
    }
}
