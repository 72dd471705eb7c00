//! The top of the file, [master], [control], [signals] and [listen] as parsed, before names and defaults are
//! resolved.

use super::hooks::Hook;
use super::kinds::{
    Amount, Called, Choice, Duration, Flag, LogSize, Octal, Own, Path, ReadElsewhere, Table,
    Tables, Text,
};
use super::pool::Pool;
use super::reader::{Located, Parser, Value};
use super::section::{Keys, Setting, Written, section, sections};
use super::{shapes, tables, value_shapes, values};
use crate::plan::{LogFormat, LogLevel, SignalAction};
use rotad_core::Span;
use std::path::PathBuf;

section! {
    /// Everything that the files say but their pools, each value with its span.
    pub(super) struct Config = "" {
        /// Read before all others, since it adds more of them.
        include: (), ReadElsewhere("list of patterns", value_shapes::texts, Vec::new),
            "pools and listeners from more files";
        master: Master, Table::<Master>::of(), default "",
            "the master itself";
        control: Control, Table::<Control>::of(), default "",
            "who may use the control socket";
        signals: Signals, Table::<Signals>::of(), default "",
            "what signals to the master do";
        /// Read by `defaults`, before the pools that take them.
        defaults: (), ReadElsewhere("table", Pool::defaults_shape, Vec::new), default "",
            "keys of a pool, for every pool that does not have them";
        listen: Vec<(Located<String>, Listen)>, Tables::<Listen>::of(), default "",
            "one listening socket each, shared by its pools";
        /// Read by `pools`, once the defaults are known.
        pool: (), ReadElsewhere("tables", Pool::named_shape, sections::<Pool>), default "",
            "one pool of like workers each";
        hooks: Vec<(Located<String>, Hook)>, Tables::<Hook>::of(), default "",
            "one command each that is run for events";
    }
}

/// Keys that an included file may contain.
const INCLUDED: [&str; 2] = ["listen", "pool"];

impl Config {
    /// All of an included file but its pools.
    pub(super) fn read_included(&mut self, parser: &mut Parser, root: &Value<'_>) {
        for (name, value) in parser.entries(root) {
            match name.value.as_str() {
                "listen" => tables::read_named(parser, value, &mut self.listen),
                "pool" => {}
                word if Self::names().contains(&word) => {
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

const FORMATS: Choice<LogFormat> = Choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);

const LEVELS: Called<Choice<LogLevel>> = Called(
    "`\"error\"` … `\"trace\"`",
    Choice(&[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ]),
);

section! {
    pub(super) struct Master = "[master]" {
        name: Written<String>, Own("name", shapes::name, values::name), default "the file's stem, or its directory's name",
            "the master's name: in its log, its runtime directory, its log file";
        daemonize: Setting<bool> = true, Flag,
            "whether `start` goes to the background; `false`: as `run`";
        pid_file: Written<PathBuf>, Path, default "`RUNTIME_DIR/master.pid`",
            "locked, never written through a link, removed at exit";
        runtime_dir: Written<PathBuf>, Path, default "`/run/rotad/NAME`; not root: `$XDG_STATE_HOME/rotad/NAME`",
            "the directory of the control socket and the pid file";
        working_directory: Setting<PathBuf> = PathBuf::from("/"), Path,
            "where the daemonized master stands";
        umask: Setting<u32> = 0o022, Octal,
            "of the master; workers inherit it unless their pool has one";
        log_file: Written<PathBuf>, Path,
            default "stderr; of `start` `/var/log/rotad/NAME.log`, not root: `$XDG_STATE_HOME/rotad/NAME.log`",
            "the master's own log";
        log_format: Setting<LogFormat> = LogFormat::Text, FORMATS,
            "the shape of a line of the master's log";
        log_level: Setting<LogLevel> = LogLevel::Info, LEVELS,
            "`\"error\"`, `\"warn\"`, `\"info\"`, `\"debug\"` or `\"trace\"`";
        log_max_size: Setting<Option<u64>> = Some(values::LOG_MAX_SIZE), LogSize,
            "a log file of this size is rotated; `\"none\"`: something else rotates it";
        log_keep: Setting<u32> = values::LOG_KEEP, Amount(0, 10_000),
            "rotated log files that are kept";
        stop_timeout: Written<Span>, Duration,
            "caps the stop of everything";
        watch_config: Setting<bool> = false, Flag,
            "apply the configuration when its files' content changes";
        watch_program: Setting<bool> = false, Flag,
            "`rotad upgrade` when the content of the program by which the master was started changes";
        guardian: Setting<bool> = true, Flag,
            "whether a small process above the master keeps its sockets and its state, and restarts it if it dies";
        watchdog: Written<Span>, Duration,
            "the guardian kills and restarts a master whose loop has not turned for this long; workers serve on";
    }
}

section! {
    pub(super) struct Control = "[control]" {
        mode: Written<u32>, Octal, default "`\"0600\"`, with `group` `\"0660\"`",
            "permissions of the control socket";
        group: Written<String>, Text("group", "the name of a group"), default "the master's",
            "the group of the control socket";
    }
}

const ACTIONS: Called<Choice<SignalAction>> = Called(
    "action",
    Choice(&[
        ("roll-workers", SignalAction::RollWorkers),
        ("roll-tasks", SignalAction::RollTasks),
        ("roll-all", SignalAction::RollAll),
        ("apply-config", SignalAction::ApplyConfig),
        ("reload", SignalAction::Reload),
        ("reopen-logs", SignalAction::ReopenLogs),
        ("ignore", SignalAction::Ignore),
    ]),
);

section! {
    pub(super) struct Signals = "[signals]" {
        hup as "HUP": Setting<SignalAction> = SignalAction::ApplyConfig, ACTIONS,
            "SIGHUP";
        usr1 as "USR1": Setting<SignalAction> = SignalAction::RollWorkers, ACTIONS,
            "SIGUSR1";
        usr2 as "USR2": Setting<SignalAction> = SignalAction::RollTasks, ACTIONS,
            "SIGUSR2";
        winch as "WINCH": Setting<SignalAction> = SignalAction::ReopenLogs, ACTIONS,
            "SIGWINCH, not when the master has a terminal";
    }
}

/// The backlog of a listener that does not say another.
pub const BACKLOG: u32 = 4096;

section! {
    pub(super) struct Listen = "[listen.NAME]" {
        /// Empty: there was one, but it was not a string.
        address: Written<String>, Own("address", shapes::some_text, values::address), default "required",
            "`\"0.0.0.0:8080\"`, `\"[::1]:80\"` or `\"unix:/run/shop.sock\"`";
        backlog: Setting<u32> = BACKLOG, Amount(1, 1_000_000),
            "connections that wait to be accepted (the kernel caps it at net.core.somaxconn)";
        nonblocking: Setting<bool> = false, Flag,
            "accept(2) never waits: for programs that expect it of an inherited socket and do not see to it, such as nginx";
        mode: Written<u32>, Octal, default "`\"0666\"`",
            "permissions of a unix socket, whatever the umask; `\"0660\"` with `group` closes it";
        user: Written<String>, Text("user", "the name of a user"), default "the master's",
            "owner of a unix socket";
        group: Written<String>, Text("group", "the name of a group"), default "the master's",
            "group of a unix socket";
    }
}
