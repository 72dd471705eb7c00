//! The tables of a pool as parsed, before names and defaults are resolved.

use super::probe::{self, CheckText};
use super::reader::{Located, Value};
use super::schema::{Key, key};
use super::values;
use crate::plan::{RollOn, Sink};
use rotad_core::{OnFailure, RestartPolicy, Span};
use std::ops::Range;

/// Successors above `count`.
#[derive(Clone, Copy)]
pub(super) enum Surge {
    Number(u32),
    /// Percentage of `count`, rounded up.
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
    pub(super) surge: Option<Located<Surge>>,
    pub(super) max_draining: Option<Located<u32>>,
    pub(super) soak: Option<Located<Span>>,
    pub(super) on_failure: Option<Located<OnFailure>>,
    pub(super) watch: Option<Located<Vec<Located<String>>>>,
    pub(super) on: Option<Located<RollOn>>,
    pub(super) debounce: Option<Located<Span>>,
}

const ON_FAILURE: &[(&str, OnFailure)] = &[
    ("rollback", OnFailure::Rollback),
    ("abort", OnFailure::Abort),
];

const ON: &[(&str, RollOn)] = &[("always", RollOn::Always), ("change", RollOn::Change)];

pub(super) const RELOAD: &[Key<Reload>] = &[
    key(
        "surge",
        "number, or percent of count",
        "`\"25%\"`",
        "successors above count, rounded up; 0: stop one, wait until it is gone, start one",
        |parser, into, v| {
            into.surge = values::surge(parser, v);
        },
    ),
    key(
        "max_draining",
        "number",
        "count",
        "old workers that have got their stop and still finish; at least 1",
        |parser, into, v| {
            into.max_draining = parser.amount(v, 1, values::MOST);
        },
    ),
    key(
        "soak",
        "duration",
        "`\"1s\"`; by age alone `stable_after`",
        "how long the first new worker must serve before more are touched; where only their age says that workers are \
         ready, each new one has to live so long before the roll is done",
        |parser, into, v| {
            into.soak = parser.duration(v);
        },
    ),
    key(
        "on_failure",
        "`\"rollback\"`, `\"abort\"`",
        "`\"rollback\"`",
        "slots already done go back, or stay",
        |parser, into, v| {
            into.on_failure = parser.choice(v, ON_FAILURE);
        },
    ),
    key(
        "watch",
        "list of patterns",
        "none",
        "a changed content of these files rolls the pool",
        |parser, into, v| {
            into.watch = parser.texts(v, "patterns of files such as [\"src/**/*.py\"]");
        },
    ),
    key(
        "on",
        "`\"always\"`, `\"change\"`",
        "`\"always\"`",
        "`\"change\"`: what is asked of all pools rolls this one only when what it is made from has changed",
        |parser, into, v| {
            into.on = parser.choice(v, ON);
        },
    ),
    key(
        "debounce",
        "duration",
        "`\"500ms\"`",
        "how long no watched file must have changed before it rolls",
        |parser, into, v| {
            into.debounce = parser.duration(v);
        },
    ),
];

#[derive(Default)]
pub(super) struct Restart {
    pub(super) policy: Option<Located<RestartPolicy>>,
    pub(super) delay: Option<Located<Span>>,
    pub(super) max_delay: Option<Located<Span>>,
    pub(super) stable_after: Option<Located<Span>>,
    pub(super) success_exit_codes: Option<Located<Vec<i32>>>,
    pub(super) never_on: Option<Located<Vec<i32>>>,
}

const POLICIES: &[(&str, RestartPolicy)] = &[
    ("always", RestartPolicy::Always),
    ("on-failure", RestartPolicy::OnFailure),
    ("never", RestartPolicy::Never),
];

pub(super) const RESTART: &[Key<Restart>] = &[
    key(
        "policy",
        "`\"always\"`, `\"on-failure\"`, `\"never\"`",
        "`\"always\"`",
        "which deaths are repaired",
        |parser, into, v| {
            into.policy = parser.choice(v, POLICIES);
        },
    ),
    key(
        "delay",
        "duration",
        "`\"100ms\"`",
        "a slot's first death, when its worker had been ready: at once; then this, doubled each time (±10 %)",
        |parser, into, v| {
            into.delay = parser.duration(v);
        },
    ),
    key(
        "max_delay",
        "duration",
        "`\"30s\"`",
        "the longest delay",
        |parser, into, v| into.max_delay = parser.duration(v),
    ),
    key(
        "stable_after",
        "duration",
        "`\"10s\"`",
        "a worker of the slot ready for this long: the count starts again",
        |parser, into, v| {
            into.stable_after = parser.duration(v);
        },
    ),
    key(
        "success_exit_codes",
        "list of exit codes",
        "`[0]`",
        "ends of a worker that was ready: started again, at most once per `delay`, never counted; before it was ready the delay grows",
        |parser, into, v| {
            into.success_exit_codes = values::exit_codes(parser, v);
        },
    ),
    key(
        "never_on",
        "list of exit codes",
        "none",
        "after these the slot is not started again until the next roll or start",
        |parser, into, v| {
            into.never_on = values::exit_codes(parser, v);
        },
    ),
];

#[derive(Default)]
pub(super) struct Recycle {
    pub(super) max_age: Option<Located<Span>>,
    pub(super) max_rss: Option<Located<u64>>,
}

pub(super) const RECYCLE: &[Key<Recycle>] = &[
    key(
        "max_age",
        "duration",
        "none",
        "replaced at this age (±10 %)",
        |parser, into, v| into.max_age = parser.duration(v),
    ),
    key(
        "max_rss",
        "size",
        "none",
        "replaced when its processes hold more memory than this",
        |parser, into, v| {
            into.max_rss = parser.size(v);
        },
    ),
];

/// [pool.NAME.health] as written.
#[derive(Default)]
pub(super) struct HealthText {
    pub(super) watchdog: Option<Located<Span>>,
    /// With the span of the key.
    pub(super) check: Vec<(Range<usize>, CheckText)>,
    pub(super) every: Option<Located<Span>>,
    pub(super) timeout: Option<Located<Span>>,
    pub(super) failures: Option<Located<u32>>,
    /// A kind of check was named, but it has a finding.
    pub(super) refused: bool,
}

impl HealthText {
    fn ask(&mut self, value: &Value<'_>, check: Option<CheckText>) {
        self.refused |= check.is_none();
        self.check.extend(check.map(|check| (value.span(), check)));
    }
}

pub(super) const HEALTH: &[Key<HealthText>] = &[
    key(
        "watchdog",
        "duration",
        "none",
        "`WATCHDOG=1` must come this often",
        |parser, into, v| {
            into.watchdog = parser.duration(v);
            into.refused |= into.watchdog.is_none();
        },
    ),
    key(
        "connect",
        "`HOST:PORT`",
        "none",
        "takes a connection",
        |parser, into, v| {
            let check = probe::connect(parser, v);
            into.ask(v, check);
        },
    ),
    key(
        "http",
        "`HOST:PORT/PATH`",
        "none",
        "answers with a status of 2xx or 3xx",
        |parser, into, v| {
            let check = probe::http(parser, v);
            into.ask(v, check);
        },
    ),
    key(
        "command",
        "list, or one string",
        "none",
        "ends with 0",
        |parser, into, v| {
            let check = probe::command(parser, v);
            into.ask(v, check);
        },
    ),
    key(
        "every",
        "duration",
        "`\"10s\"`",
        "how often the worker is asked",
        |parser, into, v| into.every = parser.duration(v),
    ),
    key(
        "timeout",
        "duration",
        "`\"5s\"`",
        "no answer by then is a failure; `every` at most",
        |parser, into, v| {
            into.timeout = parser.duration(v);
        },
    ),
    key(
        "failures",
        "number",
        "`3`",
        "so many in a row: the worker is replaced",
        |parser, into, v| {
            into.failures = parser.amount(v, 1, 1000);
        },
    ),
];

#[derive(Default)]
pub(super) struct Log {
    pub(super) stdout: Option<Located<Sink>>,
    pub(super) stderr: Option<Located<Sink>>,
    pub(super) max_size: Option<Located<u64>>,
    pub(super) keep: Option<Located<u32>>,
    pub(super) mode: Option<Located<u32>>,
    pub(super) user: Option<Located<String>>,
    pub(super) group: Option<Located<String>>,
}

pub(super) const LOG: &[Key<Log>] = &[
    key(
        "stdout",
        "path, `\"master\"`, `\"inherit\"`, `\"null\"`",
        "`\"master\"`",
        "to a file, the master's log, its own stdout, or nowhere",
        |parser, into, v| {
            into.stdout = values::sink(parser, v, false);
        },
    ),
    key(
        "stderr",
        "the same, or `\"stdout\"`",
        "`\"stdout\"`",
        "`\"stdout\"`: wherever stdout goes",
        |parser, into, v| {
            into.stderr = values::sink(parser, v, true);
        },
    ),
    key(
        "max_size",
        "size",
        "`\"50MiB\"`",
        "a file of this size is rotated",
        |parser, into, v| into.max_size = parser.size(v),
    ),
    key(
        "keep",
        "number",
        "`10`",
        "rotated files that are kept",
        |parser, into, v| into.keep = parser.amount(v, 0, 10_000),
    ),
    key(
        "mode",
        "octal",
        "`\"0640\"`",
        "permissions of its files; a rotated one's go over to the next",
        |parser, into, v| {
            into.mode = parser.octal(v);
        },
    ),
    key(
        "user",
        "string",
        "the master's",
        "owner of its files; a rotated one's goes over to the next",
        |parser, into, v| {
            into.user = parser.text(v, "a user");
        },
    ),
    key(
        "group",
        "string",
        "the master's",
        "group of its files; a rotated one's goes over to the next",
        |parser, into, v| {
            into.group = parser.text(v, "a group");
        },
    ),
];
