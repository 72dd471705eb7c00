//! `/api/logs`: the lines that workers print, as server-sent events. A thread for each client, since the master's answer
//! is read by waiting for it.

use super::feed::{KEEP_ALIVE, Lost, Outlet};
use super::link::Link;
use rotad::cli::client::{Client, ClientError, WaitLimits};
use rotad::config::MasterPaths;
use rotad::control::protocol::{Line, LogPlace, Method, Response};
use rotad::sys::thread;
use serde_json::json;
use std::cell::Cell;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Readers at a time; the master has room for 16.
const MAX_READERS: usize = 8;
/// Lines that wait for a client.
const MAX_WAITING: usize = 256;
/// The most past lines that are sent.
const MAX_LINES: u32 = 10_000;
/// How long after a lost master the next one is asked.
const RETRY: Duration = Duration::from_secs(1);

/// What a client wants.
pub(crate) struct Wanted {
    /// None: all.
    pub(crate) pool: Option<String>,
    /// None: all of the pool.
    pub(crate) slot: Option<u32>,
    /// How many of the last lines.
    pub(crate) lines: u32,
}

/// How many clients read.
#[derive(Default)]
pub(crate) struct Readers(Cell<usize>);

/// What the thread reads.
enum Read {
    Line(Box<Line>),
    Skipped(u64),
    /// No more comes, for this reason.
    End(String),
}

struct Reader(Rc<Readers>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}

/// Begins a stream.
///
/// # Errors
/// For the client: too many read, or there is no thread or descriptor left.
pub(crate) fn read(
    readers: &Rc<Readers>,
    link: &Link,
    wanted: Wanted,
) -> Result<mpsc::Receiver<hyper::body::Bytes>, String> {
    if readers.0.get() >= MAX_READERS {
        return Err(format!("{MAX_READERS} clients already read logs"));
    }
    let cannot = |error: io::Error| format!("no thread or descriptor is left: {error}");
    let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
    let (sender, lines) = mpsc::channel(MAX_WAITING);
    let paths = link.paths().clone();
    thread::spawn("logs", 512 << 10, move || {
        read_lines(&paths, &wanted, &theirs, &sender);
    })
    .map_err(cannot)?;
    readers.0.set(readers.0.get() + 1);
    let reader = Reader(Rc::clone(readers));
    let (outlet, receiver) = Outlet::new();
    tokio::task::spawn_local(async move {
        pass_on(&outlet, lines).await.ok();
        // The end of this socket ends the thread.
        drop((ours, reader));
    });
    Ok(receiver)
}

async fn pass_on(outlet: &Outlet, mut lines: mpsc::Receiver<Read>) -> Result<(), Lost> {
    outlet.send(": lines\n\n").await?;
    loop {
        let next = tokio::select! {
            next = timeout(KEEP_ALIVE, lines.recv()) => next,
            () = outlet.closed() => return Err(Lost),
        };
        match next {
            Err(_) => outlet.keep_alive().await?,
            Ok(Some(Read::Line(line))) => outlet.send_json("line", None, &line).await?,
            Ok(Some(Read::Skipped(count))) => {
                let skipped = json!({ "count": count });
                outlet.send_json("skipped", None, &skipped).await?;
            }
            Ok(Some(Read::End(why))) => {
                return outlet.send_json("end", None, &json!({ "why": why })).await;
            }
            Ok(None) => return Ok(()),
        }
    }
}

/// Reads until the client is gone; a master that is replaced is read from where the last one was left.
fn read_lines(
    paths: &MasterPaths,
    wanted: &Wanted,
    client: &UnixStream,
    sender: &mpsc::Sender<Read>,
) {
    let mut place = None;
    loop {
        match read_master(paths, wanted, client, sender, &mut place) {
            Ok(()) => return,
            // The master has ended, perhaps before it had answered.
            Err(ClientError::Lost(_)) if !is_gone(client, RETRY) => {}
            Err(ClientError::Unreachable(_)) if place.is_some() && !is_gone(client, RETRY) => {}
            Err(error) => {
                sender.blocking_send(Read::End(error.to_string())).ok();
                return;
            }
        }
    }
}

/// Reads one master, until the client is gone.
fn read_master(
    paths: &MasterPaths,
    wanted: &Wanted,
    client: &UnixStream,
    sender: &mpsc::Sender<Read>,
    place: &mut Option<LogPlace>,
) -> Result<(), ClientError> {
    let limits = WaitLimits::default();
    let mut master = Client::connect(paths, &limits)?;
    master.send(Method::Logs {
        pool: wanted.pool.clone(),
        slot: wanted.slot,
        more: Vec::new(),
        lines: wanted.lines.min(MAX_LINES),
        follow: true,
        after: *place,
    })?;
    loop {
        let read = match master.next_response_until(&limits, None, Some(client.as_fd()))? {
            None => return Ok(()),
            Some(Response::LogFrom(from)) => {
                *place = Some(from);
                continue;
            }
            Some(Response::Line(line)) => {
                if let Some(place) = place {
                    place.end = line.end;
                }
                Read::Line(line)
            }
            Some(Response::Skipped { count }) => Read::Skipped(count),
            Some(Response::Done { message, .. }) => Read::End(message),
            Some(_) => continue,
        };
        let is_end = matches!(read, Read::End(_));
        if sender.blocking_send(read).is_err() || is_end {
            return Ok(());
        }
    }
}

/// Whether the client's end is closed, by this much time from now.
fn is_gone(client: &UnixStream, time: Duration) -> bool {
    let waits = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    client.set_read_timeout(Some(time)).ok();
    !matches!((&*client).read(&mut [0]), Err(error) if waits(&error))
}
