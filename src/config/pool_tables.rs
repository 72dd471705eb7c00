//! The tables of a pool as parsed, before names and defaults are resolved.

use super::kinds::{Amount, Choice, Duration, Flag, LogSize, Octal, Own, Size, Text, Tried, Way};
use super::probe::{self, CheckText};
use super::reader::Located;
use super::section::{Setting, Written, section};
use super::shapes;
use super::value_shapes;
use super::values::{self, SinkText, Surge, WORKERS};
use crate::plan::{Gauges, RollOn, TimeOfDay};
use rotad_core::{OnFailure, RestartPolicy, Span};

const ON_FAILURE: Choice<OnFailure> = Choice(&[
    ("rollback", OnFailure::Rollback),
    ("abort", OnFailure::Abort),
]);

const ON: Choice<RollOn> = Choice(&[("always", RollOn::Always), ("change", RollOn::Change)]);

section! {
    pub(super) struct Reload = "[pool.NAME.reload]" {
        surge: Setting<Surge> = Surge::Percent(25), Own("number, or percent of count", value_shapes::surge, values::surge),
            default "`\"25%\"`",
            "successors above count, rounded up; 0: stop one, wait until it is gone, start one";
        max_draining: Written<u32>, WORKERS, default "count",
            "old workers that have got their stop and still finish; at least 1";
        soak: Written<Span>, Duration, default "`\"1s\"`; by age alone `stable_after`",
            "how long the first new worker must serve before more are touched; where only their age says that workers are \
             ready, each new one has to live so long before the roll is done";
        on_failure: Setting<OnFailure> = OnFailure::Rollback, ON_FAILURE,
            "slots already done go back, or stay";
        watch: Written<Vec<Located<String>>>, Own("list of patterns", value_shapes::some_texts, values::watch),
            "a changed content of these files rolls the pool";
        on: Setting<RollOn> = RollOn::Always, ON,
            "`\"change\"`: what is asked of all pools rolls this one only when what it is made from has changed";
        debounce: Setting<Span> = Span::from_millis(500), Duration,
            "how long no watched file must have changed before it rolls";
    }
}

const POLICIES: Choice<RestartPolicy> = Choice(&[
    ("always", RestartPolicy::Always),
    ("on-failure", RestartPolicy::OnFailure),
    ("never", RestartPolicy::Never),
]);

section! {
    pub(super) struct Restart = "[pool.NAME.restart]" {
        policy: Setting<RestartPolicy> = RestartPolicy::Always, POLICIES,
            "which deaths are repaired";
        delay: Setting<Span> = Span::from_millis(100), Duration,
            "a slot's first death, when its worker had been ready: at once; then this, doubled each time (±10 %)";
        max_delay: Setting<Span> = Span::from_secs(30), Duration,
            "the longest delay";
        stable_after: Setting<Span> = Span::from_secs(10), Duration,
            "a worker of the slot ready for this long: the count starts again";
        success_exit_codes: Setting<Vec<i32>> = vec![0], Own("list of exit codes", value_shapes::exit_codes, values::exit_codes),
            default "`[0]`",
            "ends of a worker that was ready: started again, at most once per `delay`, never counted; before it was ready the delay grows";
        never_on: Written<Vec<i32>>, Own("list of exit codes", value_shapes::exit_codes, values::exit_codes),
            "after these the slot is not started again until the next roll or start";
    }
}

section! {
    pub(super) struct Recycle = "[pool.NAME.recycle]" {
        max_age: Written<Span>, Duration,
            "replaced at this age (±10 %)";
        max_rss: Written<u64>, Size,
            "replaced when its processes hold more memory than this";
        at: Written<TimeOfDay>, Own("local time", value_shapes::time_of_day, values::time_of_day),
            "replaced once a day at this time, such as `\"04:00\"`, one worker after another";
    }
}

section! {
    /// The ways exclude each other.
    pub(super) struct HealthText = "[pool.NAME.health]" {
        watchdog: Tried<Span>, Way("duration", shapes::duration, values::watchdog),
            "`WATCHDOG=1` must come this often";
        connect: Tried<CheckText>, probe::CONNECT,
            "takes a connection";
        http: Tried<CheckText>, probe::HTTP,
            "answers with a status of 2xx or 3xx";
        command: Tried<CheckText>, probe::COMMAND,
            "ends with 0";
        headers: Written<Vec<(Located<String>, Located<String>)>>, Own("table", value_shapes::headers, values::headers),
            "with `http`: header fields of the request, such as `Host`";
        every: Setting<Span> = Span::from_secs(10), Duration,
            "how often the worker is asked";
        timeout: Setting<Span> = Span::from_secs(5), Duration,
            "no answer by then is a failure; `every` at most";
        failures: Setting<u32> = 3, Amount(1, 1000),
            "so many in a row: the worker is replaced";
    }
}

const GAUGES: Choice<Gauges> = Choice(&[("sum", Gauges::Sum), ("slot", Gauges::Slot)]);

section! {
    pub(super) struct MetricsText = "[pool.NAME.metrics]" {
        scrape: Written<String>, Text("address", "the address of a worker's metrics"), default "required",
            "where a worker's metrics are: `\"http://127.0.0.1:{port}/metrics\"`, or `unix:PATH`; `{port}`, `{slot}`, `{generation}`, `{pool}`";
        gauges: Setting<Gauges> = Gauges::Sum, GAUGES,
            "gauges of the workers are summed, or labelled with their slot";
    }
}

section! {
    pub(super) struct Log = "[pool.NAME.log]" {
        stdout: Setting<SinkText> = SinkText::Master, Own("path, `\"master\"`, `\"inherit\"`, `\"null\"`", value_shapes::stdout, values::stdout),
            default "`\"master\"`",
            "to a file (`{pool}` and `{slot}` may stand in its path), the master's log, its own stdout, or nowhere";
        stderr: Setting<SinkText> = SinkText::Stdout, Own("the same, or `\"stdout\"`", value_shapes::stderr, values::stderr),
            default "`\"stdout\"`",
            "`\"stdout\"`: wherever stdout goes";
        max_size: Setting<Option<u64>> = Some(values::LOG_MAX_SIZE), LogSize,
            "a file of this size is rotated; `\"none\"`: something else rotates it";
        keep: Setting<u32> = values::LOG_KEEP, Amount(0, 10_000),
            "rotated files that are kept";
        timestamps: Setting<bool> = false, Flag,
            "a time before each line of its files";
        mode: Written<u32>, Octal, default "`\"0640\"`",
            "permissions of its files; a rotated one's go over to the next";
        user: Written<String>, Text("string", "a user"), default "the master's",
            "owner of its files; a rotated one's goes over to the next";
        group: Written<String>, Text("string", "a group"), default "the master's",
            "group of its files; a rotated one's goes over to the next";
    }
}
