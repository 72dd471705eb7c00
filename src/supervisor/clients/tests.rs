//! [`Clients`] with real connections, without a master.

use super::*;
use crate::daemon::{Report, StartContext};
use crate::observe::events::EventKind;
use crate::supervisor::event_builder::EventBuilder;
use std::io::{BufRead, BufReader};

/// Clients, and the address to connect to.
struct Fixture {
    clients: Clients,
    poller: Poller,
    events: EventLog,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("control")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let context = StartContext {
            report: Report::to_stderr(),
            foreground: true,
            no_wait: false,
            take_over: false,
            no_take_over: false,
            lost_state: None,
            kept_sockets: Vec::new(),
            hup_ignored: false,
            no_guardian: None,
            program: None,
            activation_pid: 0,
            activation_sockets: Vec::new(),
        };
        let start_watch = StartWatch::new(context, std::iter::empty(), String::new());
        Self {
            clients: Clients::new(Server::new(listener, 0o600), start_watch),
            poller: Poller::new().unwrap(),
            events: EventLog::default(),
            dir,
        }
    }

    /// Connects a client, the `number`th.
    fn connect(&mut self, number: u64) -> (u64, UnixStream) {
        let stream = UnixStream::connect(self.dir.path().join("control")).unwrap();
        self.clients.accept(Time(0), &self.poller);
        (number, stream)
    }

    fn emit(&mut self, text: String) {
        let event = EventBuilder::new(EventKind::Request, text).event();
        self.events.record(None, event);
        self.clients.tell_events(&self.events, &self.poller);
    }
}

fn read(reader: &mut BufReader<UnixStream>) -> Response {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn a_follower_that_does_not_read_is_told_how_many_events_it_has_missed() {
    let mut fixture = Fixture::new();
    let (slow, stream) = fixture.connect(1);
    let (fast, other) = fixture.connect(2);
    for client in [slow, fast] {
        fixture
            .clients
            .follow_events(client, Vec::new(), &fixture.poller);
    }
    let mut fast = BufReader::new(other);
    // The socket's buffer and the queue of a follower hold less than that.
    let all = 2_000;
    for number in 1..=all {
        fixture.emit("x".repeat(1000));
        let Response::Event(event) = read(&mut fast) else {
            panic!("the client that reads misses event {number}");
        };
        assert_eq!(event.seq, number);
    }
    stream.set_nonblocking(false).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut seen, mut skipped) = (0, 0);
    while seen + skipped < all {
        // Each turn of the loop in which the client can be written to.
        assert!(fixture.clients.read(slow, &fixture.poller).is_none());
        match read(&mut reader) {
            Response::Event(event) => {
                seen += 1;
                assert_eq!(event.seq, seen, "the first events come in order");
            }
            Response::Skipped { count } => skipped += count,
            other => panic!("{other:?}"),
        }
    }
    assert!(seen > 0 && skipped > 0);
    fixture.emit("last".to_owned());
    let Response::Event(event) = read(&mut reader) else {
        panic!("a client that reads again gets the next event");
    };
    assert_eq!((event.seq, event.text.as_str()), (all + 1, "last"));
}

#[test]
fn one_follower_more_than_the_maximum_is_refused() {
    let mut fixture = Fixture::new();
    let mut streams = Vec::new();
    for number in 1..=MAX_FOLLOWERS as u64 + 1 {
        let (client, stream) = fixture.connect(number);
        fixture
            .clients
            .follow_events(client, Vec::new(), &fixture.poller);
        streams.push(stream);
    }
    let last = streams.pop().unwrap();
    let Response::Done { code, message } = read(&mut BufReader::new(last)) else {
        panic!("no answer");
    };
    assert_eq!(code, ExitCode::FAILED);
    assert!(message.contains("already follow the events"), "{message}");
    // One goes: there is room for another.
    drop(streams.pop());
    let gone = MAX_FOLLOWERS as u64;
    assert!(fixture.clients.read(gone, &fixture.poller).is_none());
    let (client, stream) = fixture.connect(MAX_FOLLOWERS as u64 + 2);
    fixture
        .clients
        .follow_events(client, Vec::new(), &fixture.poller);
    fixture.emit("heard".to_owned());
    assert!(matches!(
        read(&mut BufReader::new(stream)),
        Response::Event(_)
    ));
}

#[test]
fn a_wait_is_answered_once_with_the_worst_outcome() {
    let mut fixture = Fixture::new();
    let (client, stream) = fixture.connect(1);
    let (web, jobs) = (PoolId(0), PoolId(1));
    let wait = fixture.clients.tickets.open(Some(client), false);
    for pool in [web, jobs] {
        fixture.clients.tickets.join(wait, pool);
    }
    fixture.clients.close_wait(wait, &fixture.poller);
    let text = "rolling".to_owned();
    let progress = Response::Progress { text };
    fixture
        .clients
        .tell_waiting(jobs, &progress, &fixture.poller);
    for (code, text) in [
        (ExitCode::OLD_SERVE, "web: aborted"),
        (ExitCode::DONE, "jobs: done"),
    ] {
        fixture
            .clients
            .settle(wait, code, text.to_owned(), &fixture.poller);
    }
    let mut reader = BufReader::new(stream);
    assert_eq!(read(&mut reader), progress);
    let Response::Done { code, message } = read(&mut reader) else {
        panic!("no answer");
    };
    assert_eq!(
        (code, message.as_str()),
        (ExitCode::OLD_SERVE, "web: aborted\njobs: done")
    );
    let mut rest = String::new();
    assert_eq!(reader.read_line(&mut rest).unwrap(), 0, "{rest}");
}
