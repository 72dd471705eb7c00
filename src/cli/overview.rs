//! `rotad`, `rotad -h`, `rotad --help`: the verbs in groups, on one screen of 24 lines and 80 columns.

use super::args::{AFTER_HELP, Args};
use super::layout;
use crate::sys::terminal;
use clap::CommandFactory;

const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Run",
        &["run", "start", "stop", "scale", "signal", "upgrade"],
    ),
    ("Deploy", &["reload", "roll", "rollback", "cancel"]),
    (
        "Look",
        &["status", "logs", "events", "metrics", "top", "serve"],
    ),
    ("Configure", &["init", "import", "check", "doctor"]),
    (
        IN_ONE_LINE,
        &["demo", "hook", "completions", "man", "schema"],
    ),
];

/// The verbs of this group stand in one line: there are more verbs than lines.
const IN_ONE_LINE: &str = "More";

/// Lines that are read, not scanned, are not made longer.
const MAX_WIDTH: usize = 100;

/// What is shown. `long`: with the options, signals and exit codes (`--help`).
pub(super) fn text(long: bool, colour: bool) -> String {
    let columns = terminal::size(&std::io::stdout()).map_or(80, |(_, columns)| columns.into());
    render(long, colour, MAX_WIDTH.min(columns))
}

/// The help of a verb: what it does in full, and a line for each option where that fits. None: there is no such verb.
pub(super) fn verb(name: &str, colour: bool) -> Option<String> {
    let all = Args::command();
    let known = all.find_subcommand(name)?;
    let name = known.get_name().to_owned();
    let about = known.get_long_about().or(known.get_about()).cloned();
    let about = about.unwrap_or_default();
    let mut all = Args::command().mut_subcommand(&name, |verb| verb.about(about).long_about(None));
    all.build();
    let help = all.find_subcommand_mut(&name)?.render_help();
    Some(match colour {
        true => help.ansi().to_string(),
        false => help.to_string(),
    })
}

fn render(long: bool, colour: bool, width: usize) -> String {
    let command = Args::command();
    let bold = |text: &str| layout::bold(text, colour && !text.trim().is_empty());
    let about = command.get_about().map(ToString::to_string);
    let mut out = format!("{}\n", about.unwrap_or_default());
    out += &format!(
        "{} rotad VERB [-c FILE] …   (more: `rotad VERB --help`, `rotad --help`)\n",
        bold("Usage:")
    );
    for (group, verbs) in GROUPS {
        let summary_of = |name: &str| {
            let verb = command.find_subcommand(name);
            let about = verb.and_then(|verb| verb.get_about());
            about.map(ToString::to_string).unwrap_or_default()
        };
        if group == IN_ONE_LINE {
            out += &format!("{}{}\n", bold(&format!("{group:<11}")), verbs.join(", "));
            continue;
        }
        for (at, name) in verbs.iter().enumerate() {
            let summary = summary_of(name);
            let group = if at == 0 { group } else { "" };
            out += &format!("{}{name:<13}{summary}\n", bold(&format!("{group:<11}")));
        }
    }
    if !long {
        return out;
    }
    out += &format!("\n{}\n", bold("Options:"));
    for argument in command.get_arguments() {
        let names = match (argument.get_short(), argument.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long}"),
            (_, long) => format!("--{}", long.unwrap_or_default()),
        };
        let value = argument.get_value_names().unwrap_or_default().join(" ");
        let value = match argument.get_action().takes_values() {
            true => format!(" {value}"),
            false => String::new(),
        };
        let help = argument.get_help().map(ToString::to_string);
        out += &wrapped(
            &format!("  {names}{value}  {}", help.unwrap_or_default()),
            width,
            6,
        );
    }
    out += "  -h, --help     Show the verbs, and with --help this\n";
    out += "  -V, --version  Show the version (also: `rotad version`)\n\n";
    for paragraph in AFTER_HELP.lines() {
        out += &wrapped(paragraph, width, 2);
    }
    out
}

/// The text in lines of at most `width` characters, those behind the first indented by so many.
fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let words = text.trim_start();
    let begin = &text[..text.len() - words.len()];
    let lines = layout::wrap(words, layout::room(width, indent));
    format!(
        "{begin}{}\n",
        lines.join(&format!("\n{}", " ".repeat(indent)))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_is_in_one_group() {
        let command = Args::command();
        let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
        let mut verbs: Vec<&str> = verbs.map(|verb| verb.get_name()).collect();
        let mut listed: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, verbs)| verbs.iter().copied())
            .collect();
        verbs.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, verbs);
    }

    /// With the prompt below it.
    #[test]
    fn the_verbs_fit_a_small_terminal() {
        let text = render(false, false, 80);
        assert!(text.lines().count() <= 23, "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 80), "{text}");
    }

    #[test]
    fn the_whole_help_is_wrapped() {
        let text = render(true, false, 80);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(text.contains("-c, --config-file FILE"), "{text}");
        let words = "word ".repeat(10);
        let lines = wrapped(&format!("  {}", words.trim_end()), 44, 6);
        assert_eq!(
            lines.lines().nth(1),
            Some("      word word word"),
            "{lines}"
        );
    }
}
