//! The command line: one file for each verb. `src/main.rs` calls [`main`].

mod args;
mod check;
pub mod client;
mod complete;
mod demo;
mod doctor;
mod events;
mod init;
mod logs;
mod man;
mod notify;
mod pools;
mod progress;
mod rates;
mod request;
mod roll;
mod run;
mod status;
mod table;
mod value_parsers;
mod watch;

use crate::exit_code::ExitCode;
use crate::guardian;
use crate::observe::print;
use crate::sys::signal;
use crate::upgrade::CHECK_VERB;
use args::{Args, Verb};
use clap::Parser;
pub use man::reference;
use std::path::{Path, PathBuf};

/// Parses the command line, runs the verb, and returns the exit code.
pub fn main() -> std::process::ExitCode {
    // Built-in workers come first: they need no parsing, and the shim must not change signals.
    match hidden_verb().as_deref() {
        Some("__demo-web") => return demo::web::main().into(),
        Some("__demo-task") => return demo::task::main().into(),
        Some(notify::VERB) => return notify::notify().into(),
        Some(CHECK_VERB) => return run::check_state().into(),
        _ => {}
    }
    let hup_ignored = signal::is_ignored(nix::libc::SIGHUP);
    // Before anything else: signals meant for a master must not kill a process that is not one yet.
    signal::ignore(&signal::MEANT_FOR_A_MASTER);
    signal::ignore(&signal::WRITE_ERRORS);
    match Args::try_parse() {
        Ok(args) => dispatch(args, hup_ignored).into(),
        Err(error) => {
            // Help and version go to stdout with 0, a usage error to stderr with 2; a closed pipe must not panic.
            error.print().ok();
            match error.exit_code() {
                0 => ExitCode::DONE,
                _ => ExitCode::USAGE,
            }
            .into()
        }
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

fn hidden_verb() -> Option<String> {
    std::env::args_os().nth(1)?.into_string().ok()
}

fn dispatch(args: Args, hup_ignored: bool) -> ExitCode {
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
        } => match pools.first() {
            // `rotad start shop.toml` is how other tools are called.
            Some(file) if Path::new(file).is_file() => {
                print::error(&format!(
                    "the configuration file goes with -c: `rotad start -c {file}`"
                ));
                ExitCode::USAGE
            }
            Some(_) => pools::start(config.as_deref(), pools, no_wait, timeout),
            None => run::start(
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
            wait,
        } => roll::reload(config.as_deref(), which, config_only, dry_run, &wait),
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
            target,
        } => logs::logs(config.as_deref(), follow, lines, target),
        Verb::Events { follow, json } => events::events(config.as_deref(), follow, json),
        Verb::Init { full, command } => init::init(config.as_deref(), full, &command),
        Verb::Completions { shell } => complete::completions(shell),
        Verb::Man => man::man(),
    }
}

/// The file comes as an argument or by -c, not both.
fn one_file(
    argument: Option<PathBuf>,
    option: Option<PathBuf>,
) -> Result<Option<PathBuf>, ExitCode> {
    match (argument, option) {
        (Some(_), Some(_)) => {
            print::error(
                "the configuration file is given twice: as an argument and by -c; one of them is enough",
            );
            Err(ExitCode::USAGE)
        }
        (one, other) => Ok(one.or(other)),
    }
}
