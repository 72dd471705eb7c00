//! [pool.NAME]: what is read, before it means anything.

use super::pool_tables::{HEALTH, HealthText, LOG, Log, RECYCLE, RELOAD, RESTART, Recycle, Reload, Restart};
use super::probe::{self, ReadyText};
use super::reader::{Located, Parser};
use super::schema::{Key, key};
use super::{ports, values};
use crate::plan::{Kind, Limit, Ports};
use rotad_core::{Essential, Span, StopStep};
use std::path::PathBuf;

#[derive(Default)]
pub(super) struct Pool {
    pub(super) kind: Option<Located<Kind>>,
    /// No words: there was a command, but it is refused already.
    pub(super) command: Option<Located<Vec<Located<String>>>>,
    pub(super) count: Option<Located<u32>>,
    /// No words: refused already.
    pub(super) listen: Option<Located<Vec<Located<String>>>>,
    /// The listener that descriptor 0 is to be; none: /dev/null.
    pub(super) stdin: Option<Located<String>>,
    pub(super) after: Vec<Located<String>>,
    pub(super) env: Vec<(Located<String>, Located<String>)>,
    pub(super) env_file: Option<Located<PathBuf>>,
    pub(super) clear_env: Option<Located<bool>>,
    pub(super) pass_env: Option<Located<Vec<Located<String>>>>,
    pub(super) working_directory: Option<Located<PathBuf>>,
    pub(super) user: Option<Located<String>>,
    pub(super) group: Option<Located<String>>,
    pub(super) umask: Option<Located<u32>>,
    pub(super) nice: Option<Located<i32>>,
    /// None inside: refused already.
    pub(super) ports: Option<Located<Option<Ports>>>,
    pub(super) ready: Option<Located<ReadyText>>,
    pub(super) ready_timeout: Option<Located<Span>>,
    pub(super) stop: Option<Vec<StopStep>>,
    pub(super) max_starting: Option<Located<u32>>,
    pub(super) essential: Option<Located<Essential>>,
    pub(super) reload: Reload,
    pub(super) restart: Restart,
    pub(super) recycle: Recycle,
    pub(super) health: Option<Located<HealthText>>,
    pub(super) log: Log,
    pub(super) limits: Vec<Limit>,
}

pub(super) const POOL: &[Key<Pool>] = &[
    key(
        "kind",
        "`\"worker\"`, `\"task\"`, `\"oneshot\"`",
        "`\"worker\"`",
        "which signal rolls it, and how long its stop waits; a oneshot runs to its end",
        |cx, into, v| {
            into.kind = values::kind(cx, v);
        },
    ),
    key(
        "command",
        "list, or one string",
        "required",
        "the program and its arguments; a string is split as a shell would, without a shell",
        |cx, into, v| {
            into.command = Some(values::command(cx, v));
        },
    ),
    key(
        "count",
        "number, or `\"cpus\"`",
        "`1`",
        "workers; `\"cpus\"`: as many as the master may use (affinity, cpu.max)",
        |cx, into, v| {
            into.count = values::count(cx, v);
        },
    ),
    key(
        "listen",
        "list, or one string",
        "none",
        "names of `[listen]`, or addresses: fd 3, 4, … of each worker",
        |cx, into, v| {
            into.listen = Some(values::listen(cx, v));
        },
    ),
    key(
        "stdin",
        "`\"null\"`, `\"listen:NAME\"`",
        "`\"null\"`",
        "descriptor 0: nothing to read, or a listener, for programs that expect theirs there (inetd's `wait`, Java)",
        |cx, into, v| {
            into.stdin = values::stdin(cx, v);
        },
    ),
    key(
        "after",
        "list, or one string",
        "none",
        "pools that have to be ready, oneshots that have to end with 0, first",
        |cx, into, v| {
            into.after = cx.texts(v, "names of pools").map_or_else(Vec::new, |at| at.value);
        },
    ),
    key("env", "table", "none", "variables; they win over `env_file`", |cx, into, v| into.env = values::env(cx, v)),
    key("env_file", "path", "none", "lines of `KEY=VALUE`, `#` comments, quotes", |cx, into, v| {
        into.env_file = cx.path(v);
    }),
    key(
        "clear_env",
        "true or false",
        "true with `user`",
        "start with PATH, LANG, TZ, HOME, USER, LOGNAME, SHELL alone",
        |cx, into, v| {
            into.clear_env = cx.flag(v);
        },
    ),
    key(
        "pass_env",
        "list",
        "none",
        "with `clear_env`: variables of the master that are kept; `*` at the end matches",
        |cx, into, v| {
            into.pass_env = values::pass_env(cx, v);
        },
    ),
    key("working_directory", "path", "`\".\"`", "resolved anew by each roll", |cx, into, v| {
        into.working_directory = cx.path(v);
    }),
    key("user", "user", "the master's", "with its supplementary groups, HOME, USER, LOGNAME, SHELL", |cx, into, v| {
        into.user = cx.text(v, "the name of a user");
    }),
    key("group", "group", "the user's", "only with `user`", |cx, into, v| {
        into.group = cx.text(v, "the name of a group")
    }),
    key("umask", "octal", "the master's", "of the workers", |cx, into, v| into.umask = cx.octal(v)),
    key("nice", "-20 to 19", "the master's", "of the workers; below the master's own needs root", |cx, into, v| {
        into.nice = cx.number(v, -20..=19).and_then(|at| Some(Located::new(i32::try_from(at.value).ok()?, at.span)));
    }),
    key(
        "ports",
        "range such as `\"3000-3004\"`",
        "none",
        "`{port}` is a free one of these for each worker",
        |cx, into, v| {
            into.ports = Some(ports::read(cx, v));
        },
    ),
    key("ready", "see below", "`\"auto\"`", "what makes a worker ready", |cx, into, v| {
        into.ready = probe::ready(cx, v)
    }),
    key(
        "ready_timeout",
        "duration",
        "`\"60s\"`, oneshots none",
        "not ready (a oneshot: not at its end) by then: killed, a death before ready",
        |cx, into, v| {
            into.ready_timeout = cx.duration(v);
        },
    ),
    key(
        "stop",
        "duration, or steps",
        "`\"30s\"`, task pools `\"300s\"`",
        "SIGTERM and this patience, then SIGKILL; steps: `{ signal, wait, to }`",
        |cx, into, v| {
            into.stop = values::stop(cx, v);
        },
    ),
    key(
        "max_starting",
        "number",
        "adapts",
        "workers that may be starting at a time; by default as many as the machine can boot at a time (below)",
        |cx, into, v| {
            into.max_starting = cx.amount(v, 1, values::MOST);
        },
    ),
    key(
        "essential",
        "duration, `\"exit\"`",
        "none",
        "no worker ready for that long: the master stops with 69; `\"exit\"`: when its workers have ended, with their code",
        |cx, into, v| {
            into.essential = match v.get_ref().as_str() {
                Some("exit") => Some(Located::new(Essential::Exit, v.span())),
                _ => cx.duration(v).map(|at| Located::new(Essential::Ready(at.value), at.span)),
            };
        },
    ),
    key("reload", "table", "", "rolling restart", |cx, into, v| cx.table(v, RELOAD, &mut into.reload)),
    key("restart", "table", "", "after a death that nobody asked for", |cx, into, v| {
        cx.table(v, RESTART, &mut into.restart);
    }),
    key("recycle", "table", "", "workers that are replaced gracefully, one at a time", |cx, into, v| {
        cx.table(v, RECYCLE, &mut into.recycle);
    }),
    key("health", "table", "none", "whether a ready worker lives", |cx, into, v| {
        let mut health = HealthText::default();
        cx.table(v, HEALTH, &mut health);
        into.health = Some(Located::new(health, v.span()));
    }),
    key("log", "table", "", "what workers print", |cx, into, v| cx.table(v, LOG, &mut into.log)),
    key("limits", "table", "none", "names of setrlimit(2) in lower case, such as `nofile`", |cx, into, v| {
        into.limits = values::limits(cx, v);
    }),
];

impl Pool {
    /// It has a listening socket, or a finding about one.
    pub(super) fn listens(&self) -> bool {
        self.listen.is_some() || self.stdin.is_some()
    }
}

/// The name of a section, for messages about what is missing in it.
pub(super) fn missing(cx: &mut Parser, kind: &str, name: &Located<String>, what: &str, hint: &str) {
    cx.error_with(&name.span, format!("{kind} `{}` has no `{what}`", super::report::shown(&name.value)), hint);
}
