//! What a probe checks, and where.

use crate::process::SpawnRequest;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The target of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// TCP addresses, tried in this order: `localhost` means two.
    Tcp(Vec<SocketAddr>),
    /// A unix socket.
    Unix(PathBuf),
}

/// One check of one worker.
#[derive(Clone, Debug)]
pub enum ProbeRequest {
    /// Passes if a connection is accepted.
    Connect {
        /// Where to connect to.
        target: Target,
        /// The target as configured, for messages.
        shown: String,
    },
    /// Passes if `GET` is answered with a status of 2xx or 3xx (RFC 9110, 15).
    Http {
        /// Where to connect to.
        target: Target,
        /// The Host header.
        host: String,
        /// The path and query.
        path: String,
        /// Further header fields, which replace those of the same name.
        headers: Vec<(String, OsString)>,
    },
    /// Passes if the program exits with 0. The probe replaces its stdout and stderr by a pipe, whose last line is reported if it
    /// fails, and its number ([`SpawnRequest::worker`]) by that of the probe.
    Command(Box<SpawnRequest>),
    /// As `Command`, for a hook: its output is logged under the hook's name, and its end is reported even if it was
    /// cancelled.
    Hook(String, Box<SpawnRequest>),
}

impl Target {
    /// `HOST:PORT` with a numeric host or `localhost`, or `unix:PATH`. No names are resolved: a resolver that hangs
    /// would look like a worker that does.
    fn parse(text: &OsStr) -> Result<Self, String> {
        if let Some(path) = text.as_bytes().strip_prefix(b"unix:") {
            return Ok(Self::Unix(PathBuf::from(OsStr::from_bytes(path))));
        }
        let text = text.to_string_lossy();
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp(vec![address]));
        }
        let port = text
            .strip_prefix("localhost:")
            .and_then(|port| port.parse::<u16>().ok());
        let port = port.ok_or_else(|| {
            format!("`{text}` is not HOST:PORT (with a numeric host, or localhost)")
        })?;
        Ok(Self::Tcp(vec![
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ]))
    }
}

impl ProbeRequest {
    /// A connection to `HOST:PORT` or `unix:PATH`.
    ///
    /// # Errors
    /// Not `HOST:PORT` or `unix:PATH`.
    pub fn connect(text: &OsStr) -> Result<Self, String> {
        Ok(Self::Connect {
            target: Target::parse(text)?,
            shown: text.to_string_lossy().into_owned(),
        })
    }

    /// An HTTP request to `HOST:PORT/PATH`; without a path: `/`.
    ///
    /// # Errors
    /// Not `HOST:PORT`, a path with characters that are not allowed in a request line, or a header that is not one line.
    pub fn http(text: &OsStr, headers: Vec<(String, OsString)>) -> Result<Self, String> {
        let text = text.to_string_lossy();
        let (host, path) = text.find('/').map_or((&*text, "/"), |at| text.split_at(at));
        if let Some(wrong) = path
            .chars()
            .find(|c| c.is_ascii_control() || *c == ' ' || !c.is_ascii())
        {
            return Err(format!(
                "{wrong:?} in the path of `{text}`: write it as %XX"
            ));
        }
        if let Some((name, _)) = headers
            .iter()
            .find(|(_, value)| value.as_bytes().iter().any(u8::is_ascii_control))
        {
            return Err(format!("a control character in the header `{name}`"));
        }
        Ok(Self::Http {
            target: Target::parse(OsStr::new(host))?,
            host: host.to_owned(),
            path: path.to_owned(),
            headers,
        })
    }

    /// Whether it connects to a socket's file: resolving its path may hang with its disk.
    pub fn names_a_file(&self) -> bool {
        matches!(
            self,
            Self::Connect {
                target: Target::Unix(_),
                ..
            } | Self::Http {
                target: Target::Unix(_),
                ..
            }
        )
    }

    /// Whether it runs a program.
    pub fn is_command(&self) -> bool {
        matches!(self, Self::Command(_) | Self::Hook(..))
    }
}

impl fmt::Display for ProbeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { shown, .. } => write!(f, "connect to {shown}"),
            Self::Http { host, path, .. } => write!(f, "GET http://{host}{path}"),
            Self::Command(command) | Self::Hook(_, command) => {
                write!(
                    f,
                    "`{}`",
                    command
                        .argv
                        .first()
                        .map_or_else(Default::default, |name| name.to_string_lossy())
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(text: &str) -> Result<ProbeRequest, String> {
        ProbeRequest::connect(OsStr::new(text))
    }

    #[test]
    fn targets_are_numeric_localhost_or_unix() {
        let Ok(ProbeRequest::Connect {
            target: Target::Tcp(one),
            ..
        }) = connect("[::1]:80")
        else {
            panic!("an address")
        };
        assert_eq!(one, ["[::1]:80".parse().unwrap()]);
        let Ok(ProbeRequest::Connect {
            target: Target::Tcp(two),
            ..
        }) = connect("localhost:80")
        else {
            panic!("two")
        };
        assert_eq!(
            two,
            ["127.0.0.1:80".parse().unwrap(), "[::1]:80".parse().unwrap()]
        );
        assert!(
            matches!(connect("unix:/a b"), Ok(ProbeRequest::Connect { target: Target::Unix(path), .. }) if path == *"/a b")
        );
        for wrong in ["db:80", "127.0.0.1", "127.0.0.1:99999", "localhost", ""] {
            assert!(connect(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_must_fit_a_request_line() {
        let shown = |text: &str| {
            ProbeRequest::http(OsStr::new(text), Vec::new()).map(|request| request.to_string())
        };
        assert_eq!(shown("127.0.0.1:80").unwrap(), "GET http://127.0.0.1:80/");
        assert_eq!(
            shown("[::1]:80/a?b=/c").unwrap(),
            "GET http://[::1]:80/a?b=/c"
        );
        assert!(shown("127.0.0.1:80/a b").is_err());
        assert!(shown("127.0.0.1:80/a\r\nX: y").is_err());
        let two_lines = vec![("X".to_owned(), OsString::from("a\r\nY: z"))];
        assert!(ProbeRequest::http(OsStr::new("127.0.0.1:80"), two_lines).is_err());
    }
}
