//! TCP listeners (tcp(7), ipv6(7)).

use crate::plan::{Address, ListenPlan};
use crate::sys::socket as sys;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, setsockopt, socket,
    sockopt,
};
use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Whether a listener accepts dual_stack IPv6 and IPv4: `[::]` does, unless the set has an IPv4 address with the same port.
pub(super) fn is_dual_stack(address: SocketAddr, all: &[ListenPlan]) -> bool {
    let has_own = |plan: &ListenPlan| match plan.address {
        Address::Tcp(other) => {
            other.is_ipv4() && other.port() == address.port() && other.port() != 0
        }
        Address::Unix(_) => false,
    };
    address.is_ipv6() && address.ip().is_unspecified() && !all.iter().any(has_own)
}

/// Opens, binds and listens. Returns the bound address.
pub(super) fn open(
    address: SocketAddr,
    backlog: u32,
    dual_stack: bool,
) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &!dual_stack)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    sys::listen(&fd, backlog)?;
    no_delay(&fd)?;
    let bound = bound_address(&fd)?;
    Ok((fd, bound))
}

/// Sets TCP_NODELAY on the listener, and so on all connections accepted from it.
pub(super) fn no_delay(fd: &OwnedFd) -> io::Result<()> {
    Ok(setsockopt(fd, sockopt::TcpNoDelay, &true)?)
}

/// Listens again on a socket that was shut down. A socket that got its port from the kernel has lost it, although
/// getsockname(2) still returns it: it is bound again, or the kernel would pick another port. For a socket that was bound
/// to a port, bind(2) returns EINVAL.
pub(super) fn listen_again(fd: impl AsFd, address: SocketAddr, backlog: u32) -> io::Result<()> {
    match bind(fd.as_fd().as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINVAL) => sys::listen(fd, backlog),
        Err(error) => Err(error.into()),
    }
}

/// The address that a socket is bound to.
pub(super) fn bound_address(fd: impl AsFd) -> io::Result<SocketAddr> {
    let name = getsockname::<SockaddrStorage>(fd.as_fd().as_raw_fd())?;
    let v4 = name
        .as_sockaddr_in()
        .map(|name| SocketAddr::V4(SocketAddrV4::from(*name)));
    let v6 = || {
        name.as_sockaddr_in6()
            .map(|name| SocketAddr::V6(SocketAddrV6::from(*name)))
    };
    v4.or_else(v6)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}
