//! The socket of the service manager that has started us (NOTIFY_SOCKET, sd_notify(3)): systemd, or another rotad.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// The socket at `NOTIFY_SOCKET`, if there is one.
#[derive(Debug)]
pub struct ManagerSocket(Option<(UnixDatagram, SocketAddr)>);

impl ManagerSocket {
    /// Reads the environment once; workers never see the variable.
    pub fn find() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let name = name.into_encoded_bytes();
            let address = match name.first()? {
                b'@' => SocketAddr::from_abstract_name(&name[1..]).ok()?,
                b'/' => {
                    SocketAddr::from_pathname(Path::new(std::str::from_utf8(&name).ok()?)).ok()?
                }
                _ => return None,
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        }))
    }

    /// There is a service manager that listens.
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// The number of its descriptor.
    pub(super) fn number(&self) -> Option<RawFd> {
        self.0.as_ref().map(|(socket, _)| socket.as_raw_fd())
    }

    /// Sends a message, and waits while the queue is full.
    ///
    /// # Errors
    /// ENOTCONN: there is no service manager. ECONNREFUSED, ENOENT: it does not listen any more.
    pub fn deliver(&self, text: &str) -> io::Result<()> {
        let Some((socket, address)) = &self.0 else {
            return Err(io::Error::from(io::ErrorKind::NotConnected));
        };
        socket.set_nonblocking(false)?;
        socket.send_to_addr(text.as_bytes(), address).map(drop)
    }

    /// Sends a message. If nothing receives it or the queue is full, it is dropped.
    pub fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.0 {
            socket.send_to_addr(text.as_bytes(), address).ok();
        }
    }
}
