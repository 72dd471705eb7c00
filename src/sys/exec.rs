//! What a child does between clone(2) and execve(2), as an [`ExecSpec`] says.
//!
//! Everything is prepared before, so that the child only makes system calls: it shares our memory, and another thread
//! may hold any lock, including the allocator's.

use super::clone::{ExecFailure, ExecProgress, Stack, since_boot, vfork};
use super::{child_setup, fds};
use nix::libc;
use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::RawFd;
use std::ptr::null;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The exit status of a child that could not become its program, as shells report it. Nobody reads it: why is reported
/// by [`ExecProgress`] or through the shim's pipe.
pub const NOT_EXECUTED: u8 = 127;

/// How often execve(2) is retried while the program's file is open for writing (ETXTBSY).
const BUSY_RETRIES: u32 = 5;
/// Pause before such a retry, in milliseconds.
const BUSY_PAUSE_MS: u32 = 20;

/// The stages of a child, for [`ExecProgress::enter`].
pub mod step {
    /// setsid(2) and signal dispositions.
    pub const SESSION: u32 = 1;
    /// Resource limits.
    pub const LIMITS: u32 = 2;
    /// Nice value and umask.
    pub const NICE: u32 = 3;
    /// Working directory.
    pub const DIRECTORY: u32 = 4;
    /// Descriptors.
    pub const DESCRIPTORS: u32 = 5;
    /// execve(2).
    pub const EXEC: u32 = 6;
    /// Joining the cgroup.
    pub const CGROUP: u32 = 7;
}

/// A variable whose value the child itself writes, because its pid is not known before (sd_listen_fds(3)).
pub const LISTEN_PID: &[u8] = b"LISTEN_PID=";
/// Another one (sd_watchdog_enabled(3)).
pub const WATCHDOG_PID: &[u8] = b"WATCHDOG_PID=";
/// Digits of the largest pid, and the terminating NUL.
const PID_LEN: usize = 11;

/// Everything that a child needs to become its program.
#[derive(Debug)]
pub struct ExecSpec {
    /// The path of the program.
    pub program: CString,
    /// Its arguments, with its name as the first.
    pub argv: Vec<CString>,
    /// Its environment, as `NAME=value`.
    pub envp: Vec<CString>,
    /// Names, with `=`, of variables that are added with the child's pid as their value.
    pub own_pid: Vec<&'static [u8]>,
    /// The working directory; None: the parent's.
    pub directory: Option<CString>,
    /// Resource limits: resource, soft limit, hard limit.
    pub limits: Vec<(u32, u64, u64)>,
    /// The nice value; None: the parent's.
    pub nice: Option<i32>,
    /// The umask; None: the parent's.
    pub umask: Option<u32>,
    /// An open cgroup.procs of the cgroup that the child joins.
    pub cgroup: Option<RawFd>,
    /// The child stores its pid here before its program runs, so that it is known before the program acts.
    pub pid: Arc<AtomicI32>,
    /// The first and the last number of those that are closed before the child does anything that may hang. The others, among
    /// them the lock by which the next master waits for a child, are closed by exec.
    pub closed: Vec<(RawFd, RawFd)>,
    /// The descriptors that become 0, 1, 2, … Each number must be above these, so that none is overwritten before it is
    /// moved.
    pub descriptors: Vec<RawFd>,
}

/// The arguments of the child in the form that the system calls take, in memory that the child may write to.
struct ExecArgs<'a> {
    spec: &'a ExecSpec,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    own_pid: Vec<(&'static [u8], Vec<u8>)>,
    /// Whether the child starts in our table of descriptors instead of a copy.
    shares_table: bool,
    progress: &'a ExecProgress,
}

/// A child that was started, and has to be reaped.
#[derive(Clone, Copy, Debug)]
pub struct Launched {
    /// Its pid.
    pub pid: i32,
    /// The kernel has created it between these two times, in nanoseconds since boot (CLOCK_BOOTTIME).
    pub created: (u64, u64),
}

/// Starts the program in a new session, with all signals at their default and none blocked, and sleeps until it runs or
/// has failed.
///
/// All signals must be blocked in the calling thread: a handler must not run in the child.
///
/// # Errors
/// Those of clone(2): EAGAIN, ENOMEM, EMFILE; then there is no child. The failure of a child is in `progress`.
pub fn launch(spec: &ExecSpec, stack: &mut Stack, progress: &ExecProgress) -> io::Result<Launched> {
    debug_assert!(
        spec.descriptors
            .iter()
            .all(|&fd| fd >= spec.descriptors.len() as RawFd)
    );
    let shares_table = fds::can_unshare();
    let (argv, envp) = (pointers(&spec.argv), pointers(&spec.envp));
    let mut args = ExecArgs {
        spec,
        argv,
        envp,
        own_pid: Vec::new(),
        shares_table,
        progress,
    };
    for name in &spec.own_pid {
        let mut line = name.to_vec();
        line.resize(name.len() + PID_LEN, 0);
        let last = args.envp.len() - 1;
        // Moving the vector leaves its bytes where they are.
        args.envp
            .insert(last, line.as_mut_ptr().cast_const().cast());
        args.own_pid.push((name, line));
    }
    let before = since_boot();
    // SAFETY: `child` makes system calls only and never returns; `args` and all that it points to outlive the call.
    let pid = unsafe { vfork(stack, child, (&raw mut args).cast(), shares_table, progress) }?;
    Ok(Launched {
        pid,
        created: (before, progress.began()),
    })
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([null()])
        .collect()
}

extern "C" fn child(args: *mut c_void) -> c_int {
    // SAFETY: `launch` passes its own ExecArgs, which lives until the parent wakes and which it does not use meanwhile.
    let args = unsafe { &mut *args.cast::<ExecArgs<'_>>() };
    // SAFETY: no memory is passed.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) } as i32;
    args.progress.begin(pid);
    args.spec.pid.store(pid, Ordering::Relaxed);
    if let Err(ExecFailure { errno, detail, .. }) =
        prepare(args.spec, args.shares_table, args.progress)
    {
        fail_and_exit(args.progress, errno, detail);
    }
    for (name, line) in &mut args.own_pid {
        write_digits(&mut line[name.len()..], pid);
    }
    args.progress.enter(step::EXEC);
    child_setup::empty_mask();
    let errno = execute(&args.spec.program, &args.argv, &args.envp);
    fail_and_exit(args.progress, errno, 0)
}

fn prepare(
    spec: &ExecSpec,
    shares_table: bool,
    progress: &ExecProgress,
) -> Result<(), ExecFailure> {
    let at = |stage: u32, detail: usize, done: Result<(), i32>| {
        done.map_err(|errno| ExecFailure {
            stage,
            errno,
            detail: detail as u32,
        })
    };
    // First, while it still shares our descriptor table: so its descriptor needs no reserved number. If the kernel refuses
    // (ENODEV, EACCES), the worker runs without the cgroup, which is no reason to fail.
    if let Some(procs) = spec.cgroup {
        progress.enter(step::CGROUP);
        fds::write_zero(procs);
    }
    // Before the other stages: if one of them hangs, the child holds none of those that another thread is about to give to
    // its own child.
    progress.enter(step::DESCRIPTORS);
    let end = spec
        .descriptors
        .iter()
        .max()
        .map_or(0, |&highest| highest + 1);
    if shares_table {
        at(step::DESCRIPTORS, 0, fds::unshare(end))?;
    }
    for (to, &from) in spec.descriptors.iter().enumerate() {
        at(step::DESCRIPTORS, to, fds::move_fd(from, to as RawFd))?;
    }
    let own = spec.descriptors.len() as RawFd;
    for &(first, last) in &spec.closed {
        // A table of its own has nothing from `end` on.
        if last >= own && !(shares_table && first >= end) {
            fds::close(first.max(own), last);
        }
    }
    fds::close_on_exec_from(own);
    progress.enter(step::SESSION);
    // SAFETY: no memory is passed. It cannot fail: a new child leads no group.
    unsafe { libc::syscall(libc::SYS_setsid) };
    child_setup::default_dispositions();
    progress.enter(step::LIMITS);
    for (index, &(resource, soft, hard)) in spec.limits.iter().enumerate() {
        at(
            step::LIMITS,
            index,
            child_setup::set_limit(resource, soft, hard),
        )?;
    }
    progress.enter(step::NICE);
    if let Some(nice) = spec.nice {
        at(step::NICE, 0, child_setup::set_nice(nice))?;
    }
    if let Some(mask) = spec.umask {
        child_setup::set_umask(mask);
    }
    progress.enter(step::DIRECTORY);
    if let Some(directory) = &spec.directory {
        // SAFETY: a C string that outlives the call.
        let done = unsafe { libc::syscall(libc::SYS_chdir, directory.as_ptr()) };
        at(
            step::DIRECTORY,
            0,
            if done < 0 {
                Err(child_setup::errno())
            } else {
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Executes the program. Returns only on failure, with the errno.
fn execute(program: &CString, argv: &[*const c_char], envp: &[*const c_char]) -> i32 {
    for attempt in 0.. {
        // SAFETY: C strings and null-terminated arrays of them, which the callers keep alive until the program runs.
        unsafe {
            libc::syscall(
                libc::SYS_execve,
                program.as_ptr(),
                argv.as_ptr(),
                envp.as_ptr(),
            )
        };
        match child_setup::errno() {
            libc::ETXTBSY if attempt < BUSY_RETRIES => child_setup::sleep(BUSY_PAUSE_MS),
            errno => return errno,
        }
    }
    libc::ETXTBSY
}

fn fail_and_exit(progress: &ExecProgress, errno: i32, detail: u32) -> ! {
    progress.fail(errno, detail);
    loop {
        // SAFETY: a number only. Not exit(3): its handlers are the parent's.
        unsafe { libc::syscall(libc::SYS_exit_group, c_long::from(NOT_EXECUTED)) };
    }
}

/// Writes decimal digits before the NUL that is there already. Does not use `fmt`, which might allocate or panic.
fn write_digits(room: &mut [u8], pid: i32) {
    let mut length = 1;
    let mut rest = pid / 10;
    while rest > 0 {
        rest /= 10;
        length += 1;
    }
    rest = pid;
    for digit in room.iter_mut().take(length).rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// Executes the program of an open file in this process, in which other threads may run: they end (execveat(2),
/// AT_EMPTY_PATH). Its pid, its children and its signal mask stay. Returns only on failure.
pub fn become_file(program: RawFd, argv: &[CString], envp: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: C strings and null-terminated arrays of them, which live until the program runs.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Executes the program in this process, which must not share memory. Returns only on failure, with the errno.
pub fn become_program(program: &CString, argv: &[CString], envp: &[CString]) -> i32 {
    execute(program, &pointers(argv), &pointers(envp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_are_written_as_decimal_digits() {
        for pid in [1, 9, 10, 99, 4_194_304, i32::MAX] {
            let mut room = [0; PID_LEN];
            write_digits(&mut room, pid);
            let text = pid.to_string();
            assert_eq!(&room[..text.len()], text.as_bytes());
            assert_eq!(room[text.len()], 0);
        }
    }
}
