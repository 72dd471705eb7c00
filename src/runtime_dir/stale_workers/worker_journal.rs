//! The worker journal: one short line per spawned worker, from which the next master learns what a master killed by
//! SIGKILL left running.
//!
//! ```text
//! rotad 2 <boot id> <master's pid> <master's start time> <tag> <cgroup>
//! + <pid> <start time> <slot> <pool> <tag> <pipes>        (separated by tabs)
//! - <pid>
//! * <pid> <start time> <slot> <pool> <tag>
//! ```
//!
//! The `tag` of the first line is the prefix of ROTAD_WORKER of every worker of this master; the line is written before
//! the first spawn, so that a worker can be identified by its environment before its own line exists. `cgroup` is the
//! directory of the workers' cgroups, or `-`. `pipes` are a worker's output pipes by inode number,
//! `stdout:123,stderr:124`. A line with a star is a process that a new master found while taking over, written before
//! it stops any: the evidence may be gone if that master is killed itself. The first line of older masters has neither
//! tag nor cgroup, and says `rotad 1`.

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

/// Appends started and ended workers. The caller reports errors. None of them makes the journal unusable: what is missing
/// is written with the next line, or by [`WorkerJournal::rewrite`].
#[derive(Debug)]
pub struct WorkerJournal {
    dir: PathBuf,
    file: File,
    header: String,
    /// The lines of running workers, by pid.
    living: BTreeMap<i32, String>,
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
        Self::write(dir, tag, cgroup, BTreeMap::new(), clock)
    }

    /// Goes on with the journal of a dead master, whose workers are this master's now: it gets this master's pid, and
    /// keeps the running workers. `tag` and `cgroup`: as that master had them.
    ///
    /// # Errors
    /// ENOENT: there is no journal, or it has another tag. ENOSPC, EACCES, EROFS, EIO.
    pub fn reopen(dir: &Path, tag: &str, cgroup: Option<&Path>, clock: Clock) -> io::Result<Self> {
        let journal = read(dir)?.filter(|journal| journal.tag.as_deref() == Some(tag));
        let journal = journal.ok_or(io::ErrorKind::NotFound)?;
        let living = journal
            .living
            .iter()
            .map(|entry| (entry.pid, line_of(entry)));
        Self::write(dir, tag, cgroup, living.collect(), clock)
    }

    fn write(
        dir: &Path,
        tag: &str,
        cgroup: Option<&Path>,
        living: BTreeMap<i32, String>,
        clock: Clock,
    ) -> io::Result<Self> {
        let me = Stat::of(std::process::id() as i32)?;
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
        let text = content(&header, &living);
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
            end: text.len() as u64,
            room,
            lines: 1 + living.len(),
            living,
            retry_at: None,
            clock,
        })
    }

    /// Adds a worker. `start_time`: field 22 of /proc/PID/stat; `tag`: its ROTAD_WORKER; `pipes`: see
    /// [`crate::log::WorkerOutput::inodes`].
    ///
    /// # Errors
    /// ENOSPC, EIO: until the retry succeeds, a next master finds the worker only by its environment.
    pub fn add_worker(
        &mut self,
        pid: i32,
        start_time: u64,
        (pool, slot): (&str, u32),
        tag: &str,
        pipes: &[(Stream, u64)],
    ) -> io::Result<()> {
        let line = line_of(&JournalEntry {
            pid,
            start_time,
            slot,
            pool: pool.to_owned(),
            tag: tag.to_owned(),
            pipes: pipes.to_owned(),
        });
        self.living.insert(pid, line.clone());
        self.append(&line)
    }

    /// Removes a worker whose process tree is gone.
    ///
    /// # Errors
    /// ENOSPC, EIO: a next master finds no process with that start time.
    pub fn remove_worker(&mut self, pid: i32) -> io::Result<()> {
        if self.living.remove(&pid).is_none() {
            return Ok(());
        }
        self.append(&format!("-\t{pid}\n"))
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

    fn append(&mut self, line: &str) -> io::Result<()> {
        let removed = || self.file.metadata().is_ok_and(|about| about.nlink() == 0);
        if self.retry_at.is_some()
            || self.lines >= MAX_LINES.max(2 * self.living.len())
            || removed()
        {
            return self.rewrite();
        }
        self.lines += 1;
        match self.file.write_all_at(line.as_bytes(), self.end) {
            Ok(()) => {
                self.end += line.len() as u64;
                Ok(())
            }
            // The rewritten journal is shorter.
            Err(_) => self.rewrite(),
        }
    }

    fn compact(&mut self) -> io::Result<()> {
        let text = content(&self.header, &self.living);
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
        (self.end, self.lines) = (end, 1 + self.living.len());
        Ok(())
    }
}

/// The line of a running worker.
fn line_of(entry: &JournalEntry) -> String {
    let pipes: Vec<String> = entry
        .pipes
        .iter()
        .map(|(stream, inode)| format!("{}:{inode}", stream.name()))
        .collect();
    format!(
        "+\t{}\t{}\t{}\t{}\t{}\t{}\n",
        entry.pid,
        entry.start_time,
        entry.slot,
        without_control_characters(&entry.pool),
        without_control_characters(&entry.tag),
        pipes.join(",")
    )
}

/// The whole text of a journal.
fn content(header: &str, living: &BTreeMap<i32, String>) -> String {
    std::iter::once(header)
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JournalEntry {
    pub(super) pid: i32,
    pub(super) start_time: u64,
    pub(super) slot: u32,
    pub(super) pool: String,
    pub(super) tag: String,
    /// Its output pipes, by inode.
    pub(super) pipes: Vec<(Stream, u64)>,
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
    /// Workers without an end.
    pub(super) living: Vec<JournalEntry>,
    /// Further processes that a new master has found to belong to them.
    pub(super) members: Vec<JournalEntry>,
}

impl JournalContent {
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
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let Some(mut journal) = lines.next().and_then(header) else {
        return Ok(None);
    };
    let mut living = BTreeMap::new();
    for line in lines {
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["+", pid, start_time, slot, pool, tag, pipes] => {
                let numbers = (pid.parse(), start_time.parse(), slot.parse());
                let (Ok(pid), Ok(start_time), Ok(slot)) = numbers else {
                    continue;
                };
                let (pool, tag, pipes) = (
                    pool.to_owned(),
                    tag.to_owned(),
                    pipes.split(',').filter_map(pipe).collect(),
                );
                living.insert(
                    pid,
                    JournalEntry {
                        pid,
                        start_time,
                        slot,
                        pool,
                        tag,
                        pipes,
                    },
                );
            }
            ["*", pid, start_time, slot, pool, tag] => {
                let numbers = (pid.parse(), start_time.parse(), slot.parse());
                let (Ok(pid), Ok(start_time), Ok(slot)) = numbers else {
                    continue;
                };
                let (pool, tag, pipes) = (pool.to_owned(), tag.to_owned(), Vec::new());
                journal.members.push(JournalEntry {
                    pid,
                    start_time,
                    slot,
                    pool,
                    tag,
                    pipes,
                });
            }
            ["-", pid] => {
                pid.parse().ok().and_then(|pid: i32| living.remove(&pid));
            }
            _ => {} // an incomplete line, from a full disk
        }
    }
    journal.living = living.into_values().collect();
    Ok(Some(journal))
}

/// Appends to a dead master's journal the processes that the new master has found: pid, start time, slot, pool, tag.
///
/// # Errors
/// ENOSPC, EACCES, EROFS, EIO.
pub(super) fn append_found(dir: &Path, found: &[(i32, u64, u32, &str, &str)]) -> io::Result<()> {
    let flags = O_NOFOLLOW | O_NONBLOCK;
    let mut file = OpenOptions::new()
        .append(true)
        .custom_flags(flags)
        .open(dir.join(FILE))?;
    let line = |(pid, start, slot, pool, tag): &(i32, u64, u32, &str, &str)| {
        format!(
            "*\t{pid}\t{start}\t{slot}\t{}\t{}\n",
            without_control_characters(pool),
            without_control_characters(tag)
        )
    };
    // The last line may be incomplete.
    let text: String = std::iter::once("\n".to_owned())
        .chain(found.iter().map(line))
        .collect();
    io::Write::write_all(&mut file, text.as_bytes())
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
            .add_worker(10, 100, ("we\tb", 0), "t1", &[])
            .unwrap();
        let pipes = [(Stream::Stdout, 7), (Stream::Stderr, 8)];
        journal
            .add_worker(11, 101, ("web", 1), "t2", &pipes)
            .unwrap();
        journal.remove_worker(10).unwrap();
        journal.remove_worker(77).unwrap();
        let entry = JournalEntry {
            pid: 11,
            start_time: 101,
            slot: 1,
            pool: "web".into(),
            tag: "t2".into(),
            pipes: pipes.into(),
        };
        assert_eq!(read(dir.path()).unwrap().unwrap().living, [entry]);
    }

    #[test]
    fn the_next_master_goes_on_with_the_journal_of_its_workers() {
        let dir = tempfile::tempdir().unwrap();
        let open = |tag| WorkerJournal::reopen(dir.path(), tag, None, Clock::start());
        assert_eq!(open("a-b").unwrap_err().kind(), io::ErrorKind::NotFound);
        // The dead master, by the pid of another.
        let header = format!("rotad 2 {} 1 77 a-b -\n", procfs::boot_id());
        let lines = "+\t10\t100\t0\tweb\tt1\tboth:7\n+\t11\t101\t1\tweb\tt2\t\n-\t11\n+\t5\t1";
        std::fs::write(dir.path().join(FILE), header + lines).unwrap();
        assert_eq!(open("c-d").unwrap_err().kind(), io::ErrorKind::NotFound);
        let before = read(dir.path()).unwrap().unwrap();
        assert!(!before.master_is_alive());
        let mut journal = open("a-b").unwrap();
        let content = read(dir.path()).unwrap().unwrap();
        assert!(content.master_is_alive());
        assert_eq!((content.living, content.tag), (before.living, before.tag));
        journal.add_worker(12, 102, ("web", 1), "t3", &[]).unwrap();
        assert_eq!(pids(dir.path()), [10, 12]);
        journal.remove_worker(10).unwrap();
        journal.rewrite().unwrap();
        assert_eq!(pids(dir.path()), [12]);
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
        journal.add_worker(1, 1, ("web", 0), "first", &[]).unwrap();
        for pid in 2..10_000 {
            journal.add_worker(pid, 1, ("web", 1), "x", &[]).unwrap();
            journal.remove_worker(pid).unwrap();
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
        journal
            .add_worker(6, 1, ("web", 2), "y", &[(Stream::Both, 9)])
            .unwrap();
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
        journal.add_worker(1, 1, ("web", 0), "first", &[]).unwrap();
        std::fs::remove_file(run.join(FILE)).unwrap();
        journal.add_worker(2, 1, ("web", 1), "second", &[]).unwrap();
        assert_eq!(pids(&run), [1, 2]);
        std::fs::remove_dir_all(&run).unwrap();
        journal
            .add_worker(3, 1, ("web", 2), "third", &[])
            .unwrap_err();
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
            journal.add_worker(pid, 1, ("web", 0), "x", &[]).unwrap();
        }
        let (file, room) = overwrite(dir.path(), "rotad 2 - 1 1 c-d -\n").unwrap();
        assert!(room >= file.metadata().unwrap().len());
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(text.trim_end(), "rotad 2 - 1 1 c-d -");
    }
}
