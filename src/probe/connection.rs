//! One connection probe, non-blocking: connects, and for HTTP sends a request and reads the status line. The probe loop
//! drives it.

use super::ProbeError;
use super::request::{ProbeRequest, Target};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, connect,
    getpeername, getsockname, getsockopt, recv, send, socket, sockopt,
};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Maximum number of bytes that are read of a response, including interim responses.
const MAX_BYTES: usize = 16 * 1024;

/// A connection that is being probed.
#[derive(Debug)]
pub(super) struct ConnectionProbe {
    socket: OwnedFd,
    state: State,
    /// Addresses still to be tried.
    others: VecDeque<SocketAddr>,
    /// The HTTP request; None if a connection is enough.
    request: Option<Vec<u8>>,
    received: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Connecting,
    /// Number of bytes sent.
    Sending(usize),
    Receiving,
}

/// The result of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Advance {
    /// Continue when the socket is ready.
    Wait,
    /// The probe has this result.
    Done(Result<(), String>),
}

impl ConnectionProbe {
    /// Starts the probe. Commands are handled by `command`.
    pub(super) fn begin(probe: &ProbeRequest) -> Result<(Self, Advance), ProbeError> {
        let (target, request) = match probe {
            ProbeRequest::Connect { target, .. } => (target, None),
            ProbeRequest::Http {
                target,
                host,
                path,
                headers,
            } => (target, Some(request(host, path, headers))),
            ProbeRequest::Command(_) | ProbeRequest::Hook(..) => {
                return Err(ProbeError::Indeterminate("not a connection".to_owned()));
            }
        };
        let mut others = VecDeque::new();
        let socket = match target {
            Target::Unix(path) => open_unix(path)?,
            Target::Tcp(addresses) => {
                others.extend(addresses.iter().copied());
                next(&mut others)?
            }
        };
        let mut connection = Self {
            socket,
            state: State::Connecting,
            others,
            request,
            received: Vec::new(),
        };
        // Most are connected already: the peer is on this machine.
        let turn = connection.advance();
        Ok((connection, turn))
    }

    pub(super) fn interest(&self) -> PollFlags {
        match self.state {
            State::Connecting | State::Sending(_) => PollFlags::POLLOUT,
            State::Receiving => PollFlags::POLLIN,
        }
    }

    /// Advances as far as possible without blocking.
    pub(super) fn advance(&mut self) -> Advance {
        loop {
            let step = match self.state {
                State::Connecting => self.connected(),
                State::Sending(sent) => self.send_request(sent),
                State::Receiving => self.receive(),
            };
            match step {
                Ok(Some(state)) => self.state = state,
                Ok(None) if self.request.is_none() && matches!(self.state, State::Sending(_)) => {
                    return Advance::Done(Ok(()));
                }
                Ok(None) if matches!(self.state, State::Receiving) => {
                    match parse_status(&mut self.received) {
                        Some(result) => return Advance::Done(result),
                        None if self.received.len() >= MAX_BYTES => {
                            return Advance::Done(Err(
                                "answered without an end of the first line".to_owned()
                            ));
                        }
                        None => return Advance::Wait,
                    }
                }
                Ok(None) => return Advance::Wait,
                Err(reason) => match self.try_another(reason) {
                    None => {}
                    Some(reason) => return Advance::Done(Err(reason)),
                },
            }
        }
    }

    /// The socket, of which the rest of the response is read for a while: an immediate close would reset the connection.
    pub(super) fn into_draining(self) -> Option<OwnedFd> {
        self.request.is_some().then_some(self.socket)
    }

    fn try_another(&mut self, reason: String) -> Option<String> {
        if !matches!(self.state, State::Connecting) || self.others.is_empty() {
            return Some(reason);
        }
        match next(&mut self.others) {
            Ok(socket) => {
                self.socket = socket;
                None
            }
            // Without IPv6, the error of the previous address counts.
            Err(_) => Some(reason),
        }
    }

    fn connected(&mut self) -> Result<Option<State>, String> {
        let errno = getsockopt(&self.socket, sockopt::SocketError).map_err(error_text)?;
        if errno != 0 {
            return Err(error_text(Errno::from_raw(errno)));
        }
        let fd = self.socket.as_raw_fd();
        match getpeername::<SockaddrStorage>(fd) {
            Err(Errno::ENOTCONN) => return Ok(None),
            Err(errno) => return Err(error_text(errno)),
            // A connection to a port of the ephemeral range may connect to itself if nothing listens there (RFC 9293,
            // 3.5).
            Ok(peer) if peer.family() != Some(AddressFamily::Unix) => {
                if getsockname::<SockaddrStorage>(fd).is_ok_and(|own| own == peer) {
                    return Err(error_text(Errno::ECONNREFUSED));
                }
            }
            Ok(_) => {}
        }
        Ok(Some(State::Sending(0)))
    }

    fn send_request(&mut self, sent: usize) -> Result<Option<State>, String> {
        let Some(request) = &self.request else {
            return Ok(None);
        };
        if sent == request.len() {
            return Ok(Some(State::Receiving));
        }
        match send(
            self.socket.as_raw_fd(),
            &request[sent..],
            MsgFlags::MSG_NOSIGNAL,
        ) {
            Ok(more) => Ok(Some(State::Sending(sent + more))),
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EINTR) => Ok(Some(State::Sending(sent))),
            Err(errno) => Err(error_text(errno)),
        }
    }

    /// Reads what is there; a closed peer is a failure unless the status line came before.
    fn receive(&mut self) -> Result<Option<State>, String> {
        let mut buf = [0; 4096];
        while self.received.len() < MAX_BYTES {
            match recv(self.socket.as_raw_fd(), &mut buf, MsgFlags::empty()) {
                Ok(0) if line(&self.received).is_some() => return Ok(None),
                Ok(0) => return Err("closed without an answer".to_owned()),
                Ok(count) => self.received.extend_from_slice(&buf[..count]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(_) if line(&self.received).is_some() => return Ok(None),
                Err(errno) => return Err(error_text(errno)),
            }
        }
        Ok(None)
    }
}

impl AsFd for ConnectionProbe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(family: AddressFamily) -> Result<OwnedFd, ProbeError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, None)
        .map_err(|errno| ProbeError::Indeterminate(error_text(errno)))
}

fn begin(socket: &OwnedFd, address: &dyn SockaddrLike) -> Result<(), ProbeError> {
    match connect(socket.as_raw_fd(), address) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(()),
        // connect(2): all ephemeral ports are in use, or memory is short.
        Err(errno @ (Errno::EADDRNOTAVAIL | Errno::ENOBUFS | Errno::ENOMEM)) => {
            Err(ProbeError::Indeterminate(error_text(errno)))
        }
        Err(errno) => Err(ProbeError::Failed(error_text(errno))),
    }
}

fn open_unix(path: &Path) -> Result<OwnedFd, ProbeError> {
    let socket = open(AddressFamily::Unix)?;
    let failed = |errno| ProbeError::Failed(error_text(errno));
    let address = UnixAddr::new(path).map_err(failed)?;
    match connect(socket.as_raw_fd(), &address) {
        Ok(()) => Ok(socket),
        Err(Errno::EAGAIN) => Err(ProbeError::Failed(
            "its queue of connections is full".to_owned(),
        )),
        Err(errno) => Err(failed(errno)),
    }
}

/// Starts a connection to the first of these addresses that allows it.
fn next(addresses: &mut VecDeque<SocketAddr>) -> Result<OwnedFd, ProbeError> {
    let mut last = ProbeError::Failed("no address".to_owned());
    while let Some(address) = addresses.pop_front() {
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let started = open(family).and_then(|socket| {
            begin(&socket, &SockaddrStorage::from(address))?;
            Ok(socket)
        });
        match started {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A request that closes the connection. One of `headers` replaces that of the same name.
fn request(host: &str, path: &str, headers: &[(String, OsString)]) -> Vec<u8> {
    let agent = concat!("rotad/", env!("CARGO_PKG_VERSION"));
    let own = [("Host", host), ("User-Agent", agent), ("Accept", "*/*")];
    let own = own.into_iter().filter(|(name, _)| {
        !headers
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(name))
    });
    let own = own.map(|(name, value)| (name, value.as_bytes()));
    let given = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut text = format!("GET {path} HTTP/1.1\r\n").into_bytes();
    for (name, value) in own.chain(given).chain([("Connection", &b"close"[..])]) {
        text.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// The end of the first line, after its newline.
fn line(received: &[u8]) -> Option<usize> {
    received
        .iter()
        .position(|&byte| byte == b'\n')
        .map(|at| at + 1)
}

/// Parses the status line; None: incomplete. Interim responses (1xx) are skipped: RFC 9110, 15.2.
fn parse_status(received: &mut Vec<u8>) -> Option<Result<(), String>> {
    loop {
        let end = line(received)?;
        // The headers do not matter: parse the line alone, as a response without any.
        let head = [&received[..end], b"\r\n"].concat();
        let mut response = httparse::Response::new(&mut []);
        let code = match response.parse(&head) {
            Ok(_) => response.code.unwrap_or(0),
            Err(_) => return Some(Err("answered, but not in HTTP".to_owned())),
        };
        match code {
            100..200 => {
                let next = received.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
                received.drain(..next);
            }
            200..400 => return Some(Ok(())),
            code => {
                let reason = response
                    .reason
                    .filter(|text| !text.is_empty())
                    .map_or(String::new(), |r| format!(" {r}"));
                return Some(Err(format!("answered {code}{reason}")));
            }
        }
    }
}

/// "connection refused".
fn error_text(errno: Errno) -> String {
    let text = errno.desc();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Result<(), String>> {
        parse_status(&mut text.as_bytes().to_vec())
    }

    #[test]
    fn a_header_replaces_that_of_the_same_name() {
        let text = |headers: &[(&str, &str)]| {
            let headers = headers.iter();
            let headers = headers.map(|(name, value)| ((*name).to_owned(), OsString::from(value)));
            let headers: Vec<_> = headers.collect();
            String::from_utf8(request("127.0.0.1:80", "/x", &headers)).unwrap()
        };
        let plain = text(&[]);
        assert!(plain.starts_with("GET /x HTTP/1.1\r\nHost: 127.0.0.1:80\r\nUser-Agent: rotad/"));
        assert!(plain.ends_with("\r\nAccept: */*\r\nConnection: close\r\n\r\n"));
        let given = text(&[("host", "shop.example.com"), ("X-Probe", "a: b")]);
        assert!(!given.contains("127.0.0.1"), "{given}");
        assert!(
            given.ends_with(
                "\r\nhost: shop.example.com\r\nX-Probe: a: b\r\nConnection: close\r\n\r\n"
            )
        );
    }

    #[test]
    fn the_status_line_decides() {
        assert_eq!(parse("HTTP/1.1 200 O"), None);
        for fine in [
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.0 204 \r\n",
            "HTTP/1.1 302\r\nLocation: x",
            "HTTP/1.1 399 ?\n",
        ] {
            assert_eq!(parse(fine), Some(Ok(())), "{fine}");
        }
        assert_eq!(
            parse("HTTP/1.1 503 Service Unavailable\r\n"),
            Some(Err("answered 503 Service Unavailable".into()))
        );
        assert_eq!(
            parse("HTTP/1.1 404\r\nA: b\r\n\r\n"),
            Some(Err("answered 404".into()))
        );
        assert_eq!(
            parse("SSH-2.0-OpenSSH_9.2\r\n"),
            Some(Err("answered, but not in HTTP".into()))
        );
        assert_eq!(parse("HTTP/1.1 103 Early Hints\r\nLink: x\r\n"), None);
        assert_eq!(
            parse("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 500 \r\n"),
            Some(Err("answered 500".into()))
        );
    }
}
