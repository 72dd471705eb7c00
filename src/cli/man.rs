//! `man`: generates the manual page, and the list of verbs and flags in docs/cli.md, from the definition of the
//! command line.

use super::args::Args;
use crate::exit_code::ExitCode;
use crate::observe::print;
use clap::{Arg, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use std::fmt::Write;
use std::io;

const SIGNALS: [(&str, &str); 6] = [
    (
        "TERM, QUIT",
        "graceful stop: every worker gets its stop steps, the master exits when all are gone. Sent again: no effect",
    ),
    ("INT", "the same; a second INT kills immediately"),
    ("USR1", "rolling restart of every pool of kind worker"),
    ("USR2", "rolling restart of every pool of kind task"),
    (
        "HUP",
        "read the configuration again and apply what changed; an invalid one changes nothing",
    ),
    (
        "RTMIN, WINCH",
        "open the log files again (WINCH not when the master has a terminal)",
    ),
];

const FILES: [(&str, &str); 6] = [
    (
        "$ROTAD_CONFIG, ./rotad.toml, ./config/rotad.toml, /etc/rotad/rotad.toml",
        "the configuration: the first that exists, if -c names none",
    ),
    (
        "/run/rotad/NAME, $XDG_STATE_HOME/rotad/NAME",
        "the runtime directory, for root and for other users. NAME: the master's name, or that of the configuration's file",
    ),
    (
        "master.pid",
        "in it, unless configured elsewhere: the master's pid, locked while the master runs",
    ),
    (
        "master.lock",
        "in it: locked by the running master; never removed",
    ),
    ("control.sock", "in it: the socket that commands use"),
    (
        "/var/log/rotad/NAME.log, $XDG_STATE_HOME/rotad/NAME.log",
        "the log of a master in the background, unless configured elsewhere",
    ),
];

const EXAMPLES: [(&str, &str); 6] = [
    (
        "rotad init -- gunicorn app:app",
        "write rotad.toml and a systemd unit for this directory",
    ),
    ("rotad check", "report all mistakes in the configuration"),
    (
        "rotad start",
        "in the background; returns when every pool is ready",
    ),
    (
        "rotad reload",
        "after a deploy: roll to the new code; exit 10 if it did not come up, and the old workers serve",
    ),
    (
        "kill -USR1 $(cat master.pid)",
        "roll the pools of kind worker, by signal",
    ),
    ("rotad stop", "every request in flight is answered first"),
];

/// Prints the page as roff: `rotad man | man -l -`.
pub(super) fn man() -> ExitCode {
    match page() {
        Ok(page) => print::raw(&page),
        Err(error) => {
            print::error(&format!("the manual page cannot be generated: {error}"));
            return ExitCode::FAILED;
        }
    }
    ExitCode::DONE
}

fn page() -> io::Result<String> {
    let whole = Man::new(Args::command().disable_help_subcommand(true)).manual("rotad");
    let mut page = Vec::new();
    whole.render_title(&mut page)?;
    whole.render_name_section(&mut page)?;
    whole.render_synopsis_section(&mut page)?;
    whole.render_description_section(&mut page)?;
    whole.render_options_section(&mut page)?;
    heading("SH", "COMMANDS").to_writer(&mut page)?;
    for verb in verbs() {
        section(&verb, &mut page)?;
    }
    list("SIGNALS", &SIGNALS).to_writer(&mut page)?;
    let numbers = ExitCode::MEANINGS.map(|(code, _)| code.to_string());
    let meanings = ExitCode::MEANINGS.map(|(_, meaning)| meaning);
    let exit_codes: Vec<(&str, &str)> = numbers.iter().map(String::as_str).zip(meanings).collect();
    list("EXIT STATUS", &exit_codes).to_writer(&mut page)?;
    list("FILES", &FILES).to_writer(&mut page)?;
    list("EXAMPLES", &EXAMPLES).to_writer(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// The verbs, without the flags that all have in common.
fn verbs() -> Vec<Command> {
    let alone = |verb: &Command| {
        let name = format!("rotad {}", verb.get_name());
        verb.clone().disable_help_flag(true).bin_name(name)
    };
    Args::command().get_subcommands().map(alone).collect()
}

fn section(verb: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    heading("SS", verb.get_name()).to_writer(page)?;
    let man = Man::new(verb.clone());
    let mut part = Vec::new();
    man.render_synopsis_section(&mut part)?;
    without_heading(&part, page);
    let mut about = Roff::new();
    about.control("PP", []).text([roman(
        format!("{}{}", described(verb), names(verb, "")).replace('…', "..."),
    )]);
    about.to_writer(page)?;
    if verb.get_arguments().next().is_some() {
        part.clear();
        man.render_options_section(&mut part)?;
        without_heading(&part, page);
    }
    Ok(())
}

/// Appends a verb's part without its headings: the verb has its own.
fn without_heading(part: &[u8], page: &mut Vec<u8>) {
    for line in part
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| !line.starts_with(b".SH"))
    {
        page.extend_from_slice(line);
    }
}

fn heading(level: &str, title: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control(level, [title]);
    roff
}

fn list(title: &str, entries: &[(&str, &str)]) -> Roff {
    let mut roff = heading("SH", title);
    for (what, means) in entries {
        let what: Inline = bold(*what);
        roff.control("TP", []).text([what]).text([roman(*means)]);
    }
    roff
}

fn help(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// What a verb does, in sentences: its summary, and what its own help adds.
fn described(verb: &Command) -> String {
    let long = verb.get_long_about().or(verb.get_about());
    let sentences = help(long);
    let sentences = sentences.split("\n\n").map(|part| {
        let part = part.trim().replace('\n', " ");
        let end = if part.ends_with('.') { "" } else { "." };
        format!("{part}{end}")
    });
    sentences.collect::<Vec<_>>().join(" ")
}

/// The other names of a verb, as a sentence. `quote`: what stands around each.
fn names(verb: &Command, quote: &str) -> String {
    let names: Vec<String> = verb
        .get_visible_aliases()
        .map(|name| format!("{quote}{name}{quote}"))
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" Also: {}.", names.join(", ")),
    }
}

/// Every verb and flag with its help, as in docs/cli.md.
pub fn reference() -> String {
    let mut page = String::new();
    let whole = Args::command();
    table("rotad VERB", &whole, &mut page);
    for verb in verbs() {
        let names = verb
            .get_positionals()
            .map(shown)
            .collect::<Vec<_>>()
            .join(" ");
        let title = format!("{} {names}", verb.get_bin_name().unwrap_or_default());
        table(title.trim_end(), &verb, &mut page);
    }
    page
}

fn table(title: &str, command: &Command, page: &mut String) {
    // Writing to a String cannot fail.
    let (about, names) = (described(command), names(command, "`"));
    let _ = write!(page, "### `{title}`\n\n{about}{names}\n\n");
    if command.get_arguments().next().is_none() {
        return;
    }
    page.push_str("| | |\n|---|---|\n");
    for arg in command.get_arguments() {
        let default = if arg.is_positional() { "see above" } else { "" };
        let text = help(arg.get_help());
        let text = if text.is_empty() { default } else { &text };
        let _ = writeln!(page, "| `{}` | {} |", shown(arg), text.replace('|', "\\|"));
    }
    page.push('\n');
}

/// `-w, --watch`, `--timeout DURATION`, `[POOL]…`
fn shown(arg: &Arg) -> String {
    let value = arg
        .get_value_names()
        .map(|names| names.join(" "))
        .unwrap_or_default();
    if arg.is_positional() {
        let value = if value.is_empty() {
            arg.get_id().as_str().to_uppercase()
        } else {
            value
        };
        let many = if arg
            .get_num_args()
            .is_some_and(|range| range.max_values() > 1)
        {
            "…"
        } else {
            ""
        };
        let value = if arg.is_last_set() {
            format!("-- {value}{many}")
        } else {
            format!("{value}{many}")
        };
        return if arg.is_required_set() {
            value
        } else {
            format!("[{value}]")
        };
    }
    let short = arg.get_short().map(|letter| format!("-{letter}"));
    let others = arg.get_visible_aliases().unwrap_or_default();
    let long = arg.get_long().into_iter().chain(others);
    let long = long.map(|name| format!("--{name}"));
    let flags = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    if arg.get_action().takes_values() {
        format!("{flags} {value}")
    } else {
        flags
    }
}
