//! The status as a table for people: shapes show the state, colour repeats it on a terminal, and the note gives the
//! reason.

pub(crate) use super::rates::Rates;

use super::layout::{
    self, BLUE, Column, GREEN, GREY, Mark, RED, Row, YELLOW, below, bold, painted,
};
use crate::observe::sanitize::sanitize;
use crate::observe::status::{
    LastDeploy, LastExit, PoolState, PoolStatus, ReadyBy, ReloadStatus, RollState, SlotState,
    Status, WorkerStatus, outdated,
};
use crate::observe::worker_output::telling_line;
use std::collections::BTreeMap;

/// How a table is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TableStyle<'a> {
    pub(crate) colour: bool,
    /// Of the terminal; None: lines may be of any length.
    pub(crate) width: Option<usize>,
    /// Processor use since the last reading; `None`: processor time since the workers' start.
    pub(crate) rates: Option<&'a Rates>,
    /// The name of a user, where it is to be looked up.
    pub(crate) user: Option<fn(u32) -> Option<String>>,
}

impl TableStyle<'_> {
    fn cpu<'w>(&self, workers: impl Iterator<Item = &'w WorkerStatus>) -> String {
        match self.rates {
            None => total(workers.filter_map(cpu_of)).map_or_else(dash, duration),
            Some(rates) => {
                let shares = workers.filter_map(|worker| rates.of(worker));
                total(shares).map_or_else(dash, |share| format!("{:.0}%", share * 100.0))
            }
        }
    }
}

/// The table of all pools.
pub(crate) fn pools(status: &Status, style: TableStyle<'_>) -> String {
    let master = &status.master;
    let out = format!(
        "rotad {}  {}  pid {}  up {}  {}\n",
        sanitize(&master.version),
        sanitize(&*master.config.to_string_lossy()),
        master.pid,
        duration(master.uptime_s),
        sanitize(&master.state)
    );
    let rows = status.pools.iter().map(|pool| Row {
        mark: pool_mark(pool.state),
        painted: 2,
        // That it was started says no more than that it is up.
        beside_only: pool
            .last_deploy
            .as_ref()
            .filter(|deploy| is_start(deploy))
            .map(|_| DEPLOYED),
        cells: vec![
            sanitize(&pool.name),
            ready_of(pool),
            pool.state.name().to_owned(),
            number(pool.generation),
            pool.workers
                .iter()
                .map(|worker| u64::from(worker.restarts))
                .sum::<u64>()
                .to_string(),
            style.cpu(pool.workers.iter()),
            total(pool.workers.iter().filter_map(memory_of)).map_or_else(dash, bytes),
            pool.uptime_s.map_or_else(dash, duration),
            listens_on(pool).unwrap_or_default(),
            pool.last_deploy
                .as_ref()
                .map_or_else(String::new, |deploy| deploy_text(deploy, style)),
        ],
        note: pool_note(pool),
    });
    let rows: Vec<Row> = rows.collect();
    out + &layout::render(&POOL_COLUMNS, &rows, style.width, style.colour)
}

const POOL_COLUMNS: [Column; 10] = [
    Column::new("POOL"),
    Column::new("READY"),
    Column::new("STATE"),
    Column::new("GEN"),
    Column::new("RESTARTS"),
    Column::new("CPU"),
    Column::new("MEMORY"),
    Column::new("UP"),
    Column {
        title: "LISTEN",
        below: Some("listens on "),
    },
    Column {
        title: "DEPLOYED",
        below: Some("deployed "),
    },
];

/// The column of the last deploy.
const DEPLOYED: usize = POOL_COLUMNS.len() - 1;

const WORKER_COLUMNS: [Column; 9] = [
    Column::new("SLOT"),
    Column::new("PID"),
    Column::new("STATE"),
    Column::new("AGE"),
    Column::new("GEN"),
    Column::new("READY-IN"),
    Column::new("RESTARTS"),
    Column::new("CPU"),
    Column::new("MEMORY"),
];

/// One pool, with a row for each worker.
pub(crate) fn workers(pool: &PoolStatus, style: TableStyle<'_>) -> String {
    let (mark, paint) = pool_mark(pool.state);
    let up = pool.uptime_s.map(|s| format!("  up {}", duration(s)));
    let mut out = format!(
        "{} {}  {}  {}  {} ready  generation {}{}\n",
        painted(&mark.to_string(), paint, style.colour),
        bold(&sanitize(&pool.name), style.colour),
        sanitize(&pool.kind),
        painted(pool.state.name(), paint, style.colour),
        ready_of(pool),
        number(pool.generation),
        up.unwrap_or_default()
    );
    let listens = listens_on(pool).map(|addresses| format!("listens on {addresses}"));
    let deployed = pool.last_deploy.as_ref().map(|deploy| {
        let outcome = match deploy.outcome {
            RollState::Done | RollState::None => String::new(),
            other => format!(", {}", other.name()),
        };
        let (generation, at) = (deploy.generation, sanitize(&deploy.at));
        let text = deploy_text(deploy, style);
        format!("generation {generation} deployed {text} ({at}){outcome}")
    });
    let notes = [
        listens,
        deployed,
        mixture(pool),
        reload_note(&pool.reload),
        threat(pool),
    ];
    for note in notes.into_iter().flatten() {
        out += &below(&note, 2, style.width);
    }
    let rows = pool.workers.iter().map(|worker| Row {
        mark: worker_mark(worker.state),
        painted: 2,
        beside_only: None,
        cells: vec![
            worker.slot.to_string(),
            worker.pid.map_or_else(dash, |pid| pid.to_string()),
            worker_word(worker),
            worker.pid.map_or_else(dash, |_| duration(worker.age_s)),
            number(worker.generation),
            worker.ready_in_s.map_or_else(dash, |s| format!("{s:.2}s")),
            worker.restarts.to_string(),
            style.cpu(std::iter::once(worker)),
            memory_of(worker).map_or_else(dash, bytes),
        ],
        note: worker_note(pool, worker),
    });
    let rows: Vec<Row> = rows.collect();
    out + &layout::render(&WORKER_COLUMNS, &rows, style.width, style.colour)
}

/// Processor time in seconds, of the whole tree as far as it is known.
pub fn cpu_of(worker: &WorkerStatus) -> Option<f64> {
    worker.tree.map(|tree| tree.cpu_s).or(worker.cpu_s)
}

/// Memory in bytes, of the whole tree as far as it is known.
pub fn memory_of(worker: &WorkerStatus) -> Option<f64> {
    let of_tree = worker.tree.map(|tree| tree.rss_bytes);
    of_tree.or(worker.rss_bytes).map(|bytes| bytes as f64)
}

/// Only its main process could be read.
fn lacks_tree(worker: &WorkerStatus) -> bool {
    worker.tree.is_none() && worker.rss_bytes.is_some()
}

/// `3/4`. A oneshot that has succeeded wants no worker: `0/0` would look like a failure.
pub fn ready_of(pool: &PoolStatus) -> String {
    if pool.state == PoolState::Done {
        return dash();
    }
    format!("{}/{}", pool.ready, pool.wanted)
}

fn listens_on(pool: &PoolStatus) -> Option<String> {
    let ports = pool.ports.as_ref().map(|ports| format!("ports {ports}"));
    let all: Vec<String> = pool.listen.iter().cloned().chain(ports).collect();
    (!all.is_empty()).then(|| sanitize(all.join(", ")))
}

/// Nothing was deployed since the master or the pool was started.
fn is_start(deploy: &LastDeploy) -> bool {
    deploy.by == "start"
}

/// `2h03m ago, reload by deploy`.
fn deploy_text(deploy: &LastDeploy, style: TableStyle<'_>) -> String {
    let by = match deploy.by.as_str() {
        "watch" => "changed files".to_owned(),
        by => sanitize(by),
    };
    let name = |uid| style.user.and_then(|user| user(uid));
    let who = deploy
        .uid
        .map(|uid| format!(" by {}", name(uid).map_or(format!("uid {uid}"), sanitize)));
    let age = duration(deploy.age_s);
    format!("{age} ago, {by}{}", who.unwrap_or_default())
}

/// The shape and colour of a pool's state.
pub fn pool_mark(state: PoolState) -> Mark {
    match state {
        PoolState::Ok | PoolState::Done => ('●', GREEN),
        PoolState::Starting | PoolState::Degraded | PoolState::Mixed => ('◐', YELLOW),
        PoolState::Reloading | PoolState::RollingBack => ('↻', BLUE),
        PoolState::CrashLoop | PoolState::Failed => ('×', RED),
        PoolState::Stopping | PoolState::Stopped => ('○', GREY),
    }
}

/// The shape and colour of a slot's state.
pub fn worker_mark(state: SlotState) -> Mark {
    match state {
        SlotState::Ready | SlotState::Done => ('●', GREEN),
        SlotState::Starting | SlotState::Soaking => ('◐', YELLOW),
        SlotState::Backoff | SlotState::Failed => ('×', RED),
        SlotState::Stopping | SlotState::Killing | SlotState::Stopped => ('○', GREY),
    }
}

/// Why a pool has not all of its workers: `web: 1 of 4 ready, crash-loop: web/0: exit 3 after 0.1s`.
pub(super) fn below_strength(pool: &PoolStatus) -> String {
    let note = pool_note(pool);
    let note = if note.is_empty() {
        note
    } else {
        format!(": {note}")
    };
    format!(
        "{}: {} of {} ready, {}{note}",
        sanitize(&pool.name),
        pool.ready,
        pool.wanted,
        pool.state.name()
    )
}

/// The reason for a pool's state: its own problem first, then the result of its last rolling restart. Sanitized.
pub fn pool_note(pool: &PoolStatus) -> String {
    let trouble = pool
        .workers
        .iter()
        .filter(|worker| worker.last_exit.as_ref().is_some_and(|exit| !exit.asked))
        .filter(|worker| {
            matches!(
                worker.state,
                SlotState::Starting | SlotState::Backoff | SlotState::Failed
            )
        })
        // The worker with the longest backoff has failed most often: its message says most.
        .max_by(|one, other| {
            one.retry_in_s
                .unwrap_or(0.0)
                .total_cmp(&other.retry_in_s.unwrap_or(0.0))
        })
        .map(|worker| {
            format!(
                "{}/{}: {}",
                sanitize(&pool.name),
                worker.slot,
                worker_note(pool, worker)
            )
        });
    let waits = (!pool.waits_for.is_empty())
        .then(|| format!("waits for {}", sanitize(pool.waits_for.join(", "))));
    let turn = match pool.workers.iter().filter(|worker| worker.waits).count() {
        0 => None,
        1 => Some("1 waits for others that start".to_owned()),
        count => Some(format!("{count} wait for others that start")),
    };
    let stopped =
        (pool.state == PoolState::Stopped).then(|| "until `rotad start` starts it".to_owned());
    let unserved = (!pool.unserved.is_empty()).then(|| sanitize(pool.unserved.join("; ")));
    let scaled = pool.scaled.then(|| "scaled by hand".to_owned());
    let adopted = pool.workers.iter().filter(|worker| worker.adopted).count();
    let adopted = (adopted > 0).then(|| format!("{adopted} adopted, what was before is not known"));
    let alive = pool
        .workers
        .iter()
        .any(is_only_alive)
        .then(|| "alive, nothing says more".to_owned());
    let main_only = pool.workers.iter().any(lacks_tree);
    let main_only = main_only.then(|| "CPU and memory of main processes only".to_owned());
    let parts = [
        unserved,
        waits,
        turn,
        stopped,
        mixture(pool),
        reload_note(&pool.reload),
        threat(pool),
        trouble,
        alive,
        scaled,
        adopted,
        main_only,
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Which generations serve, if there is more than one: `slot 0 of generation 2, slots 1, 2 of generation 1`.
fn mixture(pool: &PoolStatus) -> Option<String> {
    let mut slots: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let serves =
        |worker: &&WorkerStatus| matches!(worker.state, SlotState::Ready | SlotState::Soaking);
    for worker in pool.workers.iter().filter(serves) {
        slots
            .entry(worker.generation)
            .or_default()
            .push(worker.slot.to_string());
    }
    let part = |(generation, slots): (&u32, &Vec<String>)| {
        let word = if slots.len() == 1 { "slot" } else { "slots" };
        format!("{word} {} of generation {generation}", slots.join(", "))
    };
    (pool.state == PoolState::Mixed)
        .then(|| slots.iter().rev().map(part).collect::<Vec<_>>().join(", "))
}

fn threat(pool: &PoolStatus) -> Option<String> {
    (pool.outdated > 0).then(|| outdated(pool.outdated))
}

fn reload_note(reload: &ReloadStatus) -> Option<String> {
    let what = match reload.state {
        RollState::None | RollState::Done => return None,
        RollState::Running => {
            return Some(format!("{} of {} replaced", reload.replaced, reload.of));
        }
        RollState::Aborted => "aborted",
        RollState::RolledBack => "rolled back",
        RollState::Superseded => "superseded",
    };
    let reason = reload.reason.as_ref().map_or(String::new(), |reason| {
        // The last lines of the failed worker are shown in the row of its slot.
        format!(": {}", sanitize(reason.lines().next().unwrap_or_default()))
    });
    Some(format!("generation {} {what}{reason}", reload.generation))
}

/// What is said of a slot: what its worker says of itself, how the last one ended, and when it is tried again. Sanitized.
pub fn worker_note(pool: &PoolStatus, worker: &WorkerStatus) -> String {
    // How a worker ended that was asked to stop, or a oneshot that has succeeded, is of no interest.
    let tells = |exit: &&LastExit| {
        let is_success = worker.state == SlotState::Done && exit.code == Some(0);
        !exit.asked && !is_success
    };
    let exit = worker.last_exit.as_ref().filter(tells).map(exit_note);
    let retry = worker.retry_in_s.map(|s| match pool.state {
        _ if s >= 0.05 => format!("retry in {}", duration(s)),
        PoolState::CrashLoop => "waits for the worker that is tried".to_owned(),
        _ => "is retried now".to_owned(),
    });
    let waits = worker
        .waits
        .then(|| "waits for others that start".to_owned());
    let says = worker
        .says
        .as_ref()
        .filter(|says| !says.is_empty())
        .map(sanitize);
    let adopted = worker.adopted.then(|| "adopted".to_owned());
    let main_only = lacks_tree(worker).then(|| "CPU and memory of its main process".to_owned());
    [waits, says, exit, retry, adopted, main_only]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}

fn exit_note(exit: &LastExit) -> String {
    let what = match (&exit.error, exit.code, &exit.signal) {
        (Some(error), _, _) => sanitize(error),
        (None, Some(code), _) => format!("exit {code}"),
        (None, None, Some(signal)) => format!("killed by {}", sanitize(signal)),
        (None, None, None) => "ended".to_owned(),
    };
    let core = if exit.core == Some(true) {
        ", core dumped"
    } else {
        ""
    };
    let log = telling_line(&exit.log).map_or(String::new(), |line| {
        format!(", log: \"{}\"", sanitize(line))
    });
    // A worker that could not be started has not lived.
    let after = if exit.error.is_some() && exit.after_s == 0.0 {
        String::new()
    } else {
        format!(" after {}", duration(exit.after_s))
    };
    format!("{what}{core}{after}{log}")
}

/// It is ready only by age.
fn is_only_alive(worker: &WorkerStatus) -> bool {
    worker.state == SlotState::Ready && worker.ready_by == Some(ReadyBy::Age)
}

/// The word for a slot's state.
pub fn worker_word(worker: &WorkerStatus) -> String {
    if is_only_alive(worker) {
        "alive".to_owned()
    } else {
        word(&worker.state)
    }
}

/// A state's word in JSON, so that table and JSON agree.
fn word(state: &impl serde::Serialize) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(word)) => word,
        _ => dash(),
    }
}

fn total(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.fold(None, |sum: Option<f64>, value| {
        Some(sum.unwrap_or(0.0) + value)
    })
}

/// A number that is never 0, or a dash.
pub fn number(n: u32) -> String {
    if n == 0 { dash() } else { n.to_string() }
}

/// What stands where there is nothing.
pub fn dash() -> String {
    "–".to_owned()
}

/// Seconds in at most two units: `0.4s`, `12s`, `3m20s`, `5h03m`, `3d4h`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..10 => format!("{:.1}s", seconds.max(0.0)),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{}h", whole / 86_400, whole / 3600 % 24),
    }
}

/// Bytes with at most three digits: `980K`, `20M`, `1.1G`.
pub fn bytes(n: f64) -> String {
    let (mut n, mut unit) = (n / 1024.0, 'K');
    for next in ['M', 'G', 'T'] {
        if n < 1000.0 {
            break;
        }
        (n, unit) = (n / 1024.0, next);
    }
    if n < 10.0 && unit != 'K' {
        format!("{n:.1}{unit}")
    } else {
        format!("{n:.0}{unit}")
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
