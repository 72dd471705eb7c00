//! Commands, variables and paths with what a shell or another tool would expand, and rotad does not expand: an error where it
//! cannot be meant as it is written, else a warning. Called by the parsers of these values.

use super::dotenv::is_variable;
use super::reader::{Located, Parser};
use super::report::shown;
use std::ops::Range;
use toml::de::DeValue;

/// What to write for `env` that is no table. Values may be secrets: they are not shown.
pub(super) fn env(value: &DeValue<'_>) -> Option<String> {
    let names = |texts: &[&str]| {
        let names: Vec<String> = texts
            .iter()
            .filter_map(|text| Some(text.split_once('=')?.0.trim()))
            .filter(|name| is_variable(name))
            .map(|name| format!("{name} = \"…\""))
            .collect();
        (!names.is_empty()).then(|| format!("write env = {{ {} }}", names.join(", ")))
    };
    match value {
        DeValue::Array(items) => {
            let texts: Vec<&str> = items
                .iter()
                .filter_map(|item| item.get_ref().as_str())
                .collect();
            names(&texts)
        }
        DeValue::String(text) => {
            let parts: Vec<&str> = text.split(',').collect();
            names(&parts).or_else(|| {
                Some(format!(
                    "a file of variables: env_file = \"{}\"",
                    shown(text)
                ))
            })
        }
        _ => None,
    }
}

/// The words of a shell that are no programs, and what does their work.
const BUILTINS: &[(&str, &str)] = &[
    (
        "cd",
        "`cd` is a word of the shell: write working_directory = \"…\"",
    ),
    (
        "source",
        "`source` is a word of the shell: name the program by its whole path, such as venv/bin/gunicorn",
    ),
    (
        ".",
        "`.` is a word of the shell: name the program by its whole path, such as venv/bin/gunicorn",
    ),
    (
        "export",
        "`export` is a word of the shell: write env = { NAME = \"…\" }",
    ),
    (
        "exec",
        "`exec` is a word of the shell: leave it out, the program is executed as it is",
    ),
    (
        "ulimit",
        "`ulimit` is a word of the shell: write limits = { nofile = 65535 }",
    ),
    (
        "umask",
        "`umask` is a word of the shell: write umask = \"022\"",
    ),
    (
        "trap",
        "`trap` is a word of the shell: write stop = [{ signal = \"TERM\", wait = \"30s\" }]",
    ),
    ("set", "`set` is a word of the shell: leave it out"),
    (
        "if",
        "this is a script: write [\"sh\", \"-c\", \"…\"], or a file of its own",
    ),
    (
        "while",
        "this is a script: write [\"sh\", \"-c\", \"…\"], or a file of its own",
    ),
    (
        "for",
        "this is a script: write [\"sh\", \"-c\", \"…\"], or a file of its own",
    ),
];

/// What to write for a program that is a word of the shell.
pub(super) fn builtin(program: &str) -> Option<&'static str> {
    BUILTINS
        .iter()
        .find(|(word, _)| *word == program)
        .map(|(_, hint)| *hint)
}

const SHELLS: [&str; 8] = ["sh", "bash", "dash", "zsh", "ash", "ksh", "fish", "busybox"];

/// Looks at a command. `line`: as it is written, if it is one string. Whether there is an error.
pub(super) fn command(parser: &mut Parser, words: &[Located<String>], line: Option<&str>) -> bool {
    let names: Vec<&str> = words
        .iter()
        .map_while(|word| word.value.split_once('=').map(|(name, _)| name))
        .filter(|name| is_variable(name))
        .collect();
    let Some(first) = words.first() else {
        return false;
    };
    let is_assignment = |word: &Located<String>| {
        word.value
            .split_once('=')
            .is_some_and(|(name, _)| is_variable(name))
    };
    if is_assignment(first) {
        let program: Vec<&str> = words
            .iter()
            .skip_while(|word| is_assignment(word))
            .map(|word| word.value.as_str())
            .collect();
        let variables: Vec<String> = names.iter().map(|name| format!("{name} = \"…\"")).collect();
        let program = shown(&shell_words::join(program)).replace('"', "'");
        parser.error_with(
            &first.span,
            format!(
                "`{}=…` before a program is for a shell, and no shell reads this",
                names[0]
            ),
            format!(
                "write env = {{ {} }} and command = \"{program}\"",
                variables.join(", ")
            ),
        );
        return true;
    }
    let name = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let by_shell = words
        .iter()
        .any(|word| SHELLS.contains(&name(&word.value).as_str()))
        || words.iter().any(|word| word.value == "-S");
    // Who writes a backslash or single quotes knows what is expanded where.
    let literal = line.is_some_and(|line| line.contains("\\$") || line.contains('\''));
    let mut refused = false;
    for word in words {
        if expression(parser, &word.value, &word.span) {
            refused = true;
            break;
        }
        if doubled(parser, &word.value, &word.span) {
            break;
        }
        if !by_shell
            && !literal
            && let Some(variable) = (!word.value.contains(is_script))
                .then(|| variable(&word.value, "=:/,@"))
                .flatten()
        {
            let own = own_variable(&variable);
            let hint = format!(
                "write {own} for the master's own variable, or command = [\"sh\", \"-c\", \"exec …\"]"
            );
            refused = unread(parser, &variable, &word.span, hint);
            break;
        }
    }
    refused
}

/// Reports a variable that no shell reads: an error where braces make a placeholder of it, which cannot be meant. Returns
/// whether it is one.
fn unread(parser: &mut Parser, variable: &str, span: &Range<usize>, hint: String) -> bool {
    let message = format!(
        "no shell reads this: `{}` is passed as it is written",
        shown(variable)
    );
    if variable.starts_with("${") {
        let message = format!("no shell reads this: `{}` is not expanded", shown(variable));
        parser.error_with(span, message, hint);
        return true;
    }
    parser.warning(span, message, hint);
    false
}

fn is_script(c: char) -> bool {
    c.is_whitespace() || "'\";|&<>".contains(c)
}

/// Looks at the value of a variable. Whether there is an error.
pub(super) fn variable_value(parser: &mut Parser, value: &Located<String>) -> bool {
    if expression(parser, &value.value, &value.span) {
        return true;
    }
    if doubled(parser, &value.value, &value.span) {
        return false;
    }
    if let Some(variable) = variable(&value.value, "=:/,@ ") {
        let own = own_variable(&variable);
        let hint = format!("write {own} for the master's own variable");
        return unread(parser, &variable, &value.span, hint);
    }
    false
}

impl Parser {
    /// Looks at a path. Whether there is an error.
    pub(super) fn refuses_path(&mut self, path: &Located<String>) -> bool {
        refuses_path(self, path)
    }
}

fn refuses_path(parser: &mut Parser, path: &Located<String>) -> bool {
    if path.value == "~" || path.value.starts_with("~/") {
        parser.error_with(
            &path.span,
            "`~` is not expanded: no shell reads this",
            "write the whole path, such as /home/NAME, or one below the folder of this file",
        );
        return true;
    }
    if expression(parser, &path.value, &path.span) {
        return true;
    }
    if let Some(variable) = variable(&path.value, "=:/,@") {
        parser.warning(
            &path.span,
            format!(
                "no shell reads this: `{}` is part of the path as it is written",
                shown(&variable)
            ),
            "write the whole path, or one below the folder of this file",
        );
    }
    false
}

/// `{env:NAME}` for `$NAME`, `${NAME}` and `${NAME:-x}`.
fn own_variable(variable: &str) -> String {
    let bare = variable.trim_start_matches('$').trim_matches(['{', '}']);
    match bare.split_once(":-") {
        _ if bare.starts_with('(') => "{env:NAME}".to_owned(),
        Some((name, default)) => format!("{{env:{name}:-{}}}", shown(default)),
        None => format!("{{env:{bare}}}"),
    }
}

/// The first `$NAME`, `${NAME}` or `$(…)` that a shell would expand, at the beginning or after one of `before`. Names are in
/// capitals, as those of the environment are: `$1`, `$x` and what else is in a password or a pattern is meant.
fn variable(text: &str, before: &str) -> Option<String> {
    text.match_indices('$').find_map(|(at, _)| {
        let previous = text[..at].chars().next_back();
        if previous.is_some_and(|c| !before.contains(c)) {
            return None;
        }
        let rest = &text[at + 1..];
        if rest.starts_with('(') {
            return rest.contains(')').then(|| "$(…)".to_owned());
        }
        if let Some(braced) = rest.strip_prefix('{') {
            let inner = &braced[..braced.find('}')?];
            let name = inner.split_once(":-").map_or(inner, |(name, _)| name);
            return is_variable(name).then(|| format!("${{{inner}}}"));
        }
        let end = rest
            .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .unwrap_or(rest.len());
        let after = rest[end..].chars().next();
        let whole = !after.is_some_and(|c| c.is_ascii_alphanumeric() || c == '$');
        let name = &rest[..end];
        (whole && name.len() > 1 && is_variable(name)).then(|| format!("${name}"))
    })
}

/// Reports an expression of supervisord or circus, which cannot be meant as text.
fn expression(parser: &mut Parser, text: &str, span: &Range<usize>) -> bool {
    let Some((written, of, instead)) = known_expression(text) else {
        return false;
    };
    parser.error_with(
        span,
        format!("`{}` is {of}'s, and is not expanded here", shown(&written)),
        instead,
    );
    true
}

/// The expression, the tool that it belongs to, and what to write.
fn known_expression(text: &str) -> Option<(String, &'static str, String)> {
    for (at, _) in text.match_indices("%(") {
        let rest = &text[at..];
        let Some(close) = rest.find(')') else {
            continue;
        };
        let format = rest[close + 1..].trim_start_matches(|c: char| c.is_ascii_digit());
        if !format.starts_with(['s', 'd']) {
            continue;
        }
        let end = rest.len() - format.len() + 1;
        let instead = match &rest[2..close] {
            "process_num" => "write {slot}: the number of the worker, from 0".to_owned(),
            "program_name" | "group_name" => "write {pool}".to_owned(),
            "here" => "relative paths begin at the folder of this file".to_owned(),
            "numprocs" => "write the number".to_owned(),
            "host_node_name" => "write {env:HOSTNAME}, or the name".to_owned(),
            name => match name.strip_prefix("ENV_") {
                Some(name) => format!("write {{env:{}}}", shown(name)),
                None => continue,
            },
        };
        return Some((rest[..end].to_owned(), "supervisord", instead));
    }
    let at = text.find("$(circus.")?;
    let rest = &text[at..];
    let end = rest.find(')')?;
    let inner = &rest["$(circus.".len()..end];
    let instead = match inner.split_once('.') {
        Some(("env", name)) => format!("write {{env:{}}}", shown(name)),
        Some(("sockets", name)) => format!("write {{fd:{}}}", shown(name)),
        _ => "write {slot}: the number of the worker, from 0".to_owned(),
    };
    Some((rest[..=end].to_owned(), "circus", instead))
}

/// Warns of `{{name}}`: a placeholder of another tool, or one of ours with a brace too many. Whether there is one.
fn doubled(parser: &mut Parser, text: &str, span: &Range<usize>) -> bool {
    let Some(inner) = text.match_indices("{{").find_map(|(at, _)| {
        let rest = &text[at + 2..];
        let inner = &rest[..rest.find("}}")?];
        let fit = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
        let word = inner.trim();
        (word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && word.chars().all(fit))
            .then_some(inner)
    }) else {
        return false;
    };
    let (word, kind) = (
        inner.trim(),
        inner.trim().split(':').next().unwrap_or_default(),
    );
    let ours = [
        "pool",
        "slot",
        "generation",
        "port",
        "rotad",
        "fd",
        "addr",
        "env",
    ]
    .contains(&kind);
    let hint = match ours {
        true => format!("write {{{}}} for the placeholder", shown(word)),
        false => "if it is a placeholder of another tool, have that one fill it in first, or write {env:NAME}".to_owned(),
    };
    let inner = shown(inner);
    parser.warning(
        span,
        format!(
            "`{{{{{inner}}}}}` is the text `{{{inner}}}`: two braces are one that is meant as it is"
        ),
        hint,
    );
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_shell_are_told_from_text() {
        for (text, found) in [
            ("$PORT", Some("$PORT")),
            ("0.0.0.0:$PORT", Some("$PORT")),
            ("--port=$PORT", Some("$PORT")),
            ("$HOME/bin:$PATH", Some("$HOME")),
            ("/usr/bin:$PATH", Some("$PATH")),
            ("${PORT}", Some("${PORT}")),
            ("${PORT:-3000}", Some("${PORT:-3000}")),
            ("$(nproc)", Some("$(…)")),
            ("pa$$WORD", None),
            ("a$BC", None),
            ("$1", None),
            ("$x", None),
            ("$Abc", None),
            ("x$", None),
            ("$A", None),
            ("${", None),
            ("US$", None),
            ("^foo$", None),
        ] {
            assert_eq!(variable(text, "=:/,@").as_deref(), found, "{text}");
        }
        assert_eq!(own_variable("${PORT:-3000}"), "{env:PORT:-3000}");
        assert_eq!(own_variable("$PORT"), "{env:PORT}");
    }

    #[test]
    fn expressions_of_other_tools_are_known() {
        for (text, written, instead) in [
            ("%(ENV_HOME)s/x", "%(ENV_HOME)s", "{env:HOME}"),
            ("98%(process_num)02d", "%(process_num)02d", "{slot}"),
            ("%(program_name)s", "%(program_name)s", "{pool}"),
            ("$(circus.env.HOME)", "$(circus.env.HOME)", "{env:HOME}"),
            ("$(circus.sockets.web)", "$(circus.sockets.web)", "{fd:web}"),
        ] {
            let (found, _, hint) = known_expression(text).expect(text);
            assert!(
                found == written && hint.contains(instead),
                "{text}: {found} {hint}"
            );
        }
        // Formats of log lines, as gunicorn and Python have them.
        for text in [
            "%(h)s %(l)s",
            "%(asctime)s",
            "%(process)d",
            "100%(",
            "%(here",
            "%(here)x",
        ] {
            assert_eq!(known_expression(text), None, "{text}");
        }
    }
}
