//! Limits of this process and of the machine, as a master that is started from here has them.

use super::Finding;
use crate::config::BACKLOG;
use crate::process::cgroup;
use crate::process::procfs;
use crate::supervisor::workers_within;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::Uid;
use std::path::Path;

/// Below this many workers a limit deserves a word.
const MANY_WORKERS: u64 = 200;

pub(super) fn examine() -> Vec<Finding> {
    let mut found = vec![descriptors(), processes(), backlog(), cpus()];
    found.extend(memory());
    found
}

fn descriptors() -> Finding {
    let name = "open files";
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Finding::less(name, "unknown", "getrlimit(2) fails");
    };
    let workers = workers_within(hard);
    let found = format!(
        "{} for a worker, {} for the master",
        limit(soft),
        limit(hard)
    );
    if workers < MANY_WORKERS {
        let means = format!(
            "room for about {workers} workers; raise the hard limit (LimitNOFILE=, /etc/security/limits.conf, `ulimit -Hn`)"
        );
        return Finding::less(name, found, means);
    }
    let found = match hard {
        RLIM_INFINITY => found,
        _ => format!("{found}: room for about {workers} workers"),
    };
    Finding::works(name, found)
}

/// The smallest of what bounds the number of processes and threads.
fn processes() -> Finding {
    let name = "processes";
    let kernel = |file: &str| number(&Path::new("/proc/sys/kernel").join(file));
    let own = match getrlimit(Resource::RLIMIT_NPROC) {
        // Root, and a process with CAP_SYS_RESOURCE, is not held by it (setrlimit(2)).
        Ok((soft, _)) if soft != RLIM_INFINITY && !Uid::effective().is_root() => Some(soft),
        _ => None,
    };
    let limits = [
        ("kernel.pid_max", kernel("pid_max")),
        ("kernel.threads-max", kernel("threads-max")),
        ("the user's limit (ulimit -u)", own),
        ("pids.max of the cgroup (TasksMax=)", pids_max()),
    ];
    let smallest = limits
        .iter()
        .filter_map(|(what, most)| most.map(|most| (most, *what)))
        .min();
    match smallest {
        None => Finding::works(name, "no limit is known"),
        Some((most, what)) if most < 2 * MANY_WORKERS => Finding::less(
            name,
            format!("{most}, by {what}"),
            "processes and threads of all workers count; at the limit a worker cannot be started, and rotad tries again",
        ),
        Some((most, what)) => Finding::works(name, format!("{most}, by {what}")),
    }
}

fn pids_max() -> Option<u64> {
    let own = cgroup::of(std::process::id() as i32)?;
    let limits = own.ancestors().map(|dir| number(&dir.join("pids.max")));
    limits.flatten().min()
}

fn backlog() -> Finding {
    let name = "accept queue";
    match number(Path::new("/proc/sys/net/core/somaxconn")) {
        Some(most) if most < u64::from(BACKLOG) => Finding::less(
            name,
            format!("net.core.somaxconn is {most}"),
            format!(
                "a listener's `backlog` (default {BACKLOG}) is cut to it: while all workers are busy, connections beyond it \
                 are refused or retried (sysctl -w net.core.somaxconn={BACKLOG})"
            ),
        ),
        Some(most) => Finding::works(name, format!("net.core.somaxconn is {most}")),
        None => Finding::works(name, "net.core.somaxconn cannot be read here"),
    }
}

fn cpus() -> Finding {
    let usable = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let found = format!("`count = \"cpus\"` is {usable} here (affinity and cpu.max)");
    Finding::works("processors", found)
}

/// The smallest memory.max above this process. None: there is none.
fn memory() -> Option<Finding> {
    let own = cgroup::of(std::process::id() as i32)?;
    let limits = own.ancestors().map(|dir| number(&dir.join("memory.max")));
    let most = limits.flatten().min()?;
    let found = format!(
        "memory.max of the cgroup is {} MiB, for all workers together",
        most >> 20
    );
    Some(Finding::works("memory", found))
}

/// A file that holds one number; "max" and what cannot be read is None.
fn number(path: &Path) -> Option<u64> {
    procfs::read(path).ok()?.trim().parse().ok()
}

fn limit(value: u64) -> String {
    match value {
        RLIM_INFINITY => "unlimited".to_owned(),
        _ => value.to_string(),
    }
}
