//! The configuration that an import writes: pools with the keys that differ from the defaults, and comments.

use super::ledger::{Entry, Outcome};
use std::collections::BTreeMap;

/// A value of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
    List(Vec<Self>),
    Table(Vec<(String, Self)>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Self::List(texts.into_iter().map(Self::Text).collect())
    }
}

/// Longer, in characters, and an inline table becomes a table of its own.
const WIDE: usize = 96;

impl Value {
    fn replace(&mut self, from: &str, to: &str) {
        match self {
            Self::Text(text) => *text = text.replace(from, to),
            Self::List(items) => items.iter_mut().for_each(|item| item.replace(from, to)),
            Self::Table(entries) => {
                entries
                    .iter_mut()
                    .for_each(|(_, value)| value.replace(from, to));
            }
            Self::Number(_) | Self::Flag(_) => {}
        }
    }

    fn render(&self) -> String {
        match self {
            Self::Text(text) => quote(text),
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::render).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Table(entries) => {
                let entries: Vec<String> = entries
                    .iter()
                    .map(|(name, value)| format!("{} = {}", bare(name), value.render()))
                    .collect();
                format!("{{ {} }}", entries.join(", "))
            }
        }
    }
}

/// A basic string of TOML.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            control if control.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// A key of TOML, in quotes only if it needs them.
fn bare(name: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"_-".contains(&c);
    if !name.is_empty() && name.bytes().all(plain) {
        name.to_owned()
    } else {
        quote(name)
    }
}

/// The keys of a pool in the order in which they are written.
const ORDER: [&str; 47] = [
    "kind",
    "command",
    "count",
    "listen",
    "stdin",
    "after",
    "env",
    "env_file",
    "clear_env",
    "pass_env",
    "working_directory",
    "user",
    "group",
    "umask",
    "nice",
    "ports",
    "ready",
    "ready_timeout",
    "stop",
    "max_starting",
    "essential",
    "reload.surge",
    "reload.soak",
    "reload.on",
    "reload.watch",
    "reload.debounce",
    "restart.policy",
    "restart.delay",
    "restart.max_delay",
    "restart.stable_after",
    "restart.success_exit_codes",
    "restart.never_on",
    "recycle.max_age",
    "recycle.max_rss",
    "recycle.at",
    "health.watchdog",
    "health.connect",
    "health.http",
    "health.headers",
    "health.command",
    "health.every",
    "health.timeout",
    "health.failures",
    "log.stdout",
    "log.stderr",
    "log.max_size",
    "log.keep",
];

/// Keys that are written after those of [`ORDER`].
const LAST: [&str; 2] = ["log.timestamps", "limits"];

/// Keys that are written as a line although they are the same in all pools: what a pool is, and what no other may have.
const OWN: [&str; 8] = [
    "kind", "command", "count", "listen", "stdin", "after", "ports", "env_file",
];

/// Keys that oneshots may not have, besides those of [`OWN`].
const NOT_FOR_ONESHOTS: [&str; 6] = [
    "ready",
    "max_starting",
    "essential",
    "reload.",
    "recycle.",
    "health.",
];

/// What is written behind `surge = 0`, which keeps what a program did under its former master.
const WHY_NO_SURGE: &str = "  # one stops before the next starts, as it may open a port; with `listen` no request is lost: docs/recipes";

fn is_default(key: &str, value: &Value) -> bool {
    let default: Value = match key {
        "kind" => "worker".into(),
        "count" => 1.into(),
        "working_directory" => ".".into(),
        "stop" => "30s".into(),
        "ready" => "auto".into(),
        "ready_timeout" => "60s".into(),
        "restart.policy" => "always".into(),
        "restart.success_exit_codes" => Value::List(vec![0.into()]),
        "restart.delay" => "100ms".into(),
        "restart.max_delay" => "30s".into(),
        "restart.stable_after" => "10s".into(),
        "log.stdout" => "master".into(),
        "log.stderr" => "stdout".into(),
        "log.max_size" => "50MiB".into(),
        "log.keep" => 10.into(),
        "log.timestamps" => false.into(),
        _ => return false,
    };
    *value == default
}

/// Keys of one table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table(Vec<(&'static str, Value)>);

impl Table {
    /// Sets a key, in place of its former value.
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.remove(key);
        self.0.push((key, value.into()));
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        let entry = self.0.iter().find(|(name, _)| *name == key);
        entry.map(|(_, value)| value)
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.0.iter().position(|(name, _)| *name == key)?;
        Some(self.0.remove(at).1)
    }

    /// Replaces a text in all values.
    pub(super) fn replace(&mut self, from: &str, to: &str) {
        self.0
            .iter_mut()
            .for_each(|(_, value)| value.replace(from, to));
    }

    /// Adds an entry of a table such as `env`; a former one of the name goes.
    pub(super) fn add(&mut self, key: &'static str, name: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.0.iter_mut().find(|(word, _)| *word == key) {
            Some((_, Value::Table(entries))) => {
                entries.retain(|(word, _)| word != name);
                entries.push((name.to_owned(), value));
            }
            _ => self.set(key, Value::Table(vec![(name.to_owned(), value)])),
        }
    }

    /// Whether a table such as `env` has this entry.
    pub(super) fn has_entry(&self, key: &str, name: &str) -> bool {
        matches!(self.get(key), Some(Value::Table(entries)) if entries.iter().any(|(word, _)| word == name))
    }

    /// Adds to a list such as `after`, once.
    pub(super) fn push(&mut self, key: &'static str, item: impl Into<Value>) {
        let item = item.into();
        match self.0.iter_mut().find(|(word, _)| *word == key) {
            Some((_, Value::List(items))) => {
                if !items.contains(&item) {
                    items.push(item);
                }
            }
            _ => self.set(key, Value::List(vec![item])),
        }
    }

    /// The lines of the table, and the tables below it that are too wide for a line.
    fn lines(&self, title: &str, defaults: &Self) -> Vec<String> {
        let (mut lines, mut wide) = (Vec::new(), Vec::new());
        for key in ORDER.into_iter().chain(LAST) {
            let Some(value) = self.get(key) else { continue };
            // A default is left out, unless [defaults] says something else.
            let same = defaults.get(key).is_none() && is_default(key, value);
            let implied = key == "stop" && self.text("kind") == Some("task");
            if same && !implied {
                continue;
            }
            let line = format!("{key} = {}", value.render());
            match value {
                Value::Number(0) if key == "reload.surge" => lines.push(line + WHY_NO_SURGE),

                Value::Table(entries) if key == "env" && line.chars().count() > WIDE => {
                    wide.push(format!("\n[{title}.{key}]"));
                    for (name, value) in entries {
                        wide.push(format!("{} = {}", bare(name), value.render()));
                    }
                }
                Value::Table(entries) if key == "limits" => {
                    for (name, value) in entries {
                        lines.push(format!("limits.{name} = {}", value.render()));
                    }
                }
                _ => lines.push(line),
            }
        }
        lines.extend(wide);
        lines
    }
}

/// A pool to be written.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) name: String,
    /// The parts of the source that it is made from.
    pub(super) parts: Vec<String>,
    /// What it is made from, for people.
    pub(super) origin: String,
    pub(super) keys: Table,
    /// Written as a comment: where it comes from, it is not started by itself.
    pub(super) off: bool,
}

impl Pool {
    pub(super) fn new(name: &str, part: &str, origin: impl Into<String>) -> Self {
        Self {
            name: fit_name(name),
            parts: vec![part.to_owned()],
            origin: origin.into(),
            keys: Table::default(),
            off: false,
        }
    }

    pub(super) fn is_oneshot(&self) -> bool {
        self.keys.text("kind") == Some("oneshot")
    }
}

/// A name made fit: letters, digits, `_`, `-` and `.`, 64 at most.
pub(super) fn fit_name(name: &str) -> String {
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() || "_-.".contains(c) {
            c
        } else {
            '-'
        }
    };
    let mut fitted: String = name.trim().chars().map(fit).take(64).collect();
    while fitted.contains("--") {
        fitted = fitted.replace("--", "-");
    }
    match fitted.trim_matches(['-', '.']) {
        "" => "app".to_owned(),
        // A word that means every pool.
        "all" => "all-1".to_owned(),
        fitted => fitted.to_owned(),
    }
}

/// The name, or the name with the first number that is free.
fn unique(base: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut name = base.to_owned();
    let mut number = 2;
    while is_taken(&name) {
        name = format!("{base}-{number}");
        number += 1;
    }
    name
}

/// The whole configuration.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) master: BTreeMap<&'static str, Value>,
    pub(super) control: BTreeMap<&'static str, Value>,
    /// Names and keys of listeners.
    pub(super) listen: Vec<(String, Vec<(&'static str, Value)>)>,
    pub(super) defaults: Table,
    pub(super) pools: Vec<Pool>,
    /// Pools, each with the first of the oneshots that come before it.
    chains: Vec<(String, String)>,
    /// Said at the top of the file, and on the screen.
    pub(super) remarks: Vec<String>,
    /// A drop-in for the unit of rotad, in sections.
    pub(super) drop_in: Vec<(String, Vec<String>)>,
}

impl Draft {
    /// Adds a pool; a name that is there already gets a number. Returns its name.
    pub(super) fn add(&mut self, mut pool: Pool) -> String {
        pool.name = unique(&pool.name, |name| {
            self.pools.iter().any(|other| other.name == name)
        });
        let name = pool.name.clone();
        self.pools.push(pool);
        name
    }

    /// Adds a pool and oneshots that come before it, one after another. What the pool runs as and in holds for them, too.
    pub(super) fn add_chain(&mut self, steps: Vec<Pool>, mut pool: Pool) -> String {
        const SHARED: [&str; 9] = [
            "env",
            "env_file",
            "clear_env",
            "pass_env",
            "working_directory",
            "user",
            "group",
            "umask",
            "after",
        ];
        let (mut first, mut former) = (None, None::<String>);
        for mut step in steps {
            for key in SHARED {
                if let (Some(value), None) = (pool.keys.get(key), step.keys.get(key)) {
                    step.keys.set(key, value.clone());
                }
            }
            if let Some(former) = former {
                step.keys.push("after", former);
            }
            step.off = pool.off;
            let name = self.add(step);
            first.get_or_insert_with(|| name.clone());
            former = Some(name);
        }
        let first = first.unwrap_or_default();
        if let Some(last) = former {
            pool.keys.push("after", last);
        }
        let name = self.add(pool);
        if !first.is_empty() {
            self.chains.push((name.clone(), first));
        }
        name
    }

    /// Lets a pool, and the oneshots that come before it, come after another one.
    pub(super) fn add_after(&mut self, name: &str, before: &str) {
        let chain = self.chains.iter().find(|(last, _)| last == name);
        let first = chain.map(|(_, first)| first.clone());
        for pool in &mut self.pools {
            if pool.name == name || Some(&pool.name) == first.as_ref() {
                pool.keys.push("after", before);
            }
        }
    }

    /// Adds a listener of this address, or finds the one that is there.
    pub(super) fn listener(&mut self, name: &str, address: &str) -> String {
        let same = |keys: &[(&str, Value)]| keys.contains(&("address", address.into()));
        if let Some((name, _)) = self.listen.iter().find(|(_, keys)| same(keys)) {
            return name.clone();
        }
        let name = unique(&fit_name(name), |name| {
            self.listen.iter().any(|(other, _)| other == name)
        });
        self.listen
            .push((name.clone(), vec![("address", address.into())]));
        name
    }

    /// What all pools say alike goes to [defaults].
    fn share(&mut self) {
        let live: Vec<&Pool> = self.pools.iter().filter(|pool| !pool.off).collect();
        let workers = live.iter().filter(|pool| !pool.is_oneshot()).count();
        for key in ORDER.into_iter().chain(LAST) {
            if OWN.contains(&key) || key == "env" || self.defaults.get(key).is_some() {
                continue;
            }
            let spared = NOT_FOR_ONESHOTS.iter().any(|part| key.starts_with(part));
            // How a oneshot is stopped or restarted is seldom what workers need.
            let concerned = |pool: &&&Pool| !pool.is_oneshot() || !spared;
            let mut values = live
                .iter()
                .filter(concerned)
                .map(|pool| pool.keys.get(key).cloned());
            let Some(Some(first)) = values.next() else {
                continue;
            };
            let alike = values.all(|value| value.as_ref() == Some(&first));
            if workers >= 2 && alike && !is_default(key, &first) {
                self.defaults.set(key, first);
            }
        }
        for pool in &mut self.pools {
            for key in ORDER.into_iter().chain(LAST) {
                let shared = self.defaults.get(key);
                if key != "env" && shared.is_some() && pool.keys.get(key) == shared {
                    pool.keys.remove(key);
                }
            }
        }
    }

    /// The text of the configuration, with what differs and what was lost as comments at the pools.
    pub(super) fn render(&mut self, title: &str, entries: &[Entry]) -> String {
        self.share();
        let mut text = format!("# {title}\n");
        for remark in &self.remarks {
            comment(&mut text, remark);
        }
        let comments = Comment::all(entries);
        let homes = |part: &&str| {
            let home = |pool: &Pool| pool.parts.iter().any(|own| own == part);
            self.pools.iter().any(home)
        };
        for said in &comments {
            if said.parts.len() > 1 || !said.parts.iter().all(homes) {
                comment(&mut text, &said.line());
            }
        }
        section(&mut text, "master", &self.master);
        section(&mut text, "control", &self.control);
        let defaults = self.defaults.lines("defaults", &Table::default());
        if !defaults.is_empty() {
            text.push_str(&format!("\n[defaults]\n{}\n", defaults.join("\n")));
        }
        for (name, keys) in &self.listen {
            text.push_str(&format!("\n[listen.{}]\n", bare(name)));
            for (key, value) in keys {
                text.push_str(&format!("{key} = {}\n", value.render()));
            }
        }
        for pool in &self.pools {
            text.push('\n');
            if !pool.origin.is_empty() {
                comment(&mut text, &format!("From {}.", pool.origin));
            }
            for said in &comments {
                if let [part] = said.parts[..]
                    && pool.parts.iter().any(|own| own == part)
                {
                    comment(&mut text, &said.line());
                }
            }
            let title = format!("pool.{}", bare(&pool.name));
            let mut lines = vec![format!("[{title}]")];
            lines.extend(pool.keys.lines(&title, &self.defaults));
            for line in lines.iter().flat_map(|line| line.split('\n')) {
                let mark = if pool.off && !line.is_empty() {
                    "# "
                } else {
                    ""
                };
                text.push_str(&format!("{mark}{line}\n"));
            }
        }
        text
    }
}

/// What is said of keys in the file that is written.
struct Comment<'a> {
    word: &'static str,
    what: String,
    keys: Vec<&'a str>,
    /// The parts of the source that it is said of, each without what follows a `/`.
    parts: Vec<&'a str>,
}

impl<'a> Comment<'a> {
    /// Of all keys that are otherwise or lost; the same is said once.
    fn all(entries: &'a [Entry]) -> Vec<Self> {
        let mut comments: Vec<Self> = Vec::new();
        for entry in entries {
            let (word, what) = match entry.outcome() {
                Outcome::Otherwise(what) => ("otherwise", what),
                Outcome::Lost(what) => ("lost", what),
                Outcome::Taken | Outcome::NotNeeded(_) => continue,
            };
            let part = home(&entry.part);
            let same = |other: &&mut Self| other.word == word && other.what == what;
            match comments.iter_mut().find(same) {
                Some(comment) => {
                    if !comment.keys.contains(&entry.key.as_str()) {
                        comment.keys.push(&entry.key);
                    }
                    if !comment.parts.contains(&part) {
                        comment.parts.push(part);
                    }
                }
                None => comments.push(Self {
                    word,
                    what,
                    keys: vec![&entry.key],
                    parts: vec![part],
                }),
            }
        }
        comments
    }

    fn line(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(|key| format!("`{key}`")).collect();
        format!("{}: {}: {}", self.word, keys.join(", "), self.what)
    }
}

/// The sections of a unit are one part.
fn home(part: &str) -> &str {
    for section in ["/Unit", "/Service", "/Install", "/Socket"] {
        if let Some(unit) = part.strip_suffix(section) {
            return unit;
        }
    }
    part
}

fn section(text: &mut String, title: &str, keys: &BTreeMap<&'static str, Value>) {
    if keys.is_empty() {
        return;
    }
    text.push_str(&format!("\n[{title}]\n"));
    for (key, value) in keys {
        text.push_str(&format!("{key} = {}\n", value.render()));
    }
}

/// Adds a comment, in lines of a readable width.
fn comment(text: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > 118 {
            text.push_str(&format!("{line}\n"));
            line = String::from("#  ");
        }
        line.push(' ');
        line.push_str(&word.chars().filter(|c| !c.is_control()).collect::<String>());
    }
    text.push_str(&format!("{line}\n"));
}
