//! The top of the file, [master], [control], [signals], [listen]: what is read, before it means anything.

use super::pool::Pool;
use super::reader::{Located, Parser, Value};
use super::report::shown;
use super::schema::{Key, key};
use crate::plan::{LogFormat, LogLevel, SignalAction};
use rotad_core::Span;
use std::path::PathBuf;

/// Everything that a file says, each value with its place.
#[derive(Default)]
pub(super) struct Config {
    pub(super) master: Master,
    pub(super) control: Control,
    pub(super) signals: Signals,
    pub(super) listen: Vec<(Located<String>, Listen)>,
    pub(super) pools: Vec<(Located<String>, Pool)>,
}

pub(super) const TOP: &[Key<Config>] = &[
    // Read before all others: it brings more of them.
    key("include", "list of patterns", "none", "pools and listeners from more files", |_, _, _| {}),
    key("master", "table", "", "the master itself", |cx, into, v| cx.table(v, MASTER, &mut into.master)),
    key("control", "table", "", "who may use the control socket", |cx, into, v| {
        cx.table(v, CONTROL, &mut into.control);
    }),
    key("signals", "table", "", "what signals to the master do", |cx, into, v| {
        cx.table(v, SIGNALS, &mut into.signals);
    }),
    // Read by `defaults`, before the pools that take them.
    key("defaults", "table", "", "keys of a pool, for every pool that does not have them", |_, _, _| {}),
    key("listen", "tables", "", "one listening socket each, shared by its pools", |cx, into, v| {
        named(cx, v, LISTEN, &mut into.listen);
    }),
    // Read by `pools`, once the defaults are known.
    key("pool", "tables", "", "one pool of like workers each", |_, _, _| {}),
];

/// The most pools, and the most listeners.
const MOST: usize = 1000;

/// What an included file may say.
const INCLUDED: [&str; 2] = ["listen", "pool"];

impl Config {
    /// All of the main file but its pools.
    pub(super) fn read_main(&mut self, cx: &mut Parser, root: &Value<'_>) {
        cx.table(root, TOP, self);
    }

    /// All of an included file but its pools.
    pub(super) fn read_included(&mut self, cx: &mut Parser, root: &Value<'_>) {
        for (name, value) in cx.entries(root) {
            match name.value.as_str() {
                "listen" => named(cx, value, LISTEN, &mut self.listen),
                "pool" => {}
                word if TOP.iter().any(|key| key.name == word) => {
                    let main = cx.main_text().file.display().to_string();
                    let message = format!("`{word}` in an included file");
                    cx.error_with(&name.span, message, format!("pools and listeners alone; move it to {main}"));
                }
                word => cx.unknown(&name.span, "key", word, &INCLUDED),
            }
        }
    }
}

/// A table of named tables.
fn named<T: Default>(cx: &mut Parser, value: &Value<'_>, keys: &[Key<T>], into: &mut Vec<(Located<String>, T)>) {
    for (name, entry) in cx.entries(value) {
        if begin(cx, &name, entry, keys, into) {
            let mut section = T::default();
            cx.table(entry, keys, &mut section);
            into.push((name, section));
        }
    }
}

/// Whether `entry` is a table of its own with a name of its own; else there is a finding.
pub(super) fn begin<T>(
    cx: &mut Parser,
    name: &Located<String>,
    entry: &Value<'_>,
    keys: &[Key<T>],
    so_far: &[(Located<String>, T)],
) -> bool {
    if keys.iter().any(|key| key.name == name.value) && !entry.get_ref().is_table() {
        let hint = "the table has a name: [pool.NAME], [listen.NAME]";
        cx.error_with(&name.span, format!("`{}` of what?", name.value), hint);
        return false;
    }
    cx.name(name);
    if so_far.len() >= MOST {
        cx.error(&name.span, format!("more than {MOST} of these"));
        return false;
    }
    if let Some((other, _)) = so_far.iter().find(|(other, _)| other.value == name.value) {
        let message = format!("`{}` is there already: {}", shown(&name.value), cx.spot(&other.span));
        cx.error_with(&name.span, message, "give one of them another name");
        return false;
    }
    true
}

#[derive(Default)]
pub(super) struct Master {
    pub(super) name: Option<Located<String>>,
    pub(super) daemonize: Option<Located<bool>>,
    pub(super) pid_file: Option<Located<PathBuf>>,
    pub(super) runtime_dir: Option<Located<PathBuf>>,
    pub(super) working_directory: Option<Located<PathBuf>>,
    pub(super) umask: Option<Located<u32>>,
    pub(super) log_file: Option<Located<PathBuf>>,
    pub(super) log_format: Option<Located<LogFormat>>,
    pub(super) log_level: Option<Located<LogLevel>>,
    pub(super) log_max_size: Option<Located<u64>>,
    pub(super) log_keep: Option<Located<u32>>,
    pub(super) stop_timeout: Option<Located<Span>>,
    pub(super) watch_config: Option<Located<bool>>,
}

const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

const LEVELS: &[(&str, LogLevel)] = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

pub(super) const MASTER: &[Key<Master>] = &[
    key(
        "name",
        "name",
        "see above",
        "the master's name: in its log, its runtime folder, its log file",
        |cx, into, v| {
            into.name = cx.text(v, "a name").filter(|name| cx.name(name));
        },
    ),
    key(
        "daemonize",
        "true or false",
        "`true`",
        "whether `start` goes to the background; `false`: as `run`",
        |cx, into, v| {
            into.daemonize = cx.flag(v);
        },
    ),
    key(
        "pid_file",
        "path",
        "`RUNTIME_DIR/master.pid`",
        "locked, never written through a link, removed at exit",
        |cx, into, v| {
            into.pid_file = cx.path(v);
        },
    ),
    key("runtime_dir", "path", "see above", "the folder of the control socket and the pid file", |cx, into, v| {
        into.runtime_dir = cx.path(v);
    }),
    key("working_directory", "path", "`\"/\"`", "where the daemonized master stands", |cx, into, v| {
        into.working_directory = cx.path(v);
    }),
    key("umask", "octal", "`\"022\"`", "of the master; workers inherit it unless their pool has one", |cx, into, v| {
        into.umask = cx.octal(v);
    }),
    key("log_file", "path", "see above", "the master's own log", |cx, into, v| into.log_file = cx.path(v)),
    key(
        "log_format",
        "`\"text\"`, `\"json\"`",
        "`\"text\"`",
        "the shape of a line of the master's log",
        |cx, into, v| {
            into.log_format = cx.choice(v, FORMATS);
        },
    ),
    key(
        "log_level",
        "`\"error\"` … `\"trace\"`",
        "`\"info\"`",
        "`\"error\"`, `\"warn\"`, `\"info\"`, `\"debug\"` or `\"trace\"`",
        |cx, into, v| {
            into.log_level = cx.choice(v, LEVELS);
        },
    ),
    key("log_max_size", "size", "`\"50MiB\"`", "a log file of this size is rotated", |cx, into, v| {
        into.log_max_size = cx.size(v);
    }),
    key("log_keep", "number", "`10`", "rotated log files that are kept", |cx, into, v| {
        into.log_keep = cx.amount(v, 0, 10_000);
    }),
    key("stop_timeout", "duration", "none", "caps the stop of everything", |cx, into, v| {
        into.stop_timeout = cx.duration(v);
    }),
    key(
        "watch_config",
        "true or false",
        "`false`",
        "apply the configuration when its files' content changes",
        |cx, into, v| {
            into.watch_config = cx.flag(v);
        },
    ),
];

#[derive(Default)]
pub(super) struct Control {
    pub(super) mode: Option<Located<u32>>,
    pub(super) group: Option<Located<String>>,
}

pub(super) const CONTROL: &[Key<Control>] = &[
    key("mode", "octal", "`\"0600\"`, with `group` `\"0660\"`", "permissions of the control socket", |cx, into, v| {
        into.mode = cx.octal(v)
    }),
    key("group", "group", "the master's", "the group of the control socket", |cx, into, v| {
        into.group = cx.text(v, "the name of a group");
    }),
];

#[derive(Default)]
pub(super) struct Signals {
    pub(super) hup: Option<Located<SignalAction>>,
    pub(super) usr1: Option<Located<SignalAction>>,
    pub(super) usr2: Option<Located<SignalAction>>,
    pub(super) winch: Option<Located<SignalAction>>,
}

const ACTIONS: &[(&str, SignalAction)] = &[
    ("roll-workers", SignalAction::RollWorkers),
    ("roll-tasks", SignalAction::RollTasks),
    ("roll-all", SignalAction::RollAll),
    ("apply-config", SignalAction::ApplyConfig),
    ("reload", SignalAction::Reload),
    ("reopen-logs", SignalAction::ReopenLogs),
    ("ignore", SignalAction::Ignore),
];

pub(super) const SIGNALS: &[Key<Signals>] = &[
    key("HUP", "action", "`\"apply-config\"`", "SIGHUP", |cx, into, v| into.hup = cx.choice(v, ACTIONS)),
    key("USR1", "action", "`\"roll-workers\"`", "SIGUSR1", |cx, into, v| into.usr1 = cx.choice(v, ACTIONS)),
    key("USR2", "action", "`\"roll-tasks\"`", "SIGUSR2", |cx, into, v| into.usr2 = cx.choice(v, ACTIONS)),
    key("WINCH", "action", "`\"reopen-logs\"`", "SIGWINCH, not when the master has a terminal", |cx, into, v| {
        into.winch = cx.choice(v, ACTIONS);
    }),
];

#[derive(Default)]
pub(super) struct Listen {
    /// Empty text: there was one, but it was no string.
    pub(super) address: Option<Located<String>>,
    pub(super) backlog: Option<Located<u32>>,
    pub(super) nonblocking: Option<Located<bool>>,
    pub(super) mode: Option<Located<u32>>,
    pub(super) user: Option<Located<String>>,
    pub(super) group: Option<Located<String>>,
}

pub(super) const LISTEN: &[Key<Listen>] = &[
    key(
        "address",
        "address",
        "required",
        "`\"0.0.0.0:8080\"`, `\"[::1]:80\"` or `\"unix:/run/shop.sock\"`",
        |cx, into, v| {
            let text = cx.text(v, "an address such as \"127.0.0.1:8080\" or \"unix:/run/shop.sock\"");
            into.address = Some(text.unwrap_or_else(|| Located::new(String::new(), v.span())));
        },
    ),
    key(
        "backlog",
        "number",
        "`4096`",
        "connections that wait to be accepted (the kernel caps it at net.core.somaxconn)",
        |cx, into, v| {
            into.backlog = cx.amount(v, 1, 1_000_000);
        },
    ),
    key(
        "nonblocking",
        "true or false",
        "`false`",
        "accept(2) never waits: for programs that expect it of an inherited socket and do not see to it, such as nginx",
        |cx, into, v| {
            into.nonblocking = cx.flag(v);
        },
    ),
    key(
        "mode",
        "octal",
        "`\"0666\"`",
        "permissions of a unix socket, whatever the umask; `\"0660\"` with `group` closes it",
        |cx, into, v| into.mode = cx.octal(v),
    ),
    key("user", "user", "the master's", "owner of a unix socket", |cx, into, v| {
        into.user = cx.text(v, "the name of a user");
    }),
    key("group", "group", "the master's", "group of a unix socket", |cx, into, v| {
        into.group = cx.text(v, "the name of a group");
    }),
];
