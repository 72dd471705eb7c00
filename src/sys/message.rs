//! recvmsg(2) with credentials and descriptors (unix(7)): no received descriptor is leaked, even if the control data
//! was truncated because no descriptor was left.

use nix::libc;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// One datagram.
#[derive(Debug)]
pub struct Datagram {
    /// The number of bytes that were written to the buffer.
    pub len: usize,
    /// Whether it was longer than the buffer; the rest is lost.
    pub truncated: bool,
    /// The sender's pid and uid, checked by the kernel, if the socket has SO_PASSCRED.
    pub sender: Option<(i32, u32)>,
    /// Descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Room for a sender and for as many descriptors as a message may carry (SCM_MAX_FD, 253), aligned for cmsghdr.
#[repr(C, align(8))]
struct Control([u8; 2048]);

/// Receives one datagram without blocking.
///
/// # Errors
/// EAGAIN: there is none; EINTR.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    receive_with(socket, buffer, 0).map(|(datagram, _)| datagram)
}

/// Returns the datagram at this offset, in bytes, in the queue of a unix socket, and its whole length; leaves it there.
/// Its descriptors are copies. An empty one is seen only once.
///
/// # Errors
/// EAGAIN: there is none; EINTR; ENOPROTOOPT: this kernel has no SO_PEEK_OFF (socket(7)).
pub fn peek(socket: impl AsFd, buffer: &mut [u8], offset: usize) -> io::Result<(Datagram, usize)> {
    let value = libc::c_int::try_from(offset).unwrap_or(libc::c_int::MAX);
    // SAFETY: value lives through the call, which reads as many bytes of it as it has.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    receive_with(socket, buffer, libc::MSG_PEEK | libc::MSG_TRUNC)
}

fn receive_with(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: libc::c_int,
) -> io::Result<(Datagram, usize)> {
    let mut control = Control([0; 2048]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is plain data; all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: header points to buffer and control, which live through the call and are written within their lengths.
    let len = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut header, flags) };
    if len < 0 {
        return Err(io::Error::last_os_error());
    }
    let (sender, fds) = control_parts(&header);
    let whole = len as usize;
    let datagram = Datagram {
        len: whole.min(buffer.len()),
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        sender,
        fds,
    };
    Ok((datagram, whole))
}

/// Takes credentials and descriptors out of a header that recvmsg has just filled.
fn control_parts(header: &libc::msghdr) -> (Option<(i32, u32)>, Vec<OwnedFd>) {
    let (mut sender, mut fds) = (None, Vec::new());
    // SAFETY: recvmsg has set msg_control and msg_controllen to the valid part of a buffer that still lives.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give headers that lie whole in the control buffer.
        let (kind, len, data) = unsafe {
            (
                (*next).cmsg_type,
                (*next).cmsg_len as usize,
                libc::CMSG_DATA(next),
            )
        };
        // SAFETY: a pure computation.
        let len = len.saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        if kind == libc::SCM_CREDENTIALS && len >= size_of::<libc::ucred>() {
            // SAFETY: the length says that a whole ucred is there.
            let who = unsafe { data.cast::<libc::ucred>().read_unaligned() };
            sender = Some((who.pid, who.uid));
        }
        if kind == libc::SCM_RIGHTS {
            for n in 0..len / size_of::<i32>() {
                // SAFETY: n is below the number of descriptors that the kernel wrote, each new and ours alone.
                fds.push(unsafe {
                    OwnedFd::from_raw_fd(data.cast::<i32>().add(n).read_unaligned())
                });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    (sender, fds)
}
