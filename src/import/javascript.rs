//! Files of JavaScript that are more than a literal: node evaluates them, twice, so that variables of the environment stay
//! variables. In the first run each is a mark; in the second none is set, which tells the defaults.

use super::ledger::{Text, Unreadable};
use super::tree::{Data, Node};
use serde_json::Value;
use std::process::{Command, Stdio};

/// Around the name of a variable: private characters, which no file has.
const OPEN: char = '\u{e000}';
const DEFAULT: char = '\u{e001}';
const CLOSE: char = '\u{e002}';

/// What node runs. The first argument is the file, the second whether variables are marks.
const PROGRAM: &str = r#"
const marks = process.argv[2] === "marks";
const get = (target, name) =>
  typeof name === "string" && marks && !["NODE_OPTIONS", "NODE_PATH"].includes(name) ? "\ue000" + name + "\ue002" : undefined;
process.env = new Proxy({}, { get, has: () => marks, set: () => true });
const { pathToFileURL } = require("node:url");
import(pathToFileURL(process.argv[1])).then((module) => {
  const value = module.default ?? module;
  process.stdout.write("\n\ue000" + JSON.stringify(value), () => process.exit(0));
}).catch((error) => { console.error(String(error)); process.exit(1); });
"#;

/// The value of the file.
pub(super) fn evaluate(text: &Text, why: &Unreadable) -> Result<Node, Unreadable> {
    let marked = run(text, "marks", why)?;
    let bare = run(text, "bare", why)?;
    let mut places = Places {
        text,
        used: Vec::new(),
    };
    Ok(places.node(&merge(&marked, Some(&bare))))
}

fn run(text: &Text, how: &str, why: &Unreadable) -> Result<Value, Unreadable> {
    let file = std::path::absolute(&text.file).unwrap_or_else(|_| text.file.clone());
    let output = Command::new("node")
        .args(["-e", PROGRAM])
        .arg(&file)
        .arg(how)
        .current_dir(text.dir())
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            let place = why.line();
            return Err(Unreadable::file(
                &text.file,
                format!("is not a literal (line {place}), and node, which could run it, is not there: {error}"),
            )
            .hint("write it as JSON: `node -p 'JSON.stringify(require(\"./FILE\"))' > ecosystem.json`"));
        }
    };
    let printed = String::from_utf8_lossy(&output.stdout);
    let json = printed.rsplit_once("\n\u{e000}").map(|(_, json)| json);
    match json.and_then(|json| serde_json::from_str(json).ok()) {
        Some(value) if output.status.success() => Ok(value),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said
                .lines()
                .find(|line| line.contains("Error"))
                .or(said.lines().next_back());
            Err(Unreadable::file(
                &text.file,
                format!(
                    "node cannot run it: {}",
                    line.unwrap_or("it has no value").trim()
                ),
            ))
        }
    }
}

/// A value with marks; where the run without variables has one of its own, that is the default.
fn merge(marked: &Value, bare: Option<&Value>) -> Value {
    match marked {
        Value::String(text) if text.contains(OPEN) => {
            let whole = text
                .strip_prefix(OPEN)
                .and_then(|rest| rest.strip_suffix(CLOSE));
            let default = match bare {
                Some(Value::String(bare)) if !bare.contains("undefined") => {
                    return Value::String(with_default(text, bare));
                }
                Some(Value::Number(number)) => Some(number.to_string()),
                Some(Value::Bool(flag)) => Some(flag.to_string()),
                _ => None,
            };
            match (whole, default) {
                (Some(name), Some(default)) if !name.contains(OPEN) => {
                    Value::String(format!("{OPEN}{name}{DEFAULT}{default}{CLOSE}"))
                }
                _ => marked.clone(),
            }
        }
        Value::Array(items) => {
            let other = |at: usize| bare.and_then(|bare| bare.get(at));
            let items = items.iter().enumerate();
            Value::Array(items.map(|(at, item)| merge(item, other(at))).collect())
        }
        Value::Object(entries) => {
            let other = |name: &str| bare.and_then(|bare| bare.get(name));
            let entries = entries.iter();
            Value::Object(
                entries
                    .map(|(name, value)| (name.clone(), merge(value, other(name))))
                    .collect(),
            )
        }
        // What is decided by a variable is decided as without it.
        other => bare.filter(|bare| !bare.is_null()).unwrap_or(other).clone(),
    }
}

/// A text with one mark, and what it is without variables: what stands at its place is the default.
fn with_default(marked: &str, bare: &str) -> String {
    let Some((before, rest)) = marked.split_once(OPEN) else {
        return marked.to_owned();
    };
    let Some((name, after)) = rest.split_once(CLOSE) else {
        return marked.to_owned();
    };
    let default = bare
        .strip_prefix(before)
        .and_then(|bare| bare.strip_suffix(after));
    match default {
        Some(default) if !after.contains(OPEN) => {
            format!("{before}{OPEN}{name}{DEFAULT}{default}{CLOSE}{after}")
        }
        _ => marked.to_owned(),
    }
}

/// Finds keys in the text of a file, in order.
struct Places<'t> {
    text: &'t Text,
    used: Vec<usize>,
}

impl Places<'_> {
    fn node(&mut self, value: &Value) -> Node {
        let data = match value {
            Value::Null => Data::Null,
            Value::Bool(flag) => Data::Flag(*flag),
            Value::Number(number) => Data::Number(number.to_string()),
            Value::String(text) => Data::Text(text.clone()),
            Value::Array(items) => Data::List(items.iter().map(|item| self.node(item)).collect()),
            Value::Object(entries) => {
                let entry = |(name, value): (&String, &Value)| {
                    let at = self.place(name);
                    (name.clone(), at..at + name.len(), self.node(value))
                };
                Data::Map(entries.iter().map(entry).collect())
            }
        };
        Node::new(0..0, data)
    }

    /// The first place of `NAME:` that no other key has; else the last one.
    fn place(&mut self, name: &str) -> usize {
        let text = &self.text.text;
        let part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let mut last = 0;
        for (at, _) in text.match_indices(name) {
            let before = text[..at].chars().next_back();
            let after = text[at + name.len()..]
                .trim_start_matches(['\'', '"'])
                .trim_start();
            if before.is_some_and(part) || !after.starts_with(':') {
                continue;
            }
            last = at;
            if !self.used.contains(&at) {
                self.used.push(at);
                return at;
            }
        }
        last
    }
}

/// Marks become placeholders of the configuration.
pub(super) fn template(text: &str) -> String {
    text.replace(OPEN, "{env:")
        .replace(DEFAULT, ":-")
        .replace(CLOSE, "}")
}

/// Marks become their defaults.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        plain.push_str(before);
        let (mark, left) = after.split_once(CLOSE).unwrap_or((after, ""));
        plain.push_str(mark.split_once(DEFAULT).map_or("", |(_, default)| default));
        rest = left;
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_what_is_there_without_variables() {
        let marked = json!({"e": "r=\u{e000}R\u{e002}!", "a": "\u{e000}P\u{e002}", "b": "x\u{e000}H\u{e002}", "c": 1, "d": "\u{e000}Q\u{e002}"});
        let bare = json!({"e": "r=eu!", "a": 3000, "b": "xundefined", "c": 4});
        let merged = merge(&marked, Some(&bare));
        let text = |name: &str| template(merged[name].as_str().unwrap());
        assert_eq!(text("a"), "{env:P:-3000}");
        assert_eq!(text("b"), "x{env:H}");
        assert_eq!(text("e"), "r={env:R:-eu}!");
        assert_eq!(text("d"), "{env:Q}");
        assert_eq!(merged["c"], 4);
        assert_eq!(plain(merged["a"].as_str().unwrap()), "3000");
    }
}
