//! What can stand at a place of the command line: `rotad __complete WORD…`, which the completion scripts call with the words
//! up to the cursor, the last one perhaps empty. It prints a candidate a line and exits with 0 where a pool, a worker or a
//! signal is wanted, and with 1 elsewhere. It prints nothing else, starts nothing, and ends after [`TIMEOUT`] at most.

use super::super::args::Args;
use super::super::client::{Client, WaitLimits};
use super::super::request;
use crate::config;
use crate::control::protocol::{Method, Response};
use crate::event_loop::clock::Deadline;
use crate::exit_code::ExitCode;
use crate::observe::print;
use crate::sys::thread;
use clap::{Command, CommandFactory};
use crossbeam_channel::{Receiver, bounded};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hidden verb.
pub(in crate::cli) const VERB: &str = "__complete";

/// A person waits with a finger on the key. A disk or a directory of users that hangs takes no longer.
const TIMEOUT: Duration = Duration::from_millis(800);
/// Of which the master gets this much; then the configuration has to do.
const MASTER_TIMEOUT: Duration = Duration::from_millis(300);
const STACK: usize = 1 << 20;

/// The verb's main function.
pub(in crate::cli) fn candidates() -> ExitCode {
    let words = std::env::args_os().skip(2);
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let Some(place) = Place::of(&words) else {
        return ExitCode::FAILED;
    };
    for candidate in place.candidates() {
        print::line(&candidate);
    }
    ExitCode::DONE
}

/// A pool by its name, and the number of its slots.
type Pool = (String, u32);

/// What a place takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Pools,
    /// Pools, or single workers of them.
    Workers,
    Signal,
    /// A number: there is nothing to choose from.
    Number,
}

/// A place of the command line that takes one of our names.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    takes: Takes,
    /// What has been typed of it.
    prefix: String,
    /// The names that are there already.
    typed: Vec<String>,
    config: Option<PathBuf>,
}

impl Place {
    /// None: the last of these words is something else.
    fn of(words: &[String]) -> Option<Self> {
        let all = Args::command();
        let (prefix, before) = words.split_last()?;
        let mut verb: Option<&Command> = None;
        let mut config = None;
        let mut typed = Vec::new();
        let mut before = before.iter();
        while let Some(word) = before.next() {
            if let Some(option) = word.strip_prefix("--config-file=") {
                config = Some(PathBuf::from(option));
            } else if word.starts_with('-') && word.len() > 1 {
                if takes_value(word, &all, verb) {
                    // The value of an option is what is wanted.
                    let value = before.next()?;
                    if ["-c", "--config-file"].contains(&word.as_str()) {
                        config = Some(PathBuf::from(value));
                    }
                }
            } else if verb.is_none() {
                verb = Some(all.find_subcommand(word)?);
            } else {
                typed.push(word.clone());
            }
        }
        if prefix.starts_with('-') {
            return None;
        }
        let takes = match (verb?.get_name(), typed.len()) {
            ("start" | "stop" | "reload" | "rollback" | "cancel" | "status", _) | ("scale", 0) => {
                Takes::Pools
            }
            ("roll" | "logs", _) | ("signal", 0) => Takes::Workers,
            ("signal", 1) => Takes::Signal,
            ("scale", 1) => Takes::Number,
            _ => return None,
        };
        let prefix = prefix.clone();
        Some(Self {
            takes,
            prefix,
            typed,
            config,
        })
    }

    fn candidates(&self) -> Vec<String> {
        match self.takes {
            Takes::Number => Vec::new(),
            Takes::Signal => signals(&self.prefix),
            Takes::Pools | Takes::Workers => {
                let pools = pools(self.config.as_deref());
                let names = names(&pools, &self.prefix, self.takes == Takes::Workers);
                let new = names.into_iter().filter(|name| !self.typed.contains(name));
                new.collect()
            }
        }
    }
}

/// Whether the word behind this option is its value.
fn takes_value(option: &str, all: &Command, verb: Option<&Command>) -> bool {
    let arguments = all
        .get_arguments()
        .chain(verb.into_iter().flat_map(Command::get_arguments));
    let is_it = |argument: &&clap::Arg| match option.strip_prefix("--") {
        Some(long) => {
            let aliases = argument.get_all_aliases().unwrap_or_default();
            argument.get_long() == Some(long) || aliases.contains(&long)
        }
        None => argument.get_short() == option.chars().last(),
    };
    arguments
        .filter(is_it)
        .any(|argument| argument.get_action().takes_values())
}

/// The names of pools that begin with `prefix`. `workers`: also their slots, once one pool alone is meant.
fn names(pools: &[Pool], prefix: &str, workers: bool) -> Vec<String> {
    let slots = |(name, count): &Pool| -> Vec<String> {
        (0..*count).map(|slot| format!("{name}/{slot}")).collect()
    };
    let mut found: Vec<String> = pools
        .iter()
        .map(|(name, _)| name.clone())
        .filter(|name| name.starts_with(prefix))
        .collect();
    let meant = match (prefix.split_once('/'), found.as_slice()) {
        (Some((name, _)), _) => Some(name.to_owned()),
        (None, [name]) => Some(name.clone()),
        (None, _) => None,
    };
    let pool = pools.iter().find(|(name, _)| Some(name) == meant.as_ref());
    if let Some(pool) = pool.filter(|_| workers) {
        found.extend(
            slots(pool)
                .into_iter()
                .filter(|name| name.starts_with(prefix)),
        );
    }
    found
}

/// The names of signals, as they are typed: with or without SIG, in capitals or not.
fn signals(prefix: &str) -> Vec<String> {
    let lower = prefix.starts_with(|first: char| first.is_lowercase());
    let typed = prefix.to_uppercase();
    let named = Signal::iterator().map(|signal| match typed.starts_with("SIG") {
        true => signal.as_str(),
        false => signal.as_str().trim_start_matches("SIG"),
    });
    let found = named.filter(|name| name.starts_with(&typed));
    found
        .map(|name| match lower {
            true => name.to_lowercase(),
            false => name.to_owned(),
        })
        .collect()
}

/// The pools and the number of their slots: of the running master, or else of the configuration. Threads that hang end with
/// the process.
fn pools(file: Option<&Path>) -> Vec<Pool> {
    let end = Deadline::after(TIMEOUT);
    let (of_master, of_file) = (in_thread(file, of_master), in_thread(file, of_file));
    let pools = of_master.recv_timeout(MASTER_TIMEOUT).ok();
    let pools = pools.or_else(|| of_file.recv_timeout(end.left()).ok());
    let pools = pools.unwrap_or_default();
    // A name from elsewhere must not reach a shell with more than a name has.
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    pools
        .into_iter()
        .filter(|(name, _)| name.chars().all(is_name))
        .collect()
}

/// What is found in a thread of its own. Nothing comes if it finds none.
fn in_thread(
    file: Option<&Path>,
    find: fn(Option<&Path>) -> Option<Vec<Pool>>,
) -> Receiver<Vec<Pool>> {
    let (send, receive) = bounded(1);
    let file = file.map(Path::to_owned);
    let search = move || find(file.as_deref()).and_then(|pools| send.send(pools).ok());
    drop(thread::spawn("complete", STACK, search));
    receive
}

fn of_master(file: Option<&Path>) -> Option<Vec<Pool>> {
    let path = config::meant(file).ok()?;
    let paths = request::paths_of(&path).ok()?;
    let limits = WaitLimits {
        until: Some(Deadline::after(MASTER_TIMEOUT)),
        ..WaitLimits::default()
    };
    let mut client = Client::connect(&paths, &limits).ok()?;
    client.send(Method::Status).ok()?;
    let Response::Status(status) = client.next_response(&limits).ok()? else {
        return None;
    };
    let count = |workers: &[crate::observe::status::WorkerStatus]| {
        workers.iter().map(|worker| worker.slot + 1).max()
    };
    let pools = status.pools.into_iter();
    Some(
        pools
            .map(|pool| (pool.name, count(&pool.workers).unwrap_or(0)))
            .collect(),
    )
}

/// Also of a file that has mistakes.
fn of_file(file: Option<&Path>) -> Option<Vec<Pool>> {
    let path = config::find(file).ok()?;
    if let Ok(loaded) = config::load_found(file, &path) {
        let pools = loaded.plan.pools.into_iter();
        return Some(pools.map(|pool| (pool.name, pool.policy.count)).collect());
    }
    let table: toml::Table = std::fs::read_to_string(&path).ok()?.parse().ok()?;
    let names = table.get("pool")?.as_table()?.keys();
    Some(names.map(|name| (name.clone(), 0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: &str) -> Option<Place> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Place::of(&words)
    }

    #[test]
    fn a_place_takes_what_the_verb_has_there() {
        for (line, takes) in [
            ("stop ", Some(Takes::Pools)),
            ("-c x.toml stop w", Some(Takes::Pools)),
            ("status --json web j", Some(Takes::Pools)),
            ("ls ", Some(Takes::Pools)),
            ("restart web/", Some(Takes::Workers)),
            ("logs -f -n 3 ", Some(Takes::Workers)),
            ("logs --tail 3 ", Some(Takes::Workers)),
            ("signal ", Some(Takes::Workers)),
            ("signal web ", Some(Takes::Signal)),
            ("scale web ", Some(Takes::Number)),
            ("roll --timeout 3s ", Some(Takes::Workers)),
            ("roll --timeout=3s ", Some(Takes::Workers)),
            ("roll --timeout ", None),
            ("roll -", None),
            ("roll -c ", None),
            ("signal web HUP ", None),
            ("check ", None),
            ("st", None),
            ("nosuch ", None),
            ("", None),
        ] {
            assert_eq!(place(line).map(|place| place.takes), takes, "{line}");
        }
        let place = place("-c x.toml stop web jo").unwrap();
        assert_eq!(
            (place.prefix.as_str(), place.typed),
            ("jo", vec!["web".to_owned()])
        );
        assert_eq!(place.config, Some("x.toml".into()));
    }

    #[test]
    fn slots_are_offered_once_one_pool_is_meant() {
        let pools = [("web".to_owned(), 2), ("worker".to_owned(), 1)];
        for (prefix, workers, found) in [
            ("", true, "web worker"),
            ("we", true, "web web/0 web/1"),
            ("we", false, "web"),
            ("web/", true, "web/0 web/1"),
            ("web/1", true, "web/1"),
            ("web/", false, ""),
            ("x", true, ""),
        ] {
            assert_eq!(names(&pools, prefix, workers).join(" "), found, "{prefix}");
        }
    }

    #[test]
    fn signals_are_offered_as_they_are_typed() {
        assert_eq!(signals("US"), ["USR1", "USR2"]);
        assert_eq!(signals("SIGUS"), ["SIGUSR1", "SIGUSR2"]);
        assert_eq!(signals("hu"), ["hup"]);
        assert!(signals("").contains(&"TERM".to_owned()));
    }
}
