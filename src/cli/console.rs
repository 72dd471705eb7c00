//! `serve`, `top`: the verbs of rotad-console, a program of its own beside this one. Both programs have this definition of
//! the command line.

use super::args::{Args, Verb};
use super::{print, usage};
use crate::exit_code::ExitCode;
use crate::sys::signal;
use clap::Parser;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of the program.
const PROGRAM: &str = "rotad-console";

/// What `serve` is given.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// Where to listen: an address and a port, or unix:PATH
    #[arg(
        long,
        value_name = "ADDR:PORT|unix:PATH",
        default_value = "127.0.0.1:9180"
    )]
    pub listen: String,
    /// A name by which clients may ask, beside those of this machine's loopback
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// Let clients with the token roll, scale, start and stop; the token is printed as part of a link
    #[arg(long)]
    pub allow_actions: bool,
    /// The token is the first line of this file
    #[arg(long, value_name = "PATH")]
    pub token_file: Option<PathBuf>,
    /// Add the proportional memory (PSS) of workers that this user may trace to /metrics. Walks page tables
    #[arg(long)]
    pub pss: bool,
}

/// What `top` is given.
#[derive(Debug, clap::Args)]
pub struct Top {}

/// A command line of rotad-console.
#[derive(Debug)]
pub struct Call {
    /// `-c`.
    pub config: Option<PathBuf>,
    /// The verb.
    pub verb: ConsoleVerb,
}

/// What rotad-console does.
#[derive(Debug)]
pub enum ConsoleVerb {
    /// Serves the page and the metrics.
    Serve(Serve),
    /// Shows what runs on a terminal.
    Top(Top),
}

/// The command line of rotad-console: that of `rotad`, of which it has these two verbs.
///
/// # Errors
/// The exit code; the reason has been printed.
pub fn call() -> Result<Call, ExitCode> {
    let words = super::typed_words().unwrap_or_else(|lossy| lossy);
    let args = Args::try_parse().map_err(|error| usage::report(&error, &words))?;
    let verb = match args.verb {
        Verb::Serve(serve) => ConsoleVerb::Serve(serve),
        Verb::Top(top) => ConsoleVerb::Top(top),
        _ => {
            print::error(&format!("{PROGRAM} serves `rotad serve` and `rotad top`"));
            return Err(ExitCode::USAGE);
        }
    };
    Ok(Call {
        config: args.config,
        verb,
    })
}

/// Executes rotad-console with the same arguments: the one beside this program, else the first in PATH. Unless HUP was
/// ignored from the start (nohup(1)), it ends the program: what is ignored here stays so across execve(2).
pub(super) fn execute(hup_ignored: bool) -> ExitCode {
    if !hup_ignored {
        signal::reset(&[nix::libc::SIGHUP]);
    }
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name(PROGRAM))
        .filter(|path| path.is_file());
    let program = beside.as_deref().unwrap_or(Path::new(PROGRAM));
    let error = Command::new(program)
        .args(std::env::args_os().skip(1))
        .exec();
    print::error(&format!(
        "{} cannot be executed ({error}): `rotad serve` and `rotad top` are a program of their own, which the package \
         installs beside rotad",
        program.display()
    ));
    ExitCode::FAILED
}
