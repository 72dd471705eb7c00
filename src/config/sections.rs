//! The top of the file, [master], [control], [signals] and [listen] as parsed, before names and defaults are
//! resolved.

use super::pool::Pool;
use super::reader::{Located, Parser, Value};
use super::report::shown;
use super::schema::{Key, key};
use crate::plan::{LogFormat, LogLevel, SignalAction};
use rotad_core::Span;
use std::path::PathBuf;

/// Everything that the files say, each value with its span.
#[derive(Default)]
pub(super) struct Config {
    pub(super) master: Master,
    pub(super) control: Control,
    pub(super) signals: Signals,
    pub(super) listen: Vec<(Located<String>, Listen)>,
    pub(super) pools: Vec<(Located<String>, Pool)>,
}

pub(super) const TOP: &[Key<Config>] = &[
    // Read before all others, since it adds more of them.
    key(
        "include",
        "list of patterns",
        "none",
        "pools and listeners from more files",
        |_, _, _| {},
    ),
    key(
        "master",
        "table",
        "",
        "the master itself",
        |parser, into, v| parser.table(v, MASTER, &mut into.master),
    ),
    key(
        "control",
        "table",
        "",
        "who may use the control socket",
        |parser, into, v| {
            parser.table(v, CONTROL, &mut into.control);
        },
    ),
    key(
        "signals",
        "table",
        "",
        "what signals to the master do",
        |parser, into, v| {
            parser.table(v, SIGNALS, &mut into.signals);
        },
    ),
    // Read by `defaults`, before the pools that take them.
    key(
        "defaults",
        "table",
        "",
        "keys of a pool, for every pool that does not have them",
        |_, _, _| {},
    ),
    key(
        "listen",
        "tables",
        "",
        "one listening socket each, shared by its pools",
        |parser, into, v| {
            named(parser, v, LISTEN, &mut into.listen);
        },
    ),
    // Read by `pools`, once the defaults are known.
    key(
        "pool",
        "tables",
        "",
        "one pool of like workers each",
        |_, _, _| {},
    ),
];

/// Maximum number of pools, and of listeners.
const MOST: usize = 1000;

/// Keys that an included file may contain.
const INCLUDED: [&str; 2] = ["listen", "pool"];

impl Config {
    /// All of the main file but its pools.
    pub(super) fn read_main(&mut self, parser: &mut Parser, root: &Value<'_>) {
        parser.table(root, TOP, self);
    }

    /// All of an included file but its pools.
    pub(super) fn read_included(&mut self, parser: &mut Parser, root: &Value<'_>) {
        for (name, value) in parser.entries(root) {
            match name.value.as_str() {
                "listen" => named(parser, value, LISTEN, &mut self.listen),
                "pool" => {}
                word if TOP.iter().any(|key| key.name == word) => {
                    let main = parser.main_text().file.display().to_string();
                    let message = format!("`{word}` in an included file");
                    parser.error_with(
                        &name.span,
                        message,
                        format!("pools and listeners alone; move it to {main}"),
                    );
                }
                word => parser.unknown(&name.span, "key", word, &INCLUDED),
            }
        }
    }
}

/// A table of named tables.
fn named<T: Default>(
    parser: &mut Parser,
    value: &Value<'_>,
    keys: &[Key<T>],
    into: &mut Vec<(Located<String>, T)>,
) {
    for (name, entry) in parser.entries(value) {
        if begin(parser, &name, entry, keys, into) {
            let mut section = T::default();
            parser.table(entry, keys, &mut section);
            into.push((name, section));
        }
    }
}

/// Whether `entry` is a named table; reports a finding otherwise.
pub(super) fn begin<T>(
    parser: &mut Parser,
    name: &Located<String>,
    entry: &Value<'_>,
    keys: &[Key<T>],
    so_far: &[(Located<String>, T)],
) -> bool {
    if keys.iter().any(|key| key.name == name.value) && !entry.get_ref().is_table() {
        let hint = "write it below [pool.NAME] or [listen.NAME]";
        parser.error_with(
            &name.span,
            format!("`{}` stands outside of a named table", name.value),
            hint,
        );
        return false;
    }
    parser.name(name);
    if so_far.len() >= MOST {
        parser.error(&name.span, format!("more than {MOST} of these"));
        return false;
    }
    if let Some((other, _)) = so_far.iter().find(|(other, _)| other.value == name.value) {
        let message = format!(
            "`{}` is there already: {}",
            shown(&name.value),
            parser.spot(&other.span)
        );
        parser.error_with(&name.span, message, "give one of them another name");
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
        |parser, into, v| {
            into.name = parser.text(v, "a name").filter(|name| parser.name(name));
        },
    ),
    key(
        "daemonize",
        "true or false",
        "`true`",
        "whether `start` goes to the background; `false`: as `run`",
        |parser, into, v| {
            into.daemonize = parser.flag(v);
        },
    ),
    key(
        "pid_file",
        "path",
        "`RUNTIME_DIR/master.pid`",
        "locked, never written through a link, removed at exit",
        |parser, into, v| {
            into.pid_file = parser.path(v);
        },
    ),
    key(
        "runtime_dir",
        "path",
        "see above",
        "the folder of the control socket and the pid file",
        |parser, into, v| {
            into.runtime_dir = parser.path(v);
        },
    ),
    key(
        "working_directory",
        "path",
        "`\"/\"`",
        "where the daemonized master stands",
        |parser, into, v| {
            into.working_directory = parser.path(v);
        },
    ),
    key(
        "umask",
        "octal",
        "`\"022\"`",
        "of the master; workers inherit it unless their pool has one",
        |parser, into, v| {
            into.umask = parser.octal(v);
        },
    ),
    key(
        "log_file",
        "path",
        "see above",
        "the master's own log",
        |parser, into, v| into.log_file = parser.path(v),
    ),
    key(
        "log_format",
        "`\"text\"`, `\"json\"`",
        "`\"text\"`",
        "the shape of a line of the master's log",
        |parser, into, v| {
            into.log_format = parser.choice(v, FORMATS);
        },
    ),
    key(
        "log_level",
        "`\"error\"` … `\"trace\"`",
        "`\"info\"`",
        "`\"error\"`, `\"warn\"`, `\"info\"`, `\"debug\"` or `\"trace\"`",
        |parser, into, v| {
            into.log_level = parser.choice(v, LEVELS);
        },
    ),
    key(
        "log_max_size",
        "size",
        "`\"50MiB\"`",
        "a log file of this size is rotated",
        |parser, into, v| {
            into.log_max_size = parser.size(v);
        },
    ),
    key(
        "log_keep",
        "number",
        "`10`",
        "rotated log files that are kept",
        |parser, into, v| {
            into.log_keep = parser.amount(v, 0, 10_000);
        },
    ),
    key(
        "stop_timeout",
        "duration",
        "none",
        "caps the stop of everything",
        |parser, into, v| {
            into.stop_timeout = parser.duration(v);
        },
    ),
    key(
        "watch_config",
        "true or false",
        "`false`",
        "apply the configuration when its files' content changes",
        |parser, into, v| {
            into.watch_config = parser.flag(v);
        },
    ),
];

#[derive(Default)]
pub(super) struct Control {
    pub(super) mode: Option<Located<u32>>,
    pub(super) group: Option<Located<String>>,
}

pub(super) const CONTROL: &[Key<Control>] = &[
    key(
        "mode",
        "octal",
        "`\"0600\"`, with `group` `\"0660\"`",
        "permissions of the control socket",
        |parser, into, v| into.mode = parser.octal(v),
    ),
    key(
        "group",
        "group",
        "the master's",
        "the group of the control socket",
        |parser, into, v| {
            into.group = parser.text(v, "the name of a group");
        },
    ),
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
    key(
        "HUP",
        "action",
        "`\"apply-config\"`",
        "SIGHUP",
        |parser, into, v| into.hup = parser.choice(v, ACTIONS),
    ),
    key(
        "USR1",
        "action",
        "`\"roll-workers\"`",
        "SIGUSR1",
        |parser, into, v| into.usr1 = parser.choice(v, ACTIONS),
    ),
    key(
        "USR2",
        "action",
        "`\"roll-tasks\"`",
        "SIGUSR2",
        |parser, into, v| into.usr2 = parser.choice(v, ACTIONS),
    ),
    key(
        "WINCH",
        "action",
        "`\"reopen-logs\"`",
        "SIGWINCH, not when the master has a terminal",
        |parser, into, v| {
            into.winch = parser.choice(v, ACTIONS);
        },
    ),
];

#[derive(Default)]
pub(super) struct Listen {
    /// Empty: there was one, but it was not a string.
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
        |parser, into, v| {
            let text = parser.text(
                v,
                "an address such as \"127.0.0.1:8080\" or \"unix:/run/shop.sock\"",
            );
            into.address = Some(text.unwrap_or_else(|| Located::new(String::new(), v.span())));
        },
    ),
    key(
        "backlog",
        "number",
        "`4096`",
        "connections that wait to be accepted (the kernel caps it at net.core.somaxconn)",
        |parser, into, v| {
            into.backlog = parser.amount(v, 1, 1_000_000);
        },
    ),
    key(
        "nonblocking",
        "true or false",
        "`false`",
        "accept(2) never waits: for programs that expect it of an inherited socket and do not see to it, such as nginx",
        |parser, into, v| {
            into.nonblocking = parser.flag(v);
        },
    ),
    key(
        "mode",
        "octal",
        "`\"0666\"`",
        "permissions of a unix socket, whatever the umask; `\"0660\"` with `group` closes it",
        |parser, into, v| into.mode = parser.octal(v),
    ),
    key(
        "user",
        "user",
        "the master's",
        "owner of a unix socket",
        |parser, into, v| {
            into.user = parser.text(v, "the name of a user");
        },
    ),
    key(
        "group",
        "group",
        "the master's",
        "group of a unix socket",
        |parser, into, v| {
            into.group = parser.text(v, "the name of a group");
        },
    ),
];
