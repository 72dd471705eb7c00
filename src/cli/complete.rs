//! `completions`: scripts for shells, generated from the definitions of verbs and flags. Those for bash, zsh and fish also
//! ask rotad itself for names of pools, `POOL/SLOT` and signals.

mod candidates;

use super::args::Args;
use crate::exit_code::ExitCode;
use crate::observe::print;
pub(super) use candidates::{VERB, candidates};
use clap::CommandFactory;
use clap_complete::Shell;

/// Prints to stdout; docs/cli.md says where each shell expects it.
pub(super) fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "rotad", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    print::raw(&match shell {
        Shell::Bash => bash(&script),
        Shell::Zsh => zsh(&script),
        Shell::Fish => script + FISH,
        _ => script,
    });
    ExitCode::DONE
}

/// Rotad's own candidates come first; what it knows none for is left to the generated function. Where it knows that a name
/// is wanted, there are no files.
fn bash(script: &str) -> String {
    BASH.to_owned() + &script.replace("complete -F _rotad ", "complete -F _rotad_names ")
}

fn zsh(script: &str) -> String {
    let script = script.replace("\n_rotad() {", "\n_rotad_words() {");
    let (head, body) = script.split_once('\n').unwrap_or(("#compdef rotad", ""));
    format!("{head}\n{ZSH}{body}")
}

const BASH: &str = r#"_rotad_names() {
    local program=${1/#\~/$HOME} found
    if found=$("$program" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null); then
        compopt +o default +o bashdefault 2>/dev/null
        COMPREPLY=()
        [[ -z $found ]] || mapfile -t COMPREPLY <<<"$found"
        return 0
    fi
    _rotad "$@"
}

"#;

const ZSH: &str = r#"
_rotad() {
    local program=${(Q)words[1]/#\~/$HOME} found
    if found=$("$program" __complete "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null); then
        [[ -z $found ]] || compadd -- ${(f)found}
        return 0
    fi
    _rotad_words "$@"
}
"#;

const FISH: &str = r#"
function __fish_rotad_names
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete $words[2..-1] 2>/dev/null
end
complete -c rotad -n '__fish_rotad_names >/dev/null' -f -a '(__fish_rotad_names)'
"#;
