//! [pool.NAME]: what is read, before it means anything.

use super::reader::{At, Reader};
use super::schema::{Key, key, later};
use super::values;
use crate::plan::{Kind, Limit, Ready, Sink};
use rotad_core::{OnFailure, RestartPolicy, Span, Step};
use std::path::PathBuf;

#[derive(Default)]
pub(super) struct Pool {
    pub(super) kind: Option<At<Kind>>,
    /// No words: there was a command, but it is refused already.
    pub(super) command: Option<At<Vec<At<String>>>>,
    pub(super) count: Option<At<u32>>,
    /// No words: refused already.
    pub(super) listen: Option<At<Vec<At<String>>>>,
    pub(super) env: Vec<(At<String>, At<String>)>,
    pub(super) env_file: Option<At<PathBuf>>,
    pub(super) clear_env: Option<At<bool>>,
    pub(super) pass_env: Option<At<Vec<At<String>>>>,
    pub(super) working_directory: Option<At<PathBuf>>,
    pub(super) user: Option<At<String>>,
    pub(super) group: Option<At<String>>,
    pub(super) umask: Option<At<u32>>,
    pub(super) nice: Option<At<i32>>,
    pub(super) ready: Option<At<Ready>>,
    pub(super) ready_timeout: Option<At<Span>>,
    pub(super) stop: Option<Vec<Step>>,
    pub(super) reload: Reload,
    pub(super) restart: Restart,
    pub(super) log: Log,
    pub(super) limits: Vec<Limit>,
}

pub(super) const POOL: &[Key<Pool>] = &[
    key(
        "kind",
        "`\"worker\"`, `\"task\"`",
        "`\"worker\"`",
        "which signal rolls it, and how long its stop waits",
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
    later("after", "pools that have to be ready first"),
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
        into.nice = cx.number(v, -20..=19).and_then(|at| Some(At::new(i32::try_from(at.value).ok()?, at.span)));
    }),
    later("ports", "a port of its own for each worker"),
    key("ready", "see below", "`\"auto\"`", "what makes a worker ready", |cx, into, v| {
        into.ready = values::ready(cx, v)
    }),
    key("ready_timeout", "duration", "`\"60s\"`", "not ready by then: killed, a death before ready", |cx, into, v| {
        into.ready_timeout = cx.duration(v);
    }),
    key(
        "stop",
        "duration, or steps",
        "`\"30s\"`, task pools `\"300s\"`",
        "SIGTERM and this patience, then SIGKILL",
        |cx, into, v| {
            into.stop = values::stop(cx, v);
        },
    ),
    later("essential", "the master stops with 69 when no worker has been ready for that long"),
    key("reload", "table", "", "rolling restart", |cx, into, v| cx.table(v, RELOAD, &mut into.reload)),
    key("restart", "table", "", "after a death that nobody asked for", |cx, into, v| {
        cx.table(v, RESTART, &mut into.restart);
    }),
    later("recycle", "replace workers by age or memory"),
    later("health", "liveness checks"),
    key("log", "table", "", "what workers print", |cx, into, v| cx.table(v, LOG, &mut into.log)),
    key("limits", "table", "none", "names of setrlimit(2) in lower case, such as `nofile`", |cx, into, v| {
        into.limits = values::limits(cx, v);
    }),
];

/// Successors above count.
#[derive(Clone, Copy)]
pub(super) enum Surge {
    Number(u32),
    /// Of count, rounded up.
    Percent(u32),
}

impl Surge {
    pub(super) fn of(self, count: u32) -> u32 {
        match self {
            Self::Number(number) => number,
            Self::Percent(percent) => {
                let surge = (u64::from(count) * u64::from(percent)).div_ceil(100);
                u32::try_from(surge).unwrap_or(count)
            }
        }
    }
}

#[derive(Default)]
pub(super) struct Reload {
    pub(super) surge: Option<At<Surge>>,
    pub(super) max_draining: Option<At<u32>>,
    pub(super) soak: Option<At<Span>>,
    pub(super) on_failure: Option<At<OnFailure>>,
}

const ON_FAILURE: &[(&str, OnFailure)] = &[("rollback", OnFailure::Rollback), ("abort", OnFailure::Abort)];

pub(super) const RELOAD: &[Key<Reload>] = &[
    key(
        "surge",
        "number, or percent of count",
        "`\"25%\"`",
        "successors above count, rounded up; 0: stop one, wait until it is gone, start one",
        |cx, into, v| {
            into.surge = values::surge(cx, v);
        },
    ),
    key(
        "max_draining",
        "number",
        "count",
        "old workers that have got their stop and still finish; at least 1",
        |cx, into, v| {
            into.max_draining = cx.amount(v, 1, values::MOST);
        },
    ),
    key(
        "soak",
        "duration",
        "`\"1s\"`",
        "how long the first new worker must serve before more are touched",
        |cx, into, v| {
            into.soak = cx.duration(v);
        },
    ),
    key(
        "on_failure",
        "`\"rollback\"`, `\"abort\"`",
        "`\"rollback\"`",
        "slots already done go back, or stay",
        |cx, into, v| {
            into.on_failure = cx.choice(v, ON_FAILURE);
        },
    ),
    later("watch", "a changed file rolls the pool"),
    later("debounce", "quiet time before `watch` rolls"),
];

#[derive(Default)]
pub(super) struct Restart {
    pub(super) policy: Option<At<RestartPolicy>>,
    pub(super) delay: Option<At<Span>>,
    pub(super) max_delay: Option<At<Span>>,
    pub(super) stable_after: Option<At<Span>>,
    pub(super) ends: Option<At<Vec<i32>>>,
}

const POLICIES: &[(&str, RestartPolicy)] =
    &[("always", RestartPolicy::Always), ("on-failure", RestartPolicy::OnFailure), ("never", RestartPolicy::Never)];

pub(super) const RESTART: &[Key<Restart>] = &[
    key(
        "policy",
        "`\"always\"`, `\"on-failure\"`, `\"never\"`",
        "`\"always\"`",
        "which deaths are repaired",
        |cx, into, v| {
            into.policy = cx.choice(v, POLICIES);
        },
    ),
    key(
        "delay",
        "duration",
        "`\"100ms\"`",
        "a slot's first death, when its worker had been ready: at once; then this, doubled each time (±10 %)",
        |cx, into, v| {
            into.delay = cx.duration(v);
        },
    ),
    key("max_delay", "duration", "`\"30s\"`", "the longest delay", |cx, into, v| into.max_delay = cx.duration(v)),
    key(
        "stable_after",
        "duration",
        "`\"10s\"`",
        "a worker of the slot ready for this long: the count starts anew",
        |cx, into, v| {
            into.stable_after = cx.duration(v);
        },
    ),
    key(
        "ends",
        "list of exit codes",
        "`[0]`",
        "an end, not a failure: started again, at most once per `delay`, never counted",
        |cx, into, v| {
            into.ends = values::ends(cx, v);
        },
    ),
];

#[derive(Default)]
pub(super) struct Log {
    pub(super) stdout: Option<At<Sink>>,
    pub(super) stderr: Option<At<Sink>>,
}

pub(super) const LOG: &[Key<Log>] = &[
    key(
        "stdout",
        "`\"master\"`, `\"inherit\"`, `\"null\"`",
        "`\"master\"`",
        "to the master's log, its own stdout, or nowhere",
        |cx, into, v| {
            into.stdout = values::sink(cx, v, false);
        },
    ),
    key("stderr", "the same, or `\"stdout\"`", "`\"stdout\"`", "`\"stdout\"`: wherever stdout goes", |cx, into, v| {
        into.stderr = values::sink(cx, v, true);
    }),
    later("max_size", "rotation of a pool's own log file"),
    later("keep", "rotation of a pool's own log file"),
];

/// The name of a section, for messages about what is missing in it.
pub(super) fn missing(cx: &mut Reader, kind: &str, name: &At<String>, what: &str, hint: &str) {
    cx.error_with(&name.span, format!("{kind} `{}` has no `{what}`", super::report::shown(&name.value)), hint);
}
