//! What a child does between clone(2) and execve(2), as an [`ExecSpec`] says.
//!
//! Everything is prepared before, so that the child only makes system calls: it shares our memory, and another thread
//! may hold any lock, including the allocator's.

use super::clone::{ExecFailure, ExecProgress, Stack, vfork};
use super::{fds, slate};
use nix::libc;
use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::RawFd;
use std::ptr::null;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The program is being written just now (ETXTBSY): tried again so often …
const BUSY_TRIES: u32 = 5;
/// … and so many milliseconds apart.
const BUSY_NAP: u32 = 20;

/// The numbers that [`ExecProgress`] knows the child's steps by.
pub mod step {
    pub const SESSION: u32 = 1;
    pub const LIMITS: u32 = 2;
    pub const NICE: u32 = 3;
    pub const DIRECTORY: u32 = 4;
    pub const DESCRIPTORS: u32 = 5;
    pub const EXEC: u32 = 6;
    pub const CGROUP: u32 = 7;
}

/// Environment variables whose value the child writes itself: nobody else knows its pid before it runs.
pub const LISTEN_PID: &[u8] = b"LISTEN_PID=";
pub const WATCHDOG_PID: &[u8] = b"WATCHDOG_PID=";
/// Digits of the largest pid, and the end of the string.
const PID_ROOM: usize = 11;

/// Everything that the child of one birth needs.
#[derive(Debug)]
pub struct ExecSpec {
    pub program: CString,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    /// Names, with `=`, of variables to be added with the child's pid as their value.
    pub own_pid: Vec<&'static [u8]>,
    /// None: stay where the parent is.
    pub directory: Option<CString>,
    /// Resource, soft, hard.
    pub limits: Vec<(u32, u64, u64)>,
    pub nice: Option<i32>,
    pub umask: Option<u32>,
    /// The cgroup.procs of the cgroup that it moves into, where there is one.
    pub cgroup: Option<RawFd>,
    /// Where the child notes its pid before its program runs: whatever the program does first, its pid is known.
    pub pid: Arc<AtomicI32>,
    /// What becomes 0, 1, 2, …: each number lies above them all, so that none is overwritten before it is placed.
    pub descriptors: Vec<RawFd>,
}

/// The launch as the kernel wants it, in memory that the child may write to.
struct Raw<'a> {
    launch: &'a ExecSpec,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    own_pid: Vec<(&'static [u8], Vec<u8>)>,
    /// The child is born into our table of descriptors, else with a copy of it.
    shares_table: bool,
    progress: &'a ExecProgress,
}

/// Starts the program in a session of its own, with all signals at their default and none blocked, and sleeps until it
/// runs or has failed. The pid is that of a child to be reaped in either case.
///
/// All signals must be blocked in the calling thread: a handler must not run in the child.
///
/// # Errors
/// No child: those of clone(2). A child that gave up wrote its trouble into `progress`.
pub fn launch(launch: &ExecSpec, stack: &mut Stack, progress: &ExecProgress) -> io::Result<i32> {
    debug_assert!(
        launch
            .descriptors
            .iter()
            .all(|&fd| fd >= launch.descriptors.len() as RawFd)
    );
    let shares_table = fds::can_leave_table();
    let (argv, envp) = (pointers(&launch.argv), pointers(&launch.envp));
    let mut raw = Raw {
        launch,
        argv,
        envp,
        own_pid: Vec::new(),
        shares_table,
        progress,
    };
    for name in &launch.own_pid {
        let mut line = name.to_vec();
        line.resize(name.len() + PID_ROOM, 0);
        let last = raw.envp.len() - 1;
        // Moving the vector leaves its bytes where they are.
        raw.envp.insert(last, line.as_mut_ptr().cast_const().cast());
        raw.own_pid.push((name, line));
    }
    // SAFETY: `child` makes system calls only and never returns; `raw` and all that it points to outlive the call.
    unsafe { vfork(stack, child, (&raw mut raw).cast(), shares_table, progress) }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([null()])
        .collect()
}

extern "C" fn child(raw: *mut c_void) -> c_int {
    // SAFETY: `launch` passes its own Raw, which lives until the parent wakes, and looks away meanwhile.
    let raw = unsafe { &mut *raw.cast::<Raw<'_>>() };
    // SAFETY: no memory is passed.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) } as i32;
    raw.progress.here(pid);
    raw.launch.pid.store(pid, Ordering::Relaxed);
    if let Err(ExecFailure { errno, detail, .. }) =
        prepare(raw.launch, raw.shares_table, raw.progress)
    {
        leave(raw.progress, errno, detail);
    }
    for (name, line) in &mut raw.own_pid {
        write_digits(&mut line[name.len()..], pid);
    }
    raw.progress.enter(step::EXEC);
    slate::empty_mask();
    let errno = execute(&raw.launch.program, &raw.argv, &raw.envp);
    leave(raw.progress, errno, 0)
}

fn prepare(
    launch: &ExecSpec,
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
    // Before anything that may fork or fail, and while it still shares our table: its descriptor needs no place on the
    // pad. It is born without where the kernel refuses (ENODEV, EACCES): that is one fence less, and no reason to die.
    if let Some(procs) = launch.cgroup {
        progress.enter(step::CGROUP);
        fds::write_zero(procs);
    }
    // First of the rest: whatever keeps the child from its program later, it holds nothing open that is not its own.
    progress.enter(step::DESCRIPTORS);
    let end = launch
        .descriptors
        .iter()
        .max()
        .map_or(0, |&highest| highest + 1);
    if shares_table {
        at(step::DESCRIPTORS, 0, fds::leave_table(end))?;
    }
    for (to, &from) in launch.descriptors.iter().enumerate() {
        at(step::DESCRIPTORS, to, fds::place(from, to as RawFd))?;
    }
    fds::close_on_exec_from(launch.descriptors.len() as RawFd);
    progress.enter(step::SESSION);
    // SAFETY: no memory is passed. It cannot fail: a new child leads no group.
    unsafe { libc::syscall(libc::SYS_setsid) };
    slate::default_dispositions();
    progress.enter(step::LIMITS);
    for (index, &(resource, soft, hard)) in launch.limits.iter().enumerate() {
        at(step::LIMITS, index, slate::set_limit(resource, soft, hard))?;
    }
    progress.enter(step::NICE);
    if let Some(nice) = launch.nice {
        at(step::NICE, 0, slate::set_nice(nice))?;
    }
    if let Some(mask) = launch.umask {
        slate::set_umask(mask);
    }
    progress.enter(step::DIRECTORY);
    if let Some(directory) = &launch.directory {
        // SAFETY: a C string that outlives the call.
        let done = unsafe { libc::syscall(libc::SYS_chdir, directory.as_ptr()) };
        at(
            step::DIRECTORY,
            0,
            if done < 0 {
                Err(slate::errno())
            } else {
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Returns only on failure, with the errno.
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
        match slate::errno() {
            libc::ETXTBSY if attempt < BUSY_TRIES => slate::nap(BUSY_NAP),
            errno => return errno,
        }
    }
    libc::ETXTBSY
}

fn leave(progress: &ExecProgress, errno: i32, detail: u32) -> ! {
    progress.fail(errno, detail);
    loop {
        // SAFETY: a number only. Not exit(3): its handlers are the parent's.
        unsafe { libc::syscall(libc::SYS_exit_group, c_long::from(127_u8)) };
    }
}

/// Decimal digits, then the zero that is there already. No formatting machinery: it might allocate or panic.
fn write_digits(room: &mut [u8], pid: i32) {
    let mut length = 1;
    let mut rest = pid / 10;
    while rest > 0 {
        rest /= 10;
        length += 1;
    }
    rest = pid;
    for place in room.iter_mut().take(length).rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// Becomes the program, in a process that shares memory with nobody. Returns only on failure, with the errno.
pub fn become_program(program: &CString, argv: &[CString], envp: &[CString]) -> i32 {
    execute(program, &pointers(argv), &pointers(envp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits() {
        for pid in [1, 9, 10, 99, 4_194_304, i32::MAX] {
            let mut room = [0; PID_ROOM];
            write_digits(&mut room, pid);
            let text = pid.to_string();
            assert_eq!(&room[..text.len()], text.as_bytes());
            assert_eq!(room[text.len()], 0);
        }
    }
}
