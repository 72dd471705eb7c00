//! Where it listens: an address or a unix socket, opened as the master opens those of its pools, or taken from a service
//! manager (LISTEN_FDS).

use super::stalls::Socket;
use rotad::listener::{InheritedFds, Listener, SocketError, open_all};
use rotad::plan::{Address, ListenPlan};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{Duration, sleep};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 512;
/// Who may use a unix socket: its user and its group.
const MODE: u32 = 0o660;
/// How long no connection is taken after one could not be: no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The name by which a service manager may pass the socket (FileDescriptorName= of systemd.socket(5)).
const NAME: &str = "rotad-serve";

/// What `--listen` names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place(Address);

impl Place {
    /// Reads `127.0.0.1:9180`, `[::1]:9180`, `localhost:9180` or `unix:PATH`.
    ///
    /// # Errors
    /// For the user: it is none of these.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => {
                    Err("--listen unix: needs a path, as in unix:/run/rotad-serve.sock".to_owned())
                }
                path if path.starts_with('@') => Err(format!(
                    "not supported yet: --listen {text} (an abstract socket)"
                )),
                path => std::path::absolute(path)
                    .map(|path| Self(Address::Unix(path)))
                    .map_err(|error| format!("--listen {text}: {error}")),
            };
        }
        let numeric = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        numeric
            .parse::<SocketAddr>()
            .map(|address| Self(Address::Tcp(address)))
            .map_err(|_| {
                let hint = match text.trim_start_matches(':').parse::<u16>() {
                    Ok(port) => format!("; did you mean 127.0.0.1:{port}?"),
                    Err(_) => String::new(),
                };
                format!("--listen {text} is no address: ADDR:PORT or unix:PATH{hint}")
            })
    }
}

/// The listening socket.
pub(crate) struct Listening(Listener);

impl Listening {
    /// Opens the socket, or takes the one that was passed for the same address.
    ///
    /// # Errors
    /// For the user: what is in the way, and which program holds the address.
    pub(crate) fn open(place: &Place, inherited: InheritedFds) -> Result<Self, String> {
        let is_unix = matches!(place.0, Address::Unix(_));
        let plan = ListenPlan {
            name: NAME.to_owned(),
            address: place.0.clone(),
            backlog: BACKLOG,
            nonblocking: true,
            mode: is_unix.then_some(MODE),
            uid: None,
            gid: None,
        };
        match open_all(std::slice::from_ref(&plan), inherited.take()) {
            Ok(mut opened) => opened.pop().map(Self).ok_or_else(|| "no socket".to_owned()),
            Err(error) => Err(SocketError {
                name: error.address.clone(),
                ..error
            }
            .to_string()),
        }
    }

    /// The address, of TCP.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self.0.bound() {
            Address::Tcp(address) => Some(address.ip()),
            Address::Unix(_) => None,
        }
    }

    /// Whether only this machine reaches it.
    pub(crate) fn is_local(&self) -> bool {
        self.ip().is_none_or(|ip| ip.is_loopback())
    }

    /// Where a browser finds it, or how curl does.
    pub(crate) fn url(&self) -> String {
        match self.0.bound() {
            Address::Tcp(address) if address.ip().is_unspecified() => {
                format!("on {address}: http://localhost:{}/", address.port())
            }
            Address::Tcp(address) => format!("on http://{address}/"),
            Address::Unix(path) => {
                format!("on unix:{}: http://localhost/", path.display())
            }
        }
    }

    /// What connections are taken from, in a runtime.
    ///
    /// # Errors
    /// EMFILE: no descriptor is left.
    pub(crate) fn sockets(&self) -> io::Result<Sockets> {
        let fd = self.0.as_fd().try_clone_to_owned()?;
        match self.0.bound() {
            Address::Tcp(_) => TcpListener::from_std(fd.into()).map(Sockets::Tcp),
            Address::Unix(_) => UnixListener::from_std(fd.into()).map(Sockets::Unix),
        }
    }

    /// Removes the file of a unix socket.
    pub(crate) fn close(&mut self) {
        self.0.remove_file().ok();
    }
}

/// What connections are taken from.
pub(crate) enum Sockets {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Sockets {
    /// The next connection.
    pub(crate) async fn accept(&self) -> Box<dyn Socket> {
        loop {
            let accepted: io::Result<Box<dyn Socket>> = match self {
                Self::Tcp(listener) => listener
                    .accept()
                    .await
                    .map(|(socket, _)| Box::new(socket) as Box<dyn Socket>),
                Self::Unix(listener) => listener
                    .accept()
                    .await
                    .map(|(socket, _)| Box::new(socket) as Box<dyn Socket>),
            };
            match accepted {
                Ok(socket) => return socket,
                // No descriptor is left, or the client has gone already.
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let tcp = |text: &str| Ok(Place(Address::Tcp(text.parse().unwrap())));
        assert_eq!(Place::parse("127.0.0.1:9180"), tcp("127.0.0.1:9180"));
        assert_eq!(Place::parse("localhost:80"), tcp("127.0.0.1:80"));
        assert_eq!(Place::parse("[::1]:80"), tcp("[::1]:80"));
        let path = Address::Unix("/run/x.sock".into());
        assert_eq!(Place::parse("unix:/run/x.sock"), Ok(Place(path)));
        for (text, why) in [
            ("9180", "127.0.0.1:9180"),
            (":9180", "127.0.0.1:9180"),
            ("example.com:80", "is no address"),
            ("unix:", "needs a path"),
            ("unix:@name", "not supported yet"),
        ] {
            let error = Place::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
