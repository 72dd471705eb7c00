//! What /proc tells, from outside.

use super::until_some;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// All pids.
pub fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The fields of /proc/PID/stat after the name: state, parent, group, session, …
pub fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(
        text.rsplit_once(')')?
            .1
            .split_whitespace()
            .map(str::to_string)
            .collect(),
    )
}

/// Not there, or a zombie.
pub fn gone(pid: i32) -> bool {
    stat(pid).is_none_or(|fields| fields[0] == "Z" || fields[0] == "X")
}

/// It has ended to its last thread: only then does the kernel report its end. (Its first thread alone may be a zombie.)
pub fn ended(pid: i32) -> bool {
    stat(pid).is_none_or(|fields| {
        (fields[0] == "Z" || fields[0] == "X")
            && fields[17].parse().is_ok_and(|threads: u32| threads <= 1)
    })
}

/// How many of its threads are in this state.
pub fn threads_in(pid: i32, state: &str) -> usize {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let stat =
        |path: std::path::PathBuf| std::fs::read_to_string(path.join("stat")).unwrap_or_default();
    let wanted = format!(") {state} ");
    threads
        .flatten()
        .filter(|thread| stat(thread.path()).contains(&wanted))
        .count()
}

/// Its parent.
pub fn parent(pid: i32) -> Option<i32> {
    stat(pid)?[1].parse().ok()
}

/// The processes whose parent it is.
pub fn children(pid: i32) -> Vec<i32> {
    all()
        .into_iter()
        .filter(|child| parent(*child) == Some(pid))
        .collect()
}

/// The guardian of a master: its parent, which was forked without executing another program. None: it has none.
pub fn guardian_of(master: i32) -> Option<i32> {
    parent(master).filter(|parent| is_copy(*parent, master))
}

/// The masters of a guardian: there is one, or none for a moment.
pub fn masters_of(guardian: i32) -> Vec<i32> {
    let children = children(guardian).into_iter();
    children.filter(|child| is_copy(guardian, *child)).collect()
}

fn is_copy(one: i32, other: i32) -> bool {
    let started = |pid: i32| {
        let line = command_line(pid);
        let title = line
            .strip_prefix("rotad: ")
            .and_then(|title| title.split_once(" ["));
        title.map(|(_, started)| started.to_owned())
    };
    started(one).is_some_and(|line| started(other) == Some(line))
}

/// `kill -9` of a master and its guardian, of which either may be named, at the same moment: neither can react to the
/// other's death.
pub fn kill_with_guardian(pid: i32) {
    let guardian = guardian_of(pid).unwrap_or(pid);
    stop(guardian);
    let masters = masters_of(guardian);
    masters.iter().copied().for_each(stop);
    // The masters first: the end of the guardian may orphan their stopped process group, which the kernel then continues.
    let both: Vec<i32> = masters.into_iter().chain([guardian]).collect();
    for pid in &both {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    for pid in &both {
        assert!(
            until_some(5, || gone(*pid).then_some(())).is_some(),
            "{pid} is killed: {:?}",
            stat(*pid)
        );
    }
}

/// `kill -9` of all of these at the same moment.
pub fn kill_all(pids: &[i32]) {
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in pids {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
    }
}

/// Stops a process, as far as the kernel lets it go: a thread that waits for a disk stops after that.
fn stop(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
    until_some(1, || {
        stat(pid)
            .is_none_or(|fields| fields[0] != "R" && fields[0] != "S")
            .then_some(())
    });
}

/// One line of /proc/PID/status.
pub fn status(pid: i32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// A set of signals as /proc prints it.
pub fn signals(hex: &str) -> Vec<u32> {
    let mask = u64::from_str_radix(hex, 16).expect("a mask");
    (1..=64)
        .filter(|signal| mask & (1 << (signal - 1)) != 0)
        .collect()
}

/// Its descriptors: number to what it is.
pub fn descriptors(pid: i32) -> BTreeMap<i32, String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return BTreeMap::new();
    };
    let target = |path: &Path| {
        fs::read_link(path)
            .map(|path| path.display().to_string())
            .unwrap_or_default()
    };
    entries
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                target(&entry.path()),
            ))
        })
        .collect()
}

/// Processor time that a process has used (proc(5): ticks of 10 ms).
pub fn cpu(pid: i32) -> Duration {
    let fields = stat(pid).expect("a process");
    let ticks = |at: usize| fields[at].parse::<u64>().expect("ticks");
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// How often each thread of a process has gone to sleep: by thread id. Not how often the kernel took the processor from
/// it, which is the other processes' doing.
pub fn switches(pid: i32) -> BTreeMap<i32, u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("status")).ok()?;
            let count = text
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                count.trim().parse().ok()?,
            ))
        })
        .collect()
}

/// Its command line, with spaces.
pub fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim()
        .to_string()
}

/// The processes that belong to this directory: by command line, working directory or environment. Not the test itself.
pub fn of_directory(dir: &Path) -> Vec<i32> {
    let name = dir.as_os_str().as_encoded_bytes();
    let has = |bytes: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    let belongs = |pid: i32| {
        let at = |what: &str| format!("/proc/{pid}/{what}");
        fs::read(at("cmdline")).is_ok_and(|bytes| has(&bytes))
            || fs::read(at("environ")).is_ok_and(|bytes| has(&bytes))
            || fs::read_link(at("cwd")).is_ok_and(|path| path.starts_with(dir))
    };
    let me = std::process::id() as i32;
    all()
        .into_iter()
        .filter(|pid| *pid != me && !gone(*pid) && belongs(*pid))
        .collect()
}

/// The number of the system call that it sleeps in, if it does and the kernel tells (proc_pid_syscall(5)).
pub fn syscall(pid: i32) -> Option<i64> {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Whether a thread of it is traced.
pub fn is_traced(pid: i32, thread: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
    text.lines().any(|line| {
        line.strip_prefix("TracerPid:")
            .is_some_and(|tracer| tracer.trim() != "0")
    })
}
