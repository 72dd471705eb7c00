//! HTTP load that counts every request: one that got no complete `200` is lost, for whatever reason. A kept connection
//! that the server closed while it was idle is opened again without loss, and `Connection: close` in an answer is obeyed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What came of the requests.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub ok: u64,
    /// Reason to number.
    pub lost: BTreeMap<String, u64>,
    /// Answers in each tenth of a second since the start.
    pub tenths: Vec<u64>,
    pub slowest: Duration,
    /// First word of the bodies (the worker's pid) to answers.
    pub by_worker: BTreeMap<String, u64>,
    /// The rest of the bodies after pid and generation (the version) to answers.
    pub by_version: BTreeMap<String, u64>,
}

impl Report {
    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Fails unless nothing was lost and at least this many were answered.
    pub fn assert_nothing_lost(&self, at_least: u64) {
        assert!(
            self.lost.is_empty(),
            "{} of {} requests lost: {:?}",
            self.lost(),
            self.ok + self.lost(),
            self.lost
        );
        assert!(
            self.ok >= at_least,
            "only {} requests, {at_least} wanted",
            self.ok
        );
    }

    fn add(&mut self, other: &Report) {
        self.ok += other.ok;
        self.slowest = self.slowest.max(other.slowest);
        self.tenths
            .resize(self.tenths.len().max(other.tenths.len()), 0);
        for (sum, more) in self.tenths.iter_mut().zip(&other.tenths) {
            *sum += more;
        }
        for (mine, theirs) in [
            (&mut self.lost, &other.lost),
            (&mut self.by_worker, &other.by_worker),
            (&mut self.by_version, &other.by_version),
        ] {
            for (name, number) in theirs {
                *mine.entry(name.clone()).or_default() += number;
            }
        }
    }
}

/// Clients that ask all the time, until [`Load::stop`].
pub struct Load {
    end: Arc<AtomicBool>,
    so_far: Arc<Mutex<Report>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Closed loop: each client sends its next request when it has its answer. `address` is `HOST:PORT` or `unix:PATH`.
    pub fn on(address: &str, closing: usize, keeping: usize) -> Load {
        Load::of(address, "/", closing, keeping, Duration::ZERO)
    }

    /// With a path (`POST /path`: not a GET), and a pause of each client between two requests (a fixed rate rather than as fast as it goes).
    pub fn of(address: &str, path: &str, closing: usize, keeping: usize, pause: Duration) -> Load {
        let end = Arc::new(AtomicBool::new(false));
        let so_far = Arc::new(Mutex::new(Report::default()));
        let started = Instant::now();
        let client = |number: usize| {
            let (address, path, end, so_far) = (
                address.to_string(),
                path.to_string(),
                end.clone(),
                so_far.clone(),
            );
            std::thread::spawn(move || {
                let mut client = Client::new(&address, number >= closing);
                while !end.load(Ordering::SeqCst) {
                    let asked = Instant::now();
                    let result = client.get(&path);
                    let mut report = Report {
                        slowest: asked.elapsed(),
                        ..Report::default()
                    };
                    count(&mut report, started, result);
                    let broken = !report.lost.is_empty();
                    so_far.lock().expect("a report").add(&report);
                    // Not a loop that refuses a million times a second.
                    std::thread::sleep(if broken {
                        Duration::from_millis(5)
                    } else {
                        pause
                    });
                }
            })
        };
        let threads = (0..closing + keeping).map(client).collect();
        Load {
            end,
            so_far,
            threads,
        }
    }

    /// What came of it until now.
    pub fn so_far(&self) -> Report {
        self.so_far.lock().expect("a report").clone()
    }

    /// Waits until this many more requests were answered.
    pub fn await_more(&self, more: u64) {
        let before = self.so_far().ok;
        super::until("more answers", 60, || {
            (self.so_far().ok >= before + more).then_some(())
        });
    }

    /// Ends it: every client gets its last answer.
    pub fn stop(mut self) -> Report {
        self.end.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client");
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
    }
}

fn count(report: &mut Report, started: Instant, result: Result<String, String>) {
    match result {
        Err(reason) => {
            report.lost.insert(reason, 1);
        }
        Ok(body) => {
            report.ok = 1;
            report.tenths = vec![0; (started.elapsed().as_millis() / 100) as usize + 1];
            *report.tenths.last_mut().expect("one") = 1;
            let mut words = body.trim().splitn(3, ' ');
            report
                .by_worker
                .insert(words.next().unwrap_or_default().to_string(), 1);
            report
                .by_version
                .insert(words.nth(1).unwrap_or_default().to_string(), 1);
        }
    }
}

/// `N` requests at the same time, each on a connection of its own, sent before this returns; the answers come later.
pub fn burst(address: &str, path: &str, number: usize) -> Vec<JoinHandle<Result<String, String>>> {
    let mut clients: Vec<Client> = (0..number).map(|_| Client::new(address, false)).collect();
    for client in &mut clients {
        client.send(path).expect("a request sent");
    }
    clients
        .into_iter()
        .map(|mut client| std::thread::spawn(move || client.receive()))
        .collect()
}

/// One request on a connection of its own.
pub fn get(address: &str, path: &str) -> Result<String, String> {
    Client::new(address, false).get(path)
}

trait Stream: Read + Write + Send {
    /// Whether the other side has closed it, without waiting.
    fn closed(&self) -> bool;
}

impl Stream for TcpStream {
    fn closed(&self) -> bool {
        let _ = self.set_nonblocking(true);
        let seen = self.peek(&mut [0]);
        let _ = self.set_nonblocking(false);
        !matches!(seen, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

impl Stream for UnixStream {
    fn closed(&self) -> bool {
        false // kept connections are tested over TCP
    }
}

struct Client {
    address: String,
    keep: bool,
    stream: Option<Box<dyn Stream>>,
}

impl Client {
    fn new(address: &str, keep: bool) -> Client {
        Client {
            address: address.to_string(),
            keep,
            stream: None,
        }
    }

    fn get(&mut self, path: &str) -> Result<String, String> {
        self.send(path)?;
        self.receive()
    }

    fn send(&mut self, path: &str) -> Result<(), String> {
        if self.stream.as_ref().is_some_and(|stream| stream.closed()) {
            self.stream = None;
        }
        if self.stream.is_none() {
            self.stream =
                Some(connect(&self.address).map_err(|error| format!("connect: {error}"))?);
        }
        let connection = if self.keep { "keep-alive" } else { "close" };
        let (method, path, body) = match path.strip_prefix("POST ") {
            Some(path) => ("POST", path, "a=1"),
            None => ("GET", path, ""),
        };
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}Connection: {connection}\r\n\r\n{body}"
        );
        let sent = self
            .stream
            .as_mut()
            .expect("a stream")
            .write_all(request.as_bytes());
        sent.map_err(|error| {
            self.stream = None;
            format!("send: {error}")
        })
    }

    fn receive(&mut self) -> Result<String, String> {
        let mut stream = self.stream.take().ok_or("no connection")?;
        let mut text = Vec::new();
        let head_end = loop {
            if let Some(at) = text.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            read_some(&mut stream, &mut text)?;
        };
        let head = String::from_utf8_lossy(&text[..head_end]).to_ascii_lowercase();
        if !head.starts_with("http/1.1 200") && !head.starts_with("http/1.0 200") {
            return Err(format!(
                "answered {:?}",
                head.lines().next().unwrap_or_default()
            ));
        }
        let length = head.lines().find_map(|line| {
            line.strip_prefix("content-length:")?
                .trim()
                .parse::<usize>()
                .ok()
        });
        let length = length.ok_or("no content-length")?;
        while text.len() < head_end + length {
            read_some(&mut stream, &mut text)?;
        }
        if self.keep && !head.contains("connection: close") {
            self.stream = Some(stream);
        }
        Ok(String::from_utf8_lossy(&text[head_end..head_end + length]).to_string())
    }
}

fn read_some(stream: &mut Box<dyn Stream>, text: &mut Vec<u8>) -> Result<(), String> {
    let mut bytes = [0; 4096];
    let read = loop {
        match stream.read(&mut bytes) {
            // A socket with a timeout says so when the process was stopped and continued (signal(7)).
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => break read,
        }
    };
    match read {
        Ok(0) if text.is_empty() => Err("closed before any byte of the answer".to_string()),
        Ok(0) => Err("closed within the answer".to_string()),
        Ok(read) => {
            text.extend_from_slice(&bytes[..read]);
            Ok(())
        }
        Err(error) => Err(format!("receive: {error}")),
    }
}

fn connect(address: &str) -> std::io::Result<Box<dyn Stream>> {
    let timeout = Some(Duration::from_secs(30));
    if let Some(path) = address.strip_prefix("unix:") {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(timeout)?;
        return Ok(Box::new(stream));
    }
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(timeout)?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}
