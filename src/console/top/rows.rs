//! The rows of the table: pools, and the slots of those that are unfolded.

use super::history::total;
use super::pane::passes;
use super::target::Target;
use super::text::clean;
use rotad::cli::layout::Mark;
use rotad::cli::rates::Rates;
use rotad::cli::table::{
    bytes, dash, duration, memory_of, number, pool_mark, pool_note, ready_of, worker_mark,
    worker_note, worker_word,
};
use rotad::observe::status::{PoolState, PoolStatus, RollState, SlotState, Status, WorkerStatus};
use std::collections::BTreeSet;

/// The titles of the columns.
pub(super) const TITLES: [&str; COLUMNS] = [
    "POOL", "READY", "STATE", "GEN", "AGE", "RESTARTS", "CPU", "MEM",
];
/// How many columns stand before the note.
pub(super) const COLUMNS: usize = 8;
/// The column that has the mark's colour.
pub(super) const STATE: usize = 2;

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) target: Target,
    pub(super) mark: Mark,
    pub(super) cells: [String; COLUMNS],
    pub(super) note: String,
}

/// The rows. `filter`: of pools, by what their rows say.
pub(super) fn rows(
    status: &Status,
    rates: Option<&Rates>,
    unfolded: &BTreeSet<String>,
    filter: &str,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for pool in &status.pools {
        let is_unfolded = unfolded.contains(&pool.name);
        let row = of_pool(pool, rates, is_unfolded);
        let is_shown = [&row.cells[0], &row.cells[STATE], &row.note]
            .iter()
            .any(|text| passes(filter, text));
        if !is_shown {
            continue;
        }
        rows.push(row);
        if is_unfolded {
            let slots = pool.workers.iter();
            rows.extend(slots.map(|worker| of_slot(pool, worker, rates)));
        }
    }
    rows
}

fn of_pool(pool: &PoolStatus, rates: Option<&Rates>, is_unfolded: bool) -> Row {
    let fold = match (pool.workers.is_empty(), is_unfolded) {
        (true, _) => ' ',
        (false, true) => '▾',
        (false, false) => '▸',
    };
    let restarts: u64 = pool.workers.iter().map(|one| u64::from(one.restarts)).sum();
    Row {
        target: Target::pool(&pool.name),
        mark: pool_mark(pool.state),
        cells: [
            format!("{fold} {}", clean(&pool.name)),
            ready_of(pool),
            pool.state.name().to_owned(),
            number(pool.generation),
            pool.uptime_s.map_or_else(dash, duration),
            restarts.to_string(),
            cpu(pool.workers.iter(), rates),
            total(pool.workers.iter().filter_map(memory_of)).map_or_else(dash, bytes),
        ],
        note: clean(&pool_note(pool)),
    }
}

fn of_slot(pool: &PoolStatus, worker: &WorkerStatus, rates: Option<&Rates>) -> Row {
    let pid = worker.pid.map(|pid| format!("pid {pid}"));
    let port = worker.port.map(|port| format!("port {port}"));
    let note = worker_note(pool, worker);
    let note = Some(note).filter(|note| !note.is_empty());
    let note: Vec<String> = [pid, port, note].into_iter().flatten().collect();
    let one = std::iter::once(worker);
    Row {
        target: Target::slot(&pool.name, worker.slot),
        mark: worker_mark(worker.state),
        cells: [
            format!("  └ {}", worker.slot),
            String::new(),
            worker_word(worker),
            number(worker.generation),
            worker.pid.map_or_else(dash, |_| duration(worker.age_s)),
            worker.restarts.to_string(),
            cpu(one, rates),
            memory_of(worker).map_or_else(dash, bytes),
        ],
        note: clean(&note.join(", ")),
    }
}

fn cpu<'w>(workers: impl Iterator<Item = &'w WorkerStatus>, rates: Option<&Rates>) -> String {
    let shares = workers.filter_map(|worker| rates?.of(worker));
    total(shares).map_or_else(dash, percent)
}

/// A share of one processor: `12%`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// How bad a pool is; 0: it is well, or stopped on purpose, or on its way.
pub(super) fn badness(pool: &PoolStatus) -> u8 {
    match pool.state {
        PoolState::CrashLoop | PoolState::Failed => 3,
        _ if !pool.unserved.is_empty() => 3,
        PoolState::Degraded => 2,
        PoolState::Mixed | PoolState::RollingBack => 1,
        PoolState::Starting
            if pool
                .workers
                .iter()
                .any(|worker| matches!(worker.state, SlotState::Backoff | SlotState::Failed)) =>
        {
            2
        }
        PoolState::Starting
        | PoolState::Ok
        | PoolState::Reloading
        | PoolState::Stopping
        | PoolState::Stopped
        | PoolState::Done => 0,
    }
}

/// The status as it is `seconds` after it was read, as far as time alone changes it.
pub(super) fn aged(status: &Status, seconds: f64) -> Status {
    let mut status = status.clone();
    status.master.uptime_s += seconds;
    for pool in &mut status.pools {
        pool.uptime_s = pool.uptime_s.map(|s| s + seconds);
        if pool.reload.state == RollState::Running {
            pool.reload.took_s += seconds;
        }
        if let Some(deploy) = &mut pool.last_deploy {
            deploy.age_s += seconds;
        }
        for worker in &mut pool.workers {
            if worker.pid.is_some() {
                worker.age_s += seconds;
            }
            worker.retry_in_s = worker.retry_in_s.map(|s| (s - seconds).max(0.0));
        }
    }
    status
}

/// Whether something changes without being asked: then it is read each second.
pub(super) fn is_moving(status: &Status) -> bool {
    status.master.state != "running"
        || status.pools.iter().any(|pool| {
            let settled = matches!(
                pool.state,
                PoolState::Ok | PoolState::Done | PoolState::Stopped | PoolState::Failed
            );
            !settled || pool.alive != pool.ready
        })
}
