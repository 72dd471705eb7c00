//! The queue of a listening unix socket, which only the kernel's socket diagnosis tells (sock_diag(7), NETLINK_SOCK_DIAG).
//! A request may have the kernel load a module, so this may block.

use super::socket::Queue;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// include/uapi/linux/sock_diag.h, unix_diag.h, netlink.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_RQLEN: u16 = 4;
/// The length of struct nlmsghdr and of struct unix_diag_msg, in bytes.
const HEADER: usize = 16;
const MESSAGE: usize = 16;
/// How long the kernel may take for an answer.
const TIMEOUT: TimeVal = TimeVal::new(0, 200_000);

/// Asks the kernel about unix sockets of this network namespace.
#[derive(Debug)]
pub struct UnixDiag(OwnedFd);

impl UnixDiag {
    /// Opens the netlink socket.
    ///
    /// # Errors
    /// EPROTONOSUPPORT: this kernel has no socket diagnosis. EAFNOSUPPORT, EPERM: a sandbox does not allow netlink.
    pub fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TIMEOUT)?;
        Ok(Self(fd))
    }

    /// The queue of the listening socket with this inode.
    ///
    /// # Errors
    /// ENOENT: no unix socket of this namespace has it, or this kernel has no diagnosis of unix sockets. EAGAIN: no answer in
    /// time.
    pub fn queue(&self, inode: u64) -> io::Result<Queue> {
        let inode = u32::try_from(inode).map_err(|_| io::ErrorKind::NotFound)?;
        let to = NetlinkAddr::new(0, 0);
        sendto(self.0.as_raw_fd(), &request(inode), &to, MsgFlags::empty())?;
        let mut answer = [0; 512];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        parse(&answer[..length.min(answer.len())], inode)
    }
}

fn request(inode: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend(40_u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    // Number and sender of the message.
    bytes.extend([0; 8]);
    // struct unix_diag_req: family, protocol, padding, states (all), inode, what to tell, cookie (any).
    bytes.extend([AddressFamily::Unix as i32 as u8, 0, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(inode.to_ne_bytes());
    bytes.extend(UDIAG_SHOW_RQLEN.to_ne_bytes());
    bytes.extend([0xff; 8]);
    bytes
}

fn parse(answer: &[u8], inode: u32) -> io::Result<Queue> {
    let kind = number16(answer, 4).ok_or(io::ErrorKind::UnexpectedEof)?;
    if kind == NLMSG_ERROR {
        let error = number32(answer, HEADER).ok_or(io::ErrorKind::UnexpectedEof)?;
        return Err(io::Error::from_raw_os_error(-error.cast_signed()));
    }
    if kind != SOCK_DIAG_BY_FAMILY || number32(answer, HEADER + 4) != Some(inode) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut at = HEADER + MESSAGE;
    while let (Some(length), Some(kind)) = (number16(answer, at), number16(answer, at + 2)) {
        if kind == UNIX_DIAG_RQLEN
            && let (Some(waiting), Some(backlog)) =
                (number32(answer, at + 4), number32(answer, at + 8))
        {
            return Ok(Queue { waiting, backlog });
        }
        // Attributes begin at multiples of four.
        at += usize::from(length).max(4).next_multiple_of(4);
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::fstat;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn the_queue_of_a_unix_socket_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        crate::sys::socket::listen(&listener, 7).unwrap();
        let inode = fstat(&listener).unwrap().st_ino;
        let diag = UnixDiag::open().unwrap();
        let queue = |waiting| Queue {
            waiting,
            backlog: 7,
        };
        assert_eq!(diag.queue(inode).unwrap(), queue(0));
        let _clients: Vec<UnixStream> = (0..3)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        assert_eq!(diag.queue(inode).unwrap(), queue(3));
        drop(listener);
        let gone = diag.queue(inode).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(nix::libc::ENOENT));
    }
}
