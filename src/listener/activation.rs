//! Sockets from the service manager (sd_listen_fds(3)): each serves the listener with its name, else the one with its
//! address.

use super::{address_text, tcp};
use crate::plan::{Address, ListenPlan};
use crate::sys::descriptors::{is_open, take_inherited};
use nix::sys::socket::{SockType, UnixAddr, getsockname, getsockopt, sockopt};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// SD_LISTEN_FDS_START.
const FIRST: RawFd = 3;
/// More than any manager passes; a larger number is a mistake.
const MOST: RawFd = 4096;

/// The descriptors that LISTEN_FDS announces.
#[derive(Debug, Default)]
pub struct InheritedFds {
    /// This many descriptors from [`FIRST`] on are not ours to close.
    count: RawFd,
    /// Those that are open, with their names.
    open: Vec<(RawFd, String)>,
}

/// A descriptor from the service manager.
#[derive(Debug)]
pub struct ActivationSocket {
    name: String,
    fd: OwnedFd,
}

impl InheritedFds {
    /// To be asked by the process that was started, before it opens anything: a number that is announced and not open
    /// may soon be something else. Nothing where LISTEN_PID means another process.
    pub fn find() -> Self {
        let text = |name: &str| std::env::var(name).unwrap_or_default();
        if text("LISTEN_PID").parse() != Ok(std::process::id()) {
            return Self::default();
        }
        let count = text("LISTEN_FDS").parse().unwrap_or(0).clamp(0, MOST);
        let names = text("LISTEN_FDNAMES");
        let mut names = names.split(':');
        let all =
            (FIRST..FIRST + count).map(|fd| (fd, names.next().unwrap_or_default().to_owned()));
        Self {
            count,
            open: all.filter(|(fd, _)| is_open(*fd)).collect(),
        }
    }

    /// The first number after the announced ones.
    pub fn end(&self) -> RawFd {
        FIRST + self.count
    }

    /// Takes them; once.
    pub fn take(self) -> Vec<ActivationSocket> {
        let taken = self.open.into_iter().map(|(fd, name)| {
            Some(ActivationSocket {
                name,
                fd: take_inherited(fd).ok()?,
            })
        });
        taken.flatten().collect()
    }
}

/// A listening stream socket.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) bound: Address,
}

/// The usable sockets.
#[derive(Debug)]
pub(super) struct Found(Vec<(String, Socket)>);

impl Found {
    /// Unusable ones are logged and closed.
    pub(super) fn look_at(passed: Vec<ActivationSocket>) -> Self {
        let usable =
            passed
                .into_iter()
                .filter_map(|ActivationSocket { name, fd }| match listens_on(&fd) {
                    Ok(bound) => Some((name, Socket { fd, bound })),
                    Err(why) => {
                        tracing::warn!(
                            "descriptor {} ({name}) of the service manager is of no use: {why}",
                            fd.as_raw_fd()
                        );
                        None
                    }
                });
        Self(usable.collect())
    }

    /// The socket for a listener: with its name and address, with its name, with its address.
    pub(super) fn take(&mut self, plan: &ListenPlan) -> Option<Socket> {
        let named = |name: &str| name == plan.name || name == plan.name.replace(':', "_");
        let is_there = |socket: &Socket| serves(&socket.bound, &plan.address);
        let same_kind = |socket: &Socket| {
            matches!(
                (&socket.bound, &plan.address),
                (Address::Tcp(_), Address::Tcp(_)) | (Address::Unix(_), Address::Unix(_))
            )
        };
        let at = self
            .0
            .iter()
            .position(|(name, socket)| named(name) && is_there(socket));
        let at = at.or_else(|| {
            self.0
                .iter()
                .position(|(name, socket)| named(name) && same_kind(socket))
        });
        let at = at.or_else(|| self.0.iter().position(|(_, socket)| is_there(socket)))?;
        let (name, socket) = self.0.swap_remove(at);
        let bound = address_text(&socket.bound);
        if is_there(&socket) {
            tracing::info!(
                listen = plan.name,
                "{bound} is a socket of the service manager's ({name})"
            );
        } else {
            tracing::warn!(
                listen = plan.name,
                "the service manager's socket of this name is at {bound}, not at {}: it is used as it is",
                plan.address
            );
        }
        Some(socket)
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        for (name, socket) in &self.0 {
            let bound = address_text(&socket.bound);
            tracing::warn!(
                "no listener of the configuration has the service manager's socket {name} at {bound}"
            );
        }
    }
}

/// Whether whoever asks for `wanted` is content with `bound`: the same address, a port of the kernel's choice, or IPv6's
/// wildcard (which `ListenStream=80` means) for IPv4's.
fn serves(bound: &Address, wanted: &Address) -> bool {
    match (bound, wanted) {
        (Address::Tcp(bound), Address::Tcp(wanted)) => {
            let wildcards =
                bound.is_ipv6() && bound.ip().is_unspecified() && wanted.ip().is_unspecified();
            bound == wanted || (bound.port() == wanted.port() && wildcards)
        }
        (Address::Unix(bound), Address::Unix(wanted)) => bound == wanted,
        (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
    }
}

/// Its bound address, or why it cannot be used.
fn listens_on(fd: &OwnedFd) -> Result<Address, String> {
    let said = |error: io::Error| error.to_string();
    let kind = getsockopt(fd, sockopt::SockType).map_err(|_| "it is no socket".to_owned())?;
    if kind != SockType::Stream {
        return Err("only stream sockets can be shared by workers".to_owned());
    }
    if !getsockopt(fd, sockopt::AcceptConn).map_err(|errno| said(errno.into()))? {
        return Err("it does not listen (Accept=yes is not for rotad)".to_owned());
    }
    if let Ok(address) = tcp::name_of(fd) {
        return Ok(Address::Tcp(plain(address)));
    }
    let unix = getsockname::<UnixAddr>(fd.as_raw_fd()).map_err(|errno| said(errno.into()))?;
    let path = unix
        .path()
        .ok_or("abstract unix sockets are not supported yet")?;
    Ok(Address::Unix(path.to_owned()))
}

/// Without a scope or flow: as a configuration can write it.
fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) if !ip.is_unicast_link_local() => {
            SocketAddr::new(IpAddr::V6(ip), address.port())
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> Address {
        Address::Tcp(text.parse().unwrap())
    }

    #[test]
    fn an_address_serves_another() {
        for (bound, wanted, is) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80", "127.0.0.1:80", false),
            ("0.0.0.0:80", "[::]:80", false),
            ("[::]:80", "[::]:80", true),
        ] {
            assert_eq!(
                serves(&tcp(bound), &tcp(wanted)),
                is,
                "{bound} for {wanted}"
            );
        }
        assert!(!serves(&Address::Unix("/x".into()), &tcp("127.0.0.1:80")));
    }

    #[test]
    fn what_does_not_listen_is_of_no_use() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(
            listens_on(&one.into())
                .unwrap_err()
                .contains("does not listen")
        );
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(listens_on(&datagram.into()).unwrap_err().contains("stream"));
        assert!(
            listens_on(&std::fs::File::open("/dev/null").unwrap().into())
                .unwrap_err()
                .contains("no socket")
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(listens_on(&listener.into()), Ok(Address::Tcp(address)));
    }
}
