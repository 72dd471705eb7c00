//! listen(2) with any backlog, and the state of a listening socket (poll(2); tcp(7), TCP_INFO; socket(7), SO_MEMINFO).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Makes a bound socket listen; on a listening socket it only sets the backlog (listen(2)).
///
/// # Errors
/// EADDRINUSE: another socket listens on the port.
pub fn listen(socket: impl AsFd, backlog: u32) -> io::Result<()> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: listen takes two numbers and touches no memory of ours.
    if unsafe { nix::libc::listen(socket.as_fd().as_raw_fd(), backlog) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The accept queue of a listening TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Connections that wait for accept(2).
    pub waiting: u32,
    /// The effective backlog: how many may wait.
    pub backlog: u32,
}

/// Reads the accept queue of a listening TCP socket, from `tcpi_unacked` and `tcpi_sacked` (Linux, net/ipv4/tcp_diag.c).
///
/// # Errors
/// EOPNOTSUPP: not TCP.
pub fn queue(socket: impl AsFd) -> io::Result<Queue> {
    // SAFETY: tcp_info is plain data; all zeroes is a valid value.
    let mut info: nix::libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of_val(&info) as nix::libc::socklen_t;
    let (level, option) = (nix::libc::IPPROTO_TCP, nix::libc::TCP_INFO);
    // SAFETY: info and size live through the call, and the kernel writes at most `size` bytes.
    let done = unsafe {
        nix::libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw mut info).cast(),
            &mut size,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Queue {
        waiting: info.tcpi_unacked,
        backlog: info.tcpi_sacked,
    })
}

/// How many packets the kernel has dropped at a socket (socket(7), SO_MEMINFO: SK_MEMINFO_DROPS): of a listening TCP socket
/// those that would have become connections, above all since its accept queue was full.
///
/// # Errors
/// ENOPROTOOPT: Linux before 4.12.
pub fn drops(socket: impl AsFd) -> io::Result<u32> {
    /// The place of the number (include/uapi/linux/sock_diag.h).
    const DROPS: usize = 8;
    let mut numbers = [0_u32; DROPS + 1];
    let mut size = size_of_val(&numbers) as nix::libc::socklen_t;
    // SAFETY: numbers and size live through the call, and the kernel writes at most `size` bytes.
    let done = unsafe {
        nix::libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            nix::libc::SOL_SOCKET,
            nix::libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &mut size,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    if (size as usize) < size_of_val(&numbers) {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    Ok(numbers[DROPS])
}

/// Whether a socket was shut down for reading or for both directions (POLLRDHUP, POLLHUP): then a listening socket refuses
/// all clients.
pub fn is_hung_up(socket: impl AsFd) -> bool {
    // nix knows no POLLRDHUP, and its PollFd would drop it from the answer.
    let mut fd = nix::libc::pollfd {
        fd: socket.as_fd().as_raw_fd(),
        events: nix::libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one pollfd, which lives through the call; a timeout of 0 does not wait.
    let found = unsafe { nix::libc::poll(&mut fd, 1, 0) };
    found > 0 && fd.revents & (nix::libc::POLLHUP | nix::libc::POLLRDHUP) != 0
}
