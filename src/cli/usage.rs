//! What is said about a command line that cannot be parsed: in one line, in the voice of all other errors. First come the
//! words that other tools have (`habits`), then what the parser has found.

use super::habits::{self, Typed};
use super::{overview, print};
use crate::exit_code::ExitCode;
use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::error::Error as _;

/// The command line as it is parsed: options that are verbs in other programs (`-t`, as of nginx), and `version`, become
/// what they mean.
pub(super) fn translated(mut words: Vec<String>) -> Vec<String> {
    let meant = match words.get(1).map(String::as_str) {
        Some("-t") => "check",
        Some("version") => "--version",
        _ => return words,
    };
    words[1] = meant.to_owned();
    words
}

/// Prints help, the version, or what is wrong; returns the exit code.
pub(super) fn report(error: &Error, words: &[String]) -> ExitCode {
    match error.kind() {
        // To stdout; a closed pipe must not panic.
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match (error.kind(), Typed::new(words).only()) {
                (ErrorKind::DisplayHelp, Some(word)) => {
                    print::raw(&overview::text(word != "-h", print::colour()));
                }
                (ErrorKind::DisplayHelp, None) => {
                    let verb = Typed::new(words).helped().map(str::to_owned);
                    match verb.and_then(|verb| overview::verb(&verb, print::colour())) {
                        Some(text) => print::raw(&text),
                        None => drop(error.print()),
                    }
                }
                _ => drop(error.print()),
            }
            return ExitCode::DONE;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            print::coloured_error(&overview::text(false, print::error_colour()));
            return ExitCode::USAGE;
        }
        _ => {}
    }
    let typed = Typed::new(words);
    let (code, text) =
        habits::answer(&typed).unwrap_or_else(|| (ExitCode::USAGE, told(error, &typed)));
    print::error(&print::sanitize(text));
    code
}

/// What is wrong with a command line, in one line; also where help was asked for.
pub(super) fn said(error: &Error, typed: &Typed) -> String {
    let missing = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if error.kind() == missing {
        return MISSING_VERB.to_owned();
    }
    habits::answer(typed).map_or_else(|| told(error, typed), |(_, text)| text)
}

const MISSING_VERB: &str = "a verb is missing: `rotad --help` lists them";

/// What the parser has found, in one line.
fn told(error: &Error, typed: &Typed) -> String {
    let command = match typed.verb() {
        Some(verb) => format!("rotad {}", crate::config::shown(verb)),
        None => "rotad".to_owned(),
    };
    let help = format!("`{command} --help` says what it takes");
    let argument = text(error, ContextKind::InvalidArg);
    let value = text(error, ContextKind::InvalidValue);
    let found = match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            let alike = text(error, ContextKind::SuggestedArg);
            let alike = match alike.is_empty() {
                true => String::new(),
                false => format!("; did you mean `{alike}`?"),
            };
            format!("`{command}` has no option `{argument}`{alike}")
        }
        ErrorKind::UnknownArgument => format!("`{command}` does not take `{argument}`"),
        ErrorKind::InvalidValue if value.is_empty() => format!("`{argument}` needs a value"),
        ErrorKind::InvalidValue => {
            let valid = text(error, ContextKind::ValidValue);
            format!("`{value}` cannot be {argument}: there are {valid}")
        }
        ErrorKind::ValueValidation => {
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            let option = argument.split(' ').next().unwrap_or_default();
            match option.starts_with('-') {
                true => format!("`{option}`: {why}"),
                false => why,
            }
        }
        ErrorKind::MissingRequiredArgument => format!("`{command}` needs {argument}"),
        ErrorKind::ArgumentConflict => {
            let other = text(error, ContextKind::PriorArg);
            match other.is_empty() || other == argument {
                true => format!("`{argument}` is given twice"),
                false => format!("`{argument}` cannot be used with `{other}`"),
            }
        }
        ErrorKind::MissingSubcommand => {
            return MISSING_VERB.to_owned();
        }
        ErrorKind::InvalidUtf8 => "the command line is not valid UTF-8".to_owned(),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.trim_start_matches("error: ").to_owned()
        }
    };
    format!("{found}; {help}")
}

/// A part of what the parser has found; empty if it does not say it.
fn text(error: &Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::Args;
    use super::*;
    use clap::Parser;

    fn said(line: &str) -> String {
        let words: Vec<String> = std::iter::once("rotad")
            .chain(line.split_whitespace())
            .map(str::to_owned)
            .collect();
        let error = Args::try_parse_from(&words).expect_err(line);
        told(&error, &Typed::new(&words))
    }

    #[test]
    fn every_fault_is_one_line_of_ours() {
        for (line, has) in [
            ("roll --timeout soon", "`--timeout`: expected a duration"),
            (
                "status --nosuch",
                "`rotad status` has no option `--nosuch`; ",
            ),
            ("status --wacth", "did you mean `--watch`?"),
            ("scale web", "`rotad scale` needs <N|+N|-N>"),
            ("scale web many", "\"many\" is not a number of workers"),
            ("signal web NOPE", "there is no signal \"NOPE\""),
            ("status -w --check", "cannot be used with"),
            (
                "completions cmd",
                "`cmd` cannot be <SHELL>: there are bash, ",
            ),
            ("metrics web", "`rotad metrics` does not take `web`"),
            ("status -c", "needs a value"),
            ("run --take-over --take-over", "twice"),
        ] {
            let text = said(line);
            assert!(text.contains(has) && !text.contains('\n'), "{line}: {text}");
            assert!(!text.starts_with("error"), "{line}: {text}");
        }
    }

    #[test]
    fn words_of_other_programs_become_ours() {
        for (typed, meant) in [
            ("-t", "check"),
            ("version", "--version"),
            ("status", "status"),
        ] {
            let words = vec!["rotad".to_owned(), typed.to_owned()];
            assert_eq!(translated(words)[1], meant);
        }
    }
}
