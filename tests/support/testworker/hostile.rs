//! Workers that hurt the master, or try: traced, orphaned by the thousand, hung in the kernel, born beside their parent.

use super::{Knobs, append, begin, block_until, env, forever, own, pause, term_stream, up};
use nix::libc;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio, exit};
use std::ptr::null_mut;

/// A child of it traces it, and never looks at it again.
pub(crate) fn seized(knobs: &Knobs) {
    let term = term_stream();
    let code = begin(knobs);
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args([
        "seizer",
        "--out",
        knobs.out_to(),
        "--number",
        &std::process::id().to_string(),
    ]);
    if knobs.far {
        // Neither its session nor its environment tells whose it is.
        child.env_clear().arg("--far");
    }
    child
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a tracer");
    let traced = || {
        let text = fs::read_to_string("/proc/self/status").expect("a status");
        text.lines()
            .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    while !traced() {
        pause(5);
    }
    up(knobs, &code);
    block_until(term);
    exit(knobs.exit_code)
}

pub(crate) fn seizer(knobs: &Knobs) {
    if knobs.far {
        nix::unistd::setsid().expect("a session of its own");
    }
    // SAFETY: PTRACE_SEIZE takes numbers alone.
    let done = unsafe {
        libc::ptrace(
            libc::PTRACE_SEIZE,
            knobs.number as i32,
            null_mut::<u8>(),
            null_mut::<u8>(),
        )
    };
    assert!(done == 0, "ptrace: {}", std::io::Error::last_os_error());
    append(knobs.out_to(), &std::process::id().to_string());
    forever()
}

/// Children that are their parent's siblings (CLONE_PARENT): one that hides, or `--lines` that exit immediately.
pub(crate) fn siblings(knobs: &Knobs) {
    let term = term_stream();
    let code = begin(knobs);
    for _ in 0..knobs.lines {
        if sibling() == 0 {
            // SAFETY: the copy of a process ends, and runs nothing of its parent's any more.
            unsafe { libc::_exit(0) };
        }
    }
    if knobs.lines == 0 && sibling() == 0 {
        let mut hidden = Command::new(std::env::current_exe().expect("this program"));
        hidden
            .args(["escaped", "--escape", knobs.out_to()])
            .env_clear();
        hidden
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        panic!("testworker: {}", hidden.exec());
    }
    up(knobs, &code);
    block_until(term);
    exit(0)
}

fn sibling() -> i64 {
    // SAFETY: as fork(2), in a process with one thread; no memory is passed.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::CLONE_PARENT | libc::SIGCHLD,
            0,
            0,
            0,
            0,
        )
    };
    assert!(pid >= 0, "clone: {}", std::io::Error::last_os_error());
    pid
}

/// That many children that never end; `--far`: each in a session of its own.
pub(crate) fn horde(knobs: &Knobs) {
    let term = term_stream();
    let code = begin(knobs);
    for _ in 0..knobs.lines {
        // SAFETY: this process has one thread, so the child may do whatever it likes.
        if unsafe { libc::fork() } == 0 {
            if knobs.far {
                nix::unistd::setsid().expect("a session of its own");
            }
            forever();
        }
    }
    up(knobs, &code);
    block_until(term);
    exit(0)
}

/// An orphan in a session of its own that becomes [`stuck`].
pub(crate) fn leaves_stuck(knobs: &Knobs) {
    let term = term_stream();
    let code = begin(knobs);
    let me = std::env::current_exe().expect("this program");
    let mut between = Command::new("sh");
    between
        .args(["-c", "setsid \"$@\" > /dev/null 2>&1 < /dev/null &", "sh"])
        .arg(me);
    between.args([
        "stuck",
        "--map",
        knobs.mapped(),
        "--when",
        knobs.when_there(),
        "--out",
        knobs.out_to(),
        "--far",
    ]);
    between.status().expect("a shell");
    up(knobs, &code);
    block_until(term);
    exit(0)
}

/// Holds the lock of its own memory map for as long as the disk of `--map` hangs, once `--when` is there: one thread
/// writes to a page of the file, another unmaps it and waits for the first. Then it waits for its listener, if it has
/// one, as a server does.
pub(crate) fn stuck(knobs: &Knobs) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(knobs.mapped())
        .expect("a file to map");
    // SAFETY: a new mapping of a file that is one page long at least.
    let map = unsafe {
        libc::mmap(
            null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    assert!(
        map != libc::MAP_FAILED,
        "mmap: {}",
        std::io::Error::last_os_error()
    );
    let map = map as usize;
    if knobs.far {
        twin();
    }
    append(knobs.out_to(), &std::process::id().to_string());
    while fs::metadata(knobs.when_there()).is_err() {
        pause(5);
    }
    // SAFETY: the page is mapped until the other thread has unmapped it, which waits for this one.
    let writer = std::thread::spawn(move || unsafe { (map as *mut u8).write_volatile(1) });
    while !hangs(1) {
        pause(1);
    }
    // SAFETY: nobody touches it but the writer, which is in the kernel by now.
    std::thread::spawn(move || unsafe { libc::munmap(map as *mut libc::c_void, 4096) });
    while !hangs(2) {
        pause(1);
    }
    if env("LISTEN_FDS") == "1" {
        let listener = own(3);
        let mut polled = libc::pollfd {
            fd: listener.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, which lives through the call.
        unsafe { libc::poll(&mut polled, 1, -1) };
    }
    writer.join().expect("the writer");
    forever()
}

/// A process of its own with the same memory: it hangs nowhere, but a process that reads its memory waits.
fn twin() {
    extern "C" fn rest(_: *mut libc::c_void) -> libc::c_int {
        // SAFETY: system calls of numbers alone: this process has only borrowed its memory.
        unsafe { libc::setsid() };
        loop {
            // SAFETY: as above.
            unsafe { libc::pause() };
        }
    }
    let stack = vec![0_u8; 64 << 10].leak();
    let top = stack
        .as_mut_ptr_range()
        .end
        .wrapping_sub(stack.as_ptr_range().end as usize % 16);
    // SAFETY: the stack is the child's alone, and stays; what it runs touches no memory but that.
    let pid = unsafe { libc::clone(rest, top.cast(), libc::CLONE_VM | libc::SIGCHLD, null_mut()) };
    assert!(pid > 0, "clone: {}", std::io::Error::last_os_error());
}

/// So many threads of this process are in state D.
fn hangs(many: usize) -> bool {
    let threads = fs::read_dir("/proc/self/task")
        .expect("its threads")
        .flatten();
    let state =
        |path: std::path::PathBuf| fs::read_to_string(path.join("stat")).unwrap_or_default();
    threads
        .filter(|thread| state(thread.path()).contains(") D "))
        .count()
        >= many
}
