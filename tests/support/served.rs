//! `rotad serve` of a [`Site`], and a client of its own: one request a connection, without any library.

use super::{Site, console, free_port, rotad, until, until_some};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case, with line ends.
    pub head: String,
    pub body: String,
}

impl Answer {
    fn parse(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.unwrap_or_else(|| panic!("no response: {text:?}")),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A running `rotad serve`, ended with the test.
pub struct Served {
    child: Child,
    /// `127.0.0.1:PORT` or `unix:PATH`.
    pub address: String,
    stderr: PathBuf,
}

impl Served {
    /// On a free port.
    pub fn of(site: &Site, args: &[&str]) -> Served {
        Served::at(site, &format!("127.0.0.1:{}", free_port()), args)
    }

    /// At this address; waits until it is served.
    pub fn at(site: &Site, address: &str, args: &[&str]) -> Served {
        console();
        let stderr = site.path(&format!("serve-{}.txt", free_port()));
        let child = Command::new(rotad())
            .args(["serve", "-c"])
            .arg(&site.config)
            .args(["--listen", address])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr).expect("a file for stderr"))
            .env_remove("ROTAD_CONFIG")
            .process_group(0)
            .spawn()
            .expect("rotad serve");
        let served = Served {
            child,
            address: address.to_owned(),
            stderr,
        };
        until("it serves", 10, || {
            served.said().contains("rotad serves").then_some(())
        });
        served
    }

    /// What it has printed to stderr.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The token of the link that it has printed.
    pub fn token(&self) -> String {
        let said = self.said();
        let token = said.split_once("#token=").expect("a link with a token").1;
        token
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "")
    }

    /// `POST` of JSON with the token.
    pub fn post(&self, path: &str, token: &str, body: &str) -> Answer {
        let authorization = format!("Authorization: Bearer {token}");
        self.ask("POST", path, &[&authorization], body)
    }

    /// A request; `headers` without Host get one.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut stream = self.connect();
        stream
            .write_all(request(method, path, headers, body).as_bytes())
            .expect("a request");
        Answer::parse(&to_the_end(&mut stream))
    }

    /// Server-sent events of a path.
    pub fn stream(&self, path: &str, headers: &[&str]) -> Events {
        let mut stream = self.connect();
        stream
            .write_all(request("GET", path, headers, "").as_bytes())
            .expect("a request");
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).expect("a head") > 0, "{head}");
        }
        assert!(head.contains("text/event-stream"), "{head}");
        Events { reader }
    }

    /// A connection with a limit on each read.
    pub fn connect(&self) -> Box<dyn Stream> {
        let limit = Some(Duration::from_secs(20));
        match self.address.strip_prefix("unix:") {
            Some(path) => {
                let stream = UnixStream::connect(path).expect("a connection");
                stream.set_read_timeout(limit).expect("a limit");
                Box::new(stream)
            }
            None => {
                let stream = TcpStream::connect(&self.address).expect("a connection");
                stream.set_read_timeout(limit).expect("a limit");
                Box::new(stream)
            }
        }
    }

    /// Sends a signal, and waits for the end.
    pub fn end(&mut self, signal: nix::sys::signal::Signal, seconds: u64) -> ExitStatus {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).expect("a signal");
        let status = until_some(seconds, || self.child.try_wait().expect("a child"));
        status.unwrap_or_else(|| panic!("it has not ended within {seconds} s"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- rotad serve ---\n{}", self.said());
        }
    }
}

/// A connection.
pub trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

fn request(method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let mut lines = vec![
        format!("{method} {path} HTTP/1.1"),
        "Connection: close".to_owned(),
    ];
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        lines.push("Host: localhost".to_owned());
    }
    if !body.is_empty() {
        lines.push(format!("Content-Length: {}", body.len()));
    }
    lines.extend(headers.iter().map(|header| (*header).to_owned()));
    format!("{}\r\n\r\n{body}", lines.join("\r\n"))
}

/// Everything until the other side closes; nothing more counts as its end.
pub fn to_the_end(stream: &mut dyn Stream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// Server-sent events as they come, in chunks.
pub struct Events {
    reader: BufReader<Box<dyn Stream>>,
}

/// One of them.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub event: String,
    pub id: Option<u64>,
    pub data: String,
}

impl Message {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Events {
    /// The next one. None: the stream has ended.
    pub fn next(&mut self) -> Option<Message> {
        let mut message = Message::default();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).expect("a line in time") == 0 {
                return None;
            }
            let line = line.trim_end();
            match line.split_once(": ") {
                Some(("event", name)) => message.event = name.to_owned(),
                Some(("id", id)) => message.id = id.parse().ok(),
                Some(("data", data)) => message.data.push_str(data),
                // Lengths of chunks, comments, `retry`, empty lines.
                _ => {}
            }
            if line.is_empty() && !message.event.is_empty() {
                return Some(message);
            }
        }
    }

    /// The next one of this kind for which `is` holds; the others are passed over.
    pub fn find(&mut self, event: &str, is: impl Fn(&Message) -> bool) -> Message {
        for _ in 0..500 {
            let message = self
                .next()
                .unwrap_or_else(|| panic!("it has ended: {event}"));
            if message.event == event && is(&message) {
                return message;
            }
        }
        panic!("in vain: {event}");
    }
}
