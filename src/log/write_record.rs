//! What the writer's thread is writing, in memory that outlives the master: so that the next master finishes a line that
//! was cut, and neither loses nor repeats what was printed.
//!
//! The thread records a text before it appends it ([`WriteRecord::begin_raw`], [`WriteRecord::begin_copy`]), the file and
//! its size before each append ([`WriteRecord::append_begins`]), and how much it is to consume from the worker's pipe
//! afterwards ([`WriteRecord::consume`]). So the next master sees by the file's size how much was appended. What is
//! consumed goes into a pipe of its own first, the *spent pipe*: what it holds was consumed. A master that goes on after a
//! dead one calls [`WriteRecord::resume`] before it opens any log.
//!
//! | number | what |
//! |---|---|
//! | 0 | the record that counts: 0 (none), 1 or 2. One store makes the next one count |
//! | 1..=4 | the spent pipe: the numbers of its read end and write end, its device and inode |
//! | 16.., 64.. | the two records ([`Fields`]) |
//!
//! Behind the numbers lie the files that end with an unfinished line, two areas for the texts that are in no pipe, and the
//! most recent lines (`recent_memory`). A text gets there after it was recorded how much is to be consumed, and before any of it is:
//! the next master sees by their place whether it is there.

use super::format::lines_len;
use super::output::WorkerOutput;
use super::pipe_peek::{DEFAULT_CAPACITY, MAX_CAPACITY, Pipe, PipePeek, Seen, drain, grow};
use super::recent_memory;
use super::ring::RecentLines;
use crate::sys::kept_fd::{FdTable, KeptFd};
use crate::sys::poll::is_ready;
use crate::sys::shared_memory::SharedMemory;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::PollFlags;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The number of the record that counts.
const COUNTS: usize = 0;
/// The first number of the spent pipe.
const SPENT: usize = 1;
/// The first numbers of the two records.
const RECORDS: [usize; 2] = [16, 64];
/// The first number of the table of unfinished lines, and how many entries it has.
const UNFINISHED: usize = 4096 / 8;
const ENTRIES: usize = 1024;
/// The numbers of an entry: device, inode and size of the file, and its writer (0: the entry is free).
const ENTRY: usize = 4;
/// Where the first area for texts begins; the second one follows to the end.
const COPIES: usize = 64 << 10;
const STDERR: RawFd = 2;
/// More bytes than any pipe holds.
const MOST_SPENT: usize = 1 << 30;

/// A file that is appended to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) fd: RawFd,
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Its size, or for a stream without O_APPEND the position at which is written next.
    pub(super) size: u64,
}

/// One record.
#[derive(Clone, Copy, Debug, Default)]
struct Fields {
    /// The pipe that the text comes from, by its inode. 0: it is the master's own.
    writer: u64,
    /// 1: the text is the beginning of the pipe. 0: it was formatted, and an area has it.
    raw: u64,
    area: u64,
    /// The length of the text.
    total: u64,
    /// How many bytes of the pipe were written before this text, and how many the text stands for.
    base: u64,
    in_pipe: u64,
    /// The piece of the text that is being appended. All before it was.
    start: u64,
    length: u64,
    place: Place,
    /// How many bytes are to be consumed from the pipe. 0: the text is still being written.
    take: u64,
    consumed: u64,
    /// 1: what the spent pipe holds is counted in `consumed`.
    counted: u64,
    /// With `take`: the place of the most recent line before this text.
    recent: u64,
}

impl Fields {
    const COUNT: usize = 16;

    fn numbers(&self) -> [u64; Self::COUNT] {
        [
            self.writer,
            self.raw,
            self.area,
            self.total,
            self.base,
            self.in_pipe,
            self.start,
            self.length,
            self.place.fd as u64,
            self.place.device,
            self.place.inode,
            self.place.size,
            self.take,
            self.consumed,
            self.counted,
            self.recent,
        ]
    }

    fn of(numbers: [u64; Self::COUNT]) -> Self {
        let [
            writer,
            raw,
            area,
            total,
            base,
            in_pipe,
            start,
            length,
            fd,
            device,
            inode,
            size,
            take,
            consumed,
            counted,
            recent,
        ] = numbers;
        Self {
            writer,
            raw,
            area,
            total,
            base,
            in_pipe,
            start,
            length,
            place: Place {
                fd: fd as RawFd,
                device,
                inode,
                size,
            },
            take,
            consumed,
            counted,
            recent,
        }
    }
}

/// The record of the writer's thread.
#[derive(Debug)]
pub struct WriteRecord {
    recorder: Option<Recorder>,
    recent: Arc<RecentLines>,
}

#[derive(Debug)]
struct Recorder {
    memory: SharedMemory,
    spent: SpentPipe,
    fields: Fields,
    /// The fields count: a text is being written, or consumed.
    active: bool,
    /// Which of the two records was written last.
    last: usize,
    next_entry: usize,
}

/// What was consumed from a worker's pipe passes through it.
#[derive(Debug)]
struct SpentPipe {
    read: OwnedFd,
    write: OwnedFd,
    null: Option<OwnedFd>,
    capacity: usize,
}

impl SpentPipe {
    fn new() -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self::of(read, write))
    }

    fn of(read: OwnedFd, write: OwnedFd) -> Self {
        let null = File::options().write(true).open("/dev/null");
        Self {
            read,
            write,
            null: null.ok().map(OwnedFd::from),
            capacity: DEFAULT_CAPACITY,
        }
    }

    fn fit(&mut self, capacity: usize) {
        if self.capacity < capacity {
            self.capacity = grow(&self.write).max(capacity);
        }
    }

    fn empty(&self) {
        drain(&self.read, MOST_SPENT, self.null.as_ref());
    }
}

impl WriteRecord {
    /// For a master that nothing outlives.
    pub fn none() -> Self {
        Self {
            recorder: None,
            recent: Arc::new(RecentLines::new()),
        }
    }

    fn with(recorder: Recorder, recent: RecentLines) -> Self {
        Self {
            recorder: Some(recorder),
            recent: Arc::new(recent),
        }
    }

    /// The lines that were consumed last.
    pub(super) fn recent(&self) -> &Arc<RecentLines> {
        &self.recent
    }

    /// The first record in this memory, or one that does not look at what a dead master has left.
    ///
    /// # Errors
    /// EMFILE or ENFILE: no descriptor is left; ENOMEM.
    pub fn new(memory: SharedMemory) -> io::Result<Self> {
        let recent = RecentLines::in_memory(&memory)?;
        Recorder::new(memory, SpentPipe::new()?).map(|recorder| Self::with(recorder, recent))
    }

    /// Finishes what a dead master was writing: the line that it had begun is written to its end, and what was written is
    /// consumed from its pipe, which is one of those of `outputs`. To be called before any log is opened.
    ///
    /// # Errors
    /// EMFILE or ENFILE: no descriptor is left; ENOMEM.
    pub fn resume<'a>(
        memory: SharedMemory,
        table: &mut FdTable,
        outputs: impl Iterator<Item = &'a WorkerOutput>,
    ) -> io::Result<Self> {
        let pipes: Vec<&Pipe> = outputs
            .flat_map(|output| &output.pipes)
            .map(|(pipe, _)| &**pipe)
            .collect();
        let recent = RecentLines::in_memory(&memory)?;
        let number = |index: usize| memory.number(index).load(Ordering::Acquire);
        let counts = number(COUNTS) as usize;
        let mut spent_end = |index| {
            let (device, inode) = (number(SPENT + 2), number(SPENT + 3));
            table.take(KeptFd::new(number(index) as RawFd, device, inode))
        };
        let spent = match (spent_end(SPENT), spent_end(SPENT + 1)) {
            (Ok(read), Ok(write)) => SpentPipe::of(read, write),
            _ => SpentPipe::new()?,
        };
        let first = RECORDS.get(counts.wrapping_sub(1)).copied();
        let Some(first) = first else {
            spent.empty();
            return Recorder::new(memory, spent).map(|recorder| Self::with(recorder, recent));
        };
        let fields = Fields::of(std::array::from_fn(|index| number(first + index)));
        let mut recorder = Recorder {
            memory,
            spent,
            fields,
            active: true,
            last: counts - 1,
            next_entry: 0,
        };
        recorder.name_spent_pipe()?;
        let mut pipe_peek = PipePeek::new()?;
        pipe_peek.fits(MAX_CAPACITY);
        let pipe = pipes.iter().find(|pipe| pipe.inode() == fields.writer);
        if fields.take == 0 {
            recorder.finish_text(table, pipe.copied(), &mut pipe_peek, recent.end());
        } else if fields.counted == 0 {
            let mut all = vec![0; MAX_CAPACITY];
            if let Seen::Bytes(count) = pipe_peek.peek(&recorder.spent.read, &mut all) {
                recorder.fields.consumed += count as u64;
            }
            recorder.fields.counted = 1;
            recorder.publish();
        }
        if let Some(pipe) = pipe {
            if recorder.fields.consumed == 0 && recorder.fields.recent == recent.end() {
                let mut text = vec![0; recorder.fields.take as usize];
                if let Seen::Bytes(count) = pipe_peek.peek(pipe, &mut text) {
                    let source = &pipe.source;
                    let (pool, slot, pid) = (&source.pool, source.slot, source.pid());
                    recent.add(pool, slot, pid, pipe.stream, &text[..count]);
                }
            }
            recorder.spent.empty();
            recorder.fields.counted = 0;
            recorder.publish();
            recorder.go_on_consuming(pipe);
        }
        recorder.end();
        Ok(Self::with(recorder, recent))
    }

    /// The next text is the beginning of this pipe.
    pub(super) fn begin_raw(&mut self, writer: u64, length: usize) {
        if let Some(recorder) = &mut self.recorder {
            recorder.fields = Fields {
                writer,
                raw: 1,
                total: length as u64,
                in_pipe: length as u64,
                area: recorder.fields.area,
                ..Fields::default()
            };
            recorder.active = false;
        }
    }

    /// The next text stands for `in_pipe` bytes of this pipe, behind `base` bytes that were written before. One that is too
    /// long for an area (several times the largest pipe) is not recorded.
    pub(super) fn begin_copy(&mut self, writer: u64, base: usize, in_pipe: usize, text: &[u8]) {
        if let Some(recorder) = &mut self.recorder {
            // What counts at the moment may refer to the other one.
            let area = 1 - recorder.fields.area;
            recorder.fields = Fields {
                writer,
                area,
                total: text.len() as u64,
                base: base as u64,
                in_pipe: in_pipe as u64,
                ..Fields::default()
            };
            let (at, size) = recorder.area(area);
            if text.len() <= size && recorder.memory.write(at, text) {
                recorder.publish();
            } else {
                recorder.fields.total = 0;
                recorder.forget();
            }
        }
    }

    /// This many bytes of the pipe were sent away, and nothing is being written.
    pub(super) fn sent(&mut self, writer: u64, base: usize) {
        if let Some(recorder) = &mut self.recorder {
            recorder.fields = Fields {
                writer,
                base: base as u64,
                area: recorder.fields.area,
                ..Fields::default()
            };
            recorder.publish();
        }
    }

    /// `length` bytes of the text, from `start` on, are appended next; all before them are written.
    pub(super) fn append_begins(&mut self, place: Place, start: usize, length: usize) {
        if let Some(recorder) = &mut self.recorder
            && recorder.fields.total > 0
        {
            recorder.fields.start = start as u64;
            recorder.fields.length = length as u64;
            recorder.fields.place = place;
            recorder.publish();
        }
    }

    /// Moves this text, which has been written or given up, from the pipe to the most recent lines. Then nothing is being
    /// written.
    pub(super) fn consume(&mut self, pipe: &Pipe, text: &[u8], pipe_peek: &PipePeek) {
        let count = text.len();
        let source = &pipe.source;
        let recent = &self.recent;
        let add = || recent.add(&source.pool, source.slot, source.pid(), pipe.stream, text);
        if let Some(recorder) = &mut self.recorder {
            recorder.spent.fit(count);
            recorder.fields.writer = pipe.inode();
            recorder.fields.take = count as u64;
            recorder.fields.consumed = 0;
            recorder.fields.counted = 0;
            recorder.fields.recent = recent.end();
            recorder.publish();
            add();
            recorder.go_on_consuming(pipe);
            recorder.end();
        } else {
            add();
            pipe_peek.consume(pipe, count);
        }
    }

    /// Nothing is being written any more.
    pub(super) fn end(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.end();
        }
    }

    /// The file ends with an unfinished line of this writer. Returns the entry that says so.
    pub(super) fn set_unfinished(
        &mut self,
        entry: Option<usize>,
        place: Place,
        writer: u64,
    ) -> Option<usize> {
        let recorder = self.recorder.as_mut()?;
        let entry = entry.unwrap_or_else(|| recorder.free_entry());
        recorder.set_entry(entry, place, writer);
        Some(entry)
    }

    /// The line is finished, or its writer has ended.
    pub(super) fn clear_unfinished(&mut self, entry: Option<usize>) {
        if let (Some(recorder), Some(entry)) = (&mut self.recorder, entry) {
            let first = UNFINISHED + entry * ENTRY;
            recorder.store(first + 3, 0);
        }
    }

    /// The writer of the unfinished line at the end of this file, and its entry.
    pub(super) fn find_unfinished(&self, place: Place) -> Option<(usize, u64)> {
        let recorder = self.recorder.as_ref()?;
        (0..ENTRIES).find_map(|entry| {
            let first = UNFINISHED + entry * ENTRY;
            let file = [0, 1, 2].map(|index| recorder.load(first + index));
            let writer = recorder.load(first + 3);
            let found = writer != 0 && file == [place.device, place.inode, place.size];
            found.then_some((entry, writer))
        })
    }
}

impl Recorder {
    fn new(memory: SharedMemory, spent: SpentPipe) -> io::Result<Self> {
        let mut recorder = Self {
            memory,
            spent,
            fields: Fields::default(),
            active: false,
            last: 0,
            next_entry: 0,
        };
        recorder.forget();
        recorder.name_spent_pipe()?;
        Ok(recorder)
    }

    fn name_spent_pipe(&self) -> io::Result<()> {
        let (read, write) = (self.spent.read.as_raw_fd(), self.spent.write.as_raw_fd());
        let stat = fstat(&self.spent.read)?;
        let numbers = [read as u64, write as u64, stat.st_dev, stat.st_ino];
        for (index, number) in numbers.into_iter().enumerate() {
            self.store(SPENT + index, number);
        }
        Ok(())
    }

    fn load(&self, index: usize) -> u64 {
        self.memory.number(index).load(Ordering::Acquire)
    }

    fn store(&self, index: usize, number: u64) {
        self.memory.number(index).store(number, Ordering::Release);
    }

    /// The present fields count from now on.
    fn publish(&mut self) {
        self.last = 1 - self.last;
        for (index, number) in self.fields.numbers().into_iter().enumerate() {
            let first = RECORDS[self.last];
            self.memory
                .number(first + index)
                .store(number, Ordering::Relaxed);
        }
        self.store(COUNTS, self.last as u64 + 1);
        self.active = true;
    }

    /// No record counts.
    fn forget(&mut self) {
        self.store(COUNTS, 0);
        self.active = false;
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.active) {
            self.forget();
        }
        self.fields.total = 0;
        if self.fields.take > 0 {
            self.fields.take = 0;
            self.spent.empty();
        }
    }

    /// An area for texts: where it begins, and its size. The second one is the smaller, since the most recent lines follow.
    fn area(&self, area: u64) -> (usize, usize) {
        let size = (self.memory.len() - COPIES) / 2;
        match area {
            0 => (COPIES, size),
            _ => (COPIES + size, size - recent_memory::SIZE),
        }
    }

    fn free_entry(&mut self) -> usize {
        let used = |entry: usize| self.load(UNFINISHED + entry * ENTRY + 3) != 0;
        let free = (0..ENTRIES)
            .map(|offset| (self.next_entry + offset) % ENTRIES)
            .find(|entry| !used(*entry));
        // Of more than a thousand files, the oldest is forgotten: its line may be cut if this master dies.
        let entry = free.unwrap_or(self.next_entry);
        self.next_entry = (entry + 1) % ENTRIES;
        entry
    }

    fn set_entry(&self, entry: usize, place: Place, writer: u64) {
        let first = UNFINISHED + entry * ENTRY;
        self.store(first + 3, 0);
        let numbers = [place.device, place.inode, place.size];
        for (index, number) in numbers.into_iter().enumerate() {
            self.store(first + index, number);
        }
        self.store(first + 3, writer);
    }

    fn go_on_consuming(&mut self, pipe: &Pipe) {
        loop {
            let left = self.fields.take.saturating_sub(self.fields.consumed) as usize;
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            match splice(pipe, None, &self.spent.write, None, left, flags) {
                Ok(moved) if moved > 0 && moved < left => {
                    self.fields.consumed += moved as u64;
                    self.fields.counted = 1;
                    self.publish();
                    self.spent.empty();
                    self.fields.counted = 0;
                    self.publish();
                }
                Err(Errno::EINTR) => {}
                // Done; or the worker has read its own output and emptied the pipe.
                _ => return,
            }
        }
    }

    /// In the next master: finishes the line that the dead one was writing, and decides how much of the pipe was written.
    fn finish_text(
        &mut self,
        table: &mut FdTable,
        pipe: Option<&Pipe>,
        pipe_peek: &mut PipePeek,
        recent: u64,
    ) {
        let fields = self.fields;
        let mut in_pipe = vec![0; MAX_CAPACITY];
        let seen = pipe.map(|pipe| pipe_peek.peek(pipe, &mut in_pipe));
        in_pipe.truncate(match seen {
            Some(Seen::Bytes(count)) => count,
            _ => 0,
        });
        let text = if fields.raw == 1 {
            in_pipe[..in_pipe.len().min(fields.total as usize)].to_vec()
        } else {
            let (at, _) = self.area(fields.area);
            self.memory
                .read(at, fields.total as usize)
                .unwrap_or_default()
        };
        let start = (fields.start as usize).min(text.len());
        let end = (start + fields.length as usize).min(text.len());
        let mut done = start;
        let place = fields.place;
        let file = match place.fd {
            STDERR => io::stderr().as_fd().try_clone_to_owned(),
            number => table.take(KeptFd::new(number, place.device, place.inode)),
        };
        if let Ok(file) = file.map(File::from)
            && (end > start || fields.writer == 0)
        {
            let before = place.size;
            done += appended(&file, before, &text[start..end]);
            // A line of a pipe is written to its end; what follows is read again. The rest of the master's own text is
            // nowhere else.
            let cut = done > start && text[done - 1] != b'\n';
            let line = text[done..].iter().position(|byte| *byte == b'\n');
            let until = match line {
                _ if fields.writer == 0 => text.len(),
                Some(newline) if cut => done + newline + 1,
                None if cut => end,
                _ => done,
            };
            done = self.write_rest(&file, &text, start, done, until);
            let place = Place {
                size: before + (done - start) as u64,
                ..place
            };
            // Of a pipe: raw, or with a time before each line. The lines of the master's log always end.
            if fields.writer != 0 && done > start && text[done - 1] != b'\n' {
                let entry = self.free_entry();
                self.set_entry(entry, place, fields.writer);
            }
        }
        let take = if fields.raw == 1 {
            done
        } else if done == text.len() {
            fields.base as usize + fields.in_pipe as usize
        } else {
            let lines = text[..done].iter().filter(|byte| **byte == b'\n').count();
            let base = (fields.base as usize).min(in_pipe.len());
            let behind = (base + fields.in_pipe as usize).min(in_pipe.len());
            base + lines_len(&in_pipe[base..behind], lines)
        };
        self.fields.take = take as u64;
        self.fields.consumed = 0;
        self.fields.counted = 1;
        self.fields.recent = recent;
        self.publish();
    }

    /// Appends the text from `done` to `until`. If that fails, a cut line is removed. Returns up to where it is written.
    fn write_rest(
        &mut self,
        file: &File,
        text: &[u8],
        start: usize,
        mut done: usize,
        until: usize,
    ) -> usize {
        let before = self.fields.place.size;
        let regular = is_regular(file);
        while done < until {
            self.fields.start = done as u64;
            self.fields.length = (until - done) as u64;
            self.fields.place.size = before + (done - start) as u64;
            self.publish();
            if !regular && !is_ready(file.as_fd(), PollFlags::POLLOUT) {
                break;
            }
            match nix::unistd::write(file, &text[done..until]) {
                Ok(count) if count > 0 => done += count,
                Err(Errno::EINTR) => {}
                _ => break,
            }
        }
        if done < until {
            let whole = text[start..done].iter().rposition(|byte| *byte == b'\n');
            let whole = whole.map_or(start, |newline| start + newline + 1);
            let size = fstat(file).map_or(0, |stat| stat.st_size as u64);
            let cut = regular && appends(file) && size == before + (done - start) as u64;
            if cut {
                file.set_len(before + (whole - start) as u64).ok();
            }
            done = whole;
        }
        done
    }
}

/// Where the next write to this descriptor goes. `plain`: it is a regular file.
///
/// # Errors
/// None in practice: fstat(2) and lseek(2) on an open descriptor.
pub(super) fn place_of(fd: BorrowedFd<'_>, plain: bool) -> io::Result<Place> {
    let stat = fstat(fd)?;
    let size = match plain && !appends(fd) {
        true => lseek(fd, 0, Whence::SeekCur)? as u64,
        false => stat.st_size as u64,
    };
    Ok(Place {
        fd: fd.as_raw_fd(),
        device: stat.st_dev,
        inode: stat.st_ino,
        size,
    })
}

fn appends(fd: impl AsFd) -> bool {
    fcntl(fd, FcntlArg::F_GETFL).is_ok_and(|flags| flags & OFlag::O_APPEND.bits() != 0)
}

fn is_regular(file: &File) -> bool {
    fstat(file).is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits())
}

/// How many bytes of this piece were appended behind `before`: what is there has to be the piece, since another program may
/// append to the file as well.
fn appended(file: &File, before: u64, piece: &[u8]) -> usize {
    let Ok(stat) = fstat(file) else {
        return 0;
    };
    if !is_regular(file) {
        return 0;
    }
    let behind = (stat.st_size as u64).saturating_sub(before);
    let count = piece
        .len()
        .min(usize::try_from(behind).unwrap_or(usize::MAX));
    let mut found = vec![0; count];
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let read = file
        .read_exact_at(&mut found, before)
        .or_else(|_| File::open(path)?.read_exact_at(&mut found, before));
    // A file that cannot be read is judged by its size.
    if read.is_err() || found == piece[..count] {
        count
    } else {
        0
    }
}
