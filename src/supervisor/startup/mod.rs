//! Startup: from a plan to a running supervisor. The order matters: the lock, the open-file limit and the log, signal
//! handlers, the workers of a killed master, sockets, the control socket, the journal, and only then the pid file. All of
//! that is acquired here; `assemble` then makes the supervisor from it.

mod acquired;
mod adopt;
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
use crate::listener::{self, ActivationSocket, LeftSocket, Listener};
use crate::log::WriteRecord;
use crate::observe::events::EventKind;
use crate::plan::Plan;
use crate::process::tree;
use crate::runtime_dir::stale_workers::{Adoption, ListenerNote, WorkerJournal};
use crate::runtime_dir::{NOTIFY_DIR, RuntimeDir, make_notify_dir};
use crate::saved_state::format::READABLE_BY;
use crate::saved_state::store::Store;
use crate::sys;
use acquired::Acquired;
use assemble::{Parts, Tables};
use rotad_core::WorkerId;
use std::io;
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
    ) -> Result<(Self, Left), (Box<StartContext>, Failed)> {
        let passed = std::mem::take(&mut context.activation_sockets);
        let begun = acquire(&plan, &mut context, passed, guardian).and_then(
            |(acquired, listeners, left)| {
                let last_worker = acquired.last_worker;
                Ok((Parts::of(acquired)?, listeners, left, last_worker))
            },
        );
        match begun {
            Ok((parts, listeners, left, last_worker)) => {
                let tables = Tables::of_plan(plan, listeners, context, last_worker);
                Ok((parts.supervisor(tables, reader), left))
            }
            Err(failed) => Err((Box::new(context), failed)),
        }
    }
}

/// What a killed master has left: what has happened to it, and what is adopted.
type Left = (Vec<EventBuilder>, Option<Adoption>);

fn acquire(
    plan: &Plan,
    context: &mut StartContext,
    passed: Vec<ActivationSocket>,
    guardian: Option<(Arc<Link>, Store)>,
) -> Result<(Acquired, Vec<Listener>, Left), Failed> {
    let (mut runtime_dir, signs) = RuntimeDir::enter(plan).map_err(|e| Failed {
        code: e.code,
        message: e.message,
    })?;
    let mut left = take_over::find_stale_workers(plan, context, &runtime_dir)?;
    sys::reaper::become_subreaper()
        .map_err(|e| Failed::at("cannot become the reaper of orphans", e))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(plan.master.umask));
    let nofile = raise_nofile(plan)?;
    let clock = Clock::start();
    let record = match &guardian {
        Some((_, store)) => store.shared().log_part().and_then(WriteRecord::new),
        None => Ok(WriteRecord::none()),
    };
    let record = record.map_err(|e| Failed::at("cannot record what is logged", e))?;
    let log_writer = logs::open(plan, context.foreground, record, clock.clone())?;
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
    let kept = std::mem::take(&mut context.kept_sockets);
    let mut preexisting =
        tree::preexisting_children(guardian.as_ref().map(|link| link.guardian().pid()));
    for one in &left.found {
        preexisting.remove(&(one.pid, one.start_time));
    }
    let adoption = match context.take_over {
        true => None,
        false => left.adopt(|name| plan.pools.iter().any(|pool| pool.name == name), kept),
    };
    let lost_state = context.lost_state.take();
    let lost_state = lost_state.map(|text| {
        EventBuilder::new(EventKind::MasterRestored, text)
            .cause("state-lost")
            .error()
    });
    let mut events: Vec<EventBuilder> = lost_state.into_iter().collect();
    let take_over = TakeOver {
        plan,
        log_writer: &log_writer,
        context,
        signals: &mut signals,
        service_manager: &mut service_manager,
    }
    .begin(left)?;
    events.extend(take_over);
    let (mut sockets, mut refused) = (Vec::new(), Vec::new());
    let mut adoption = adoption;
    for socket in adoption
        .iter_mut()
        .flat_map(|adoption| adoption.sockets.drain(..))
    {
        let ListenerNote { name, file, .. } = socket.note;
        match socket.fd {
            Ok(fd) => sockets.push(LeftSocket { name, fd, file }),
            Err(error) => refused.push((name, error)),
        }
    }
    let listeners = listener::open_all_left(&plan.listeners, passed, sockets)
        .map_err(|error| cannot_listen(&error, &refused))?;
    if let Some(adoption) = &adoption {
        let text = format!(
            "the workers of a master that was killed (pid {}) serve on and are adopted: {} of them",
            adoption.master,
            adoption.workers.len()
        );
        context.report.progress(&text);
    }
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
    let cgroups = match adopt::cgroup_base(adoption.as_ref()) {
        Some(base) => WorkerCgroups::adopt(base),
        None => WorkerCgroups::find(&plan.master.name),
    };
    let tag = adoption
        .as_ref()
        .map_or_else(new_tag, |adoption| adoption.tag.clone());
    // Before the first spawn, and required: without it, nobody could find the workers of this master after a SIGKILL.
    let (dir, base) = (runtime_dir.path(), cgroups.base());
    let journal = match &adoption {
        Some(_) => WorkerJournal::reopen(dir, &tag, base, clock.clone()),
        None => WorkerJournal::open(dir, &tag, base, clock.clone()),
    };
    let journal = journal.map_err(|e| {
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
        readable_by: READABLE_BY,
        program: context.program.clone(),
        tag: tag.clone(),
        foreground: context.foreground,
        hup_ignored: context.hup_ignored,
        activation_pid: context.activation_pid,
        nofile,
        cgroups: None,
        runtime_dir: None,
        preexisting: preexisting.iter().copied().collect(),
    };
    let saver = store.map(|store| Box::new(Saver::new(store, master)));
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
        preexisting,
        last_worker: WorkerId(adoption.as_ref().map_or(0, |adoption| adoption.last)),
    };
    Ok((acquired, listeners, (events, adoption)))
}

/// An address that is in use may be so because the workers that are to be adopted hold its socket, which may not be taken
/// from them.
fn cannot_listen(error: &listener::SocketError, refused: &[(String, io::Error)]) -> Failed {
    let refusal = refused.iter().find(|(name, _)| *name == error.name);
    let message = match refusal {
        None => error.to_string(),
        Some((_, why)) => format!(
            "{error}\nthe workers of a master that was killed hold this socket, and the kernel does not let it be taken back \
             from them (pidfd_getfd(2): {why}); they serve on, and nothing was changed. What helps: start as root or with \
             CAP_SYS_PTRACE, or allow it for this start (sysctl kernel.yama.ptrace_scope=0); or `rotad start --take-over`, \
             which stops them first"
        ),
    };
    Failed {
        code: ExitCode::FAILED,
        message,
    }
}

/// The prefix of ROTAD_WORKER for the workers of this master. The time makes it unique across reboots and reused pids.
fn new_tag() -> String {
    let started = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{:x}-{:x}", std::process::id(), started.as_micros())
}
