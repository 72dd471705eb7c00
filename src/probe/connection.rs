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
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The longest beginning of a response that is read, interim responses included.
const MOST_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct ConnectionProbe {
    socket: OwnedFd,
    stage: Stage,
    /// Addresses still to be tried.
    others: VecDeque<SocketAddr>,
    /// None: the connection itself is the answer.
    request: Option<Vec<u8>>,
    heard: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Connecting,
    /// Number of bytes sent.
    Asking(usize),
    Listening,
}

/// The result of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Continue when the socket is ready.
    Wait,
    Answered(Result<(), String>),
}

impl ConnectionProbe {
    /// Starts the probe. Commands are not handled here: see `command`.
    pub(super) fn begin(question: &ProbeRequest) -> Result<(Self, Turn), ProbeError> {
        let (target, request) = match question {
            ProbeRequest::Connect { target, .. } => (target, None),
            ProbeRequest::Http { target, host, path } => (target, Some(request(host, path))),
            ProbeRequest::Command(_) => {
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
        let mut talk = Self {
            socket,
            stage: Stage::Connecting,
            others,
            request,
            heard: Vec::new(),
        };
        // Most are connected already: the peer is on this machine.
        let turn = talk.go_on();
        Ok((talk, turn))
    }

    pub(super) fn wants(&self) -> PollFlags {
        match self.stage {
            Stage::Connecting | Stage::Asking(_) => PollFlags::POLLOUT,
            Stage::Listening => PollFlags::POLLIN,
        }
    }

    /// Advances as far as possible without blocking.
    pub(super) fn go_on(&mut self) -> Turn {
        loop {
            let step = match self.stage {
                Stage::Connecting => self.connected(),
                Stage::Asking(sent) => self.ask(sent),
                Stage::Listening => self.listen(),
            };
            match step {
                Ok(Some(stage)) => self.stage = stage,
                Ok(None) if self.request.is_none() && matches!(self.stage, Stage::Asking(_)) => {
                    return Turn::Answered(Ok(()));
                }
                Ok(None) if matches!(self.stage, Stage::Listening) => {
                    match verdict(&mut self.heard) {
                        Some(result) => return Turn::Answered(result),
                        None if self.heard.len() >= MOST_BYTES => {
                            return Turn::Answered(Err(
                                "answered without an end of the first line".to_owned(),
                            ));
                        }
                        None => return Turn::Wait,
                    }
                }
                Ok(None) => return Turn::Wait,
                Err(reason) => match self.try_another(reason) {
                    None => {}
                    Some(reason) => return Turn::Answered(Err(reason)),
                },
            }
        }
    }

    /// The rest of the response is read for a while: closing immediately would look like a reset to the server.
    pub(super) fn into_rest(self) -> Option<OwnedFd> {
        self.request.is_some().then_some(self.socket)
    }

    fn try_another(&mut self, reason: String) -> Option<String> {
        if !matches!(self.stage, Stage::Connecting) || self.others.is_empty() {
            return Some(reason);
        }
        match next(&mut self.others) {
            Ok(socket) => {
                self.socket = socket;
                None
            }
            // Without IPv6, the result of the previous address counts.
            Err(_) => Some(reason),
        }
    }

    fn connected(&mut self) -> Result<Option<Stage>, String> {
        let errno = getsockopt(&self.socket, sockopt::SocketError).map_err(words)?;
        if errno != 0 {
            return Err(words(Errno::from_raw(errno)));
        }
        let fd = self.socket.as_raw_fd();
        match getpeername::<SockaddrStorage>(fd) {
            Err(Errno::ENOTCONN) => return Ok(None),
            Err(errno) => return Err(words(errno)),
            // A connection to a port of the ephemeral range may connect to itself if nothing listens there (RFC 9293,
            // 3.5).
            Ok(peer) if peer.family() != Some(AddressFamily::Unix) => {
                if getsockname::<SockaddrStorage>(fd).is_ok_and(|own| own == peer) {
                    return Err(words(Errno::ECONNREFUSED));
                }
            }
            Ok(_) => {}
        }
        Ok(Some(Stage::Asking(0)))
    }

    fn ask(&mut self, sent: usize) -> Result<Option<Stage>, String> {
        let Some(request) = &self.request else {
            return Ok(None);
        };
        if sent == request.len() {
            return Ok(Some(Stage::Listening));
        }
        match send(
            self.socket.as_raw_fd(),
            &request[sent..],
            MsgFlags::MSG_NOSIGNAL,
        ) {
            Ok(more) => Ok(Some(Stage::Asking(sent + more))),
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EINTR) => Ok(Some(Stage::Asking(sent))),
            Err(errno) => Err(words(errno)),
        }
    }

    /// Reads what is there; a closed peer is a failure unless the status line came before.
    fn listen(&mut self) -> Result<Option<Stage>, String> {
        let mut gulp = [0; 4096];
        while self.heard.len() < MOST_BYTES {
            match recv(self.socket.as_raw_fd(), &mut gulp, MsgFlags::empty()) {
                Ok(0) if line(&self.heard).is_some() => return Ok(None),
                Ok(0) => return Err("closed without an answer".to_owned()),
                Ok(count) => self.heard.extend_from_slice(&gulp[..count]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(_) if line(&self.heard).is_some() => return Ok(None),
                Err(errno) => return Err(words(errno)),
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
        .map_err(|errno| ProbeError::Indeterminate(words(errno)))
}

fn begin(socket: &OwnedFd, address: &dyn SockaddrLike) -> Result<(), ProbeError> {
    match connect(socket.as_raw_fd(), address) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(()),
        // connect(2): all ephemeral ports are in use, or memory is short.
        Err(errno @ (Errno::EADDRNOTAVAIL | Errno::ENOBUFS | Errno::ENOMEM)) => {
            Err(ProbeError::Indeterminate(words(errno)))
        }
        Err(errno) => Err(ProbeError::Failed(words(errno))),
    }
}

fn open_unix(path: &Path) -> Result<OwnedFd, ProbeError> {
    let socket = open(AddressFamily::Unix)?;
    let unwell = |errno| ProbeError::Failed(words(errno));
    let address = UnixAddr::new(path).map_err(unwell)?;
    match connect(socket.as_raw_fd(), &address) {
        Ok(()) => Ok(socket),
        Err(Errno::EAGAIN) => Err(ProbeError::Failed(
            "its queue of connections is full".to_owned(),
        )),
        Err(errno) => Err(unwell(errno)),
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
        let begun = open(family).and_then(|socket| {
            begin(&socket, &SockaddrStorage::from(address))?;
            Ok(socket)
        });
        match begun {
            Ok(socket) => return Ok(socket),
            Err(trouble) => last = trouble,
        }
    }
    Err(last)
}

fn request(host: &str, path: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: rotad/{version}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// Where the first line ends, behind its newline.
fn line(heard: &[u8]) -> Option<usize> {
    heard
        .iter()
        .position(|&byte| byte == b'\n')
        .map(|at| at + 1)
}

/// Parses the status line; None: incomplete. Interim responses (1xx) are skipped: RFC 9110, 15.2.
fn verdict(heard: &mut Vec<u8>) -> Option<Result<(), String>> {
    loop {
        let end = line(heard)?;
        // The headers do not matter: parse the line alone, as a response without any.
        let head = [&heard[..end], b"\r\n"].concat();
        let mut answer = httparse::Response::new(&mut []);
        let code = match answer.parse(&head) {
            Ok(_) => answer.code.unwrap_or(0),
            Err(_) => return Some(Err("answered, but not in HTTP".to_owned())),
        };
        match code {
            100..200 => {
                let next = heard.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
                heard.drain(..next);
            }
            200..400 => return Some(Ok(())),
            code => {
                let reason = answer
                    .reason
                    .filter(|text| !text.is_empty())
                    .map_or(String::new(), |r| format!(" {r}"));
                return Some(Err(format!("answered {code}{reason}")));
            }
        }
    }
}

/// "connection refused".
fn words(errno: Errno) -> String {
    let text = errno.desc();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Option<Result<(), String>> {
        verdict(&mut text.as_bytes().to_vec())
    }

    #[test]
    fn status_lines_decide() {
        assert_eq!(said("HTTP/1.1 200 O"), None);
        for fine in [
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.0 204 \r\n",
            "HTTP/1.1 302\r\nLocation: x",
            "HTTP/1.1 399 ?\n",
        ] {
            assert_eq!(said(fine), Some(Ok(())), "{fine}");
        }
        assert_eq!(
            said("HTTP/1.1 503 Service Unavailable\r\n"),
            Some(Err("answered 503 Service Unavailable".into()))
        );
        assert_eq!(
            said("HTTP/1.1 404\r\nA: b\r\n\r\n"),
            Some(Err("answered 404".into()))
        );
        assert_eq!(
            said("SSH-2.0-OpenSSH_9.2\r\n"),
            Some(Err("answered, but not in HTTP".into()))
        );
        assert_eq!(said("HTTP/1.1 103 Early Hints\r\nLink: x\r\n"), None);
        assert_eq!(
            said("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 500 \r\n"),
            Some(Err("answered 500".into()))
        );
    }
}
