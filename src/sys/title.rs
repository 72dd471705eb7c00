//! The title of this process: its command line in /proc/PID/cmdline, which ps(1) shows.
//!
//! prctl(2), PR_SET_MM_MAP tells the kernel where the command line is. Unlike writing over the arguments, that is not
//! limited to their length and leaves them and the environment as they are; unlike PR_SET_MM_ARG_START it needs no
//! privilege. It needs a kernel with CONFIG_CHECKPOINT_RESTORE: without it the command line stays.

use nix::libc;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// `struct prctl_mm_map` of linux/prctl.h.
#[repr(C)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: *const u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Shows what this process is, and behind that how it was started: `rotad: master shop [rotad start -c shop.toml]`. The
/// process must have one thread. To be called once in a process.
///
/// # Errors
/// EINVAL, EPERM: the kernel cannot; `Other`: this process has more than one thread. Nothing was changed.
pub fn set(role: &str, name: &str) -> io::Result<()> {
    let mut title = format!("rotad: {role} {name} [").into_bytes();
    let arguments: Vec<_> = std::env::args_os().collect();
    let arguments = arguments.iter().map(|argument| argument.as_bytes());
    title.extend(arguments.collect::<Vec<_>>().join(&b' '));
    title.extend(b"]\0");
    show(title)
}

fn show(title: Vec<u8>) -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("there are other threads"));
    }
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // The kernel reads it for as long as this process lives.
    let title: &'static [u8] = title.leak();
    let start = title.as_ptr().expose_provenance() as u64;
    let mut map = own_map(&text, start..start + title.len() as u64)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: brk(2) with an address that it cannot set returns the present one and changes nothing. Nothing is allocated from
    // here on, and there is no other thread, so the value stays right.
    map.brk = unsafe { libc::syscall(libc::SYS_brk, 0) } as u64;
    // SAFETY: PR_SET_MM_MAP reads one struct of this size. But for the command line, which is leaked memory, every value
    // is the one that the kernel has.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_MAP as libc::c_ulong,
            &raw const map,
            size_of::<MemoryMap>() as libc::c_ulong,
            0 as libc::c_ulong,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The map as proc_pid_stat(5) tells it, but for the command line, and for the end of the heap, which it does not tell.
fn own_map(stat: &str, command_line: std::ops::Range<u64>) -> Option<MemoryMap> {
    let (_, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    // The numbers of proc_pid_stat(5); the first after the name is 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let map = MemoryMap {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk: 0,
        start_stack: field(28)?,
        arg_start: command_line.start,
        arg_end: command_line.end,
        env_start: field(50)?,
        env_end: field(51)?,
        auxv: std::ptr::null(),
        auxv_size: 0,
        exe_fd: u32::MAX,
    };
    // 0 or 1 stand for what may not be read.
    let is_known = map.start_code > 1 && map.start_stack > 1 && map.env_start > 1;
    is_known.then_some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_map_is_read_and_other_threads_are_noticed() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let map = own_map(&stat, 7..9).unwrap();
        assert_eq!((map.arg_start, map.arg_end), (7, 9));
        assert!(map.start_code < map.end_code && map.env_start < map.env_end);
        assert!(own_map("1 (a) S 1 2", 7..9).is_none());
        // The thread of the test is one beside the main thread.
        assert!(set("master", "test").is_err());
    }
}
