//! What the master tells the manager that started it (sd_notify(3)): systemd, or another rotad.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The other end of `NOTIFY_SOCKET`, if there is one.
#[derive(Debug)]
pub struct Manager(Option<(UnixDatagram, SocketAddr)>);

impl Manager {
    /// Looks at the environment once; workers never see the variable.
    pub fn find() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let name = name.into_encoded_bytes();
            let address = match name.first()? {
                b'@' => SocketAddr::from_abstract_name(&name[1..]).ok()?,
                b'/' => SocketAddr::from_pathname(std::path::Path::new(std::str::from_utf8(&name).ok()?)).ok()?,
                _ => return None,
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        }))
    }

    /// Says something; nobody listening, or a full queue, is no matter of ours.
    pub fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.0 {
            socket.send_to_addr(text.as_bytes(), address).ok();
        }
    }
}
