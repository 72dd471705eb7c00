//! Readers of /proc (proc(5)). Every reader is bounded, and takes it as normal that a process vanishes between two
//! steps.

use nix::unistd::{SysconfVar, sysconf};
use rotad_core::Exit;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// Most processes of a tree that are listed: a fork bomb must not hold the reader.
const MAX_PROCESSES: usize = 4096;
/// Most threads of a process that are read.
const MAX_THREADS: usize = 1024;
/// Most bytes of a file that are read.
const MAX_BYTES: u64 = 1 << 20;
/// Most files are shorter, and are read by two calls then. From an empty buffer it would be five, each a little longer.
const USUAL_BYTES: usize = 1 << 10;
/// Flags in field 9 of /proc/PID/stat (include/linux/sched.h).
const PF_EXITING: u32 = 0x4;
const PF_FORKNOEXEC: u32 = 0x40;

/// /proc/PID/stat (proc_pid_stat(5)), the only parser of it. Reading it takes no lock of the process, so it cannot hang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Field 1.
    pub pid: i32,
    /// The name of the program (comm), of which programs may choose any 15 bytes.
    pub name: String,
    /// `R` runs, `D` is in uninterruptible sleep, `Z` is a zombie, `X` is dead.
    pub state: u8,
    /// The pid of the parent.
    pub parent: i32,
    /// The process group.
    pub pgrp: i32,
    /// The session.
    pub session: i32,
    /// It is exiting (PF_EXITING): its memory, and so its environment, may be gone already.
    pub exiting: bool,
    /// It has executed no program since it was forked (PF_FORKNOEXEC).
    pub forked_only: bool,
    /// User and system time of all its threads, in clock ticks; [`ticks`] converts it.
    pub cpu_ticks: u64,
    /// The same of its children that have been waited for.
    pub children_cpu_ticks: u64,
    /// Number of threads.
    pub threads: u32,
    /// In clock ticks since boot; with the pid it identifies a process while the machine runs.
    pub start_time: u64,
    /// Virtual memory, in bytes; 0 once it has exited.
    pub vsize: u64,
    /// Resident memory, shared pages included, in pages; [`pages`] converts it.
    pub rss_pages: u64,
    /// Where its environment begins; 0 while its program is being loaded, or if it is not ours to read. None: this
    /// kernel does not tell.
    pub env_start: Option<u64>,
    /// Its wait status once it has exited; 0 if that is not ours to read. None: this kernel does not tell.
    pub exit_status: Option<i32>,
}

impl Stat {
    /// Reads /proc/PID/stat.
    ///
    /// # Errors
    /// ENOENT, ESRCH: no such process.
    pub fn of(pid: i32) -> io::Result<Self> {
        Self::read(format!("/proc/{pid}/stat"))
    }

    /// Reads /proc/PID/task/TID/stat: one thread.
    ///
    /// # Errors
    /// ENOENT, ESRCH: no such thread.
    pub fn of_thread(pid: i32, tid: i32) -> io::Result<Self> {
        Self::read(format!("/proc/{pid}/task/{tid}/stat"))
    }

    fn read(path: String) -> io::Result<Self> {
        let text = self::read(path)?;
        Self::parse(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The name may contain spaces and parentheses: it ends at the last one.
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let (pid, name) = head.split_once('(')?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        // The numbers of proc_pid_stat(5); the first after the name is 3.
        let field = |number: usize| fields.get(number - 3).copied();
        let count = |number: usize| field(number)?.parse::<u64>().ok();
        let flags = field(9)?.parse::<u32>().ok()?;
        Some(Self {
            pid: pid.trim().parse().ok()?,
            name: name.to_owned(),
            state: *field(3)?.as_bytes().first()?,
            parent: field(4)?.parse().ok()?,
            pgrp: field(5)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            exiting: flags & PF_EXITING != 0,
            forked_only: flags & PF_FORKNOEXEC != 0,
            cpu_ticks: count(14)?.saturating_add(count(15)?),
            children_cpu_ticks: count(16)?.saturating_add(count(17)?),
            threads: field(20)?.parse().ok()?,
            start_time: count(22)?,
            vsize: count(23)?,
            rss_pages: count(24)?,
            env_start: count(50),
            exit_status: field(52).and_then(|status| status.parse().ok()),
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
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The entries of a directory of /proc that are numbers: pids, thread ids, descriptors.
///
/// # Errors
/// EACCES: not ours to read; ENOENT: the process is gone.
pub fn numbers(dir: impl AsRef<Path>) -> io::Result<Vec<i32>> {
    let entries = std::fs::read_dir(dir)?;
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
    threads
        .into_iter()
        .take(MAX_THREADS)
        .any(|tid| Stat::of_thread(pid, tid).is_ok_and(|stat| stat.state == b'D'))
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
    let stat = Stat::of(pid).ok().filter(Stat::is_zombie)?;
    let status = stat.exit_status?;
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

/// [`Stat::start_time`] of a process that was created so many nanoseconds after boot (CLOCK_BOOTTIME).
pub fn start_time(since_boot_ns: u64) -> u64 {
    since_boot_ns / (1_000_000_000 / hertz())
}

/// Clock ticks a second (sysconf(3), _SC_CLK_TCK): 100 on Linux.
fn hertz() -> u64 {
    let hertz = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let hertz = hertz.and_then(|hertz| u64::try_from(hertz).ok());
    hertz.filter(|hertz| *hertz > 0).unwrap_or(100)
}

/// Clock ticks as a duration.
pub fn ticks(count: u64) -> Duration {
    let hertz = hertz();
    Duration::from_nanos((count % hertz) * 1_000_000_000 / hertz)
        + Duration::from_secs(count / hertz)
}

/// Pages of memory as bytes (sysconf(3), _SC_PAGE_SIZE).
pub fn pages(count: u64) -> u64 {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|page| u64::try_from(page).ok());
    count.saturating_mul(page.unwrap_or(4096))
}

/// When this machine was booted, in seconds since 1970 (proc_stat(5), btime).
pub fn boot_time() -> Option<u64> {
    let text = read("/proc/stat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

/// The proportional memory of a process (PSS), in bytes: a page that several processes share counts for each of them by
/// its part (proc_pid_smaps(5)). 0: it has none any more. The kernel walks its page tables and holds a lock of it
/// meanwhile, and the reader waits for that lock, perhaps for as long as a disk hangs.
///
/// # Errors
/// EACCES: not ours to trace (ptrace(2)). ENOENT: no such process, or a kernel without smaps_rollup.
pub fn proportional_memory(pid: i32) -> io::Result<u64> {
    let text = match read(format!("/proc/{pid}/smaps_rollup")) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(0),
        text => text?,
    };
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let kib = kib.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(kib.saturating_mul(1024))
}

/// How many descriptors a process has open. None: not ours to read.
pub fn open_fds(pid: i32) -> Option<u64> {
    let dir = format!("/proc/{pid}/fd");
    // Linux 6.2 and later tell the number as the size of the directory, to its owner alone.
    let entries = std::fs::read_dir(&dir).ok()?;
    match std::fs::metadata(&dir).ok()?.len() {
        0 => Some(entries.flatten().count() as u64),
        count => Some(count),
    }
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
        let text = "7 (a) b (c)) S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 4096 9 \
                    18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 77 0 256\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(
            (stat.name.as_str(), stat.state, stat.parent),
            ("a) b (c)", b'S', 1)
        );
        assert_eq!((stat.pgrp, stat.session, stat.start_time), (2, 3, 4242));
        assert_eq!((stat.exiting, stat.threads), (false, 1));
        assert_eq!((stat.cpu_ticks, stat.children_cpu_ticks), (11, 15));
        assert_eq!((stat.vsize, stat.rss_pages), (4096, 9));
        assert_eq!((stat.env_start, stat.exit_status), (Some(77), Some(256)));
        assert_eq!(Stat::parse("7 (a"), None);
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn our_own_process_is_found() {
        let me = std::process::id() as i32;
        assert_eq!(Stat::of(me).unwrap().pid, me);
        assert!(all_stats().iter().any(|stat| stat.pid == me));
        assert_eq!(socket_inode(Path::new("socket:[12]")), Some(12));
        assert!(Stat::of_thread(me, me).is_ok() && Stat::of(0).is_err());
        assert!(pages(Stat::of(me).unwrap().rss_pages) > 100_000);
        assert_eq!(ticks(250), Duration::from_millis(2500));
        assert_eq!(uid(me), Some(nix::unistd::getuid().as_raw()));
    }
}
