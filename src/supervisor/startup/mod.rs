//! Startup: from a plan to a running supervisor. The order matters: the lock, the open-file limit and the log, signal
//! handlers, the workers of a killed master, sockets, the control socket, the journal, and only then the pid file. All of
//! that is acquired here; `assemble` then makes the supervisor from it.

mod acquired;
mod assemble;
mod logs;
mod restore;
mod take_over;

use super::clients;
use super::event_builder::EventBuilder;
use super::reload::blocking::Reader;
use super::reload::fd_budget::raise_nofile;
use super::saver::{SavedMaster, Saver};
use super::service_manager::ServiceManager;
use super::workers::WorkerCgroups;
use super::{Failed, Supervisor};
use crate::control::server::Server;
use crate::daemon::StartContext;
use crate::event_loop::clock::Clock;
use crate::event_loop::signals::Signals;
use crate::exit_code::ExitCode;
use crate::guardian::Link;
use crate::listener::{self, ActivationSocket, Listener};
use crate::plan::Plan;
use crate::runtime_dir::stale_workers::WorkerJournal;
use crate::runtime_dir::{NOTIFY_DIR, RuntimeDir, make_notify_dir};
use crate::saved_state::store::Store;
use crate::sys;
use acquired::Acquired;
use assemble::{Parts, Tables};
use std::sync::Arc;
use take_over::TakeOver;

impl Failed {
    pub(super) fn at(what: &str, error: impl std::fmt::Display) -> Self {
        Self {
            code: ExitCode::FAILED,
            message: format!("{what}: {error}"),
        }
    }
}

impl Supervisor {
    /// The supervisor, and what has happened to the workers of a killed master, if there were any.
    pub(super) fn start(
        plan: Plan,
        mut context: StartContext,
        reader: Reader,
        guardian: Option<(Arc<Link>, Store)>,
    ) -> Result<(Self, Vec<EventBuilder>), (StartContext, Failed)> {
        let passed = std::mem::take(&mut context.activation_sockets);
        let begun = acquire(&plan, &mut context, passed, guardian).and_then(
            |(acquired, listeners, take_over)| Ok((Parts::of(acquired)?, listeners, take_over)),
        );
        match begun {
            Ok((parts, listeners, take_over)) => {
                let tables = Tables::of_plan(plan, listeners, context);
                Ok((parts.supervisor(tables, reader), take_over))
            }
            Err(failed) => Err((context, failed)),
        }
    }
}

fn acquire(
    plan: &Plan,
    context: &mut StartContext,
    passed: Vec<ActivationSocket>,
    guardian: Option<(Arc<Link>, Store)>,
) -> Result<(Acquired, Vec<Listener>, Vec<EventBuilder>), Failed> {
    let (mut runtime_dir, signs) = RuntimeDir::enter(plan).map_err(|e| Failed {
        code: e.code,
        message: e.message,
    })?;
    let left = take_over::find_stale_workers(plan, context, &runtime_dir)?;
    sys::reaper::become_subreaper()
        .map_err(|e| Failed::at("cannot become the reaper of orphans", e))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(plan.master.umask));
    let nofile = raise_nofile(plan)?;
    let clock = Clock::start();
    let log_writer = logs::open(plan, context.foreground, clock.clone())?;
    // Before the workers of a killed master are stopped: that may take as long as a stop, and a signal has to interrupt
    // it.
    let mut signals = Signals::install(plan.signals, context.hup_ignored)
        .map_err(|e| Failed::at("cannot install signal handlers", e))?;
    let (guardian, store) = match guardian {
        Some((link, store)) => (Some(link), Some(store)),
        None => (None, None),
    };
    let mut service_manager =
        ServiceManager::begin(context.activation_pid, clock.clone(), guardian.clone());
    let take_over = TakeOver {
        plan,
        log_writer: &log_writer,
        context,
        signals: &mut signals,
        service_manager: &mut service_manager,
    }
    .begin(left)?;
    let listeners = listener::open_all(&plan.listeners, passed).map_err(|e| Failed {
        code: ExitCode::FAILED,
        message: e.to_string(),
    })?;
    let control = runtime_dir
        .control_socket(plan.control.mode, plan.control.group)
        .map_err(|e| Failed::at("cannot open the control socket", e))?;
    let mut server = Server::new(control, plan.control.mode);
    server.set_location(&clients::here(runtime_dir.path()));
    signs
        .into_iter()
        .for_each(|sign| server.add_presence_socket(sign.path, sign.listener));
    let notify_dir = runtime_dir.path().join(NOTIFY_DIR);
    make_notify_dir(&notify_dir)
        .map_err(|e| Failed::at(&format!("cannot make {}", notify_dir.display()), e))?;
    let cgroups = WorkerCgroups::find(&plan.master.name);
    let tag = new_tag();
    // Before the first spawn, and required: without it, nobody could find the workers of this master after a SIGKILL.
    let journal = WorkerJournal::open(runtime_dir.path(), &tag, cgroups.base(), clock.clone())
        .map_err(|e| {
            Failed::at(
                &format!(
                    "cannot write the list of workers in {}",
                    runtime_dir.path().display()
                ),
                e,
            )
        })?;
    runtime_dir.write_pid().map_err(|e| Failed {
        code: e.code,
        message: e.message,
    })?;
    tracing::info!(
        pid = std::process::id(),
        config = %plan.config.display(),
        "rotad {} begins: {}", env!("CARGO_PKG_VERSION"), plan.master.name
    );
    for warning in std::mem::take(&mut runtime_dir.warnings) {
        tracing::warn!("{warning}");
    }
    if let Some(reason) = &context.no_guardian {
        tracing::info!(
            "no guardian, which needs memfd_create(2) and pidfd_open(2): {reason}; a master that is killed is replaced by the \
             next start only"
        );
    }
    if context.hup_ignored {
        tracing::warn!("HUP was ignored when we were started (nohup), and stays so");
    }
    let master = SavedMaster {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tag: tag.clone(),
        foreground: context.foreground,
        hup_ignored: context.hup_ignored,
        activation_pid: context.activation_pid,
        nofile,
        cgroups: None,
        runtime_dir: None,
    };
    let saver = store.map(|store| Saver::new(store, master));
    let acquired = Acquired {
        clock,
        runtime_dir,
        nofile,
        signals,
        log_writer,
        server,
        journal,
        tag,
        cgroups,
        service_manager,
        guardian,
        saver,
    };
    Ok((acquired, listeners, take_over))
}

/// The prefix of ROTAD_WORKER for the workers of this master. The time makes it unique across reboots and reused pids.
fn new_tag() -> String {
    let started = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{:x}-{:x}", std::process::id(), started.as_micros())
}
