//! A small dotenv: `KEY=VALUE`, comments, an optional `export `, quotes.
//!
//! Without quotes a value ends at ` #` and is trimmed. Between `'` everything is literal; between `"` a backslash
//! escapes (`\n`, `\t`, `\r`, `\"`, `\\`, `\$`). Nothing is expanded, and no value spans lines.

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
    for line in text.split_inclusive('\n') {
        match entry(line.trim_end_matches(['\n', '\r']), offset) {
            Ok(Some(variable)) => variables.push(variable),
            Ok(None) => {}
            Err(fault) => faults.push(fault),
        }
        offset += line.len();
    }
    (variables, faults)
}

fn entry(line: &str, offset: usize) -> Result<Option<Variable>, Fault> {
    let rest = line.trim_start_matches('\u{feff}').trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(None);
    }
    let rest = match rest.strip_prefix("export") {
        Some(after) if after.starts_with([' ', '\t']) => after.trim_start(),
        _ => rest,
    };
    let start = offset + line.len() - rest.len();
    let Some((name, raw)) = rest.split_once('=') else {
        return Err((start..offset + line.len(), "expected KEY=VALUE".to_owned()));
    };
    let name = name.trim_end();
    let span = start..start + name.len();
    if !is_variable(name) {
        return Err((
            span,
            "the name of a variable is made of letters, digits and `_`".to_owned(),
        ));
    }
    let raw = raw.trim();
    if raw.contains('\0') {
        return Err((
            span,
            "a NUL byte cannot be passed to the operating system".to_owned(),
        ));
    }
    match value(raw) {
        Ok(value) => Ok(Some(Variable {
            name: name.to_owned(),
            value,
            span,
        })),
        Err(message) => Err((
            offset + line.len() - rest.len()..offset + line.len(),
            message.to_owned(),
        )),
    }
}

/// Whether `name` may be the name of a variable. Shells require more, execve(2) less.
pub(super) fn is_variable(name: &str) -> bool {
    let fit = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
    !name.is_empty() && name.bytes().all(fit) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn value(raw: &str) -> Result<String, &'static str> {
    let (value, rest) = match raw.chars().next() {
        Some('\'') => match raw[1..].split_once('\'') {
            Some((value, rest)) => (value.to_owned(), rest),
            None => return Err("the quote `'` is never closed on this line"),
        },
        Some('"') => double_quoted(&raw[1..])?,
        _ if raw.starts_with('#') => return Ok(String::new()),
        _ => {
            return Ok(raw
                .split(" #")
                .next()
                .unwrap_or(raw)
                .split("\t#")
                .next()
                .unwrap_or(raw)
                .trim_end()
                .to_owned());
        }
    };
    match rest.trim_start() {
        "" => Ok(value),
        comment if comment.starts_with('#') => Ok(value),
        _ => Err("there is more after the closing quote"),
    }
}

fn double_quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some(escaped @ ('"' | '\\' | '$' | '\'')) => value.push(escaped),
                Some(other) => value.extend(['\\', other]),
                None => break,
            },
            _ => value.push(c),
        }
    }
    Err("the quote `\"` is never closed on this line")
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
    fn faults_name_their_bytes() {
        let text = "A=1\nnonsense\n1X=2\nQ=\"open\nR='x' y\n";
        let (variables, faults) = parse(text);
        assert_eq!(variables.len(), 1);
        let spans: Vec<&str> = faults.iter().map(|(span, _)| &text[span.clone()]).collect();
        assert_eq!(spans, ["nonsense", "1X", "Q=\"open", "R='x' y"]);
    }
}
