//! What /proc tells about processes (proc(5)). Every reader is bounded and takes it as normal that a process vanishes
//! between two steps.

use rotad_core::Exit;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Never more of a tree than this: a fork bomb must not hold the reader.
const MOST_PROCESSES: usize = 4096;
/// Never more threads of a process than this.
const MOST_THREADS: usize = 1024;
/// Never more of a file than this.
const MOST_BYTES: u64 = 1 << 20;

/// The part of /proc/PID/stat that tells who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    pub name: String,
    /// `Z` is a zombie, `X` is dead.
    pub state: u8,
    pub parent: i32,
    pub pgrp: i32,
    pub session: i32,
    /// On its way out (PF_EXITING): its memory, and so its environment, may be gone already.
    pub exiting: bool,
    pub threads: u32,
    /// In clock ticks since boot; with the pid it names a process for as long as the machine runs.
    pub start_time: u64,
}

impl Stat {
    /// # Errors
    /// ENOENT, ESRCH: no such process.
    pub fn of(pid: i32) -> io::Result<Self> {
        let text = read(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The name may hold spaces and parentheses: it ends at the last one.
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

    /// Ended, and only waiting to be reaped. A process whose first thread alone has ended shows as a zombie, too, but
    /// its other threads go on.
    pub fn is_zombie(&self) -> bool {
        self.main_thread_ended() && self.threads <= 1
    }

    /// Its first thread has ended, or is about to. Of a program whose first thread does the work that is the end, though
    /// what it had open stays open until the last of its threads has left.
    pub fn is_leaving(&self) -> bool {
        self.exiting || self.main_thread_ended()
    }

    fn main_thread_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads a small text of /proc; bytes that are no UTF-8 are replaced.
///
/// # Errors
/// The kernel's.
pub fn read(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read_bytes(path)?).into_owned())
}

/// # Errors
/// The kernel's.
pub fn read_bytes(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The names in a folder of /proc that are numbers: pids, thread ids, descriptors.
///
/// # Errors
/// EACCES: not ours to read; ENOENT: the process has gone.
pub fn numbers(folder: impl AsRef<Path>) -> io::Result<Vec<i32>> {
    let entries = std::fs::read_dir(folder)?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The children of one thread, or none where the kernel does not tell (CONFIG_PROC_CHILDREN).
pub fn children_of_thread(pid: i32, tid: i32) -> Option<Vec<i32>> {
    let text = read(format!("/proc/{pid}/task/{tid}/children")).ok()?;
    Some(text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// Whether this kernel lists children.
pub fn lists_children() -> bool {
    let me = std::process::id();
    Path::new(&format!("/proc/{me}/task/{me}/children")).exists()
}

/// The children of all threads of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let threads = numbers(format!("/proc/{pid}/task")).unwrap_or_default();
    threads.into_iter().filter_map(|tid| children_of_thread(pid, tid)).flatten().collect()
}

/// The same, for one that has just been looked at. Kernels that do not list children list every process.
pub fn children_of(stat: &Stat) -> Vec<i32> {
    if stat.threads == 1
        && let Some(children) = children_of_thread(stat.pid, stat.pid)
    {
        return children;
    }
    if lists_children() {
        return children(stat.pid);
    }
    all_stats().into_iter().filter(|other| other.parent == stat.pid).map(|other| other.pid).collect()
}

/// A process and all its descendants, parents before children, with the place of the parent in the list (the roots
/// point to themselves). At most a few thousand.
pub fn forest(roots: &[i32]) -> Vec<(i32, usize)> {
    let mut found: Vec<(i32, usize)> = roots.iter().enumerate().map(|(place, &pid)| (pid, place)).collect();
    let below = if lists_children() { None } else { Some(all_stats()) };
    let mut seen: std::collections::HashSet<i32> = roots.iter().copied().collect();
    let mut at = 0;
    while at < found.len() && found.len() < MOST_PROCESSES {
        let pid = found[at].0;
        let children = match &below {
            None => children(pid),
            Some(all) => all.iter().filter(|stat| stat.parent == pid).map(|stat| stat.pid).collect(),
        };
        found.extend(children.into_iter().filter(|&child| seen.insert(child)).map(|child| (child, at)));
        at += 1;
    }
    found
}

/// Every process that /proc shows.
pub fn all_stats() -> Vec<Stat> {
    numbers("/proc").unwrap_or_default().into_iter().filter_map(|pid| Stat::of(pid).ok()).collect()
}

/// The environment that a process was started with. None: not ours to read, or gone with the memory of a process that is
/// ending. It waits for the locks of that process, for ever if a disk hangs below them.
pub fn environment(pid: i32) -> Option<Vec<u8>> {
    let bytes = read_bytes(format!("/proc/{pid}/environ")).ok()?;
    if !bytes.is_empty() {
        return Some(bytes);
    }
    // The first thread has ended: another one has the same memory.
    let threads = numbers(format!("/proc/{pid}/task")).unwrap_or_default();
    let others = threads.into_iter().filter(|&tid| tid != pid).take(64);
    let mut texts = others.filter_map(|tid| read_bytes(format!("/proc/{pid}/task/{tid}/environ")).ok());
    Some(texts.find(|bytes| !bytes.is_empty()).unwrap_or_default())
}

/// The value of a variable in an environment.
pub fn value_in(environment: &[u8], name: &str) -> Option<String> {
    let mut lines = environment.split(|&byte| byte == 0);
    let value = lines.find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    value.map(|value| String::from_utf8_lossy(value).into_owned())
}

/// The value of a variable in the environment that a process was started with. None: not set, or as [`environment`].
pub fn environment_value(pid: i32, name: &str) -> Option<String> {
    value_in(&environment(pid)?, name)
}

/// Whether one of its threads waits in the kernel for something that no signal ends (state D): a disk, a page of a file.
/// It may hold locks meanwhile that whoever looks into its memory would wait for, as unkillably.
pub fn hangs(pid: i32) -> bool {
    let threads = numbers(format!("/proc/{pid}/task")).unwrap_or_default();
    let state = |tid: i32| {
        let text = read(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
        text.rsplit_once(')')?.1.trim_start().bytes().next()
    };
    threads.into_iter().take(MOST_THREADS).any(|tid| state(tid) == Some(b'D'))
}

/// The number in `socket:[123]`, the target of a link in /proc/PID/fd.
pub fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The number in `pipe:[123]`, the target of a link in /proc/PID/fd.
pub fn pipe_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok()
}

/// Who traces a process (ptrace(2)).
pub fn tracer(pid: i32) -> Option<i32> {
    let text = read(format!("/proc/{pid}/status")).ok()?;
    let tracer = text.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()?;
    (tracer > 0).then_some(tracer)
}

/// How a process has ended that nobody has reaped yet: field 52 of /proc/PID/stat (proc(5)). None: it is no zombie, or
/// that is not ours to read.
pub fn exit_of_zombie(pid: i32) -> Option<Exit> {
    let text = read(format!("/proc/{pid}/stat")).ok()?;
    if !Stat::parse(&text)?.is_zombie() {
        return None;
    }
    let status: i32 = text.rsplit_once(')')?.1.split_ascii_whitespace().nth(49)?.parse().ok()?;
    // Whoever may not trace it reads 0, which would be a good end; such a one is refused here as well. A zombie has no
    // program any more.
    let refused = std::fs::read_link(format!("/proc/{pid}/exe")).err().map(|error| error.kind());
    (refused == Some(io::ErrorKind::NotFound)).then_some(match status & 0x7f {
        0 => Exit::Code(status >> 8 & 0xff),
        signal => Exit::Signal { signal, core_dumped: status & 0x80 != 0 },
    })
}

/// The real uid of a process: the owner of its folder is root for one that may not be dumped.
pub fn uid(pid: i32) -> Option<u32> {
    let text = read(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()
}

/// Names this run of the machine: start times mean nothing in another one.
pub fn boot_id() -> String {
    read("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let text = "7 (a) b (c)) S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.state, stat.parent), ("a) b (c)", b'S', 1));
        assert_eq!((stat.pgrp, stat.session, stat.start_time), (2, 3, 4242));
        assert_eq!((stat.exiting, stat.threads), (false, 1));
        assert_eq!(Stat::parse("7 (a"), None);
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn we_find_ourselves() {
        let me = std::process::id() as i32;
        assert_eq!(Stat::of(me).unwrap().pid, me);
        assert!(all_stats().iter().any(|stat| stat.pid == me));
        assert_eq!(socket_inode(Path::new("socket:[12]")), Some(12));
        assert_eq!(uid(me), Some(nix::unistd::getuid().as_raw()));
    }
}
