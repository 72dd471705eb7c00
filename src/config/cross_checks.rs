//! Checks between pools: the order of `after`, and conflicts of ports and log files.

use super::logs::identity;
use super::reader::{Located, Parser};
use super::report::shown;
use crate::plan::{Address, ListenPlan, LogFile, MasterPlan, PoolPlan, Ports, Source};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where a pool says what may conflict with other pools.
pub(super) struct PoolSpans {
    pub(super) after: Vec<Located<String>>,
    pub(super) ports: Option<Range<usize>>,
    /// Its log files.
    pub(super) files: Vec<Located<LogFile>>,
}

/// One pool and its spans.
pub(super) type Marked = (PoolPlan, PoolSpans);

/// Resolves `after`: names must exist, be named once, and form no cycle.
pub(super) fn order(parser: &mut Parser, pools: &mut [Marked]) {
    let names: Vec<String> = pools.iter().map(|(pool, _)| pool.name.clone()).collect();
    for (pool, marks) in &mut *pools {
        for name in &marks.after {
            if name.value == pool.name && parser.is_default(&name.span) {
                continue;
            }
            if pool.after.contains(&name.value) {
                parser.error(
                    &name.span,
                    format!("`{}` is named twice", shown(&name.value)),
                );
            } else if names.contains(&name.value) {
                pool.after.push(name.value.clone());
            } else {
                let known: Vec<&str> = names.iter().map(String::as_str).collect();
                parser.unknown(&name.span, "pool", &name.value, &known);
            }
        }
    }
    circles(parser, pools);
}

fn circles(parser: &mut Parser, pools: &[Marked]) {
    let mut waiting: BTreeMap<&str, &[String]> = pools
        .iter()
        .map(|(pool, _)| (pool.name.as_str(), pool.after.as_slice()))
        .collect();
    loop {
        let free: Vec<&str> = waiting
            .iter()
            .filter(|(_, after)| !after.iter().any(|name| waiting.contains_key(name.as_str())))
            .map(|(name, _)| *name)
            .collect();
        for name in &free {
            waiting.remove(name);
        }
        if !free.is_empty() {
            continue;
        }
        // Each remaining pool waits for another remaining one, so following them leads into a cycle.
        let Some(first) = waiting.keys().next() else {
            return;
        };
        let mut path = vec![*first];
        let start = loop {
            let last = path[path.len() - 1];
            let next = waiting[last]
                .iter()
                .find(|name| waiting.contains_key(name.as_str()));
            let Some(next) = next else { return };
            match path.iter().position(|name| name == next) {
                Some(at) => break at,
                None => path.push(next),
            }
        };
        let circle = &path[start..];
        tell(parser, pools, circle);
        for name in circle {
            waiting.remove(name);
        }
    }
}

/// Reported at the `after` of the pool of the cycle that comes first in the text.
fn tell(parser: &mut Parser, pools: &[Marked], circle: &[&str]) {
    let Some((first, marks)) = pools
        .iter()
        .find(|(pool, _)| circle.contains(&pool.name.as_str()))
    else {
        return;
    };
    let at = circle
        .iter()
        .position(|name| *name == first.name)
        .unwrap_or(0);
    let turned: Vec<&str> = circle[at..].iter().chain(&circle[..=at]).copied().collect();
    let next = turned.get(1).copied().unwrap_or_default();
    let Some(name) = marks.after.iter().find(|name| name.value == next) else {
        return;
    };
    if circle.len() == 1 {
        parser.error_with(
            &name.span,
            format!("`{next}` waits for itself"),
            "leave it out",
        );
    } else {
        let message = format!("these pools wait for each other: {}", turned.join(" → "));
        parser.error_with(
            &name.span,
            message,
            "one of them has to be first: take a name out of its `after`",
        );
    }
}

/// Checks that no port belongs to two pools, or to a pool and a listener.
pub(super) fn ports(parser: &mut Parser, pools: &[Marked], listeners: &[ListenPlan]) {
    let ranges: Vec<(&str, Ports, &Range<usize>)> = pools
        .iter()
        .filter_map(|(pool, marks)| Some((pool.name.as_str(), pool.ports?, marks.ports.as_ref()?)))
        .collect();
    for (index, (_, ports, span)) in ranges.iter().enumerate() {
        for (other, theirs, _) in &ranges[..index] {
            if ports.first <= theirs.last && theirs.first <= ports.last {
                let message = format!(
                    "pool `{other}` has some of these ports: {}-{}",
                    theirs.first, theirs.last
                );
                parser.error_with(span, message, "no two pools can have the same ports");
            }
        }
        for listener in listeners {
            if let Address::Tcp(address) = &listener.address
                && (ports.first..=ports.last).contains(&address.port())
            {
                let message = format!(
                    "the listener `{}` has one of these ports: {address}",
                    shown(&listener.name)
                );
                parser.error_with(span, message, "workers would find it taken");
            }
        }
    }
}

/// Checks that no log file of a pool is another file of the master, and that pools that share one agree on its
/// rotation.
pub(super) fn logs(parser: &mut Parser, pools: &[Marked], master: &MasterPlan, sources: &[Source]) {
    let log = master.log_file.as_ref().unwrap_or(&master.default_log_file);
    let mut ours = vec![
        (identity(log), "the master's own log"),
        (identity(&master.pid_file), "the pid file"),
    ];
    ours.extend(
        sources
            .iter()
            .map(|source| (identity(&source.path), "part of the configuration")),
    );
    let mut writers: BTreeMap<PathBuf, &PoolPlan> = BTreeMap::new();
    for (pool, marks) in pools {
        for file in &marks.files {
            for slot in slots(&file.value, pool) {
                let real = identity(&file.value.path(slot));
                conflict(parser, pool, file, slot, &real, (&ours, &writers));
                writers.entry(real).or_insert(pool);
            }
        }
    }
}

/// More slots are not looked at: each costs several system calls.
const MOST_SLOTS: u32 = 64;

/// The slots whose files are to be compared.
fn slots(file: &LogFile, pool: &PoolPlan) -> std::ops::Range<u32> {
    match file.is_per_slot() {
        true => 0..pool.policy.count.clamp(1, MOST_SLOTS),
        false => 0..1,
    }
}

/// Reports a log file, by its real path, that is another file of the master, or that another pool writes differently.
fn conflict(
    parser: &mut Parser,
    pool: &PoolPlan,
    file: &Located<LogFile>,
    slot: u32,
    real: &Path,
    (ours, writers): (&[(PathBuf, &str)], &BTreeMap<PathBuf, &PoolPlan>),
) {
    if let Some((_, what)) = ours.iter().find(|(path, _)| path == real) {
        parser.error_with(
            &file.span,
            format!("{} is {what}", file.value.shown(Some(slot))),
            "choose another file, or leave it out for the master's log",
        );
    }
    let Some(other) = writers.get(real) else {
        return;
    };
    let (other_log, log) = (&other.log, &pool.log);
    let keys = if (other_log.max_size, other_log.keep) != (log.max_size, log.keep) {
        "`max_size` or `keep`"
    } else if other_log.access != log.access {
        "`mode`, `user` or `group`"
    } else {
        return;
    };
    let message = format!(
        "`{}` and `{}` write this file with different {keys}",
        other.name, pool.name
    );
    parser.error_with(
        &file.span,
        message,
        "give both the same, or each a file of its own",
    );
}
