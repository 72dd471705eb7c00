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

/// The progress of a start. A pool has failed when its first worker fails before it is ready, or is not ready in time.
pub(crate) struct StartWatch {
    report: Option<Report>,
    pools: BTreeMap<PoolId, Pool>,
    /// Exit code and text, reported once all workers are gone.
    final_report: Option<(ExitCode, String)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pool {
    name: String,
    state: StartState,
}

/// What is saved of it.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedStart {
    report: Option<SavedReport>,
    pools: BTreeMap<PoolId, Pool>,
    final_report: Option<(ExitCode, String)>,
}

/// How the first start of a pool has ended.
#[derive(Debug)]
pub(crate) enum Started {
    Up(Up),
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
    ) -> Self {
        let pool = |(id, name): (PoolId, String)| {
            let state = StartState::Pending;
            (id, Pool { name, state })
        };
        let waits = !context.foreground;
        let mut watch = Self {
            report: waits.then_some(context.report),
            pools: pools.map(pool).collect(),
            final_report: None,
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
        let new = match how {
            Started::Up(Up::Done(_)) => StartState::Ended,
            Started::Up(Up::Alive) => StartState::Alive,
            Started::Up(Up::Ready | Up::NoneWanted) => StartState::Ready,
            Started::Failed(why) => StartState::Failed(why),
        };
        if self.report.is_none() || self.final_report.is_some() {
            return StartAction::Nothing;
        }
        if let Some(pool) = self.pools.get_mut(&pool)
            && pool.state == StartState::Pending
        {
            pool.state = new;
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
        let of = |state: &StartState| -> Vec<&str> {
            self.pools
                .values()
                .filter(|pool| pool.state == *state)
                .map(|pool| pool.name.as_str())
                .collect()
        };
        let (serving, alive, ended) = (
            of(&StartState::Ready),
            of(&StartState::Alive),
            of(&StartState::Ended),
        );
        let only_alive = (!alive.is_empty()).then(|| {
            format!(
                "alive: {} (nothing but their age says that their workers are ready)",
                alive.join(", ")
            )
        });
        let failed = self.pools.values().filter_map(|pool| match &pool.state {
            StartState::Failed(why) => Some(format!("{}: {why}", pool.name)),
            StartState::Pending | StartState::Ready | StartState::Alive | StartState::Ended => None,
        });
        let failed: Vec<String> = failed.collect();
        if failed.is_empty() {
            let up = self
                .pools
                .values()
                .filter(|pool| matches!(pool.state, StartState::Ready | StartState::Ended));
            let up: Vec<&str> = up.map(|pool| pool.name.as_str()).collect();
            // A configuration without pools is ready, too.
            let ready =
                (!up.is_empty() || alive.is_empty()).then(|| format!("ready: {}", up.join(", ")));
            let text = ready
                .into_iter()
                .chain(only_alive)
                .collect::<Vec<_>>()
                .join("; ");
            self.finish(ExitCode::DONE, &text);
            return StartAction::Nothing;
        }
        if serving.is_empty() && alive.is_empty() && ended.is_empty() {
            self.final_report = Some((
                ExitCode::FAILED,
                format!(
                    "{}\nnothing came up; nothing is left running",
                    join_within(&failed, MAX_REPORT_BYTES)
                ),
            ));
            return StartAction::StopAll;
        }
        let mut serve = Vec::new();
        if !serving.is_empty() {
            serve.push(format!("these serve: {}", serving.join(", ")));
        } else if alive.is_empty() {
            serve.push("nobody serves".to_owned());
        }
        serve.extend(only_alive);
        if !ended.is_empty() {
            serve.push(format!("done: {}", ended.join(", ")));
        }
        let serve = serve.join("; ");
        let text = format!(
            "{}\n{serve}; still retrying the others",
            join_within(&failed, MAX_REPORT_BYTES)
        );
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
