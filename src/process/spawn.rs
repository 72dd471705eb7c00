//! Spawns one worker: resolves the program, prepares everything, clones, and reads the result. Runs on a spawner
//! thread.

use super::staged_fds::{self, ReservedFds};
use super::thread_state::ThreadState;
use super::{
    Resolved, SpawnError, SpawnRequest, SpawnResult, SpawnStage, SpawnedChild, SpawnerConfig,
    environment, shim,
};
use crate::process::procfs::{self, Stat};
use crate::process::tree::TAG;
use crate::sys::clone::{ExecFailure, Stack};
use crate::sys::exec::{self, ExecSpec, Launched};
use crate::sys::process::Process;
use nix::libc;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The kernel reads its clock as we do, but not by the same code (vdso(7)): this much more is allowed than they can differ.
const CLOCK_ERROR_NS: u64 = 1000;

/// What a spawner thread needs for each spawn, created once.
#[derive(Debug)]
pub(super) struct Tools {
    stack: Stack,
    null: OwnedFd,
    reserved: ReservedFds,
    original_nofile: (u64, u64),
    shim: PathBuf,
    /// Whether the start time in /proc is that of the clock, as on Linux but not on everything that looks like it. None: not
    /// compared yet.
    start_time_by_clock: Option<bool>,
}

impl Tools {
    pub(super) fn new(config: &SpawnerConfig) -> io::Result<Self> {
        let null: OwnedFd = File::open("/dev/null")?.into();
        Ok(Self {
            stack: Stack::new()?,
            reserved: ReservedFds::new(&null),
            null,
            original_nofile: config.original_nofile,
            shim: config.shim.clone(),
            start_time_by_clock: None,
        })
    }

    /// [`SpawnedChild::start_time`] of a child that was created between these times. To read it in /proc costs as much as
    /// the clone: so that is done until it is known to be the same, and where a clock tick lies between.
    fn start_time(&mut self, pid: i32, created: (u64, u64)) -> u64 {
        let by_clock = start_tick(created);
        if let (Some(start_time), Some(true)) = (by_clock, self.start_time_by_clock) {
            return start_time;
        }
        let Ok(Stat { start_time, .. }) = Stat::of(pid) else {
            return 0;
        };
        if by_clock.is_some() && self.start_time_by_clock.is_none() {
            self.start_time_by_clock = Some(by_clock == Some(start_time));
        }
        start_time
    }
}

/// A child, its start time ([`SpawnedChild::start_time`]), and the pipe that brings its exec status if that is not known
/// yet.
type Spawned = (Process, u64, Option<OwnedFd>);

/// Carries out one request. Blocks as long as the file system does.
pub(super) fn spawn(request: &SpawnRequest, tools: &mut Tools, state: &ThreadState) -> SpawnResult {
    let worker = request.worker;
    let mut repinned = false;
    let mut pinned = None;
    let spawned = find(request, state, &mut pinned).and_then(|found| {
        let first = try_spawn(request, &found, tools, state);
        let Err(error) = &first else { return first };
        if pinned.is_some() || !gone(error) || request.pinned.is_held() {
            return first;
        }
        // The generation's paths no longer exist: resolve them once more.
        state.progress.enter(SpawnStage::Resolve.number());
        let resolved_again = request.pinned.resolve()?;
        if resolved_again == found {
            return first;
        }
        repinned = true;
        let second = try_spawn(request, &resolved_again, tools, state);
        pinned = Some(resolved_again);
        second
    });
    match spawned {
        Ok((process, start_time, exec_status)) => {
            let child = SpawnedChild {
                start_time,
                process,
                pinned,
                repinned,
            };
            match exec_status {
                Some(exec_status) => SpawnResult::ExecPending {
                    worker,
                    child,
                    exec_status,
                },
                None => SpawnResult::Started { worker, child },
            }
        }
        Err(error) => SpawnResult::Failed {
            worker,
            error,
            pinned,
            repinned,
        },
    }
}

fn find(
    request: &SpawnRequest,
    state: &ThreadState,
    fresh: &mut Option<Resolved>,
) -> Result<Resolved, SpawnError> {
    if let Some(found) = request.pinned.resolved() {
        return Ok(found);
    }
    state.progress.enter(SpawnStage::Resolve.number());
    let found = request.pinned.resolve()?;
    *fresh = Some(found.clone());
    Ok(found)
}

fn gone(error: &SpawnError) -> bool {
    matches!(error.stage, SpawnStage::Directory | SpawnStage::Exec)
        && matches!(error.errno, libc::ENOENT | libc::ENOTDIR)
}

fn try_spawn(
    request: &SpawnRequest,
    found: &Resolved,
    tools: &mut Tools,
    state: &ThreadState,
) -> Result<Spawned, SpawnError> {
    state.progress.enter(SpawnStage::Prepare.number());
    let Some(account) = &request.account else {
        let limits = limits(request, tools.original_nofile);
        let launch = ExecSpec {
            program: c_string(found.program.as_os_str().as_bytes())?,
            argv: arguments(&request.argv)?,
            envp: variables(request)?,
            own_pid: own_pid(request),
            directory: Some(c_string(found.directory.as_os_str().as_bytes())?),
            limits: limits
                .iter()
                .map(|&(_, resource, soft, hard)| (resource, soft, hard))
                .collect(),
            nice: request.nice,
            umask: request.umask,
            cgroup: None,
            pid: request.pid.clone(),
            closed: staged_fds::blocks(),
            descriptors: Vec::new(),
        };
        return start(request, launch, &[], tools, state, |failure| {
            explain(failure, found, &limits)
        })
        .map(|(process, start_time)| (process, start_time, None));
    };
    // The shim enters the directory and executes the program unwatched by the spawner: check both now.
    for (stage, path) in [
        (SpawnStage::Directory, &found.directory),
        (SpawnStage::Exec, &found.program),
    ] {
        if let Err(error) = fs::symlink_metadata(path) {
            return Err(SpawnError::diagnose(stage, errno_of(&error), path));
        }
    }
    let first_free = 3 + request.listeners.len();
    let spec = shim::Spec {
        limits: limits(request, tools.original_nofile),
        nice: request.nice,
        umask: request.umask,
        user: account.name.clone(),
        uid: account.uid,
        gid: account.gid,
        groups: account.groups.clone(),
        listen_pid: !request.listeners.is_empty(),
        watchdog_pid: request.watchdog.is_some(),
        argc: request.argv.len(),
    };
    let strings = [found.program.as_os_str(), found.directory.as_os_str()];
    let strings = strings
        .iter()
        .map(|string| c_string(string.as_bytes()))
        .collect::<Result<Vec<_>, _>>()?;
    let lists = [strings, arguments(&request.argv)?, variables(request)?].concat();
    let plan = shim::prepare(&spec, &lists).map_err(|error| failed(SpawnStage::Prepare, &error))?;
    let launch = ExecSpec {
        program: c_string(tools.shim.as_os_str().as_bytes())?,
        argv: shim::arguments(first_free),
        // No variable of the worker may influence a program that still has the master's rights. Its tag is needed: the
        // master may be killed before it journals this worker.
        envp: tag(request)?,
        own_pid: Vec::new(),
        directory: None,
        limits: Vec::new(),
        nice: None,
        umask: None,
        cgroup: None,
        pid: request.pid.clone(),
        closed: staged_fds::blocks(),
        descriptors: Vec::new(),
    };
    let extra = [plan.spec.as_fd(), plan.status.as_fd()];
    let shim = tools.shim.clone();
    start(request, launch, &extra, tools, state, |failure| {
        SpawnError::diagnose(SpawnStage::of_number(failure.stage), failure.errno, &shim)
    })
    .map(|(process, start_time)| (process, start_time, Some(plan.exec_status)))
}

/// Clones, and reads the child's result.
fn start(
    request: &SpawnRequest,
    mut launch: ExecSpec,
    extra: &[BorrowedFd<'_>],
    tools: &mut Tools,
    state: &ThreadState,
    explain: impl FnOnce(ExecFailure) -> SpawnError,
) -> Result<(Process, u64), SpawnError> {
    let stdin = request
        .stdin
        .as_ref()
        .map_or_else(|| tools.null.as_fd(), |fd| fd.as_fd());
    let sources = [stdin, request.stdout.as_fd(), request.stderr.as_fd()];
    let sources = sources
        .into_iter()
        .chain(request.listeners.iter().map(|fd| fd.as_fd()))
        .chain(extra.iter().copied());
    let sources: Vec<_> = sources.collect();
    let staged = tools
        .reserved
        .stage(&sources, &tools.null)
        .map_err(|error| failed(SpawnStage::Descriptors, &error))?;
    launch.descriptors.extend(staged.numbers());
    // Opened here and not by the requester: a queue of ten thousand spawns holds none of these open.
    let procs = request
        .cgroup
        .as_ref()
        .and_then(|procs| File::options().write(true).open(procs).ok());
    launch.cgroup = procs.as_ref().map(AsRawFd::as_raw_fd);
    state.progress.enter(SpawnStage::Fork.number());
    let launched = exec::launch(&launch, &mut tools.stack, &state.progress);
    drop((staged, procs));
    let (pidfd, failure) = state.collect();
    let Launched { pid, created } = launched.map_err(|error| failed(SpawnStage::Fork, &error))?;
    if let Some(failure) = failure {
        reap(pid);
        return Err(explain(failure));
    }
    let process = match pidfd {
        Some(pidfd) => Process::of_child(pid, Some(pidfd)),
        // Free of races: the child is not reaped before it is reported.
        None => Process::open_child(pid),
    };
    Ok((process, tools.start_time(pid, created)))
}

/// The start time that /proc/PID/stat shows of a process which was created between these times. None: a clock tick lies
/// between them.
fn start_tick((earliest, latest): (u64, u64)) -> Option<u64> {
    let first = procfs::start_time(earliest.saturating_sub(CLOCK_ERROR_NS));
    (first == procfs::start_time(latest + CLOCK_ERROR_NS)).then_some(first)
}

/// Waits until a child that is about to exit has exited, and reaps it.
pub(super) fn reap(pid: i32) {
    while waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED) == Err(nix::errno::Errno::EINTR)
    {
    }
}

fn explain(
    failure: ExecFailure,
    found: &Resolved,
    limits: &[(String, u32, u64, u64)],
) -> SpawnError {
    let stage = SpawnStage::of_number(failure.stage);
    let subject = match stage {
        SpawnStage::Directory => found.directory.clone(),
        SpawnStage::Exec => found.program.clone(),
        SpawnStage::Limits => limits
            .get(failure.detail as usize)
            .map_or_else(PathBuf::new, |limit| PathBuf::from(&limit.0)),
        SpawnStage::Descriptors => PathBuf::from(failure.detail.to_string()),
        _ => PathBuf::new(),
    };
    SpawnError::diagnose(stage, failure.errno, &subject)
}

/// Name, resource, soft, hard of the configured limits; unless configured, that of open files is what the master found
/// at its start.
fn limits(request: &SpawnRequest, nofile: (u64, u64)) -> Vec<(String, u32, u64, u64)> {
    let mut limits: Vec<_> = request
        .limits
        .iter()
        .map(|limit| (limit.name.clone(), limit.resource, limit.soft, limit.hard))
        .collect();
    #[allow(
        clippy::unnecessary_cast,
        reason = "the type of the constant differs between libcs"
    )]
    let resource = libc::RLIMIT_NOFILE as u32;
    if !limits.iter().any(|limit| limit.1 == resource) {
        limits.push(("nofile".to_owned(), resource, nofile.0, nofile.1));
    }
    limits
}

fn arguments(argv: &[OsString]) -> Result<Vec<CString>, SpawnError> {
    argv.iter()
        .map(|argument| c_string(&argument.clone().into_vec()))
        .collect()
}

/// The variables that only the child itself can fill in.
fn own_pid(request: &SpawnRequest) -> Vec<&'static [u8]> {
    let names = [
        (!request.listeners.is_empty(), exec::LISTEN_PID),
        (request.watchdog.is_some(), exec::WATCHDOG_PID),
    ];
    names
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .map(|(_, name)| name)
        .collect()
}

fn variables(request: &SpawnRequest) -> Result<Vec<CString>, SpawnError> {
    environment::finish(
        &request.env,
        request.listeners.len(),
        &request.listen_names,
        request.watchdog,
    )
    .map_err(|_| {
        SpawnError::diagnose(
            SpawnStage::Prepare,
            libc::EINVAL,
            Path::new("its environment"),
        )
    })
}

fn tag(request: &SpawnRequest) -> Result<Vec<CString>, SpawnError> {
    let tag = request.env.iter().filter(|(name, _)| name == TAG);
    tag.map(|(name, value)| c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect()
}

fn c_string(bytes: &[u8]) -> Result<CString, SpawnError> {
    CString::new(bytes).map_err(|_| {
        SpawnError::diagnose(SpawnStage::Prepare, libc::EINVAL, Path::new("its command"))
    })
}

fn failed(stage: SpawnStage, error: &io::Error) -> SpawnError {
    SpawnError::diagnose(stage, errno_of(error), Path::new(""))
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
