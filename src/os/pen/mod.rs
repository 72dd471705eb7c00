//! The pen: the one thread that writes the log. The master's own lines and what its workers print end here, so that a
//! slow disk or a stopped terminal never delays supervision.

mod paper;
mod stream;

pub use paper::{Paper, Rotation, complain};
pub use stream::{Stream, Worker, harmless};

use crate::os::wake::Wake;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::SigSet;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Lines of the master that may wait for a slow disk; more are counted and dropped.
const WAITING_LINES: usize = 4096;
/// How much is read from one worker before the next one has its turn, in bytes.
const GULP: usize = 64 * 1024;
/// How long the pen waits for more before it writes.
const LAZY: Duration = Duration::from_millis(1);

enum Note {
    Line(Vec<u8>),
    Adopt(Arc<Stream>),
    Reopen,
    /// Answer when all that was said before is written.
    Flush(Sender<()>),
}

/// The handle to the pen; cheap to clone. Nothing here blocks.
#[derive(Clone)]
pub struct Pen {
    notes: Sender<Note>,
    wake: Wake,
    dropped: Arc<AtomicU64>,
}

impl Pen {
    /// Starts the thread.
    ///
    /// # Errors
    /// No descriptor or thread is left.
    pub fn start(paper: Paper) -> io::Result<Self> {
        let (notes, inbox) = bounded(WAITING_LINES);
        let wake = Wake::new()?;
        let dropped = Arc::new(AtomicU64::new(0));
        let desk = Desk::new(paper, inbox, wake.clone(), dropped.clone())?;
        std::thread::Builder::new().name("pen".into()).stack_size(128 * 1024).spawn(move || desk.work())?;
        Ok(Self { notes, wake, dropped })
    }

    fn say(&self, note: Note) {
        if let Err(TrySendError::Full(_)) = self.notes.try_send(note) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.wake.ring();
    }

    /// One line of the master, with its newline.
    pub fn line(&self, line: Vec<u8>) {
        self.say(Note::Line(line));
    }

    /// From now on this worker's output is read and written.
    pub fn adopt(&self, stream: Arc<Stream>) {
        self.say(Note::Adopt(stream));
    }

    /// Opens the log file again by its name.
    pub fn reopen(&self) {
        self.say(Note::Reopen);
    }

    /// Something was left in a stream for the pen to write.
    pub fn nudge(&self) {
        self.wake.ring();
    }

    /// Waits until all that was said is written, at most for `patience`: for the end of the master alone.
    pub fn flush(&self, patience: Duration) {
        let (done, waits) = bounded(1);
        self.say(Note::Flush(done));
        waits.recv_timeout(patience).ok();
    }
}

/// The thread's own things.
struct Desk {
    paper: Paper,
    inbox: Receiver<Note>,
    wake: Wake,
    dropped: Arc<AtomicU64>,
    epoll: Epoll,
    streams: BTreeMap<u64, Arc<Stream>>,
    last_stream: u64,
    gulp: Vec<u8>,
}

impl Desk {
    fn new(paper: Paper, inbox: Receiver<Note>, wake: Wake, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { paper, inbox, wake, dropped, epoll, streams: BTreeMap::new(), last_stream: 0, gulp: vec![0; GULP] })
    }

    fn work(mut self) {
        // Signals for the process reach the main thread, which waits for them, and do not wake this one.
        SigSet::all().thread_block().ok();
        let mut events = [EpollEvent::empty(); 32];
        loop {
            let count = self.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
            for event in &events[..count] {
                if event.data() == 0 {
                    // Lines come in bursts: a moment's patience writes them all at once, and leaves the processor to
                    // the workers.
                    std::thread::sleep(LAZY);
                    self.wake.hush();
                    if !self.read_notes() {
                        return;
                    }
                } else {
                    self.read_stream(event.data());
                }
            }
        }
    }

    /// False when nobody is left who could say anything.
    fn read_notes(&mut self) -> bool {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let lost = format!("rotad: {dropped} lines of the master's own log were dropped: the log is too slow\n");
            self.paper.write(lost.as_bytes());
        }
        self.write_leftovers();
        loop {
            match self.inbox.try_recv() {
                Ok(Note::Line(line)) => self.paper.write(&line),
                Ok(Note::Adopt(stream)) => self.adopt(stream),
                Ok(Note::Reopen) => self.paper.reopen(),
                Ok(Note::Flush(done)) => {
                    self.read_everything();
                    done.try_send(()).ok();
                }
                Err(crossbeam_channel::TryRecvError::Empty) => return true,
                Err(crossbeam_channel::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn adopt(&mut self, stream: Arc<Stream>) {
        self.last_stream += 1;
        let watched =
            stream.with_fd(|fd| self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, self.last_stream)).is_ok());
        if watched == Some(true) {
            self.streams.insert(self.last_stream, stream);
        }
    }

    /// What the main thread has read at a worker's death and left for us.
    fn write_leftovers(&mut self) {
        for stream in self.streams.values() {
            let lines = stream.take_leftovers();
            stream.print(&lines, &mut self.paper);
        }
    }

    fn read_stream(&mut self, number: u64) {
        let Some(stream) = self.streams.get(&number).cloned() else { return };
        match stream.pull(&mut self.gulp) {
            Some(lines) => stream.print(&lines, &mut self.paper),
            None => {
                stream.print(&stream.take_rest(), &mut self.paper);
                stream.with_fd(|fd| self.epoll.delete(fd).ok());
                stream.close();
                self.streams.remove(&number);
            }
        }
    }

    fn read_everything(&mut self) {
        for stream in self.streams.values() {
            while let Some(lines) = stream.pull(&mut self.gulp).filter(|lines| !lines.is_empty()) {
                stream.print(&lines, &mut self.paper);
            }
            stream.print(&stream.take_rest(), &mut self.paper);
        }
    }
}
