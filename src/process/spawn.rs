//! One birth: find the program, prepare everything, clone, look what came of it.

use super::staged_fds::ReservedFds;
use super::thread_state::ThreadState;
use super::{
    Resolved, SpawnError, SpawnRequest, SpawnResult, SpawnStage, SpawnedChild, SpawnerConfig, environment, shim,
};
use crate::process::tree::TAG;
use crate::sys::clone::{Stack, Trouble};
use crate::sys::exec::{self, Launch};
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

/// What a spawner thread works with, made once.
#[derive(Debug)]
pub(super) struct Tools {
    stack: Stack,
    null: OwnedFd,
    pad: ReservedFds,
    original_nofile: (u64, u64),
    shim: PathBuf,
}

impl Tools {
    pub(super) fn new(settings: &SpawnerConfig) -> io::Result<Self> {
        let null: OwnedFd = File::open("/dev/null")?.into();
        Ok(Self {
            stack: Stack::new()?,
            pad: ReservedFds::new(&null),
            null,
            original_nofile: settings.original_nofile,
            shim: settings.shim.clone(),
        })
    }
}

/// A child, and where the verdict on it comes from if it is not known yet.
type Delivered = (Process, Option<OwnedFd>);

/// Carries out one order. Blocks as long as the file system does.
pub(super) fn deliver(order: &SpawnRequest, tools: &mut Tools, seat: &ThreadState) -> SpawnResult {
    let worker = order.worker;
    let mut repinned = false;
    let mut pinned = None;
    let delivered = find(order, seat, &mut pinned).and_then(|found| {
        let first = attempt(order, &found, tools, seat);
        let Err(error) = &first else { return first };
        if pinned.is_some() || !gone(error) || order.pinned.is_held() {
            return first;
        }
        // What the generation was pinned to is no longer there: look once more, and take what is there now.
        seat.progress.enter(SpawnStage::Resolve.number());
        let anew = order.pinned.resolve()?;
        if anew == found {
            return first;
        }
        repinned = true;
        let second = attempt(order, &anew, tools, seat);
        pinned = Some(anew);
        second
    });
    match delivered {
        Ok((process, verdict)) => {
            let born = SpawnedChild { start_time: start_time(process.pid()), process, pinned, repinned };
            match verdict {
                Some(verdict) => SpawnResult::Underway { worker, born, verdict },
                None => SpawnResult::Born { worker, born },
            }
        }
        Err(error) => SpawnResult::Failed { worker, error, pinned, repinned },
    }
}

fn find(order: &SpawnRequest, seat: &ThreadState, fresh: &mut Option<Resolved>) -> Result<Resolved, SpawnError> {
    if let Some(found) = order.pinned.resolved() {
        return Ok(found);
    }
    seat.progress.enter(SpawnStage::Resolve.number());
    let found = order.pinned.resolve()?;
    *fresh = Some(found.clone());
    Ok(found)
}

fn gone(error: &SpawnError) -> bool {
    matches!(error.stage, SpawnStage::Directory | SpawnStage::Exec)
        && matches!(error.errno, libc::ENOENT | libc::ENOTDIR)
}

fn attempt(
    order: &SpawnRequest,
    found: &Resolved,
    tools: &mut Tools,
    seat: &ThreadState,
) -> Result<Delivered, SpawnError> {
    seat.progress.enter(SpawnStage::Prepare.number());
    let Some(account) = &order.account else {
        let limits = limits(order, tools.original_nofile);
        let launch = Launch {
            program: c_string(found.program.as_os_str().as_bytes())?,
            argv: arguments(&order.argv)?,
            envp: variables(order)?,
            own_pid: own_pid(order),
            directory: Some(c_string(found.directory.as_os_str().as_bytes())?),
            limits: limits.iter().map(|&(_, resource, soft, hard)| (resource, soft, hard)).collect(),
            nice: order.nice,
            umask: order.umask,
            cgroup: None,
            pid: order.pid.clone(),
            descriptors: Vec::new(),
        };
        return start(order, launch, &[], tools, seat, |trouble| explain(trouble, found, &limits))
            .map(|process| (process, None));
    };
    // The shim enters the directory and executes the program when the spawner no longer watches: look now.
    for (stage, path) in [(SpawnStage::Directory, &found.directory), (SpawnStage::Exec, &found.program)] {
        if let Err(error) = fs::symlink_metadata(path) {
            return Err(SpawnError::diagnose(stage, errno_of(&error), path));
        }
    }
    let first_free = 3 + order.listeners.len();
    let spec = shim::Spec {
        limits: limits(order, tools.original_nofile),
        nice: order.nice,
        umask: order.umask,
        user: account.name.clone(),
        uid: account.uid,
        gid: account.gid,
        groups: account.groups.clone(),
        listen_pid: !order.listeners.is_empty(),
        watchdog_pid: order.watchdog.is_some(),
        argc: order.argv.len(),
    };
    let strings = [found.program.as_os_str(), found.directory.as_os_str()];
    let strings = strings.iter().map(|string| c_string(string.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let lists = [strings, arguments(&order.argv)?, variables(order)?].concat();
    let plan = shim::prepare(&spec, &lists).map_err(|error| failed(SpawnStage::Prepare, &error))?;
    let launch = Launch {
        program: c_string(tools.shim.as_os_str().as_bytes())?,
        argv: shim::arguments(first_free),
        // Nothing of the worker's environment may steer a program that still has the master's rights. Whose it is it has
        // to say: its master may be killed before its first line in the journal.
        envp: tag(order)?,
        own_pid: Vec::new(),
        directory: None,
        limits: Vec::new(),
        nice: None,
        umask: None,
        cgroup: None,
        pid: order.pid.clone(),
        descriptors: Vec::new(),
    };
    let extra = [plan.spec.as_fd(), plan.status.as_fd()];
    let shim = tools.shim.clone();
    start(order, launch, &extra, tools, seat, |trouble| {
        SpawnError::diagnose(SpawnStage::of_number(trouble.stage), trouble.errno, &shim)
    })
    .map(|process| (process, Some(plan.verdict)))
}

/// Clones, and takes care of what came of it.
fn start(
    order: &SpawnRequest,
    mut launch: Launch,
    extra: &[BorrowedFd<'_>],
    tools: &mut Tools,
    seat: &ThreadState,
    explain: impl FnOnce(Trouble) -> SpawnError,
) -> Result<Process, SpawnError> {
    let stdin = order.stdin.as_ref().map_or_else(|| tools.null.as_fd(), |fd| fd.as_fd());
    let sources = [stdin, order.stdout.as_fd(), order.stderr.as_fd()];
    let sources = sources.into_iter().chain(order.listeners.iter().map(|fd| fd.as_fd())).chain(extra.iter().copied());
    let sources: Vec<_> = sources.collect();
    let laid = tools.pad.lay(&sources, &tools.null).map_err(|error| failed(SpawnStage::Descriptors, &error))?;
    launch.descriptors.extend(laid.numbers());
    // Opened here and not by who gives the order: a queue of ten thousand births holds none of these open.
    let procs = order.cgroup.as_ref().and_then(|procs| File::options().write(true).open(procs).ok());
    launch.cgroup = procs.as_ref().map(AsRawFd::as_raw_fd);
    seat.progress.enter(SpawnStage::Fork.number());
    let launched = exec::launch(&launch, &mut tools.stack, &seat.progress);
    drop((laid, procs));
    let (pidfd, trouble) = seat.collect();
    let pid = launched.map_err(|error| failed(SpawnStage::Fork, &error))?;
    if let Some(trouble) = trouble {
        bury(pid);
        return Err(explain(trouble));
    }
    Ok(match pidfd {
        Some(pidfd) => Process::of_child(pid, Some(pidfd)),
        // Race-free all the same: nobody reaps our child before it is reported.
        None => Process::of_stranger(pid).unwrap_or_else(|_| Process::of_child(pid, None)),
    })
}

/// Waits until a child that is about to end has ended, and reaps it.
pub(super) fn bury(pid: i32) {
    while waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED) == Err(nix::errno::Errno::EINTR) {}
}

fn explain(trouble: Trouble, found: &Resolved, limits: &[(String, u32, u64, u64)]) -> SpawnError {
    let stage = SpawnStage::of_number(trouble.stage);
    let subject = match stage {
        SpawnStage::Directory => found.directory.clone(),
        SpawnStage::Exec => found.program.clone(),
        SpawnStage::Limits => {
            limits.get(trouble.detail as usize).map_or_else(PathBuf::new, |limit| PathBuf::from(&limit.0))
        }
        SpawnStage::Descriptors => PathBuf::from(trouble.detail.to_string()),
        _ => PathBuf::new(),
    };
    SpawnError::diagnose(stage, trouble.errno, &subject)
}

/// Name, resource, soft, hard: the limits asked for; that of open files as the master found it, unless asked for.
fn limits(order: &SpawnRequest, nofile: (u64, u64)) -> Vec<(String, u32, u64, u64)> {
    let mut limits: Vec<_> =
        order.limits.iter().map(|limit| (limit.name.clone(), limit.resource, limit.soft, limit.hard)).collect();
    #[allow(clippy::unnecessary_cast, reason = "the type of the constant differs between libcs")]
    let resource = libc::RLIMIT_NOFILE as u32;
    if !limits.iter().any(|limit| limit.1 == resource) {
        limits.push(("nofile".to_owned(), resource, nofile.0, nofile.1));
    }
    limits
}

fn arguments(argv: &[OsString]) -> Result<Vec<CString>, SpawnError> {
    argv.iter().map(|argument| c_string(&argument.clone().into_vec())).collect()
}

/// Variables that only the child itself can fill in.
fn own_pid(order: &SpawnRequest) -> Vec<&'static [u8]> {
    let names = [(!order.listeners.is_empty(), exec::LISTEN_PID), (order.watchdog.is_some(), exec::WATCHDOG_PID)];
    names.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name).collect()
}

fn variables(order: &SpawnRequest) -> Result<Vec<CString>, SpawnError> {
    environment::finish(&order.env, order.listeners.len(), &order.listen_names, order.watchdog)
        .map_err(|_| SpawnError::diagnose(SpawnStage::Prepare, libc::EINVAL, Path::new("its environment")))
}

fn tag(order: &SpawnRequest) -> Result<Vec<CString>, SpawnError> {
    let tag = order.env.iter().filter(|(name, _)| name == TAG);
    tag.map(|(name, value)| c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat())).collect()
}

fn c_string(bytes: &[u8]) -> Result<CString, SpawnError> {
    CString::new(bytes).map_err(|_| SpawnError::diagnose(SpawnStage::Prepare, libc::EINVAL, Path::new("its command")))
}

fn failed(stage: SpawnStage, error: &io::Error) -> SpawnError {
    SpawnError::diagnose(stage, errno_of(error), Path::new(""))
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Field 22 of /proc/PID/stat. The second field is the program's name, which may hold anything: count from its end.
fn start_time(pid: i32) -> u64 {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.iter().rposition(|&byte| byte == b')').map_or(&[][..], |end| &stat[end + 1..]);
    let field = after.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).nth(19);
    field.and_then(|field| std::str::from_utf8(field).ok()?.parse().ok()).unwrap_or(0)
}
