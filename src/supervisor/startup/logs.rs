//! Opens the logs at the start of the master: its own, and each pool's once, to check it.

use crate::event_loop::clock::Clock;
use crate::log::tracing_setup;
use crate::log::{self, LogWriter, MasterLog, Rotation, WriteRecord};
use crate::observe::print;
use crate::plan::{Plan, Sink};
use crate::supervisor::Failed;
use std::path::PathBuf;
use std::sync::Arc;

/// Opens the master's log, and each pool's log once to check it, so that one that cannot be written is reported now.
pub(super) fn open(
    plan: &Plan,
    foreground: bool,
    record: WriteRecord,
    clock: Clock,
) -> Result<LogWriter, Failed> {
    let master_log = master_log(plan, foreground)?;
    for pool in &plan.pools {
        for sink in [&pool.log.stdout, &pool.log.stderr] {
            // The files of a pool's slots are alike.
            if let Sink::File(file) = sink {
                let shown = file.shown(Some(0));
                let what = format!("pool {}: cannot write its log {shown}", pool.name);
                log::check_file(&file.path(0), pool.log.access)
                    .map_err(|e| Failed::at(&what, e))?;
            }
        }
    }
    let log_writer = LogWriter::start(master_log, record, clock)
        .map_err(|e| Failed::at("cannot start the log's thread", e))?;
    let sink = log_writer.clone();
    tracing_setup::open(
        Arc::new(move |line| sink.line(line)),
        plan.master.log_format,
        plan.master.log_level,
        log_file(plan, foreground).is_none() && print::error_colour(),
    );
    Ok(log_writer)
}

/// The master's log file. None: it logs to stderr.
pub(super) fn log_file(plan: &Plan, foreground: bool) -> Option<&PathBuf> {
    let master = &plan.master;
    master
        .log_file
        .as_ref()
        .or_else(|| (!foreground).then_some(&master.default_log_file))
}

fn master_log(plan: &Plan, foreground: bool) -> Result<MasterLog, Failed> {
    let master = &plan.master;
    let Some(file) = log_file(plan, foreground) else {
        return Ok(MasterLog::stderr(master.log_format));
    };
    let rotation = Rotation {
        max_size: master.log_max_size,
        keep: master.log_keep,
        ..Rotation::default()
    };
    MasterLog::file(file.clone(), master.log_format, rotation)
        .map_err(|e| Failed::at(&format!("cannot open the log {}", file.display()), e))
}
