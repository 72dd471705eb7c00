//! The worker journal: one short line per spawned worker, from which the next master learns what a master killed by
//! SIGKILL left running.
//!
//! ```text
//! rotad 2 <boot id> <master's pid> <master's start time> <tag> <cgroup>
//! # <number of the last worker> <start time of the first master> (this and all below: separated by tabs)
//! l <inode> <device and inode of its file, or ->  <name>
//! p <workers set by scale, or -> <1: stopped by an operator> <name>
//! e <number>
//! + <pid> <start time> <slot> <pool> <tag> <pipes>
//! = <pid> <generation> <port, or ->
//! ! <pid>
//! - <pid>
//! * <pid> <start time> <slot> <pool> <tag>
//! ```
//!
//! The `tag` of the first line is the prefix of ROTAD_WORKER of every worker of this master; the line is written before
//! the first spawn, so that a worker can be identified by its environment before its own line exists. `cgroup` is the
//! directory of the workers' cgroups, or `-`. `pipes` are a worker's output pipes by inode number,
//! `stdout:123,stderr:124`. `=` says more of the same worker, and `!` that it has become ready: what a next master has to
//! know to adopt it. `l` is a listening socket, `p` a pool that an operator has scaled or stopped; no event has a number above that of `e`. Lines of a kind that is
//! not known are passed over, and so is an incomplete one. A line with a star is a process that a new master found while taking over, written before
//! it stops any: the evidence may be gone if that master is killed itself. The first line of older masters has neither
//! tag nor cgroup, and says `rotad 1`. Without the line `#` nothing is known to be complete, and no worker is adopted.

use crate::event_loop::clock::Clock;
use crate::log::Stream;
use crate::process::procfs::{self, Stat};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use rotad_core::{Span, Time};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file's name in the runtime directory.
pub(super) const FILE: &str = "workers";
/// Number of lines after which the journal is rewritten with the running workers only.
const MAX_LINES: usize = 4096;
/// Bytes reserved on the disk, so that workers can be added while it is full: about 150 lines.
const RESERVE: u64 = 16 << 10;
/// How long after a failed write the journal is rewritten, if no worker is added before.
const RETRY_INTERVAL: Span = Span::from_secs(1);

/// What a next master has to know beside the workers in order to adopt them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalNotes {
    /// The listening sockets.
    pub listeners: Vec<ListenerNote>,
    /// The pools that an operator has scaled or stopped.
    pub pools: Vec<PoolNote>,
    /// No event has a number above this. 0: not known.
    pub events: u64,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerNote {
    /// The listener's name.
    pub name: String,
    /// The socket's inode, as in `socket:[inode]`.
    pub inode: u64,
    /// Device and inode of the file of a unix socket.
    pub file: Option<(u64, u64)>,
}

/// What an operator has done to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolNote {
    /// Its name.
    pub name: String,
    /// The number of workers set by `rotad scale`.
    pub scaled: Option<u32>,
    /// It was stopped by `rotad stop POOL`.
    pub stopped: bool,
}

impl JournalNotes {
    fn lines(&self) -> String {
        let listeners = self.listeners.iter().map(|listener| {
            let file = or_dash(
                listener
                    .file
                    .map(|(device, inode)| format!("{device}:{inode}")),
            );
            let name = without_control_characters(&listener.name);
            format!("l\t{}\t{file}\t{name}\n", listener.inode)
        });
        let pools = self.pools.iter().map(|pool| {
            let scaled = or_dash(pool.scaled);
            let name = without_control_characters(&pool.name);
            format!("p\t{scaled}\t{}\t{name}\n", u8::from(pool.stopped))
        });
        let events = (self.events > 0).then(|| format!("e\t{}\n", self.events));
        listeners.chain(pools).chain(events).collect()
    }
}

/// Appends started and ended workers. The caller reports errors. None of them makes the journal unusable: what is missing
/// is written with the next line, or by [`WorkerJournal::rewrite`].
#[derive(Debug)]
pub struct WorkerJournal {
    dir: PathBuf,
    file: File,
    header: String,
    /// The number of the last worker.
    last: u64,
    /// When the first master with this tag has started.
    since: u64,
    notes: JournalNotes,
    /// The lines of running workers, by pid.
    living: BTreeMap<i32, String>,
    /// Lines of ended workers that are not written yet.
    ended: String,
    /// Bytes written, and bytes reserved on the disk.
    end: u64,
    room: u64,
    lines: usize,
    /// When to rewrite the journal, because a line is incomplete (full disk) or the file is gone.
    retry_at: Option<Time>,
    clock: Clock,
}

impl WorkerJournal {
    /// Creates a new journal. The journal of a dead master must have been read, and its workers stopped, before. `tag`: the
    /// prefix of every worker's ROTAD_WORKER; `cgroup`: the directory of their cgroups.
    ///
    /// # Errors
    /// ENOSPC, EACCES, EROFS, EIO.
    pub fn open(dir: &Path, tag: &str, cgroup: Option<&Path>, clock: Clock) -> io::Result<Self> {
        Self::write(dir, tag, cgroup, JournalContent::default(), clock)
    }

    /// Goes on with the journal of a dead master, whose workers are this master's now: it gets this master's pid, and
    /// keeps the workers whose process exists. `tag` and `cgroup`: as that master had them.
    ///
    /// # Errors
    /// ENOENT: there is no journal, or it has another tag. ENOSPC, EACCES, EROFS, EIO.
    pub fn reopen(dir: &Path, tag: &str, cgroup: Option<&Path>, clock: Clock) -> io::Result<Self> {
        let journal = read(dir)?.filter(|journal| journal.tag.as_deref() == Some(tag));
        let mut journal = journal.ok_or(io::ErrorKind::NotFound)?;
        let exists = |entry: &JournalEntry| {
            Stat::of(entry.pid).is_ok_and(|stat| stat.start_time == entry.start_time)
        };
        journal.living.retain(exists);
        Self::write(dir, tag, cgroup, journal, clock)
    }

    fn write(
        dir: &Path,
        tag: &str,
        cgroup: Option<&Path>,
        before: JournalContent,
        clock: Clock,
    ) -> io::Result<Self> {
        let living: BTreeMap<i32, String> = before
            .living
            .iter()
            .map(|entry| (entry.pid, lines_of(entry)))
            .collect();
        let (last, notes) = (before.last.unwrap_or_default(), before.notes);
        let me = Stat::of(std::process::id() as i32)?;
        let since = before
            .since
            .map_or(me.start_time, |since| since.min(me.start_time));
        // A path that would break the line is left out; those workers are found by their environment.
        let cgroup = cgroup
            .and_then(Path::to_str)
            .filter(|path| !path.contains(char::is_whitespace))
            .unwrap_or("-");
        let header = format!(
            "rotad 2 {} {} {} {tag} {cgroup}\n",
            procfs::boot_id(),
            me.pid,
            me.start_time
        );
        let text = content(&header, (last, since), &notes, &living);
        let (file, room) = match write_new(dir, &text) {
            // The disk is full: the file of a dead master has room for one line, and for its own lines.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOSPC) => {
                overwrite(dir, &text).map_err(|_| error)?
            }
            other => other?,
        };
        Ok(Self {
            dir: dir.to_owned(),
            file,
            header,
            last,
            since,
            notes,
            end: text.len() as u64,
            room,
            lines: text.lines().count(),
            living,
            ended: String::new(),
            retry_at: None,
            clock,
        })
    }

    /// Adds a worker.
    ///
    /// # Errors
    /// ENOSPC, EIO: until the retry succeeds, a next master finds the worker only by its environment.
    pub fn add_worker(&mut self, entry: &JournalEntry) -> io::Result<()> {
        self.last = self.last.max(number_of(&entry.tag).unwrap_or_default());
        let lines = lines_of(entry);
        self.living.insert(entry.pid, lines.clone());
        self.append(&lines)
    }

    /// A worker has become ready.
    ///
    /// # Errors
    /// ENOSPC, EIO: a next master does not know that until the retry succeeds.
    pub fn set_ready(&mut self, pid: i32) -> io::Result<()> {
        let line = format!("!\t{pid}\n");
        let Some(lines) = self
            .living
            .get_mut(&pid)
            .filter(|lines| !lines.ends_with(&line))
        else {
            return Ok(());
        };
        lines.push_str(&line);
        self.append(&line)
    }

    /// Notes what a next master has to know beside the workers, if it has changed.
    ///
    /// # Errors
    /// As [`WorkerJournal::rewrite`].
    pub fn set_notes(&mut self, notes: JournalNotes) -> io::Result<()> {
        if notes == self.notes {
            return Ok(());
        }
        self.notes = notes;
        self.rewrite()
    }

    /// Removes a worker whose process tree is gone. Written with the next line, or by [`WorkerJournal::write_ended`]: until
    /// then a next master finds no process with that start time.
    pub fn remove_worker(&mut self, pid: i32) {
        if self.living.remove(&pid).is_some() {
            self.ended.push_str(&format!("-\t{pid}\n"));
        }
    }

    /// Writes which workers were removed.
    ///
    /// # Errors
    /// ENOSPC, EIO, until the retry succeeds.
    pub fn write_ended(&mut self) -> io::Result<()> {
        match self.ended.is_empty() {
            true => Ok(()),
            false => self.append(""),
        }
    }

    /// When [`WorkerJournal::rewrite`] has to be called; None if the journal is complete.
    pub fn deadline(&self) -> Option<Time> {
        self.retry_at
    }

    /// Writes the journal again, with the running workers only.
    ///
    /// # Errors
    /// ENOSPC, EACCES, EROFS, EIO: [`WorkerJournal::deadline`] says when to try again.
    pub fn rewrite(&mut self) -> io::Result<()> {
        let done = self.compact();
        self.retry_at = done.is_err().then(|| self.clock.now() + RETRY_INTERVAL);
        done
    }

    /// Removes the journal, at an orderly exit: no worker is left.
    ///
    /// # Errors
    /// EACCES, EROFS.
    pub fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(FILE))
    }

    /// Moves the journal to another directory: writes it there, with the running workers only.
    ///
    /// # Errors
    /// As [`WorkerJournal::rewrite`].
    pub fn move_to(&mut self, dir: &Path) -> io::Result<()> {
        dir.clone_into(&mut self.dir);
        self.rewrite()
    }

    fn append(&mut self, lines: &str) -> io::Result<()> {
        let lines = std::mem::take(&mut self.ended) + lines;
        let removed = || self.file.metadata().is_ok_and(|about| about.nlink() == 0);
        if self.retry_at.is_some()
            || self.lines >= MAX_LINES.max(4 * self.living.len())
            || removed()
        {
            return self.rewrite();
        }
        self.lines += lines.lines().count();
        match self.file.write_all_at(lines.as_bytes(), self.end) {
            Ok(()) => {
                self.end += lines.len() as u64;
                Ok(())
            }
            // The rewritten journal is shorter.
            Err(_) => self.rewrite(),
        }
    }

    fn compact(&mut self) -> io::Result<()> {
        let text = content(
            &self.header,
            (self.last, self.since),
            &self.notes,
            &self.living,
        );
        self.ended.clear();
        let end = text.len() as u64;
        match write_new(&self.dir, &text) {
            Ok((file, room)) => (self.file, self.room) = (file, room),
            // Overwritten in place: the first line stays the same, and lines of ended workers are recognized by their start time.
            Err(error) => {
                let there = self.file.metadata().is_ok_and(|about| about.nlink() > 0);
                if !there || end > self.room.max(self.end) {
                    return Err(error);
                }
                let padded = padded(&text, self.end);
                self.file.write_all_at(padded.as_bytes(), 0)?;
            }
        }
        (self.end, self.lines) = (end, text.lines().count());
        Ok(())
    }
}

fn or_dash<T: ToString>(number: Option<T>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// The number of the worker with this ROTAD_WORKER.
pub(super) fn number_of(tag: &str) -> Option<u64> {
    tag.rsplit_once('-')?.1.parse().ok()
}

/// The lines of a running worker.
fn lines_of(entry: &JournalEntry) -> String {
    let pipes: Vec<String> = entry
        .pipes
        .iter()
        .map(|(stream, inode)| format!("{}:{inode}", stream.name()))
        .collect();
    let mut lines = format!(
        "+\t{}\t{}\t{}\t{}\t{}\t{}\n",
        entry.pid,
        entry.start_time,
        entry.slot,
        without_control_characters(&entry.pool),
        without_control_characters(&entry.tag),
        pipes.join(",")
    );
    if let Some(generation) = entry.generation {
        lines.push_str(&format!(
            "=\t{}\t{generation}\t{}\n",
            entry.pid,
            or_dash(entry.port)
        ));
    }
    if entry.ready {
        lines.push_str(&format!("!\t{}\n", entry.pid));
    }
    lines
}

/// The whole text of a journal.
fn content(
    header: &str,
    (last, since): (u64, u64),
    notes: &JournalNotes,
    living: &BTreeMap<i32, String>,
) -> String {
    let first = format!("{header}#\t{last}\t{since}\n{}", notes.lines());
    std::iter::once(first.as_str())
        .chain(living.values().map(String::as_str))
        .collect()
}

/// Replaces control characters, which separate fields and lines.
fn without_control_characters(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect()
}

/// Appends empty lines to cover `before` bytes of old content.
fn padded(text: &str, before: u64) -> String {
    let mut text = text.to_owned();
    text.extend(std::iter::repeat_n(
        '\n',
        (before as usize).saturating_sub(text.len()),
    ));
    text
}

/// Writes a new file and renames it, so that the journal is complete at any moment. Returns the file and the number of
/// reserved bytes.
fn write_new(dir: &Path, text: &str) -> io::Result<(File, u64)> {
    let aside = dir.join(format!(".{FILE}.{}", std::process::id()));
    std::fs::remove_file(&aside).ok();
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    let room = RESERVE.max(2 * text.len() as u64);
    // Not every file system can reserve space; without it, lines are written while there is room.
    let set_aside = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, room as i64).is_ok();
    let done = file
        .write_all_at(text.as_bytes(), 0)
        .and_then(|()| std::fs::rename(&aside, dir.join(FILE)));
    if done.is_err() {
        std::fs::remove_file(&aside).ok();
    }
    done.map(|()| (file, if set_aside { room } else { text.len() as u64 }))
}

/// Overwrites the existing journal.
fn overwrite(dir: &Path, text: &str) -> io::Result<(File, u64)> {
    let flags = O_NOFOLLOW | O_NONBLOCK;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(flags)
        .open(dir.join(FILE))?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    file.write_all_at(padded(text, about.len()).as_bytes(), 0)?;
    Ok((file, about.blocks() * 512))
}

/// A worker in a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its pid.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat.
    pub start_time: u64,
    /// Its slot.
    pub slot: u32,
    /// The name of its pool.
    pub pool: String,
    /// Its ROTAD_WORKER.
    pub tag: String,
    /// Its output pipes ([`crate::log::WorkerOutput::inodes`]).
    pub pipes: Vec<(Stream, u64)>,
    /// Its generation. None: not known.
    pub generation: Option<u32>,
    /// The port that it was given.
    pub port: Option<u16>,
    /// It has become ready.
    pub ready: bool,
}

/// The content of a journal that was written since the last boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct JournalContent {
    /// Pid and start time of the master that wrote it.
    pub(super) master: (i32, u64),
    /// The prefix of its workers' ROTAD_WORKER.
    pub(super) tag: Option<String>,
    /// The directory of their cgroups.
    pub(super) cgroup: Option<PathBuf>,
    /// The number of the last worker. None: the journal is one of a master that adopted nothing, or is torn.
    pub(super) last: Option<u64>,
    /// When the first master with this tag has started, in clock ticks since boot.
    pub(super) since: Option<u64>,
    pub(super) notes: JournalNotes,
    /// Workers without an end.
    pub(super) living: Vec<JournalEntry>,
    /// Further processes that a new master has found to belong to them.
    pub(super) members: Vec<JournalEntry>,
}

impl JournalContent {
    /// Takes a line. An incomplete one, from a full disk or a master that was killed, changes nothing.
    fn read_line(&mut self, line: &str, living: &mut BTreeMap<i32, JournalEntry>) -> Option<()> {
        let dash = |text: &str| (text != "-").then(|| text.to_owned());
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["+", pid, start_time, slot, pool, tag, pipes] => {
                let entry = JournalEntry {
                    pipes: pipes.split(',').filter_map(pipe).collect(),
                    ..entry(pid, start_time, slot, pool, tag)?
                };
                let number = number_of(tag).unwrap_or_default();
                self.last = self.last.map(|last| last.max(number));
                living.insert(entry.pid, entry);
            }
            ["=", pid, generation, port] => {
                let port = dash(port).map(|port| port.parse()).transpose().ok()?;
                let entry = living.get_mut(&pid.parse().ok()?)?;
                entry.generation = Some(generation.parse().ok()?);
                entry.port = port;
            }
            ["!", pid] => living.get_mut(&pid.parse().ok()?)?.ready = true,
            ["*", pid, start_time, slot, pool, tag] => {
                self.members.push(entry(pid, start_time, slot, pool, tag)?);
            }
            ["-", pid] => drop(living.remove(&pid.parse().ok()?)),
            ["#", last, since] => {
                (self.last, self.since) = (Some(last.parse().ok()?), Some(since.parse().ok()?));
            }
            ["l", inode, file, name] => {
                let file = file.split_once(':');
                let file = file
                    .and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
                self.notes.listeners.push(ListenerNote {
                    name: name.to_owned(),
                    inode: inode.parse().ok()?,
                    file,
                });
            }
            ["p", scaled, stopped, name] => self.notes.pools.push(PoolNote {
                name: name.to_owned(),
                scaled: dash(scaled).map(|count| count.parse()).transpose().ok()?,
                stopped: stopped == "1",
            }),
            ["e", number] => self.notes.events = number.parse().ok()?,
            _ => {}
        }
        Some(())
    }

    /// No worker is older than that, in clock ticks since boot.
    pub(super) fn began(&self) -> u64 {
        self.since.unwrap_or(self.master.1)
    }

    /// Whether the master that wrote it is alive.
    pub(super) fn master_is_alive(&self) -> bool {
        let (pid, start_time) = self.master;
        Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time && !stat.is_leaving())
    }
}

/// Reads the journal of a directory. None: there is none, or it was written before the last boot.
pub(super) fn read(dir: &Path) -> io::Result<Option<JournalContent>> {
    // O_NONBLOCK, because opening a FIFO would wait for a writer.
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(dir.join(FILE))
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !file.metadata()?.is_file() {
        let text = format!(
            "{} is not a regular file; remove it",
            dir.join(FILE).display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // Its length is not bounded: only a master of ours can write to the directory.
    let mut bytes = Vec::new();
    (&file).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes[..whole(&bytes)]);
    let mut lines = text.lines();
    let Some(mut journal) = lines.next().and_then(header) else {
        return Ok(None);
    };
    let mut living: BTreeMap<i32, JournalEntry> = BTreeMap::new();
    for line in lines {
        journal.read_line(line, &mut living);
    }
    journal.living = living.into_values().collect();
    Ok(Some(journal))
}

fn entry(pid: &str, start_time: &str, slot: &str, pool: &str, tag: &str) -> Option<JournalEntry> {
    Some(JournalEntry {
        pid: pid.parse().ok()?,
        start_time: start_time.parse().ok()?,
        slot: slot.parse().ok()?,
        pool: pool.to_owned(),
        tag: tag.to_owned(),
        ..JournalEntry::default()
    })
}

/// Appends to a dead master's journal the processes that the new master has found: pid, start time, slot, pool, tag.
///
/// # Errors
/// ENOSPC, EACCES, EROFS, EIO.
pub(super) fn append_found(dir: &Path, found: &[(i32, u64, u32, &str, &str)]) -> io::Result<()> {
    let flags = O_NOFOLLOW | O_NONBLOCK;
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .custom_flags(flags)
        .open(dir.join(FILE))?;
    // The last line may be incomplete, and must not become a whole one.
    let mut bytes = Vec::new();
    (&file).read_to_end(&mut bytes)?;
    file.set_len(whole(&bytes) as u64)?;
    let line = |(pid, start, slot, pool, tag): &(i32, u64, u32, &str, &str)| {
        format!(
            "*\t{pid}\t{start}\t{slot}\t{}\t{}\n",
            without_control_characters(pool),
            without_control_characters(tag)
        )
    };
    let text: String = found.iter().map(line).collect();
    io::Write::write_all(&mut file, text.as_bytes())
}

/// The length without an incomplete last line.
fn whole(bytes: &[u8]) -> usize {
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    end.map_or(0, |end| end + 1)
}

fn pipe(text: &str) -> Option<(Stream, u64)> {
    let (name, inode) = text.split_once(':')?;
    Some((Stream::named(name)?, inode.parse().ok()?))
}

/// Parses the first line. None: written before the last boot, or by another program.
fn header(line: &str) -> Option<JournalContent> {
    let (version, rest) = line.strip_prefix("rotad ")?.split_once(' ')?;
    let mut words = rest.split(' ');
    if words.next()? != procfs::boot_id() {
        return None;
    }
    let master = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let journal = JournalContent {
        master,
        ..JournalContent::default()
    };
    match version {
        "1" => Some(journal),
        "2" => {
            let tag = words.next().filter(|tag| !tag.is_empty())?.to_owned();
            let cgroup = words
                .next()
                .filter(|path| path.starts_with('/'))
                .map(PathBuf::from);
            Some(JournalContent {
                tag: Some(tag),
                cgroup,
                ..journal
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn worker(pid: i32, start_time: u64, slot: u32, tag: &str) -> JournalEntry {
        JournalEntry {
            pid,
            start_time,
            slot,
            pool: "web".to_owned(),
            tag: tag.to_owned(),
            ..JournalEntry::default()
        }
    }

    fn pids(dir: &Path) -> Vec<i32> {
        read(dir)
            .unwrap()
            .unwrap()
            .living
            .iter()
            .map(|entry| entry.pid)
            .collect()
    }

    #[test]
    fn running_workers_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let mut journal = WorkerJournal::open(
            dir.path(),
            "a-b",
            Some(Path::new("/cg/rotad-x-1")),
            Clock::start(),
        )
        .unwrap();
        let content = read(dir.path()).unwrap().unwrap();
        assert_eq!(
            (content.tag.as_deref(), content.cgroup.as_deref()),
            (Some("a-b"), Some(Path::new("/cg/rotad-x-1")))
        );
        assert!(
            content.master_is_alive() && content.living.is_empty(),
            "before the first worker"
        );
        journal
            .add_worker(&JournalEntry {
                pool: "we\tb".to_owned(),
                ..worker(10, 100, 0, "t-1")
            })
            .unwrap();
        let mut entry = JournalEntry {
            pipes: vec![(Stream::Stdout, 7), (Stream::Stderr, 8)],
            generation: Some(3),
            port: Some(8001),
            ..worker(11, 101, 1, "t-2")
        };
        journal.add_worker(&entry).unwrap();
        journal.remove_worker(10);
        journal.remove_worker(77);
        assert_eq!(read(dir.path()).unwrap().unwrap().living.len(), 2);
        journal.write_ended().unwrap();
        assert_eq!(read(dir.path()).unwrap().unwrap().living, [entry.clone()]);
        journal.set_ready(11).unwrap();
        journal.set_ready(10).unwrap();
        entry.ready = true;
        assert_eq!(read(dir.path()).unwrap().unwrap().living, [entry.clone()]);
        let notes = JournalNotes {
            listeners: [None, Some((1, 77))]
                .map(|file| ListenerNote {
                    name: "a:80".to_owned(),
                    inode: 4711,
                    file,
                })
                .into(),
            pools: vec![PoolNote {
                name: "web".to_owned(),
                scaled: Some(4),
                stopped: true,
            }],
            events: 4096,
        };
        journal.set_notes(notes.clone()).unwrap();
        let content = read(dir.path()).unwrap().unwrap();
        assert_eq!((content.notes, content.last), (notes, Some(2)));
        assert_eq!(content.living, [entry]);
    }

    /// A master is killed, or the disk is full, in the middle of a line: what is before it counts, and nothing else.
    #[test]
    fn a_journal_that_is_cut_at_any_byte_says_nothing_untrue() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = WorkerJournal::open(dir.path(), "a-b", None, Clock::start()).unwrap();
        let mut entries = Vec::new();
        for pid in [12, 123, 1234] {
            let entry = JournalEntry {
                generation: Some(pid as u32),
                port: Some(8000),
                ..worker(pid, 77, 0, &format!("a-b-{pid}"))
            };
            journal.add_worker(&entry).unwrap();
            entries.push(entry);
        }
        journal.set_ready(1234).unwrap();
        journal.remove_worker(123);
        journal.write_ended().unwrap();
        journal.set_notes(JournalNotes::default()).unwrap();
        let whole = std::fs::read(dir.path().join(FILE)).unwrap();
        for length in 0..whole.len() {
            for then_found in [false, true] {
                std::fs::write(dir.path().join(FILE), &whole[..length]).unwrap();
                if then_found {
                    append_found(dir.path(), &[(9, 1, 0, "web", "a-b-9")]).unwrap();
                }
                let Some(content) = read(dir.path()).unwrap() else {
                    continue;
                };
                assert_eq!(content.members.len(), usize::from(then_found));
                for entry in content.living {
                    let known = entries.iter().find(|known| known.pid == entry.pid).unwrap();
                    assert_eq!(entry.tag, known.tag);
                    assert!(entry.generation.is_none_or(|of| of == entry.pid as u32));
                    assert!(entry.port.is_none_or(|port| port == 8000));
                    assert!(!entry.ready || entry.pid == 1234);
                }
                assert!(content.last.is_none_or(|last| last <= 1234));
            }
        }
    }

    #[test]
    fn the_next_master_goes_on_with_the_journal_of_its_workers() {
        let dir = tempfile::tempdir().unwrap();
        let open = |tag| WorkerJournal::reopen(dir.path(), tag, None, Clock::start());
        assert_eq!(open("a-b").unwrap_err().kind(), io::ErrorKind::NotFound);
        // The dead master, by the pid of another.
        let header = format!("rotad 2 {} 1 77 a-b -\n", procfs::boot_id());
        let start_time = Stat::of(std::process::id().cast_signed())
            .unwrap()
            .start_time;
        let me = std::process::id();
        let lines = format!(
            "#\t8\t55\n+\t{me}\t{start_time}\t0\tweb\ta-b-1\tboth:7\n=\t{me}\t4\t-\n!\t{me}\n+\t11\t101\t1\tweb\ta-b-9\t\n-\t11\n+\t5\t1"
        );
        std::fs::write(dir.path().join(FILE), header + &lines).unwrap();
        assert_eq!(open("c-d").unwrap_err().kind(), io::ErrorKind::NotFound);
        let before = read(dir.path()).unwrap().unwrap();
        assert!(!before.master_is_alive());
        let mut journal = open("a-b").unwrap();
        let content = read(dir.path()).unwrap().unwrap();
        assert!(content.master_is_alive());
        assert_eq!((content.living, content.tag), (before.living, before.tag));
        assert_eq!((before.last, content.last), (Some(9), Some(9)));
        assert_eq!(content.since, Some(55), "its workers may be as old");
        let (me, other) = (me.cast_signed(), 1_000_000_000);
        journal
            .add_worker(&worker(other, 102, 1, "a-b-10"))
            .unwrap();
        assert_eq!(pids(dir.path()), [me, other]);
        journal.remove_worker(me);
        journal.rewrite().unwrap();
        assert_eq!(pids(dir.path()), [other]);
        let last = read(dir.path()).unwrap().unwrap().last;
        assert_eq!(last, Some(10), "also of those that are gone");
        drop(open("a-b").unwrap());
        assert!(pids(dir.path()).is_empty(), "it does not exist");
    }

    #[test]
    fn a_journal_of_an_older_version_is_read_and_one_of_another_boot_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: String| std::fs::write(dir.path().join(FILE), text).unwrap();
        write(format!(
            "rotad 1 {} 1 77\n+\t5\t6\t0\tweb\tx-1\t\n",
            procfs::boot_id()
        ));
        let content = read(dir.path()).unwrap().unwrap();
        assert_eq!(
            (content.master, content.tag.clone(), content.living.len()),
            ((1, 77), None, 1)
        );
        assert!(!content.master_is_alive());
        write("rotad 2 another 1 77 x-1 -\n+\t5\t6\t0\tweb\tx-1\t\n".to_owned());
        assert_eq!(read(dir.path()).unwrap(), None);
    }

    /// Opening a FIFO without a writer would block the start.
    #[test]
    fn a_journal_that_is_not_a_regular_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join(FILE), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = read(dir.path()).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }

    #[test]
    fn the_journal_stays_short_and_survives_an_incomplete_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = WorkerJournal::open(dir.path(), "a-b", None, Clock::start()).unwrap();
        journal.add_worker(&worker(1, 1, 0, "first")).unwrap();
        for pid in 2..10_000 {
            journal.add_worker(&worker(pid, 1, 1, "x")).unwrap();
            journal.remove_worker(pid);
            journal.write_ended().unwrap();
        }
        let lines = std::fs::read_to_string(dir.path().join(FILE))
            .unwrap()
            .lines()
            .count();
        assert!(lines <= MAX_LINES, "{lines}");
        OpenOptions::new()
            .append(true)
            .open(dir.path().join(FILE))
            .unwrap()
            .write_all(b"+\t5\t1")
            .unwrap();
        journal.retry_at = Some(journal.clock.now());
        journal.add_worker(&worker(6, 1, 2, "y")).unwrap();
        assert_eq!(journal.deadline(), None, "it is whole again");
        assert_eq!(pids(dir.path()), [1, 6]);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }

    /// The file is removed, or the directory is removed and created again.
    #[test]
    fn a_removed_journal_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let mut journal = WorkerJournal::open(&run, "a-b", None, Clock::start()).unwrap();
        journal.add_worker(&worker(1, 1, 0, "first")).unwrap();
        std::fs::remove_file(run.join(FILE)).unwrap();
        journal.add_worker(&worker(2, 1, 1, "second")).unwrap();
        assert_eq!(pids(&run), [1, 2]);
        std::fs::remove_dir_all(&run).unwrap();
        journal.add_worker(&worker(3, 1, 2, "third")).unwrap_err();
        assert!(
            journal.deadline().is_some(),
            "it is tried again without a new worker"
        );
        std::fs::create_dir(&run).unwrap();
        journal.rewrite().unwrap();
        assert_eq!((pids(&run), journal.deadline()), (vec![1, 2, 3], None));
    }

    /// Overwritten in place, it has the new content only.
    #[test]
    fn overwriting_leaves_no_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = WorkerJournal::open(dir.path(), "a-b", None, Clock::start()).unwrap();
        for pid in 1..=100 {
            journal.add_worker(&worker(pid, 1, 0, "x")).unwrap();
        }
        let (file, room) = overwrite(dir.path(), "rotad 2 - 1 1 c-d -\n").unwrap();
        assert!(room >= file.metadata().unwrap().len());
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(text.trim_end(), "rotad 2 - 1 1 c-d -");
    }
}
