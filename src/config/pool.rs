//! [pool.NAME] as parsed, before names and defaults are resolved.

use super::kinds::{Duration, Flag, Kept, Names, Octal, OptionalTable, Own, Path, Table, Text};
use super::pool_tables::{HealthText, Log, MetricsText, Recycle, Reload, Restart};
use super::probe::{self, ReadyText};
use super::reader::Located;
use super::section::{Documented, Setting, Written, section};
use super::shapes::{self, Shape};
use super::{limits, ports, stop_steps, value_shapes, values};
use crate::plan::{Kind, Limit, Ports};
use rotad_core::{Essential, Span, StopStep};
use serde_json::{Map, json};
use std::path::PathBuf;

section! {
    pub(super) struct Pool = "[pool.NAME]" {
        kind: Setting<Kind> = Kind::Worker, Own("`\"worker\"`, `\"task\"`, `\"oneshot\"`", value_shapes::kind, values::kind),
            default "`\"worker\"`",
            "which signal rolls it, and how long its stop waits; a oneshot runs to its end";
        /// Empty: there was a command, but it has a finding.
        command: Written<Vec<Located<String>>>, Kept("list, or one string", shapes::command, values::command),
            default "required",
            "the program and its arguments; a string is split as a shell would, without a shell";
        count: Setting<u32> = 1, Own("number, or `\"cpus\"`", value_shapes::count, values::count), default "`1`", not for oneshots,
            "workers; `\"cpus\"`: as many as the master may use (affinity, cpu.max)";
        /// Empty: it has a finding.
        listen: Written<Vec<Located<String>>>, Kept("list, or one string", value_shapes::some_texts, values::listen), not for oneshots,
            "names of `[listen]`, or addresses: fd 3, 4, … of each worker";
        /// The listener that becomes descriptor 0; `None`: /dev/null.
        stdin: Written<String>, Own("`\"null\"`, `\"listen:NAME\"`", value_shapes::stdin, values::stdin),
            default "`\"null\"`", not for oneshots,
            "descriptor 0: nothing to read, or a listener, for programs that expect theirs there (inetd's `wait`, Java)";
        after: Vec<Located<String>>, Own("list, or one string", value_shapes::texts, values::after),
            "pools that have to be ready, oneshots that have to end with 0, first";
        env: Vec<(Located<String>, Located<String>)>, Names(value_shapes::env, values::env),
            "variables; they win over `env_file`";
        env_file: Written<Vec<Located<String>>>, Own("path, or list of paths", value_shapes::some_texts, values::env_files),
            "lines of `KEY=VALUE`, `#` comments, quotes; later files win; `?` in front of a path: it may be missing";
        clear_env: Written<bool>, Flag, default "true with `user`",
            "start with PATH, LANG, TZ, HOME, USER, LOGNAME, SHELL alone";
        pass_env: Written<Vec<Located<String>>>, Own("list", value_shapes::pass_env, values::pass_env),
            "with `clear_env`: variables of the master that are kept; `*` at the end matches";
        working_directory: Written<PathBuf>, Path, default "`\".\"`",
            "resolved again by each roll";
        user: Written<String>, Text("user", "the name of a user"), default "the master's",
            "with its supplementary groups, HOME, USER, LOGNAME, SHELL";
        group: Written<String>, Text("group", "the name of a group"), default "the user's, or the master's",
            "of the workers, with or without `user`";
        umask: Written<u32>, Octal, default "the master's",
            "of the workers";
        nice: Written<i32>, Own("-20 to 19", value_shapes::nice, values::nice), default "the master's",
            "of the workers; below the master's own needs root";
        /// `None` inside: it has a finding.
        ports: Written<Option<Ports>>, Kept("range such as `\"3000-3004\"`", ports::shape, ports::read), not for oneshots,
            "`{port}` is a free one of these for each worker";
        ready: Written<ReadyText>, Own("see below", probe::ready_shape, probe::ready), default "`\"auto\"`", not for oneshots,
            "what makes a worker ready";
        ready_timeout: Written<Span>, Duration, default "`\"60s\"`, oneshots none",
            "not ready (a oneshot: not at its end) by then: killed, a death before ready";
        stop: Option<Vec<StopStep>>, Own("duration, or steps", stop_steps::shape, stop_steps::read),
            default "`\"30s\"`, task pools `\"300s\"`",
            "SIGTERM and this patience, then SIGKILL; steps: `{ signal, wait, to }`";
        max_starting: Written<u32>, values::WORKERS, default "adapts", not for oneshots,
            "workers that may be starting at a time; by default as many as the machine can boot at a time";
        essential: Written<Essential>, Own("duration, `\"exit\"`", value_shapes::essential, values::essential), not for oneshots,
            "no worker ready for that long: the master stops with 69; `\"exit\"`: when its workers have ended, with their code";
        reload: Reload, Table::<Reload>::of(), default "", not for oneshots,
            "rolling restart";
        restart: Restart, Table::<Restart>::of(), default "",
            "after a death that nobody asked for";
        recycle: Recycle, Table::<Recycle>::of(), default "", not for oneshots,
            "workers that are replaced gracefully, one at a time";
        health: Written<HealthText>, OptionalTable::<HealthText>::of(), not for oneshots,
            "whether a ready worker lives";
        metrics: Written<MetricsText>, OptionalTable::<MetricsText>::of(), not for oneshots,
            "the workers' own metrics, which `rotad serve` sums";
        log: Log, Table::<Log>::of(), default "",
            "what workers print";
        limits: Vec<Limit>, Names(limits::shape, limits::read),
            "names of setrlimit(2) in lower case, such as `nofile`";
    }
}

impl Pool {
    /// `[pool.NAME]`: of a oneshot only what means something for one. `command` is required, but may be a default.
    pub(super) fn named_shape() -> Shape {
        let mut pool = Self::shape();
        let others = Self::ENTRIES.iter().filter(|entry| !entry.for_oneshots);
        let mut refused: Map<String, Shape> = others
            .map(|entry| (entry.name.to_owned(), json!(false)))
            .collect();
        refused.insert("count".to_owned(), json!({ "const": 1 }));
        pool["if"] =
            json!({ "required": ["kind"], "properties": { "kind": { "const": "oneshot" } } });
        pool["then"] = json!({ "properties": refused });
        shapes::named(pool)
    }

    /// `[defaults]`: no two pools can have the same ports.
    pub(super) fn defaults_shape() -> Shape {
        let mut defaults = Self::shape();
        if let Some(properties) = defaults["properties"].as_object_mut() {
            properties.remove("ports");
        }
        defaults
    }

    fn shape() -> Shape {
        let mut shape = shapes::table::<Self>();
        if let Some(keys) = shape.as_object_mut() {
            keys.remove("required");
        }
        shape
    }

    /// It has a listening socket, or a finding about one.
    pub(super) fn listens(&self) -> bool {
        self.listen.is_some() || self.stdin.is_some()
    }
}
