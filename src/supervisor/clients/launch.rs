//! The start watch: decides when `rotad start` may report success or failure. The command waits until every pool is
//! ready, or has failed. Each pool's first request has a ticket, and `effects.rs` calls [`StartWatch::started`] with its
//! outcome; with `run` and `--no-wait` nothing waits.

use crate::daemon::{Report, SavedReport, StartContext};
use crate::exit_code::ExitCode;
use crate::observe::clip::join_within;
use crate::supervisor::clients::tickets::MAX_REPORT_BYTES;
use crate::sys::kept_fd::FdTable;
use rotad_core::{PoolId, Up};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum StartState {
    Pending,
    Ready,
    /// It has done its work and ended well.
    Ended,
    /// Ready by the age of its workers alone.
    Alive,
    Failed(String),
}

impl StartState {
    fn is_up(&self) -> bool {
        match self {
            Self::Ready | Self::Ended | Self::Alive => true,
            Self::Pending | Self::Failed(_) => false,
        }
    }
}

/// The progress of a start. A pool has failed when its first worker fails before it is ready, or is not ready in time.
pub(crate) struct StartWatch {
    report: Option<Report>,
    pools: BTreeMap<PoolId, Pool>,
    /// Exit code and text, reported once all workers are gone.
    final_report: Option<(ExitCode, String)>,
    /// Where the master and its pools log, in one line.
    log_line: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pool {
    name: String,
    state: StartState,
    /// What is reported of it once it is up.
    #[serde(default)]
    up_line: String,
}

/// What is saved of it.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedStart {
    report: Option<SavedReport>,
    pools: BTreeMap<PoolId, Pool>,
    final_report: Option<(ExitCode, String)>,
    #[serde(default)]
    log_line: String,
}

/// How the first start of a pool has ended.
#[derive(Debug)]
pub(crate) enum Started {
    /// It is up; the line that says so.
    Up(Up, String),
    /// It has failed; why.
    Failed(String),
}

/// What the caller has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StartAction {
    /// Nothing: others are not up yet, or it was reported.
    Nothing,
    /// No pool started: stop everything, then report.
    StopAll,
}

impl StartWatch {
    pub(crate) fn new(
        context: StartContext,
        pools: impl Iterator<Item = (PoolId, String)>,
        log_line: String,
    ) -> Self {
        let pool = |(id, name): (PoolId, String)| {
            let (state, up_line) = (StartState::Pending, String::new());
            let pool = Pool {
                name,
                state,
                up_line,
            };
            (id, pool)
        };
        let waits = !context.foreground;
        let mut watch = Self {
            report: waits.then_some(context.report),
            pools: pools.map(pool).collect(),
            final_report: None,
            log_line,
        };
        if context.no_wait {
            watch.finish(ExitCode::DONE, "");
        }
        watch
    }

    /// What is saved of it.
    ///
    /// # Errors
    /// Those of fstat(2); none for an open descriptor.
    pub(crate) fn saved(&self) -> io::Result<SavedStart> {
        Ok(SavedStart {
            report: self.report.as_ref().map(Report::saved).transpose()?,
            pools: self.pools.clone(),
            final_report: self.final_report.clone(),
            log_line: self.log_line.clone(),
        })
    }

    /// Goes on with the start of a dead master.
    pub(crate) fn restore(saved: SavedStart, table: &mut FdTable) -> Self {
        Self {
            // A launcher that is gone is not waited for.
            report: saved
                .report
                .and_then(|report| Report::restore(report, table).ok()),
            pools: saved.pools,
            final_report: saved.final_report,
            log_line: saved.log_line,
        }
    }

    /// The command that started the master waits for the pools.
    pub(crate) fn waits(&self) -> bool {
        self.report.is_some()
    }

    /// An essential pool is lost: reported at the end if the start is still being waited for.
    pub(crate) fn abandon(&mut self, code: ExitCode, why: &str) {
        if self.report.is_some() && self.final_report.is_none() {
            self.final_report = Some((code, format!("{why}; nothing is left running")));
        }
    }

    /// The start is not waited for any longer, and counts as failed; nothing follows from what its pools do.
    pub(crate) fn give_up(&mut self, why: &str) {
        self.finish(ExitCode::FAILED, why);
    }

    fn finish(&mut self, code: ExitCode, text: &str) {
        if let Some(report) = self.report.take() {
            report.finish(code, text);
        }
    }

    /// A pool's first start has ended.
    pub(crate) fn started(&mut self, pool: PoolId, how: Started) -> StartAction {
        let (new, up_line) = match how {
            Started::Up(Up::Done(_), line) => (StartState::Ended, line),
            Started::Up(Up::Alive, line) => (StartState::Alive, line),
            Started::Up(Up::Ready | Up::NoneWanted, line) => (StartState::Ready, line),
            Started::Failed(why) => (StartState::Failed(why), String::new()),
        };
        if self.report.is_none() || self.final_report.is_some() {
            return StartAction::Nothing;
        }
        if let Some(pool) = self.pools.get_mut(&pool)
            && pool.state == StartState::Pending
        {
            pool.state = new;
            pool.up_line = up_line;
        }
        self.decide()
    }

    fn decide(&mut self) -> StartAction {
        if self
            .pools
            .values()
            .any(|pool| pool.state == StartState::Pending)
        {
            return StartAction::Nothing;
        }
        let up = self.pools.values().filter(|pool| pool.state.is_up());
        let mut lines: Vec<String> = up.map(|pool| pool.up_line.clone()).collect();
        let failed: Vec<(&str, &str)> = self
            .pools
            .values()
            .filter_map(|pool| match &pool.state {
                StartState::Failed(why) => Some((pool.name.as_str(), why.as_str())),
                _ => None,
            })
            .collect();
        if failed.is_empty() {
            lines.push(self.log_line.clone());
            let text = join_within(&lines, MAX_REPORT_BYTES);
            self.finish(ExitCode::DONE, &text);
            return StartAction::Nothing;
        }
        let why = failed.iter().map(|(name, why)| format!("{name}: {why}"));
        let why = join_within(&why.collect::<Vec<_>>(), MAX_REPORT_BYTES);
        if lines.is_empty() {
            let text = format!("{why}\nnothing came up; nothing is left running");
            self.final_report = Some((ExitCode::FAILED, text));
            return StartAction::StopAll;
        }
        let names: Vec<&str> = failed.iter().map(|(name, _)| *name).collect();
        lines.push(format!("still retrying: {}", names.join(", ")));
        lines.push(self.log_line.clone());
        let text = format!("{why}\n{}", join_within(&lines, MAX_REPORT_BYTES));
        self.finish(ExitCode::FAILED, &text);
        StartAction::Nothing
    }

    /// The master exits: reports to a start that still waits. Returns the exit code of a failed start.
    pub(crate) fn finish_on_exit(&mut self, lost: Option<&str>) -> Option<ExitCode> {
        let (code, mut text) = self.final_report.take().unwrap_or_else(|| {
            (
                ExitCode::FAILED,
                "stopped before every pool was ready".to_owned(),
            )
        });
        if let Some(lost) = lost {
            text.push('\n');
            text.push_str(lost);
        }
        let waited = self.report.is_some();
        self.finish(code, &text);
        waited.then_some(code)
    }
}
