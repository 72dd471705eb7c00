//! The hidden verb: a process of its own between the master and a worker that runs as another user. `spawn` prepares
//! it; `main` calls [`intercept`] first.
//!
//! A child that shares the master's memory must not change its user: the other user could then reach into it. So the
//! child executes rotad itself, which reads its spec from a sealed memory file, gives up the master's rights step by
//! step, checks that they are gone, and executes the worker's program. If a step fails, one line goes into the status
//! pipe; if none does, the pipe closes with execve(2).

use super::{SpawnError, SpawnFault, SpawnStage};
use crate::sys::descriptors::take_inherited;
use crate::sys::exec::NOT_EXECUTED;
use crate::sys::{child_setup, exec};
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{
    Gid, Uid, chdir, getgroups, getresgid, getresuid, getuid, pipe2, setgroups, setresgid,
    setresuid,
};
use serde::{Deserialize, Serialize};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

/// The running program, even if its file was replaced.
pub const OURSELVES: &str = "/proc/self/exe";
/// The hidden verb.
const VERB: &str = "__shim";
/// The longest path that an error carries: escaped, and twice, it still fits into a line.
const SUBJECT: usize = 1000;
const LINE: usize = 16 * 1024;

/// What the shim is to do; program, directory, arguments and environment follow it as strings.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// Name, resource, soft, hard.
    pub(super) limits: Vec<(String, u32, u64, u64)>,
    pub(super) nice: Option<i32>,
    pub(super) umask: Option<u32>,
    pub(super) user: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) listen_pid: bool,
    pub(super) watchdog_pid: bool,
    pub(super) argc: usize,
}

/// The descriptors of one shim.
#[derive(Debug)]
pub(super) struct ShimFds {
    pub(super) spec: OwnedFd,
    pub(super) status: OwnedFd,
    /// The parent's end of `status`.
    pub(super) exec_status: OwnedFd,
}

/// Writes a spec into a sealed memory file.
pub(super) fn prepare(spec: &Spec, strings: &[CString]) -> io::Result<ShimFds> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"rotad-worker", flags)?);
    let mut bytes = serde_json::to_vec(spec)?;
    bytes.push(0);
    for string in strings {
        bytes.extend_from_slice(string.to_bytes_with_nul());
    }
    file.write_all(&bytes)?;
    file.rewind()?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    let (exec_status, status) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    Ok(ShimFds {
        spec: file.into(),
        status,
        exec_status,
    })
}

/// The shim's command line: its spec is on descriptor `first`, its status pipe on the next.
pub(super) fn arguments(first: usize) -> Vec<CString> {
    ["rotad", VERB, &first.to_string()]
        .into_iter()
        .filter_map(|argument| CString::new(argument).ok())
        .collect()
}

/// Reads whether the shim has executed the program: None if it has not come that far; Ok if it has (or was killed on
/// the way, as its exit will show); Err if a step failed, and the process has yet to be reaped. To be called when `fd`
/// is readable.
///
/// # Errors
/// EIO and the like from read(2).
pub fn exec_status(fd: &OwnedFd) -> io::Result<Option<Result<(), SpawnError>>> {
    let mut line = [0; LINE];
    match nix::unistd::read(fd, &mut line) {
        Ok(0) => Ok(Some(Ok(()))),
        Ok(length) => Ok(Some(Err(serde_json::from_slice(&line[..length])?))),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// To be called first in main: if this process was started as a shim, it becomes a worker here, or ends with the
/// returned code. None: an ordinary start.
pub fn intercept() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != VERB {
        return None;
    }
    let first = args
        .next()
        .and_then(|first| first.to_str()?.parse().ok())
        .unwrap_or(-1);
    Some(ExitCode::from(run(first)))
}

fn run(first: i32) -> u8 {
    // Without these descriptors there is no one to report to: it was typed by hand.
    if first < 3 {
        return NOT_EXECUTED;
    }
    let taken = (
        take_inherited(first),
        take_inherited(first.saturating_add(1)),
    );
    let (Ok(spec), Ok(status)) = taken else {
        return NOT_EXECUTED;
    };
    let mut error = match read_spec(spec) {
        Ok((spec, strings)) => match transform(&spec, strings) {
            Ok(never) => match never {},
            Err(error) => error,
        },
        Err(error) => failed(SpawnStage::Prepare, errno_of(&error), "its spec"),
    };
    shorten(&mut error.subject);
    if let SpawnFault::BadInterpreter(of) = &mut error.fault {
        shorten(of);
    }
    let line = serde_json::to_vec(&error).unwrap_or_default();
    File::from(status).write_all(&line).ok();
    NOT_EXECUTED
}

fn shorten(text: &mut String) {
    let end = (0..=SUBJECT.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
}

fn read_spec(fd: OwnedFd) -> io::Result<(Spec, Vec<CString>)> {
    let mut bytes = Vec::new();
    File::from(fd).read_to_end(&mut bytes)?;
    // The last string ends with a zero too: drop the empty rest behind it.
    let mut parts = bytes
        .strip_suffix(b"\0")
        .unwrap_or(&bytes)
        .split(|&byte| byte == 0);
    let spec = serde_json::from_slice(parts.next().unwrap_or_default())?;
    let strings = parts.map(CString::new).collect::<Result<_, _>>()?;
    Ok((spec, strings))
}

enum Never {}

/// Privileged steps first, then the user, then what the user must be allowed to do.
fn transform(spec: &Spec, mut strings: Vec<CString>) -> Result<Never, SpawnError> {
    if strings.len() < 2 + spec.argc {
        return Err(failed(SpawnStage::Prepare, libc::EINVAL, "its spec"));
    }
    let mut environment = strings.split_off(2 + spec.argc);
    for (name, resource, soft, hard) in &spec.limits {
        child_setup::set_limit(*resource, *soft, *hard)
            .map_err(|errno| failed(SpawnStage::Limits, errno, name))?;
    }
    if let Some(nice) = spec.nice {
        child_setup::set_nice(nice).map_err(|errno| failed(SpawnStage::Nice, errno, ""))?;
    }
    if let Some(mask) = spec.umask {
        child_setup::set_umask(mask);
    }
    drop_rights(spec)?;
    let path = |string: &CString| Path::new(OsStr::from_bytes(string.as_bytes())).to_path_buf();
    let (program, directory) = (path(&strings[0]), path(&strings[1]));
    chdir(&directory)
        .map_err(|errno| SpawnError::diagnose(SpawnStage::Directory, errno as i32, &directory))?;
    for (wanted, name) in [
        (spec.listen_pid, "LISTEN_PID"),
        (spec.watchdog_pid, "WATCHDOG_PID"),
    ] {
        let line = format!("{name}={}", std::process::id());
        environment.extend(CString::new(line).into_iter().filter(|_| wanted));
    }
    // Rust's runtime ignores SIGPIPE; a worker gets every signal at its default.
    child_setup::default_dispositions();
    child_setup::empty_mask();
    let errno = exec::become_program(&strings[0], &strings[2..], &environment);
    Err(SpawnError::diagnose(SpawnStage::Exec, errno, &program))
}

/// setgroups, setgid, setuid, in this order, since each needs rights that the next one gives away; then checks the
/// result.
fn drop_rights(spec: &Spec) -> Result<(), SpawnError> {
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    let groups: Vec<Gid> = spec.groups.iter().copied().map(Gid::from_raw).collect();
    // An unprivileged master may still name its own user.
    if !(getuid() == uid && !uid.is_root() && has_become(uid, gid, &groups)) {
        setgroups(&groups).map_err(|errno| failed(SpawnStage::Groups, errno as i32, &spec.user))?;
        setresgid(gid, gid, gid)
            .map_err(|errno| failed(SpawnStage::Gid, errno as i32, &spec.user))?;
        setresuid(uid, uid, uid)
            .map_err(|errno| failed(SpawnStage::Uid, errno as i32, &spec.user))?;
    }
    let root = Uid::from_raw(0);
    let back = !uid.is_root()
        && (setresuid(root, root, root).is_ok() || nix::unistd::seteuid(root).is_ok());
    let wheel = Gid::from_raw(0);
    let back = back || (!uid.is_root() && spec.gid != 0 && setresgid(wheel, wheel, wheel).is_ok());
    if back || !has_become(uid, gid, &groups) {
        return Err(failed(SpawnStage::Verify, libc::EPERM, &spec.user));
    }
    Ok(())
}

fn has_become(uid: Uid, gid: Gid, groups: &[Gid]) -> bool {
    let sorted = |groups: &[Gid]| {
        let mut numbers: Vec<u32> = groups.iter().map(|group| group.as_raw()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    getresuid().is_ok_and(|now| now.real == uid && now.effective == uid && now.saved == uid)
        && getresgid().is_ok_and(|now| now.real == gid && now.effective == gid && now.saved == gid)
        && getgroups().is_ok_and(|now| sorted(&now) == sorted(groups))
}

fn failed(stage: SpawnStage, errno: i32, subject: &str) -> SpawnError {
    SpawnError::diagnose(stage, errno, Path::new(subject))
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EINVAL)
}
