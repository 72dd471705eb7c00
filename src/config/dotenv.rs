//! A small dotenv: `KEY=VALUE`, comments, an optional `export `, quotes.
//!
//! Without quotes a value ends at ` #` and is trimmed. Between `'` everything is literal; between `"` a backslash
//! escapes (`\n`, `\t`, `\r`, `\"`, `\\`, `\$`), and one at the end of a line joins it with the next. A value in quotes
//! may go over several lines. Nothing is expanded.

use std::ops::Range;

/// A fault, and the bytes of the text that it is about.
pub(super) type Fault = (Range<usize>, String);

/// One variable, with the bytes of its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) span: Range<usize>,
}

/// All variables and all faults of a text.
pub(super) fn parse(text: &str) -> (Vec<Variable>, Vec<Fault>) {
    let (mut variables, mut faults) = (Vec::new(), Vec::new());
    let mut offset = 0;
    while offset < text.len() {
        let rest = &text[offset..];
        let line = rest.find('\n').map_or(rest, |end| &rest[..=end]);
        match entry(line.trim_end_matches(['\n', '\r']), rest, offset) {
            Ok((variable, length)) => {
                variables.extend(variable);
                offset += length.max(line.len());
            }
            Err(fault) => {
                faults.push(fault);
                offset += line.len();
            }
        }
    }
    (variables, faults)
}

/// The entry that begins on this line, and its length with the end of its last line. `text`: the line and all behind it.
fn entry(line: &str, text: &str, offset: usize) -> Result<(Option<Variable>, usize), Fault> {
    let rest = line.trim_start_matches('\u{feff}').trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        return Ok((None, 0));
    }
    let rest = match rest.strip_prefix("export") {
        Some(after) if after.starts_with([' ', '\t']) => after.trim_start(),
        _ => rest,
    };
    let start = line.len() - rest.len();
    let whole = offset + start..offset + line.len();
    let Some((name, raw)) = rest.split_once('=') else {
        return Err((whole, "expected KEY=VALUE".to_owned()));
    };
    let behind = start + name.len() + 1;
    let name = name.trim_end();
    let span = offset + start..offset + start + name.len();
    if !is_variable(name) {
        return Err((
            span,
            "the name of a variable is made of letters, digits and `_`".to_owned(),
        ));
    }
    let raw = raw.trim_start();
    let at = line.len() - raw.len();
    let (value, length) = match raw.chars().next() {
        Some(quote @ ('\'' | '"')) => {
            let (value, length) = quoted(&text[at + 1..], quote)
                .map_err(|message| (whole.clone(), message.to_owned()))?;
            let end = at + 1 + length;
            let tail = text[end..].lines().next().unwrap_or_default();
            let comment = tail.trim_start();
            if !comment.is_empty() && !comment.starts_with('#') {
                return Err((whole, "there is more after the closing quote".to_owned()));
            }
            let newline = text[end..]
                .find('\n')
                .map_or(text.len(), |newline| end + newline + 1);
            (value, newline)
        }
        _ => (plain(&text[behind..line.len()]), 0),
    };
    if value.contains('\0') {
        return Err((
            span,
            "a NUL byte cannot be passed to the operating system".to_owned(),
        ));
    }
    let name = name.to_owned();
    Ok((Some(Variable { name, value, span }), length))
}

/// A value without quotes.
fn plain(raw: &str) -> String {
    let raw = raw.trim();
    if raw.starts_with('#') {
        return String::new();
    }
    let comment = [" #", "\t#"].iter().filter_map(|mark| raw.find(mark)).min();
    raw[..comment.unwrap_or(raw.len())].trim_end().to_owned()
}

/// The value up to the closing quote, and its length with that quote. The end of a line is `\n`, however it is written.
fn quoted(text: &str, quote: char) -> Result<(String, usize), &'static str> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return Ok((value, at + 1)),
            '\r' if chars.peek().is_some_and(|(_, next)| *next == '\n') => {}
            '\\' if quote == '"' => match chars.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some('\n') => {}
                Some('\r') if chars.peek().is_some_and(|(_, next)| *next == '\n') => {
                    chars.next();
                }
                Some(escaped @ ('"' | '\\' | '$' | '\'')) => value.push(escaped),
                Some(other) => value.extend(['\\', other]),
                None => break,
            },
            _ => value.push(c),
        }
    }
    Err(match quote {
        '"' => "the quote `\"` is never closed",
        _ => "the quote `'` is never closed",
    })
}

/// Whether `name` may be the name of a variable. Shells require more, execve(2) less.
pub(super) fn is_variable(name: &str) -> bool {
    let fit = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
    !name.is_empty() && name.bytes().all(fit) && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let (variables, faults) = parse(text);
        assert_eq!(faults, [], "{text}");
        variables
            .into_iter()
            .map(|variable| (variable.name, variable.value))
            .collect()
    }

    #[test]
    fn values_quotes_and_comments() {
        let text = "# all\n\nA=1\nexport B = two words # not this\r\nC='a # $b'\nD=\"x\\n\\\"y\\\"\" # z\nE=\nF=a#b\nG= # none\n";
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a # $b"),
            ("D", "x\n\"y\""),
            ("E", ""),
            ("F", "a#b"),
            ("G", ""),
        ];
        assert_eq!(
            pairs(text),
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn values_in_quotes_go_over_several_lines() {
        let text = "KEY=\"-----BEGIN-----\nab # cd\r\n-----END-----\" # key\nS='one\n\\two\n'\nexport J=\"a\\\nb\\\r\nc\"\nLAST='x\ny'";
        let expected = [
            ("KEY", "-----BEGIN-----\nab # cd\n-----END-----"),
            ("S", "one\n\\two\n"),
            ("J", "abc"),
            ("LAST", "x\ny"),
        ];
        assert_eq!(
            pairs(text),
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    /// The lines behind it are read as if it were not there: one fault, not one for each line.
    #[test]
    fn an_open_quote_costs_its_line_alone() {
        let (variables, faults) = parse("A='x\nB=2\nC=\"y\nz\" more\nD=4\n");
        let names: Vec<&str> = variables.iter().map(|variable| &*variable.name).collect();
        assert_eq!(names, ["B", "D"]);
        let spans: Vec<_> = faults.iter().map(|(span, _)| span.clone()).collect();
        assert_eq!(spans, [0..4, 9..13, 14..21]);
    }

    #[test]
    fn faults_name_their_bytes() {
        let text = "A=1\nnonsense\n1X=2\nQ=\"open\nR='x' y\n";
        let (variables, faults) = parse(text);
        assert_eq!(variables.len(), 1);
        let spans: Vec<&str> = faults.iter().map(|(span, _)| &text[span.clone()]).collect();
        assert_eq!(spans, ["nonsense", "1X", "Q=\"open", "R='x' y"]);
    }
}
