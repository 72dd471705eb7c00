//! The connections to the master, each with a thread that may wait: one reads the status when it is asked to, one follows
//! the events, one the log lines of what is selected; each command has one of its own. They report as inputs.

use super::app::{Input, LogInput};
use super::bell::{Bell, Ringer, bell};
use super::target::Target;
use nix::poll::{PollFd, PollFlags};
use rotad::cli::client::{Client, ClientError, WaitLimits};
use rotad::cli::{request, status};
use rotad::config::MasterPaths;
use rotad::control::protocol::{InProgress, LogPlace, LogTarget, Method, Response};
use rotad::event_loop::clock::Deadline;
use rotad::exit_code::ExitCode;
use rotad::observe::status::Status;
use rotad::sys::poll::poll;
use rotad::sys::thread;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Of each thread, in bytes.
const STACK: usize = 512 << 10;
/// A connection that was lost is made again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// After a change of what is selected, its log is asked for once nothing else was for this time: a key that is held down
/// passes many rows.
const SETTLED: Duration = Duration::from_millis(150);
/// How many of the last log lines are asked for.
const LINES: u32 = 200;
/// How long the master may take to say what is in progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(2);

/// The receiving end of all threads.
#[derive(Debug)]
pub(super) struct Inbox {
    inputs: Receiver<Input>,
    bell: Bell,
}

impl Inbox {
    /// What has come; the bell is silent afterwards.
    pub(super) fn take(&self) -> Vec<Input> {
        self.bell.silence();
        self.inputs.try_iter().collect()
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// How a thread reports.
#[derive(Clone, Debug)]
struct Outbox {
    inputs: Sender<Input>,
    ringer: Arc<Ringer>,
}

impl Outbox {
    fn send(&self, input: Input) {
        // The program ends if nothing receives.
        self.inputs.send(input).ok();
        self.ringer.ring();
    }
}

/// The threads.
#[derive(Debug)]
pub(super) struct Link {
    paths: MasterPaths,
    outbox: Outbox,
    fetch: Sender<()>,
    wanted: Arc<Wanted>,
}

impl Link {
    /// Starts them.
    ///
    /// # Errors
    /// The kernel's: no descriptor or no thread is left.
    pub(super) fn open(paths: &MasterPaths) -> io::Result<(Self, Inbox)> {
        let (sender, inputs) = channel();
        let (ringer, bell) = bell()?;
        let outbox = Outbox {
            inputs: sender,
            ringer: Arc::new(ringer),
        };
        let (fetch, requests) = channel();
        let wanted = Arc::new(Wanted::new()?);
        let (of, to) = (paths.clone(), outbox.clone());
        thread::spawn("top-status", STACK, move || {
            read_status(&of, &requests, &to)
        })?;
        let (of, to) = (paths.clone(), outbox.clone());
        thread::spawn("top-events", STACK, move || follow_events(&of, &to))?;
        let (of, to, target) = (paths.clone(), outbox.clone(), wanted.clone());
        thread::spawn("top-log", STACK, move || follow_log(&of, &target, &to))?;
        let link = Self {
            paths: paths.clone(),
            outbox,
            fetch,
            wanted,
        };
        Ok((link, Inbox { inputs, bell }))
    }

    /// Has the status read.
    pub(super) fn fetch(&self) {
        self.fetch.send(()).ok();
    }

    /// Has the log of this target followed, in place of another one's.
    pub(super) fn follow(&self, target: Target) {
        self.wanted.set(target);
    }

    /// Sends these requests one after another, as long as each is done.
    pub(super) fn ask(&self, id: u64, methods: Vec<Method>) {
        let (paths, outbox) = (self.paths.clone(), self.outbox.clone());
        let asked = thread::spawn("top-command", STACK, move || {
            let done = send_all(&paths, methods, id, &outbox);
            let (code, text) = request::outcome(done, &paths.config);
            outbox.send(Input::Outcome(id, code, text));
        });
        if let Err(error) = asked {
            let text = format!("rotad: no thread can be started: {error}");
            self.outbox.send(Input::Outcome(id, ExitCode::FAILED, text));
        }
    }
}

/// One status for each request; requests that came meanwhile are answered by the same.
fn read_status(paths: &MasterPaths, requests: &Receiver<()>, outbox: &Outbox) {
    while requests.recv().is_ok() {
        while requests.try_recv().is_ok() {}
        let input = match status::fetch(paths) {
            Ok(Ok(status)) => {
                let progress = match something_is_in_progress(&status) {
                    true => in_progress(paths).unwrap_or_default(),
                    false => InProgress::default(),
                };
                Input::Status(Box::new(status), Box::new(progress))
            }
            Ok(Err((_, message))) => Input::Gone(message),
            Err(error) => Input::Gone(error.to_string()),
        };
        outbox.send(input);
    }
}

/// Whether asking for it can show anything: it costs the master another connection.
fn something_is_in_progress(status: &Status) -> bool {
    super::rows::is_moving(status)
}

fn in_progress(paths: &MasterPaths) -> Option<InProgress> {
    let limits = WaitLimits {
        until: Some(Deadline::after(PROGRESS_TIMEOUT)),
        ..WaitLimits::default()
    };
    let mut client = Client::connect(paths, &limits).ok()?;
    let pools = Vec::new();
    client.send(Method::InProgress { pools }).ok()?;
    match client.next_response(&limits).ok()? {
        Response::InProgress(progress) => Some(*progress),
        _ => None,
    }
}

/// First all events that the master keeps, then those to come; over and over, whatever happens to masters.
fn follow_events(paths: &MasterPaths, outbox: &Outbox) {
    let limits = WaitLimits::default();
    let mut follow = false;
    loop {
        let read = || -> Result<String, ClientError> {
            let mut client = Client::connect(paths, &limits)?;
            client.send(Method::Events { follow })?;
            loop {
                match client.next_response(&limits)? {
                    Response::Event(event) => outbox.send(Input::Event(event)),
                    Response::Skipped { count } => outbox.send(Input::EventsMissing(count)),
                    Response::Done { message, .. } => return Ok(message),
                    _ => {}
                }
            }
        };
        match read() {
            // All that are kept.
            Ok(_) if !follow => {
                follow = true;
                continue;
            }
            Ok(message) => outbox.send(Input::NoEvents(message)),
            Err(error) => outbox.send(Input::NoEvents(error.to_string())),
        }
        pause(&mut [], AGAIN);
    }
}

/// What the log thread is to follow.
#[derive(Debug)]
struct Wanted {
    target: Mutex<Option<Target>>,
    bell: Bell,
    ringer: Ringer,
}

impl Wanted {
    fn new() -> io::Result<Self> {
        let (ringer, bell) = bell()?;
        let target = Mutex::new(None);
        Ok(Self {
            target,
            bell,
            ringer,
        })
    }

    fn set(&self, target: Target) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
        self.ringer.ring();
    }

    /// Waits for a change, or for `patience`; false: none has come.
    fn wait(&self, patience: Option<Duration>) -> bool {
        let mut fds = [PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        let changed = poll(&mut fds, patience) != Ok(0);
        self.bell.silence();
        changed
    }

    /// The target, once it has not changed for a moment.
    fn settled(&self) -> Option<Target> {
        while self.wait(Some(SETTLED)) {}
        let target = self.target.lock();
        target.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn follow_log(paths: &MasterPaths, wanted: &Wanted, outbox: &Outbox) {
    let mut followed: Option<Target> = None;
    let mut place = None;
    loop {
        let Some(target) = wanted.settled() else {
            wanted.wait(None);
            continue;
        };
        if followed.as_ref() != Some(&target) {
            place = None;
        }
        followed = Some(target.clone());
        let why = match read_log(paths, &target, &mut place, wanted, outbox) {
            // Another target.
            Ok(None) => continue,
            Ok(Some(message)) => message,
            Err(error) => error.to_string(),
        };
        outbox.send(Input::Log(target, LogInput::Lost(why)));
        wanted.wait(Some(AGAIN));
    }
}

/// Follows a log until the master refuses, or until another target is wanted (None).
fn read_log(
    paths: &MasterPaths,
    target: &Target,
    place: &mut Option<LogPlace>,
    wanted: &Wanted,
    outbox: &Outbox,
) -> Result<Option<String>, ClientError> {
    let limits = WaitLimits::default();
    let mut client = Client::connect(paths, &limits)?;
    let LogTarget { pool, slot } = target.clone().into();
    client.send(Method::Logs {
        pool: Some(pool),
        slot,
        more: Vec::new(),
        lines: LINES,
        follow: true,
        after: *place,
    })?;
    let send = |input| outbox.send(Input::Log(target.clone(), input));
    loop {
        match client.next_response_until(&limits, None, Some(wanted.bell.as_fd()))? {
            None => return Ok(None),
            Some(Response::LogFrom(from)) => *place = Some(from),
            Some(Response::Line(line)) => {
                if let Some(place) = place {
                    place.end = line.end;
                }
                send(LogInput::Line(line));
            }
            Some(Response::Skipped { count }) => send(LogInput::Missing(count)),
            Some(Response::Done { message, .. }) => return Ok(Some(message)),
            Some(_) => {}
        }
    }
}

/// As the command line does: the final answer of the last request, or the first that is not done.
fn send_all(
    paths: &MasterPaths,
    methods: Vec<Method>,
    id: u64,
    outbox: &Outbox,
) -> Result<(ExitCode, String), ClientError> {
    let limits = WaitLimits::default();
    let mut last = (ExitCode::DONE, String::new());
    for method in methods {
        let stops_all = matches!(&method, Method::Stop { pools, .. } if pools.is_empty());
        let mut client = Client::connect(paths, &limits)?;
        client.send(method)?;
        last = loop {
            match client.next_response(&limits)? {
                Response::Done { code, message } => break (code, message),
                response => outbox.send(Input::Progress(id, Box::new(response))),
            }
        };
        if stops_all && (last.0 == ExitCode::DONE || last.0 == ExitCode::FAILED) {
            client.wait_gone(&limits)?;
        }
        if last.0 != ExitCode::DONE {
            break;
        }
    }
    Ok(last)
}

/// Waits for one of these, at most this long.
fn pause(fds: &mut [PollFd<'_>], patience: Duration) {
    poll(fds, Some(patience)).ok();
}
