//! `completions`: what a shell needs to complete our verbs and flags, from their definitions.

use super::args::Args;
use super::print;
use clap::CommandFactory;
use clap_complete::Shell;

/// To stdout; where it belongs is each shell's own matter and stands in docs/cli.md.
pub(super) fn completions(shell: Shell) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "rotad", &mut script);
    print::raw(&String::from_utf8_lossy(&script));
    0
}
