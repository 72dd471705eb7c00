//! Values of a pool that can be written in more than one form.

use super::dotenv::is_variable;
use super::foreign_values;
use super::kinds::Amount;
use super::reader::{Located, Parser, Value, integer};
use super::report::shown;
use super::unexpanded;
use super::units;
use crate::plan::{Kind, TimeOfDay};
use rotad_core::{Essential, Span};
use toml::de::DeValue;

/// Maximum number of workers of one pool.
pub(super) const MOST: u32 = 100_000;

/// A number of workers, 1 at least.
pub(super) const WORKERS: Amount = Amount(1, MOST);

/// By default a log file is rotated at this size, in bytes.
pub(super) const LOG_MAX_SIZE: u64 = 50 << 20;

/// By default so many rotated files of a log are kept.
pub(super) const LOG_KEEP: u32 = 10;

/// Variables that the master sets itself: setting them would do nothing, or break the worker's interface.
pub(super) const OURS: [&str; 4] = ["LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "ROTAD_"];

/// Whether a variable is one that the master sets itself.
pub(super) fn is_masters(name: &str) -> bool {
    OURS.iter().any(|ours| name.starts_with(ours))
}

/// What `kind = "oneshot"` was called before 0.1.0.
pub(super) const FORMER_ONESHOT: &str = "step";

pub(super) const KINDS: &[(&str, Kind)] = &[
    ("worker", Kind::Worker),
    ("task", Kind::Task),
    ("oneshot", Kind::Oneshot),
];

pub(super) fn kind(parser: &mut Parser, value: &Value<'_>) -> Option<Located<Kind>> {
    if value.get_ref().as_str() == Some(FORMER_ONESHOT) {
        parser.error_with(
            &value.span(),
            "`step` is `oneshot` now",
            "write kind = \"oneshot\"",
        );
        // Its other keys are checked as those of a oneshot.
        return Some(Located::new(Kind::Oneshot, value.span()));
    }
    parser.choice(value, KINDS)
}

/// The name of a master.
pub(super) fn name(parser: &mut Parser, value: &Value<'_>) -> Option<Located<String>> {
    parser
        .text(value, "a name")
        .filter(|name| parser.name(name))
}

/// The address of a listener; empty if it is not a string.
pub(super) fn address(parser: &mut Parser, value: &Value<'_>) -> Option<Located<String>> {
    const WHAT: &str = "an address such as \"127.0.0.1:8080\" or \"unix:/run/shop.sock\"";
    if integer(value.get_ref()).is_some() {
        parser.expected_with(value, WHAT, foreign_values::address(value.get_ref()));
        return Some(Located::new(String::new(), value.span()));
    }
    let text = parser.text(value, WHAT);
    if text.as_ref().is_some_and(|text| text.value.is_empty()) {
        parser.error(&value.span(), format!("expected {WHAT}, found nothing"));
    }
    text.or_else(|| Some(Located::new(String::new(), value.span())))
}

pub(super) fn after(parser: &mut Parser, value: &Value<'_>) -> Vec<Located<String>> {
    let names = parser.texts(value, "names of pools");
    names.map_or_else(Vec::new, |at| at.value)
}

pub(super) fn nice(parser: &mut Parser, value: &Value<'_>) -> Option<Located<i32>> {
    let nice = parser.number(value, -20..=19)?;
    Some(Located::new(i32::try_from(nice.value).ok()?, nice.span))
}

/// A duration, or `"exit"`.
pub(super) fn essential(parser: &mut Parser, value: &Value<'_>) -> Option<Located<Essential>> {
    if value.get_ref().as_str() == Some("exit") {
        return Some(Located::new(Essential::Exit, value.span()));
    }
    Some(parser.duration(value)?.map(Essential::Ready))
}

pub(super) fn watch(
    parser: &mut Parser,
    value: &Value<'_>,
) -> Option<Located<Vec<Located<String>>>> {
    parser.texts(value, "patterns of files such as [\"src/**/*.py\"]")
}

pub(super) fn time_of_day(parser: &mut Parser, value: &Value<'_>) -> Option<Located<TimeOfDay>> {
    parser.parsed(value, units::TIME_OF_DAY, |text| {
        units::time_of_day(text).map(TimeOfDay)
    })
}

/// The interval of a watchdog.
pub(super) fn watchdog(parser: &mut Parser, value: &Value<'_>) -> Option<Span> {
    parser.duration(value).map(|at| at.value)
}

/// A list of words, or one string that is split as a shell would.
pub(super) fn command(parser: &mut Parser, value: &Value<'_>) -> Located<Vec<Located<String>>> {
    const WHAT: &str = "a command: a list such as [\"gunicorn\", \"app:app\"], or one string";
    let refused = Located::new(Vec::new(), value.span());
    let Some(mut texts) = parser.texts(value, WHAT) else {
        return refused;
    };
    let mut written = None;
    if !value.get_ref().is_array() {
        let line = texts.value.remove(0);
        written = Some(line.value.clone());
        match shell_words::split(&line.value) {
            Ok(words) => {
                texts.value = words
                    .into_iter()
                    .map(|word| Located::new(word, line.span.clone()))
                    .collect()
            }
            Err(_) => {
                parser.error(&line.span, "a quote in this command is never closed");
                return refused;
            }
        }
        let operator = |word: &&Located<String>| {
            ["&&", "||", "|", ";", ">", ">>", "<", "&", "2>&1"].contains(&&*word.value)
        };
        if let Some(word) = texts
            .value
            .iter()
            .find(operator)
            .map(|word| word.value.clone())
        {
            let hint = "where a shell is meant: command = [\"sh\", \"-c\", \"exec …\"]";
            parser.warning(
                &line.span,
                format!("no shell reads this: `{word}` is passed as an argument"),
                hint,
            );
        }
    }
    if texts
        .value
        .first()
        .is_none_or(|program| program.value.is_empty())
    {
        parser.error_with(
            &value.span(),
            "the command is empty",
            "write the program and its arguments",
        );
        return refused;
    }
    if unexpanded::command(parser, &texts.value, written.as_deref()) {
        return refused;
    }
    texts
}

pub(super) fn count(parser: &mut Parser, value: &Value<'_>) -> Option<Located<u32>> {
    match value.get_ref() {
        DeValue::String(text) if text == "cpus" => {
            // CPU affinity and the cgroup's cpu.max are respected.
            let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
            Some(Located::new(
                u32::try_from(cpus).unwrap_or(MOST).min(MOST),
                value.span(),
            ))
        }
        DeValue::Integer(_) if integer(value.get_ref()) == Some(0) => {
            parser.error_with(
                &value.span(),
                "a pool of 0 workers",
                "to keep a pool down: `rotad stop POOL`",
            );
            None
        }
        DeValue::Integer(_) => parser.amount(value, 1, MOST),
        _ => {
            let hint = foreign_values::number(value.get_ref());
            parser.expected_with(value, "a number of workers, or \"cpus\"", hint);
            None
        }
    }
}

pub(super) fn listen(parser: &mut Parser, value: &Value<'_>) -> Located<Vec<Located<String>>> {
    const WHAT: &str = "names of listeners, or an address such as \"127.0.0.1:8000\"";
    if integer(value.get_ref()).is_some() {
        parser.expected_with(value, WHAT, foreign_values::address(value.get_ref()));
        return Located::new(Vec::new(), value.span());
    }
    let texts = parser.texts(value, WHAT);
    let texts = texts.unwrap_or_else(|| Located::new(Vec::new(), value.span()));
    if value
        .get_ref()
        .as_array()
        .is_some_and(|array| array.is_empty())
    {
        parser.error_with(
            &texts.span,
            "an empty list of listeners",
            "leave `listen` out",
        );
    }
    texts
}

/// `"null"`, or `"listen:NAME"`: the name.
pub(super) fn stdin(parser: &mut Parser, value: &Value<'_>) -> Option<Located<String>> {
    let text = parser.text(value, "\"null\" or \"listen:NAME\"")?;
    match text.value.strip_prefix("listen:") {
        Some(name) if !name.is_empty() => return Some(Located::new(name.to_owned(), text.span)),
        None if text.value == "null" => {}
        _ => parser.error_with(
            &text.span,
            format!("`stdin` cannot be `{}`", shown(&text.value)),
            "write \"null\", or \"listen:NAME\" for the listener [listen.NAME]",
        ),
    }
    None
}

pub(super) fn env(
    parser: &mut Parser,
    value: &Value<'_>,
) -> Vec<(Located<String>, Located<String>)> {
    let mut variables = Vec::new();
    parser.add_private(value.span());
    if !value.get_ref().is_table() {
        // What it is instead is not shown: it may be a secret.
        let hint = unexpanded::env(value.get_ref());
        let message = "expected a table such as { APP_ENV = \"prod\" }";
        parser.error_with(
            &value.span(),
            message,
            hint.unwrap_or_else(|| "write env = { NAME = \"value\" }".to_owned()),
        );
        return variables;
    }
    for (name, value) in parser.entries(value) {
        parser.add_private(name.span.clone());
        parser.add_private(value.span());
        if let Some(fault) = variable_fault(&name.value) {
            parser.error(&name.span, fault);
        }
        if let DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) = value.get_ref() {
            parser.error_with(
                &value.span(),
                "a variable's value is a string",
                "put it in quotes",
            );
        } else if let Some(text) = parser.text(value, "a string")
            && !unexpanded::variable_value(parser, &text)
        {
            variables.push((name, text));
        }
    }
    variables
}

/// What is wrong with the name of a variable.
pub(super) fn variable_fault(name: &str) -> Option<String> {
    if is_masters(name) {
        return Some(format!(
            "`{}` is set by the master for each worker",
            shown(name)
        ));
    }
    (!is_variable(name)).then(|| format!("`{}` cannot be the name of a variable", shown(name)))
}

pub(super) fn pass_env(
    parser: &mut Parser,
    value: &Value<'_>,
) -> Option<Located<Vec<Located<String>>>> {
    let names = parser.texts(value, "names of variables such as \"LANG\" or \"APP_*\"")?;
    for name in &names.value {
        if is_masters(&name.value) {
            parser.error(&name.span, "the master's own of these are never passed on");
        } else if !is_variable(name.value.strip_suffix('*').unwrap_or(&name.value))
            && name.value != "*"
        {
            parser.error_with(
                &name.span,
                "expected the name of a variable",
                "a `*` may stand at the end only",
            );
        }
    }
    Some(names)
}

/// Successors above `count`.
#[derive(Clone, Copy)]
pub(super) enum Surge {
    Number(u32),
    /// Percentage of `count`, rounded up.
    Percent(u32),
}

impl Surge {
    pub(super) fn of(self, count: u32) -> u32 {
        match self {
            Self::Number(number) => number,
            Self::Percent(percent) => {
                let surge = (u64::from(count) * u64::from(percent)).div_ceil(100);
                u32::try_from(surge).unwrap_or(count)
            }
        }
    }
}

pub(super) fn surge(parser: &mut Parser, value: &Value<'_>) -> Option<Located<Surge>> {
    const WHAT: &str = "a number of workers, or a share of count such as \"25%\"";
    if let Some(percent) = value.get_ref().as_str().and_then(units::percent) {
        return Some(Located::new(Surge::Percent(percent), value.span()));
    }
    match integer(value.get_ref())
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| *number <= MOST)
    {
        Some(number) => Some(Located::new(Surge::Number(number), value.span())),
        None => {
            parser.expected(value, WHAT);
            None
        }
    }
}

pub(super) fn exit_codes(parser: &mut Parser, value: &Value<'_>) -> Option<Located<Vec<i32>>> {
    let DeValue::Array(codes) = value.get_ref() else {
        parser.expected(value, "a list of exit codes such as [0]");
        return None;
    };
    let codes: Vec<_> = codes
        .iter()
        .map(|code| parser.number(code, 0..=255))
        .collect();
    let codes = codes
        .into_iter()
        .map(|code| i32::try_from(code?.value).ok())
        .collect::<Option<_>>()?;
    Some(Located::new(codes, value.span()))
}

/// Where a worker's output goes, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SinkText {
    Master,
    Inherit,
    Null,
    /// `stderr` alone: wherever stdout goes.
    Stdout,
    /// A path with placeholders.
    File(String),
}

pub(super) const SINKS: &[(&str, SinkText)] = &[
    ("master", SinkText::Master),
    ("inherit", SinkText::Inherit),
    ("null", SinkText::Null),
];

pub(super) fn stdout(parser: &mut Parser, value: &Value<'_>) -> Option<Located<SinkText>> {
    sink(parser, value, false)
}

/// As `stdout`, or `"stdout"` itself.
pub(super) fn stderr(parser: &mut Parser, value: &Value<'_>) -> Option<Located<SinkText>> {
    sink(parser, value, true)
}

fn sink(parser: &mut Parser, value: &Value<'_>, may_follow: bool) -> Option<Located<SinkText>> {
    let text = parser.text(value, "a path, \"master\", \"inherit\" or \"null\"")?;
    if let Some((_, sink)) = SINKS.iter().find(|(name, _)| *name == text.value) {
        return Some(Located::new(sink.clone(), text.span));
    }
    match text.value.as_str() {
        "" => parser.error(&text.span, "expected a path, found nothing"),
        "stdout" if may_follow => return Some(Located::new(SinkText::Stdout, text.span)),
        "stdout" | "stderr" => {
            parser.error_with(
                &text.span,
                "cannot follow itself or stderr",
                "only stderr = \"stdout\" is possible",
            );
        }
        _ => return Some(text.map(SinkText::File)),
    }
    None
}

/// One env file, or a list of them, each with `?` in front if it may be missing.
pub(super) fn env_files(
    parser: &mut Parser,
    value: &Value<'_>,
) -> Option<Located<Vec<Located<String>>>> {
    let files = parser.texts(
        value,
        "a path, or a list of paths such as [\".env\", \"?.env.local\"]",
    )?;
    if files.value.is_empty() {
        parser.error_with(
            &files.span,
            "an empty list of files",
            "leave `env_file` out",
        );
    }
    for file in &files.value {
        if file.value.trim_start_matches('?').is_empty() {
            parser.error(&file.span, "expected a path, found nothing");
            return None;
        }
    }
    Some(files)
}

/// Names and values of header fields.
pub(super) type Headers = Vec<(Located<String>, Located<String>)>;

/// A table of header fields.
pub(super) fn headers(parser: &mut Parser, value: &Value<'_>) -> Option<Located<Headers>> {
    let mut headers = Headers::new();
    parser.add_private(value.span());
    for (name, value) in parser.entries(value) {
        let known = headers
            .iter()
            .any(|(other, _)| other.value.eq_ignore_ascii_case(&name.value));
        if known {
            parser.error(
                &name.span,
                format!("`{}` is there twice", shown(&name.value)),
            );
        } else if !is_token(&name.value) {
            let message = format!("`{}` cannot be the name of a header", shown(&name.value));
            parser.error(&name.span, message);
        } else if OWN_HEADERS
            .iter()
            .any(|own| own.eq_ignore_ascii_case(&name.value))
        {
            let message = format!("`{}` is set by rotad: a request has no body", name.value);
            parser.error(&name.span, message);
        } else if let Some(text) = parser.text(value, "a string") {
            headers.push((name, text));
        }
    }
    Some(Located::new(headers, value.span()))
}

/// Header fields that say where a request ends.
pub(super) const OWN_HEADERS: [&str; 5] = [
    "Connection",
    "Content-Length",
    "Expect",
    "Transfer-Encoding",
    "Upgrade",
];

/// A token of RFC 9110, 5.6.2.
fn is_token(name: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !name.is_empty() && name.bytes().all(fits)
}
