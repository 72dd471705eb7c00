//! Which descriptors a thread waits for: /proc/PID/task/TID/syscall, and the sets of poll(2) and select(2) in its
//! memory.

use nix::libc;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

/// Maximum size of a set that is read, in descriptors.
const MAX_SET: u64 = 8192;

/// Whether a thread sleeps until a connection comes to one of these listeners, or to an epoll set with one. `may_read`:
/// whether the process's memory may be read, which takes a lock that the process may hold forever.
///
/// # Errors
/// EPERM, EACCES: system calls may not be read; ESRCH, ENOENT: the thread has gone.
pub(super) fn is_waiting(
    pid: i32,
    tid: i32,
    listeners: &HashSet<i32>,
    epolls: &HashSet<i32>,
    may_read: &dyn Fn() -> bool,
) -> io::Result<bool> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall"))?;
    let Some((number, args)) = parse(&text) else {
        return Ok(false);
    };
    let fd = args[0] as i32;
    let wanted = |fd: i32| listeners.contains(&fd) || epolls.contains(&fd);
    Ok(match Call::of(number) {
        Call::Accept => listeners.contains(&fd),
        Call::Epoll => epolls.contains(&fd),
        Call::Poll | Call::Select if !may_read() => false,
        Call::Poll => polled(pid, args[0], args[1]).into_iter().any(wanted),
        Call::Select => selected(pid, args[0], args[1]).into_iter().any(wanted),
        Call::Other => false,
    })
}

enum Call {
    Accept,
    Epoll,
    Poll,
    Select,
    Other,
}

impl Call {
    fn of(number: i64) -> Self {
        #[cfg(target_arch = "x86_64")]
        match number {
            libc::SYS_poll => return Self::Poll,
            libc::SYS_select => return Self::Select,
            libc::SYS_epoll_wait => return Self::Epoll,
            _ => {}
        }
        match number {
            libc::SYS_accept | libc::SYS_accept4 => Self::Accept,
            libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => Self::Epoll,
            // A poll that was interrupted by a stop continues under this number, with its arguments unchanged.
            libc::SYS_ppoll | libc::SYS_restart_syscall => Self::Poll,
            libc::SYS_pselect6 => Self::Select,
            _ => Self::Other,
        }
    }
}

/// `232 0x4 0x7f… 0x400 0xffffffff 0x0 0x8 0x7ffd… 0x7f…` (proc(5)). None: running, or not in a system call.
fn parse(text: &str) -> Option<(i64, [u64; 6])> {
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok().filter(|&number| number >= 0)?;
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some((number, args))
}

/// The descriptors of a poll set that wait for input: struct pollfd is an int and two shorts.
fn polled(pid: i32, address: u64, count: u64) -> Vec<i32> {
    if count == 0 || count > MAX_SET {
        return Vec::new();
    }
    let set = memory(pid, address, count as usize * 8).unwrap_or_default();
    let entries = set
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&[a, b, c, d, e, f, _, _]| {
            (i32::from_ne_bytes([a, b, c, d]), i16::from_ne_bytes([e, f]))
        });
    entries
        .filter(|(_, events)| events & (libc::POLLIN | libc::POLLRDNORM) != 0)
        .map(|(fd, _)| fd)
        .collect()
}

/// The descriptors of a select set, a bit mask.
fn selected(pid: i32, count: u64, address: u64) -> Vec<i32> {
    if count == 0 || count > MAX_SET || address == 0 {
        return Vec::new();
    }
    let set = memory(pid, address, (count as usize).div_ceil(64) * 8).unwrap_or_default();
    let words = set
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&word| u64::from_ne_bytes(word))
        .enumerate();
    let bits = words.flat_map(|(at, word)| {
        (0..64)
            .filter(move |bit| word >> bit & 1 == 1)
            .map(move |bit| at * 64 + bit)
    });
    bits.filter(|&bit| (bit as u64) < count)
        .map(|bit| bit as i32)
        .collect()
}

/// Reads another process's memory, completely or not at all.
fn memory(pid: i32, address: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    let there = [RemoteIoVec {
        base: address as usize,
        len,
    }];
    let read = process_vm_readv(
        Pid::from_raw(pid),
        &mut [IoSliceMut::new(&mut bytes)],
        &there,
    );
    if read == Ok(len) {
        return Some(bytes);
    }
    // If that system call is filtered: the same memory as a file.
    File::open(format!("/proc/{pid}/mem"))
        .ok()?
        .read_exact_at(&mut bytes, address)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_calls_are_parsed() {
        let (number, args) = parse("232 0x4 0x7f 0x400 0xffffffff 0x0 0x8 0x7ffd 0x7f\n").unwrap();
        assert_eq!((number, args), (232, [4, 0x7f, 0x400, 0xffff_ffff, 0, 8]));
        assert_eq!(parse("running\n"), None);
        assert_eq!(parse("-1 0x7ffd 0x7f\n"), None);
        assert_eq!(parse("0 0x4\n"), None);
    }

    #[test]
    fn sets_are_read_from_memory() {
        let me = std::process::id() as i32;
        let set = [
            libc::pollfd {
                fd: 5,
                events: libc::POLLOUT,
                revents: 0,
            },
            libc::pollfd {
                fd: 7,
                events: 1,
                revents: 0,
            },
        ];
        assert_eq!(polled(me, set.as_ptr() as u64, 2), [7]);
        assert!(polled(me, 8, 2).is_empty());
        assert!(polled(me, set.as_ptr() as u64, u64::MAX).is_empty());
        let bits = [1u64 << 3, 1 << 2 | 1 << 60];
        assert_eq!(selected(me, 70, bits.as_ptr() as u64), [3, 66]);
    }
}
