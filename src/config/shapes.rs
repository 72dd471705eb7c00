//! What values look like, as JSON schema (draft 7) says it: for editors, which mark a mistake while it is typed. A shape
//! allows every value that the parser takes, and refuses what it can tell without other keys, files or the machine:
//! `rotad check` finds the rest. Without `$ref` and `allOf`: taplo shows no description that stands beside one of these.

use super::section::{Documented, Keys};
use serde_json::{Map, Value, json};

/// A JSON schema.
pub(super) type Shape = Value;

/// Names of masters, pools and listeners (`paths::is_name`).
const NAME: &str = r"^(?!\.+$)[A-Za-z0-9_.-]{1,64}$";

/// Names of variables (`dotenv::is_variable`).
const VARIABLE: &str = "^[A-Za-z_.-][A-Za-z0-9_.-]*$";

/// The units of humantime.
const UNITS: &str = "nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds|second|secs|sec|s|minutes|minute|mins|min|m|\
                     hours|hour|hrs|hr|h|days|day|d|weeks|week|wks|wk|w|months|month|M|years|year|yrs|yr|y";

/// Any string.
pub(super) fn text() -> Shape {
    json!({ "type": "string" })
}

/// A string that is not empty.
pub(super) fn some_text() -> Shape {
    json!({ "type": "string", "minLength": 1 })
}

/// A string that this regular expression matches.
pub(super) fn pattern(pattern: &str) -> Shape {
    json!({ "type": "string", "pattern": pattern })
}

/// `true` or `false`.
pub(super) fn flag() -> Shape {
    json!({ "type": "boolean" })
}

/// A whole number between these two.
pub(super) fn number(least: i64, most: i64) -> Shape {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

/// `"10s"`, `"1h 30min"`.
pub(super) fn duration() -> Shape {
    // humantime takes white space between digits.
    pattern(&format!(r"^\s*([0-9][0-9\s]*(\.[0-9\s]+)?({UNITS})\s*)+$"))
}

/// `"64MiB"`, or a number of bytes.
pub(super) fn size() -> Shape {
    any(vec![
        json!({ "type": "integer", "minimum": 0 }),
        pattern(
            r"^\s*(\+?[0-9]+|([0-9]+\.?[0-9]*|\.[0-9]+)\s*([KkMmGgTtPpEe][Ii]?[Bb]?|[Bb]))\s*$",
        ),
    ])
}

/// `"022"`; 0o022 is a number like any other here.
pub(super) fn octal() -> Shape {
    any(vec![pattern("^(0o)?0*[0-7]{1,3}$"), number(0, 0o777)])
}

/// One of these words.
pub(super) fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Shape {
    let words: Vec<&str> = words.into_iter().collect();
    json!({ "type": "string", "enum": words })
}

/// One of these shapes.
pub(super) fn any(shapes: Vec<Shape>) -> Shape {
    let flat: Vec<Shape> = shapes
        .into_iter()
        .flat_map(|shape| match shape["anyOf"].as_array() {
            Some(inner) => inner.clone(),
            None => vec![shape],
        })
        .collect();
    json!({ "anyOf": flat })
}

/// A list of these, with so many at least.
pub(super) fn list(item: Shape, least: usize) -> Shape {
    json!({ "type": "array", "items": item, "minItems": least })
}

/// One of these, or a list of so many at least.
pub(super) fn one_or_list(item: Shape, least: usize) -> Shape {
    any(vec![item.clone(), list(item, least)])
}

/// A command: a list of words, or one string.
pub(super) fn command() -> Shape {
    let mut list = list(text(), 1);
    list["description"] = json!("the program and its arguments");
    any(vec![some_text(), list])
}

/// The name of a master, a pool or a listener.
pub(super) fn name() -> Shape {
    pattern(NAME)
}

/// The name of a variable.
pub(super) fn variable() -> Shape {
    pattern(VARIABLE)
}

/// A table whose keys look like `key`, and its values like `value`.
pub(super) fn names(key: Shape, value: Shape) -> Shape {
    json!({ "type": "object", "propertyNames": key, "additionalProperties": value })
}

/// A table of tables that have names.
pub(super) fn named(table: Shape) -> Shape {
    names(name(), table)
}

/// A table with a header of its own.
pub(super) fn table<T: Documented>() -> Shape {
    let mut shape = inline::<T>(&[]);
    let mut required = Vec::new();
    for entry in T::ENTRIES {
        let (default, property) = ((entry.default)(), &mut shape["properties"][entry.name]);
        match default.as_str() {
            "" | "none" => {}
            "required" => required.push(entry.name),
            _ => {
                let help = format!("{}\n\nDefault: {default}", entry.help);
                property["description"] = json!(help);
            }
        }
        if let Some(value) = literal(&default) {
            property["default"] = value;
        }
    }
    if !required.is_empty() {
        shape["required"] = json!(required);
    }
    at_most_one(&mut shape, &T::alternatives());
    shape
}

/// A table that is the value of a key, with those keys that it must have.
pub(super) fn inline<T: Keys>(required: &[&str]) -> Shape {
    let properties: Map<String, Value> = T::KEYS
        .iter()
        .map(|key| {
            let mut shape = (key.shape)();
            shape["description"] = json!(key.help);
            (key.name.to_owned(), shape)
        })
        .collect();
    let mut shape =
        json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        shape["required"] = json!(required);
    }
    shape
}

/// Of these keys a table may have one.
pub(super) fn at_most_one(shape: &mut Shape, keys: &[&str]) {
    let pairs: Vec<Value> = keys
        .iter()
        .enumerate()
        .flat_map(|(at, one)| keys[at + 1..].iter().map(move |other| (one, other)))
        .map(|(one, other)| json!({ "required": [one, other] }))
        .collect();
    if !pairs.is_empty() {
        shape["not"] = json!({ "anyOf": pairs });
    }
}

/// The value that documentation shows as a default: one literal of TOML in backquotes, and nothing else.
fn literal(default: &str) -> Option<Value> {
    let code = default.strip_prefix('`')?.strip_suffix('`')?;
    if code.contains('`') {
        return None;
    }
    let table: toml::Table = toml::from_str(&format!("value = {code}")).ok()?;
    serde_json::to_value(table.get("value")?).ok()
}
