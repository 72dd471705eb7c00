//! `logs` where no master runs: the last lines of the log files that it and its pools had.

use super::args::Target;
use super::print;
use crate::config::{self, MasterPaths};
use crate::control::pool_names::Pools;
use crate::plan::{Plan, PoolPlan, Sink};
use regex_lite::Regex;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Only so much of the end of a file is read, in bytes.
const MAX_READ: u64 = 1 << 20;

/// A log file, and of which pools it has lines beside others; if none is named, all lines are meant.
type Place = (PathBuf, Vec<(String, Option<u32>)>);

/// Prints the last lines of each file that has lines of these workers, to stdout, and on stderr where they come from.
pub(super) fn print_last(
    paths: &MasterPaths,
    targets: &[Target],
    most: usize,
    grep: Option<&Regex>,
) {
    let plan = config::load(&paths.config).ok().map(|loaded| loaded.plan);
    let master = paths.log_file.as_ref().unwrap_or(&paths.default_log_file);
    for (file, workers) in places(plan.as_ref(), master, targets) {
        let shown = file.display();
        match last_lines(&file, &workers, most, grep) {
            Ok(lines) if lines.is_empty() => {
                print::plain_error(&format!("{shown} has no such line"));
            }
            Ok(lines) => {
                print::plain_error(&format!(
                    "the last lines of an earlier master, from {shown}:"
                ));
                let text: String = lines
                    .iter()
                    .map(|line| format!("{}\n", print::sanitize(line)))
                    .collect();
                print::raw(&text);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => print::plain_error(&format!(
                "{shown} does not exist: no earlier master has logged there (`rotad run` logs to its stderr)"
            )),
            Err(error) => print::plain_error(&format!("{shown} cannot be read: {error}")),
        }
    }
}

/// The files, each once: of the pools that are meant, or else of the master and all pools. Without a plan, that of the
/// master.
fn places(plan: Option<&Plan>, master: &Path, targets: &[Target]) -> Vec<Place> {
    let Some(plan) = plan else {
        let named = |target: &Target| (target.pool.clone(), target.slot);
        return vec![(master.to_owned(), targets.iter().map(named).collect())];
    };
    let names: Vec<&str> = plan.pools.iter().map(|pool| pool.name.as_str()).collect();
    let mut meant: Vec<(&PoolPlan, Option<u32>)> = Vec::new();
    for Target { pool, slot } in targets {
        match Pools::new(&names).expand(std::slice::from_ref(pool)) {
            Ok(found) => meant.extend(
                plan.pools
                    .iter()
                    .filter(|pool| {
                        found
                            .as_ref()
                            .is_none_or(|names| names.contains(&pool.name))
                    })
                    .map(|pool| (pool, *slot)),
            ),
            Err(message) => print::error(&message),
        }
    }
    if targets.is_empty() {
        meant.extend(plan.pools.iter().map(|pool| (pool, None)));
    }
    let mut in_master: Vec<(String, Option<u32>)> = Vec::new();
    let mut files: BTreeSet<PathBuf> = BTreeSet::new();
    for (pool, slot) in meant {
        for sink in [&pool.log.stdout, &pool.log.stderr] {
            match sink {
                Sink::Master => in_master.push((pool.name.clone(), slot)),
                Sink::File(file) => {
                    let slots = slot.map_or(0..pool.policy.count, |slot| slot..slot + 1);
                    files.extend(slots.map(|slot| file.path(slot)));
                }
                Sink::Inherit | Sink::Null | Sink::Stdout => {}
            }
        }
    }
    let mut places = Vec::new();
    if targets.is_empty() {
        places.push((master.to_owned(), Vec::new()));
    } else if !in_master.is_empty() {
        places.push((master.to_owned(), in_master));
    }
    places.extend(files.into_iter().map(|file| (file, Vec::new())));
    places
}

fn last_lines(
    file: &Path,
    workers: &[(String, Option<u32>)],
    most: usize,
    grep: Option<&Regex>,
) -> io::Result<Vec<String>> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(MAX_READ);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(MAX_READ).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line may be cut.
    let lines = text.lines().skip(usize::from(from > 0));
    let of = |line: &&str| workers.is_empty() || workers.iter().any(|worker| is_of(line, worker));
    let is_meant = |line: &&str| grep.is_none_or(|grep| grep.is_match(line));
    let lines: Vec<&str> = lines.filter(of).filter(is_meant).collect();
    let begin = lines.len().saturating_sub(most);
    Ok(lines[begin..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect())
}

/// Whether a line of the master's log was printed by a worker: `TIME  POOL/SLOT [PID] …`, or JSON with `line`.
fn is_of(line: &str, (pool, slot): &(String, Option<u32>)) -> bool {
    if line.starts_with('{') {
        let Ok(json) = serde_json::from_str::<serde_json::Value>(line) else {
            return false;
        };
        return json.get("line").is_some()
            && json["pool"] == pool.as_str()
            && slot.is_none_or(|slot| json["slot"] == slot);
    }
    let Some((_, rest)) = line.split_once("  ") else {
        return false;
    };
    let number = rest
        .strip_prefix(pool.as_str())
        .and_then(|rest| rest.strip_prefix('/'))
        .and_then(|rest| rest.split_once(" ["))
        .and_then(|(number, _)| number.parse::<u32>().ok());
    number.is_some_and(|number| slot.is_none_or(|slot| slot == number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_workers_are_found_in_the_masters_log() {
        let web = |slot| ("web".to_owned(), slot);
        for (line, slot, is) in [
            ("2026T1Z  web/0 [7] hello", None, true),
            ("2026T1Z  web/0 [7] hello", Some(0), true),
            ("2026T1Z  web/0 [7] hello", Some(1), false),
            ("2026T1Z  webs/0 [7] hello", None, false),
            ("2026T1Z  INFO ready pool=\"web\"", None, false),
            (
                "{\"pool\":\"web\",\"slot\":1,\"line\":\"x\"}",
                Some(1),
                true,
            ),
            (
                "{\"pool\":\"web\",\"slot\":1,\"line\":\"x\"}",
                Some(0),
                false,
            ),
            ("{\"pool\":\"web\",\"message\":\"ready\"}", None, false),
        ] {
            assert_eq!(is_of(line, &web(slot)), is, "{line} {slot:?}");
        }
    }

    #[test]
    fn the_last_lines_are_read_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log");
        let text: String = (0..200_000)
            .map(|number| format!("line {number}\n"))
            .collect();
        std::fs::write(&file, text).unwrap();
        let lines = last_lines(&file, &[], 2, None).unwrap();
        assert_eq!(lines, ["line 199998", "line 199999"]);
        let sevens = Regex::new("7$").unwrap();
        let lines = last_lines(&file, &[], 2, Some(&sevens)).unwrap();
        assert_eq!(lines, ["line 199987", "line 199997"]);
    }
}
