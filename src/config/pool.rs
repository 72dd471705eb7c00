//! [pool.NAME] as parsed, before names and defaults are resolved.

use super::pool_tables::{
    HEALTH, HealthText, LOG, Log, RECYCLE, RELOAD, RESTART, Recycle, Reload, Restart,
};
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
    /// Empty: there was a command, but it has a finding.
    pub(super) command: Option<Located<Vec<Located<String>>>>,
    pub(super) count: Option<Located<u32>>,
    /// Empty: it has a finding.
    pub(super) listen: Option<Located<Vec<Located<String>>>>,
    /// The listener that becomes descriptor 0; `None`: /dev/null.
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
    /// `None` inside: it has a finding.
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
        |parser, into, v| {
            into.kind = values::kind(parser, v);
        },
    ),
    key(
        "command",
        "list, or one string",
        "required",
        "the program and its arguments; a string is split as a shell would, without a shell",
        |parser, into, v| {
            into.command = Some(values::command(parser, v));
        },
    ),
    key(
        "count",
        "number, or `\"cpus\"`",
        "`1`",
        "workers; `\"cpus\"`: as many as the master may use (affinity, cpu.max)",
        |parser, into, v| {
            into.count = values::count(parser, v);
        },
    ),
    key(
        "listen",
        "list, or one string",
        "none",
        "names of `[listen]`, or addresses: fd 3, 4, … of each worker",
        |parser, into, v| {
            into.listen = Some(values::listen(parser, v));
        },
    ),
    key(
        "stdin",
        "`\"null\"`, `\"listen:NAME\"`",
        "`\"null\"`",
        "descriptor 0: nothing to read, or a listener, for programs that expect theirs there (inetd's `wait`, Java)",
        |parser, into, v| {
            into.stdin = values::stdin(parser, v);
        },
    ),
    key(
        "after",
        "list, or one string",
        "none",
        "pools that have to be ready, oneshots that have to end with 0, first",
        |parser, into, v| {
            into.after = parser
                .texts(v, "names of pools")
                .map_or_else(Vec::new, |at| at.value);
        },
    ),
    key(
        "env",
        "table",
        "none",
        "variables; they win over `env_file`",
        |parser, into, v| into.env = values::env(parser, v),
    ),
    key(
        "env_file",
        "path",
        "none",
        "lines of `KEY=VALUE`, `#` comments, quotes",
        |parser, into, v| {
            into.env_file = parser.path(v);
        },
    ),
    key(
        "clear_env",
        "true or false",
        "true with `user`",
        "start with PATH, LANG, TZ, HOME, USER, LOGNAME, SHELL alone",
        |parser, into, v| {
            into.clear_env = parser.flag(v);
        },
    ),
    key(
        "pass_env",
        "list",
        "none",
        "with `clear_env`: variables of the master that are kept; `*` at the end matches",
        |parser, into, v| {
            into.pass_env = values::pass_env(parser, v);
        },
    ),
    key(
        "working_directory",
        "path",
        "`\".\"`",
        "resolved again by each roll",
        |parser, into, v| {
            into.working_directory = parser.path(v);
        },
    ),
    key(
        "user",
        "user",
        "the master's",
        "with its supplementary groups, HOME, USER, LOGNAME, SHELL",
        |parser, into, v| {
            into.user = parser.text(v, "the name of a user");
        },
    ),
    key(
        "group",
        "group",
        "the user's",
        "only with `user`",
        |parser, into, v| into.group = parser.text(v, "the name of a group"),
    ),
    key(
        "umask",
        "octal",
        "the master's",
        "of the workers",
        |parser, into, v| into.umask = parser.octal(v),
    ),
    key(
        "nice",
        "-20 to 19",
        "the master's",
        "of the workers; below the master's own needs root",
        |parser, into, v| {
            into.nice = parser
                .number(v, -20..=19)
                .and_then(|at| Some(Located::new(i32::try_from(at.value).ok()?, at.span)));
        },
    ),
    key(
        "ports",
        "range such as `\"3000-3004\"`",
        "none",
        "`{port}` is a free one of these for each worker",
        |parser, into, v| {
            into.ports = Some(ports::read(parser, v));
        },
    ),
    key(
        "ready",
        "see below",
        "`\"auto\"`",
        "what makes a worker ready",
        |parser, into, v| into.ready = probe::ready(parser, v),
    ),
    key(
        "ready_timeout",
        "duration",
        "`\"60s\"`, oneshots none",
        "not ready (a oneshot: not at its end) by then: killed, a death before ready",
        |parser, into, v| {
            into.ready_timeout = parser.duration(v);
        },
    ),
    key(
        "stop",
        "duration, or steps",
        "`\"30s\"`, task pools `\"300s\"`",
        "SIGTERM and this patience, then SIGKILL; steps: `{ signal, wait, to }`",
        |parser, into, v| {
            into.stop = values::stop(parser, v);
        },
    ),
    key(
        "max_starting",
        "number",
        "adapts",
        "workers that may be starting at a time; by default as many as the machine can boot at a time (below)",
        |parser, into, v| {
            into.max_starting = parser.amount(v, 1, values::MOST);
        },
    ),
    key(
        "essential",
        "duration, `\"exit\"`",
        "none",
        "no worker ready for that long: the master stops with 69; `\"exit\"`: when its workers have ended, with their code",
        |parser, into, v| {
            into.essential = match v.get_ref().as_str() {
                Some("exit") => Some(Located::new(Essential::Exit, v.span())),
                _ => parser
                    .duration(v)
                    .map(|at| Located::new(Essential::Ready(at.value), at.span)),
            };
        },
    ),
    key(
        "reload",
        "table",
        "",
        "rolling restart",
        |parser, into, v| parser.table(v, RELOAD, &mut into.reload),
    ),
    key(
        "restart",
        "table",
        "",
        "after a death that nobody asked for",
        |parser, into, v| {
            parser.table(v, RESTART, &mut into.restart);
        },
    ),
    key(
        "recycle",
        "table",
        "",
        "workers that are replaced gracefully, one at a time",
        |parser, into, v| {
            parser.table(v, RECYCLE, &mut into.recycle);
        },
    ),
    key(
        "health",
        "table",
        "none",
        "whether a ready worker lives",
        |parser, into, v| {
            let mut health = HealthText::default();
            parser.table(v, HEALTH, &mut health);
            into.health = Some(Located::new(health, v.span()));
        },
    ),
    key(
        "log",
        "table",
        "",
        "what workers print",
        |parser, into, v| parser.table(v, LOG, &mut into.log),
    ),
    key(
        "limits",
        "table",
        "none",
        "names of setrlimit(2) in lower case, such as `nofile`",
        |parser, into, v| {
            into.limits = values::limits(parser, v);
        },
    ),
];

impl Pool {
    /// It has a listening socket, or a finding about one.
    pub(super) fn listens(&self) -> bool {
        self.listen.is_some() || self.stdin.is_some()
    }
}

/// The name of a section, for messages about missing keys.
pub(super) fn missing(
    parser: &mut Parser,
    kind: &str,
    name: &Located<String>,
    what: &str,
    hint: &str,
) {
    parser.error_with(
        &name.span,
        format!(
            "{kind} `{}` has no `{what}`",
            super::report::shown(&name.value)
        ),
        hint,
    );
}
