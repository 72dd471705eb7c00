//! From a plan to a standing master, in the order in which things have to stand: the lock, what a dead master left,
//! signal handlers, sockets, the log, the control socket, and only then the pid file.

use super::asks::Clerk;
use super::care::Care;
use super::chronicle::Chronicle;
use super::fence::Fence;
use super::launch::LaunchWatch;
use super::listening::Listening;
use super::obituary::Obituaries;
use super::posts::{Pattern, Posts};
use super::recipes::Recipes;
use super::roster::Roster;
use super::streams::Streams;
use super::tickets::Tickets;
use super::watching::Watching;
use super::{Failed, Keeper};
use crate::control::server::Server;
use crate::observe::diary;
use crate::observe::manager::Manager;
use crate::os::birth::{Settings, Spawner, shim};
use crate::os::clock::Clock;
use crate::os::daemon::Launch;
use crate::os::house::House;
use crate::os::leftovers::{Journal, Leftover, Leftovers};
use crate::os::pen::{self, Paper, Pen, Rotation};
use crate::os::reactor::{Interest, Reactor, Source};
use crate::os::ready::Scout;
use crate::os::signals::Signals;
use crate::os::sockets::{self, Listener};
use crate::os::sys;
use crate::os::wake::Wake;
use crate::plan::{Plan, Sink};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rotad_core::{Master, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long workers that a dead master left get to stop.
const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(30);
/// Descriptors that the master needs beside its workers', and for each worker: pidfd, notify socket, both outputs.
const OWN_DESCRIPTORS: u64 = 34;
const PER_WORKER: u64 = 4;
/// For each log file of a pool: the file and its folder.
const PER_LOG: u64 = 2;
/// Beyond what is needed: clients of the control socket, workers that drain, births under way. Eight bytes each.
const CLIENTS_AND_ROLLS: u64 = 256;
const MOST_ROOM: u64 = 1 << 17;

impl Failed {
    fn at(what: &str, error: impl std::fmt::Display) -> Self {
        Self { code: 1, message: format!("{what}: {error}") }
    }
}

/// What stands before the keeper does.
struct Ground {
    house: House,
    nofile: (u64, u64),
    signals: Signals,
    listeners: Vec<Listener>,
    pen: Pen,
    server: Server,
    journal: Option<Journal>,
    fence: Fence,
    manager: Manager,
}

impl Keeper {
    pub(super) fn start(plan: Plan, launch: Launch) -> Result<Self, (Launch, Failed)> {
        match prepare(&plan, &launch).and_then(|ground| Standing::on(&plan, ground)) {
            Ok(standing) => Ok(standing.keeper(plan, launch)),
            Err(failed) => Err((launch, failed)),
        }
    }
}

fn prepare(plan: &Plan, launch: &Launch) -> Result<Ground, Failed> {
    let mut house = House::enter(plan).map_err(|e| Failed { code: e.code, message: e.message })?;
    let left = leftovers(plan, launch, &house)?;
    sys::reaper::become_subreaper().map_err(|e| Failed::at("cannot become the reaper of orphans", e))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(plan.master.umask));
    let nofile = raise_nofile(plan)?;
    let pen = open_pen(plan, launch)?;
    take_over(plan, left, &pen)?;
    let signals = Signals::install(plan.signals, launch.hup_ignored)
        .map_err(|e| Failed::at("cannot install signal handlers", e))?;
    let listeners = sockets::open_all(&plan.listeners).map_err(|e| Failed { code: 1, message: e.to_string() })?;
    let control = house
        .control_socket(plan.control.mode, plan.control.group)
        .map_err(|e| Failed::at("cannot open the control socket", e))?;
    let server = Server::new(control, plan.control.mode);
    let notify_dir = house.path().join("notify");
    make_notify_dir(&notify_dir).map_err(|e| Failed::at(&format!("cannot make {}", notify_dir.display()), e))?;
    let journal = Journal::open(house.path());
    house.write_pid().map_err(|e| Failed { code: e.code, message: e.message })?;
    tracing::info!(
        pid = std::process::id(),
        config = %plan.config.display(),
        "rotad {} begins: {}", env!("CARGO_PKG_VERSION"), plan.master.name
    );
    if let Err(error) = &journal {
        tracing::warn!("no list of workers is kept: after a kill -9 the next start will not find them: {error}");
    }
    if launch.hup_ignored {
        tracing::warn!("HUP was ignored when we were started (nohup), and stays so");
    }
    let (fence, manager) = (Fence::find(&plan.master.name), Manager::find());
    Ok(Ground { house, nofile, signals, listeners, pen, server, journal: journal.ok(), fence, manager })
}

/// What a master killed by -9 left behind is named, unless it is to be stopped.
fn leftovers(plan: &Plan, launch: &Launch, house: &House) -> Result<Leftovers, Failed> {
    let left = Leftovers::find(house.path()).map_err(|e| Failed::at("cannot read what a dead master left", e))?;
    if left.found.is_empty() || launch.take_over {
        return Ok(left);
    }
    let message = format!(
        "a master of {} was killed, and these workers of it still run and serve:\n{}\n`rotad start --take-over` stops \
         them first",
        plan.config.display(),
        names(&left.found)
    );
    Err(Failed { code: 1, message })
}

/// Stops what a dead master left. What these workers still print is written meanwhile: one that waits for room in its
/// pipe could not end.
fn take_over(plan: &Plan, left: Leftovers, pen: &Pen) -> Result<(), Failed> {
    if left.found.is_empty() {
        return Ok(());
    }
    for pipe in left.pipes() {
        let (pool, slot) = (pipe.pool.clone(), pipe.slot);
        let log = plan.pools.iter().find(|plan| plan.name == pool).map(|plan| &plan.log);
        if let Err(error) = pen.adopt_left(pipe, log) {
            tracing::warn!(pool, slot, "what a dead master's worker still prints cannot be read: {error}");
        }
    }
    let stubborn = left.take_over(TAKE_OVER_PATIENCE, nix::libc::SIGTERM);
    pen.drain();
    if stubborn.is_empty() {
        return Ok(());
    }
    let message = format!("these workers of a killed master cannot be ended:\n{}", names(&stubborn));
    Err(Failed { code: 1, message })
}

fn names(left: &[Leftover]) -> String {
    let line = |one: &Leftover| {
        let what = if one.is_worker { "" } else { " (left behind by it)" };
        format!("  {}/{}: pid {}{what}", one.pool, one.slot, one.pid)
    };
    left.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Our own soft limit of open files goes as high as it may; workers get the one that we found. Too low a limit is
/// told now, and not when the hundredth worker fails.
fn raise_nofile(plan: &Plan) -> Result<(u64, u64), Failed> {
    let found = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| Failed::at("cannot read the limit of open files", e))?;
    let (soft, mut hard) = found;
    let workers: u64 = plan.pools.iter().map(|p| u64::from(p.policy.count) + u64::from(p.policy.reload.surge)).sum();
    let need = OWN_DESCRIPTORS + plan.listeners.len() as u64 + PER_LOG * plan.pools.len() as u64 + PER_WORKER * workers;
    if hard < need && setrlimit(Resource::RLIMIT_NOFILE, need, need).is_ok() {
        hard = need;
    }
    if hard < need {
        let message = format!(
            "{workers} workers (surge included) need {need} open files, but the limit is {hard}: raise it (ulimit -n, \
             LimitNOFILE=), or have fewer workers"
        );
        return Err(Failed { code: 1, message });
    }
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok();
    }
    make_room(need, hard);
    Ok((soft, found.1))
}

/// Makes the table of descriptors as large as it will be, while there is no other thread: the kernel grows the table
/// of a process with threads only after an RCU grace period, up to 20 ms in which nobody is born (fs/file.c).
fn make_room(need: u64, hard: u64) {
    let top = (need + CLIENTS_AND_ROLLS).next_power_of_two().min(hard).min(MOST_ROOM);
    let high = nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(top.saturating_sub(1) as i32);
    if let Ok(fd) = nix::fcntl::fcntl(io::stderr(), high) {
        nix::unistd::close(fd).ok();
    }
}

/// Opens the logs: the master's own, and those of pools once, so that one that cannot be written is told now.
fn open_pen(plan: &Plan, launch: &Launch) -> Result<Pen, Failed> {
    let paper = paper(plan, launch)?;
    for pool in &plan.pools {
        for sink in [&pool.log.stdout, &pool.log.stderr] {
            if let Sink::File(path) = sink {
                let what = format!("pool {}: cannot write its log {}", pool.name, path.display());
                pen::check_file(path).map_err(|e| Failed::at(&what, e))?;
            }
        }
    }
    let pen = Pen::start(paper).map_err(|e| Failed::at("cannot start the log's thread", e))?;
    let sink = pen.clone();
    diary::open(Arc::new(move |line| sink.line(line)), plan.master.log_format, plan.master.log_level);
    Ok(pen)
}

/// Where the master's log is; none: on its stderr.
fn log_file<'p>(plan: &'p Plan, launch: &Launch) -> Option<&'p PathBuf> {
    let master = &plan.master;
    master.log_file.as_ref().or_else(|| (!launch.foreground).then_some(&master.default_log_file))
}

fn paper(plan: &Plan, launch: &Launch) -> Result<Paper, Failed> {
    let master = &plan.master;
    let Some(file) = log_file(plan, launch) else { return Ok(Paper::stderr(master.log_format)) };
    let rotation = Rotation { max_size: master.log_max_size, keep: master.log_keep };
    Paper::file(file.clone(), master.log_format, rotation)
        .map_err(|e| Failed::at(&format!("cannot open the log {}", file.display()), e))
}

/// Workers of any user pass through it to their own socket; nobody but us lists or writes it.
fn make_notify_dir(path: &std::path::Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o711).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            for entry in std::fs::read_dir(path)?.flatten() {
                std::fs::remove_file(entry.path()).ok();
            }
        }
        other => other?,
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711))
}

/// All that a keeper needs; from here on nothing fails.
struct Standing {
    ground: Ground,
    reactor: Reactor,
    wake: Wake,
    spawner: Spawner,
    scout: Scout,
    care: Care,
    null: Arc<OwnedFd>,
}

impl Standing {
    fn on(plan: &Plan, ground: Ground) -> Result<Self, Failed> {
        let build = || -> io::Result<(Reactor, Wake, Spawner, Scout, Care, OwnedFd)> {
            let reactor = Reactor::new()?;
            let wake = Wake::new()?;
            let settings =
                Settings { wake: wake.clone(), original_nofile: ground.nofile, shim: shim::OURSELVES.into() };
            let spawner = Spawner::start(settings.clone())?;
            let scout = Scout::start(wake.clone())?;
            let null = File::options().read(true).write(true).open("/dev/null")?;
            reactor.watch(ground.signals.as_fd(), Source::Signals, Interest::Read)?;
            reactor.watch(wake.as_fd(), Source::Wake, Interest::Read)?;
            reactor.watch(ground.server.as_fd(), Source::Control, Interest::Read)?;
            for (number, listener) in ground.listeners.iter().enumerate() {
                // The same numbers as `Listening` gives them.
                reactor.watch(listener.fd().as_fd(), Source::Listener(number as u64), Interest::Hangup)?;
            }
            Ok((reactor, wake, spawner, scout, Care::new(settings), null.into()))
        };
        let (reactor, wake, spawner, scout, care, null) = build().map_err(|e| Failed::at("cannot begin", e))?;
        for listener in &ground.listeners {
            tracing::info!(listen = listener.name(), "listening on {}", listener.addr_text());
            if let Some(most) = listener.clipped() {
                tracing::warn!(
                    listen = listener.name(),
                    "the system clips the backlog to {most} (net.core.somaxconn): {} was asked for",
                    listener.plan().backlog
                );
            }
        }
        tracing::debug!("{} pools", plan.pools.len());
        Ok(Self { ground, reactor, wake, spawner, scout, care, null: Arc::new(null) })
    }

    fn keeper(self, plan: Plan, launch: Launch) -> Keeper {
        let Self { ground, reactor, wake, spawner, scout, care, null } = self;
        let mut listening = Listening::default();
        let ids: Vec<_> = ground.listeners.into_iter().map(|listener| listening.add(listener)).collect();
        let mut posts = Posts::default();
        for pool in &plan.pools {
            let listeners = pool.recipe.listen.iter().map(|index| ids[*index]).collect();
            posts.add(Pattern { plan: pool.clone(), listeners });
        }
        let log_file = log_file(&plan, &launch).cloned();
        let names: Vec<_> = posts.iter().map(|(id, pool)| (id, pool.name.clone())).collect();
        let patience = plan.pools.iter().map(|p| p.policy.ready_timeout.as_millis()).max().unwrap_or(0);
        let launch =
            LaunchWatch::new(launch, names.into_iter(), Duration::from_millis(patience) + Duration::from_secs(1));
        // The moment of birth makes it unique over reboots and reused pids.
        let born = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Keeper {
            core: Master::new(),
            clock: Clock::start(),
            told: Time(0),
            clerk: Clerk::new(wake.clone()),
            watching: Watching::new(wake.clone()),
            notify_dir: ground.house.path().join("notify"),
            house: ground.house,
            signals: ground.signals,
            listening,
            posts,
            pen: ground.pen,
            server: ground.server,
            chronicle: Chronicle::default(),
            streams: Streams::default(),
            log_file,
            journal: ground.journal,
            fence: ground.fence,
            manager: ground.manager,
            tag: format!("{:x}-{:x}", std::process::id(), born.as_micros()),
            reactor,
            wake,
            spawner,
            scout,
            care,
            null,
            roster: Roster::default(),
            recipes: Recipes::new(),
            obituaries: Obituaries::default(),
            facts: VecDeque::new(),
            busy: false,
            tickets: Tickets::default(),
            stop_clients: Vec::new(),
            launch,
            manager_told: false,
            leaving: None,
            watched: BTreeSet::new(),
            blind: BTreeSet::new(),
            blind_told: false,
            alive_for: BTreeSet::new(),
            stopping: false,
            interrupted: false,
            strangers: crate::os::lineage::orphans(&std::collections::HashSet::new()),
            last_lost: BTreeMap::new(),
            plan,
        }
    }
}
