//! `completions`: generates shell completions from the definitions of verbs and flags.

use super::args::Args;
use crate::exit_code::ExitCode;
use crate::observe::print;
use clap::CommandFactory;
use clap_complete::Shell;

/// Prints to stdout; docs/cli.md says where each shell expects it.
pub(super) fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "rotad", &mut script);
    print::raw(&String::from_utf8_lossy(&script));
    ExitCode::DONE
}
