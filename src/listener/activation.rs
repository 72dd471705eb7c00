//! Sockets from the service manager (sd_listen_fds(3)). Each serves the listener with its name, else the one with its
//! address.
//!
//! `rotad run` and `start` call [`InheritedFds::find`] before they open anything; [`super::open_all`] matches the sockets
//! with the configuration.

use super::{address_text, tcp};
use crate::plan::{Address, ListenPlan};
use crate::sys::descriptors::{is_open, take_inherited};
use nix::sys::socket::{SockType, UnixAddr, getsockname, getsockopt, sockopt};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// SD_LISTEN_FDS_START.
const FIRST_FD: RawFd = 3;
/// More descriptors than any manager passes; a larger number is a mistake.
const MAX_INHERITED: RawFd = 4096;

/// The descriptors that LISTEN_FDS announces.
#[derive(Debug, Default)]
pub struct InheritedFds {
    /// How many descriptors from [`FIRST_FD`] on must not be closed.
    count: RawFd,
    /// The open ones, with their names.
    open: Vec<(RawFd, String)>,
}

/// A descriptor from the service manager.
#[derive(Debug)]
pub struct ActivationSocket {
    name: String,
    fd: OwnedFd,
}

impl ActivationSocket {
    /// The number of its descriptor.
    pub fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl InheritedFds {
    /// Reads LISTEN_FDS. Empty if LISTEN_PID names another process. Must be called by the process that was started, before
    /// it opens anything: a descriptor that is announced but not open would soon be another file.
    pub fn find() -> Self {
        let text = |name: &str| std::env::var(name).unwrap_or_default();
        if text("LISTEN_PID").parse() != Ok(std::process::id()) {
            return Self::default();
        }
        let count = text("LISTEN_FDS")
            .parse()
            .unwrap_or(0)
            .clamp(0, MAX_INHERITED);
        let names = text("LISTEN_FDNAMES");
        let mut names = names.split(':');
        let all = (FIRST_FD..FIRST_FD + count)
            .map(|fd| (fd, names.next().unwrap_or_default().to_owned()));
        Self {
            count,
            open: all.filter(|(fd, _)| is_open(*fd)).collect(),
        }
    }

    /// The first descriptor number after the announced ones.
    pub fn end(&self) -> RawFd {
        FIRST_FD + self.count
    }

    /// Takes ownership of the open descriptors, and sets close-on-exec.
    pub fn take(self) -> Vec<ActivationSocket> {
        let sockets = self.open.into_iter().map(|(fd, name)| {
            Some(ActivationSocket {
                name,
                fd: take_inherited(fd).ok()?,
            })
        });
        sockets.flatten().collect()
    }
}

/// A listening stream socket and its address.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) bound: Address,
}

/// The usable sockets that no listener has taken yet, with their names. Those left over are logged when it is dropped.
#[derive(Debug)]
pub(super) struct ActivationSockets(Vec<(String, Socket)>);

impl ActivationSockets {
    /// Keeps the usable sockets; logs and closes the others.
    pub(super) fn check(inherited: Vec<ActivationSocket>) -> Self {
        let usable = inherited
            .into_iter()
            .filter_map(|ActivationSocket { name, fd }| match bound_address(&fd) {
                Ok(bound) => Some((name, Socket { fd, bound })),
                Err(why) => {
                    tracing::warn!(
                        "descriptor {} ({name}) of the service manager cannot be used: {why}",
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
        let same_address = |socket: &Socket| serves(&socket.bound, &plan.address);
        let same_kind = |socket: &Socket| {
            matches!(
                (&socket.bound, &plan.address),
                (Address::Tcp(_), Address::Tcp(_)) | (Address::Unix(_), Address::Unix(_))
            )
        };
        let at = self
            .0
            .iter()
            .position(|(name, socket)| named(name) && same_address(socket));
        let at = at.or_else(|| {
            self.0
                .iter()
                .position(|(name, socket)| named(name) && same_kind(socket))
        });
        let at = at.or_else(|| self.0.iter().position(|(_, socket)| same_address(socket)))?;
        let (name, socket) = self.0.swap_remove(at);
        let bound = address_text(&socket.bound);
        if same_address(&socket) {
            tracing::info!(
                listen = plan.name,
                "{bound} uses the socket {name} of the service manager"
            );
        } else {
            tracing::warn!(
                listen = plan.name,
                "the service manager's socket of this name listens at {bound}, not at {}: it is used nevertheless",
                plan.address
            );
        }
        Some(socket)
    }
}

impl Drop for ActivationSockets {
    fn drop(&mut self) {
        for (name, socket) in &self.0 {
            let bound = address_text(&socket.bound);
            tracing::warn!(
                "no listener of the configuration uses the service manager's socket {name} at {bound}"
            );
        }
    }
}

/// Whether a socket at `bound` satisfies a listener at `wanted`: dual_stack have the same address, or `bound` is IPv6's wildcard
/// (which `ListenStream=80` means) and `wanted` IPv4's with the same port.
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

/// The socket's bound address, or why it cannot be used.
fn bound_address(fd: &OwnedFd) -> Result<Address, String> {
    let text = |error: io::Error| error.to_string();
    let kind = getsockopt(fd, sockopt::SockType).map_err(|_| "it is not a socket".to_owned())?;
    if kind != SockType::Stream {
        return Err("only stream sockets can be shared by workers".to_owned());
    }
    if !getsockopt(fd, sockopt::AcceptConn).map_err(|errno| text(errno.into()))? {
        return Err("it does not listen (rotad needs Accept=no)".to_owned());
    }
    if let Ok(address) = tcp::bound_address(fd) {
        return Ok(Address::Tcp(plain(address)));
    }
    let unix = getsockname::<UnixAddr>(fd.as_raw_fd()).map_err(|errno| text(errno.into()))?;
    let path = unix
        .path()
        .ok_or("abstract unix sockets are not supported yet")?;
    Ok(Address::Unix(path.to_owned()))
}

/// Without scope and flow information, which a configuration cannot contain.
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
    fn addresses_match_exactly_or_by_the_ipv6_wildcard() {
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
    fn only_listening_stream_sockets_are_usable() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(
            bound_address(&one.into())
                .unwrap_err()
                .contains("does not listen")
        );
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(
            bound_address(&datagram.into())
                .unwrap_err()
                .contains("stream")
        );
        assert!(
            bound_address(&std::fs::File::open("/dev/null").unwrap().into())
                .unwrap_err()
                .contains("not a socket")
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(bound_address(&listener.into()), Ok(Address::Tcp(address)));
    }
}
