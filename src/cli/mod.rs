//! The command line: one file for each verb. `src/main.rs` calls [`main`].

mod args;
mod check;
pub mod client;
mod complete;
pub mod console;
mod demo;
mod doctor;
pub mod events;
mod habits;
mod import;
mod init;
pub mod layout;
pub mod live;
mod log_files;
pub mod logs;
mod man;
pub mod metrics;
mod notify;
mod overview;
mod pools;
pub mod progress;
pub mod pss;
pub mod rates;
pub mod request;
mod roll;
mod run;
mod schema;
pub mod status;
pub mod table;
pub mod typed;
mod usage;
mod value_parsers;
mod watch;

use crate::exit_code::ExitCode;
use crate::guardian;
use crate::observe::print;
use crate::sys::signal;
use crate::upgrade::CHECK_VERB;
use args::{Args, Verb};
use clap::Parser;
pub use habits::markdown as habits;
pub use man::reference;
pub use request::master_paths;
pub use status::below_strength;
use std::path::{Path, PathBuf};

/// Parses the command line, runs the verb, and returns the exit code.
pub fn main() -> std::process::ExitCode {
    // Built-in workers come first: they need no parsing, and the shim must not change signals.
    match hidden_verb().as_deref() {
        Some("__demo-web") => return demo::web::main().into(),
        Some("__demo-task") => return demo::task::main().into(),
        Some(complete::VERB) => return complete::candidates().into(),
        Some(notify::VERB) => return notify::notify().into(),
        Some(CHECK_VERB) => return run::check_state().into(),
        _ => {}
    }
    let hup_ignored = signal::is_ignored(nix::libc::SIGHUP);
    // Before anything else: signals meant for a master must not kill a process that is not one yet.
    signal::ignore(&signal::MEANT_FOR_A_MASTER);
    signal::ignore(&signal::WRITE_ERRORS);
    let parsed = match typed_words() {
        Ok(words) => {
            let words = usage::translated(words);
            Args::try_parse_from(&words).map_err(|error| (error, words))
        }
        Err(lossy) => Args::try_parse().map_err(|error| (error, lossy)),
    };
    match parsed {
        Ok(args) => dispatch(args, hup_ignored).into(),
        Err((error, words)) => usage::report(&error, &words).into(),
    }
}

/// In a program that was executed to be the guardian of a running master: goes on. None: it was started in another way.
pub fn resume() -> Option<std::process::ExitCode> {
    let side = guardian::resume()?;
    // None: what the command line says cannot be read by this version.
    let file = || match Args::try_parse().ok()?.verb {
        Verb::Run {
            file: Some(file), ..
        } => Some(file),
        _ => Args::try_parse().ok()?.config,
    };
    Some(run::resume(side, file).into())
}

/// The command line, with the name of the program. The error: the same, made readable, where it is not valid UTF-8; a
/// path may be that.
fn typed_words() -> Result<Vec<String>, Vec<String>> {
    let words = std::env::args_os().map(|word| word.into_string());
    words.collect::<Result<_, _>>().map_err(|_| {
        let words = std::env::args_os();
        words
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    })
}

fn hidden_verb() -> Option<String> {
    std::env::args_os().nth(1)?.into_string().ok()
}

fn dispatch(args: Args, hup_ignored: bool) -> ExitCode {
    if let Some(text) = refused(&args.verb) {
        return usage_error(&text);
    }
    let config = args.config;
    match args.verb {
        Verb::Run {
            file,
            take_over,
            no_take_over,
        } => match one_file(file, config) {
            Ok(file) => run::run(file.as_deref(), take_over, no_take_over, hup_ignored),
            Err(code) => code,
        },
        Verb::Doctor => doctor::doctor(),
        Verb::Check { file, json } => match one_file(file, config) {
            Ok(file) => check::check(file.as_deref(), json),
            Err(code) => code,
        },
        Verb::Start {
            pools,
            no_wait,
            timeout,
            take_over,
            no_take_over,
        } => match pools.is_empty() {
            false => pools::start(config.as_deref(), pools, no_wait, timeout),
            true => run::start(
                config.as_deref(),
                run::Start {
                    no_wait,
                    take_over,
                    no_take_over,
                    timeout,
                },
                hup_ignored,
            ),
        },
        Verb::Stop {
            pools,
            now,
            timeout,
        } => match pools.is_empty() {
            true => request::stop(config.as_deref(), now, timeout),
            false => pools::stop(config.as_deref(), pools, now, timeout),
        },
        Verb::Reload {
            which,
            config_only,
            dry_run,
            json,
            wait,
        } => match json {
            true => roll::dry_run_json(config.as_deref(), which, &wait),
            false => roll::reload(config.as_deref(), which, config_only, dry_run, &wait),
        },
        Verb::Roll {
            pools,
            workers,
            tasks,
            wait,
        } => roll::roll(
            config.as_deref(),
            args::Selector {
                pools,
                workers,
                tasks,
            },
            &wait,
        ),
        Verb::Rollback {
            pools,
            to,
            dry_run,
            wait,
        } => roll::rollback(config.as_deref(), pools, to, dry_run, &wait),
        Verb::Cancel { pools } => roll::cancel(config.as_deref(), pools),
        Verb::Upgrade { to, timeout } => request::upgrade(config.as_deref(), to, timeout),
        Verb::Status(args) if args.watch => watch::watch(config.as_deref(), &args),
        Verb::Status(args) => status::status(config.as_deref(), &args),
        Verb::Demo { once, port } => demo::demo(once, port),
        Verb::Scale { pool, count } => pools::scale(config.as_deref(), pool, count),
        Verb::Signal { target, signal } => pools::signal(config.as_deref(), target, signal),
        Verb::Logs {
            follow,
            lines,
            since,
            until,
            grep,
            json,
            timestamps,
            targets,
        } => logs::logs(
            config.as_deref(),
            &logs::Wanted {
                follow,
                lines,
                since,
                until,
                grep,
                json,
                timestamps,
                targets,
            },
        ),
        Verb::Events {
            follow,
            json,
            since,
            pools,
        } => events::events(
            config.as_deref(),
            &events::Wanted {
                follow,
                json,
                since,
                pools,
            },
        ),
        Verb::Metrics { format, pss } => metrics::metrics(config.as_deref(), &format, pss),
        Verb::Init { full, command } => init::init(config.as_deref(), full, &command),
        Verb::Import(args) => import::import(config.as_deref(), &args),
        Verb::Serve(_) | Verb::Top(_) => console::execute(hup_ignored),
        Verb::Hook { name } => request::hook(config.as_deref(), name),
        Verb::Completions { shell } => complete::completions(shell),
        Verb::Man => man::man(),
        Verb::Schema => schema::schema(),
    }
}

/// What is said about words that stand where pools do, but are not meant as pools.
fn refused(verb: &Verb) -> Option<String> {
    let (name, pools) = match verb {
        Verb::Start { pools, .. } => {
            let file = pools.iter().find(|word| Path::new(word).is_file());
            if let Some(text) = file.and_then(|file| habits::file(file, &[])) {
                return Some(text);
            }
            ("start", pools.as_slice())
        }
        Verb::Stop { pools, .. } => ("stop", pools.as_slice()),
        Verb::Reload { which, .. } => ("reload", which.pools.as_slice()),
        Verb::Rollback { pools, .. } => ("rollback", pools.as_slice()),
        Verb::Cancel { pools } => ("cancel", pools.as_slice()),
        Verb::Scale { pool, .. } => ("scale", std::slice::from_ref(pool)),
        Verb::Status(args) => ("status", args.pools.as_slice()),
        _ => return None,
    };
    pools::slot_refused(name, pools)
}

fn usage_error(text: &str) -> ExitCode {
    print::error(&print::sanitize(text));
    ExitCode::USAGE
}

/// The file comes as an argument or by -c, not both.
fn one_file(
    argument: Option<PathBuf>,
    option: Option<PathBuf>,
) -> Result<Option<PathBuf>, ExitCode> {
    match (argument, option) {
        (Some(_), Some(_)) => Err(usage_error(
            "the configuration file is given twice: as an argument and by -c; one of them is enough",
        )),
        (one, other) => Ok(one.or(other)),
    }
}
