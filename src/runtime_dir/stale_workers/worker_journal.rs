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

use crate::log::Stream;
use crate::process::procfs::{self, Stat};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file's name in the runtime directory.
pub(super) const FILE: &str = "workers";
/// Lines after which the journal is written anew with the living alone.
const MOST_LINES: usize = 4096;
/// Bytes that are set aside on the disk, so that births are noted while it is full: some 150 lines.
const RESERVE: u64 = 16 << 10;
/// While something is missing, it is tried again after so long, whether or not anybody is born.
const AGAIN: Duration = Duration::from_secs(1);

/// Appends births and deaths. Errors are the caller's to report; none of them leaves the journal unusable: what is
/// missing is written with the next line, or by [`WorkerJournal::mend`].
#[derive(Debug)]
pub struct WorkerJournal {
    dir: PathBuf,
    file: File,
    header: String,
    living: BTreeMap<i32, String>,
    /// Bytes that are written, and what the file has room for without asking the disk for more.
    end: u64,
    room: u64,
    lines: usize,
    /// Since then something is missing: a line was cut short by a full disk, or the file is gone.
    torn: Option<Instant>,
}

impl WorkerJournal {
    /// Starts a journal anew. What a dead master has left in it has to be read, and dealt with, before.
    /// `tag`: what ROTAD_WORKER of every worker will begin with; `cgroup`: the folder of their cgroups.
    ///
    /// # Errors
    /// ENOSPC, EACCES and the like.
    pub fn open(dir: &Path, tag: &str, cgroup: Option<&Path>) -> io::Result<Self> {
        let me = Stat::of(std::process::id() as i32)?;
        // A folder whose name would break the line is not told; its members have their environment.
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
        let (file, room) = match write_anew(dir, &header) {
            // The disk is full: what a dead master has left has room for one line.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOSPC) => {
                over(dir, &header).map_err(|_| error)?
            }
            other => other?,
        };
        let end = header.len() as u64;
        let (dir, living) = (dir.to_owned(), BTreeMap::new());
        Ok(Self {
            dir,
            file,
            header,
            living,
            end,
            room,
            lines: 1,
            torn: None,
        })
    }

    /// Notes a worker. `start_time`: field 22 of /proc/PID/stat; `tag`: its ROTAD_WORKER; `pipes`: see
    /// [`crate::log::WorkerOutput::inodes`].
    ///
    /// # Errors
    /// ENOSPC and the like: should the master be killed now, the next one has to go by the worker's environment.
    pub fn born(
        &mut self,
        pid: i32,
        start_time: u64,
        (pool, slot): (&str, u32),
        tag: &str,
        pipes: &[(Stream, u64)],
    ) -> io::Result<()> {
        let pipes: Vec<String> = pipes
            .iter()
            .map(|(stream, inode)| format!("{}:{inode}", stream.name()))
            .collect();
        let (pool, tag, pipes) = (plain(pool), plain(tag), pipes.join(","));
        let line = format!("+\t{pid}\t{start_time}\t{slot}\t{pool}\t{tag}\t{pipes}\n");
        self.living.insert(pid, line.clone());
        self.append(&line)
    }

    /// Notes that a worker's whole tree is gone.
    ///
    /// # Errors
    /// ENOSPC and the like: the next master finds out by itself that it is dead.
    pub fn gone(&mut self, pid: i32) -> io::Result<()> {
        if self.living.remove(&pid).is_none() {
            return Ok(());
        }
        self.append(&format!("-\t{pid}\n"))
    }

    /// When [`WorkerJournal::mend`] wants to be called; none: nothing is missing.
    pub fn deadline(&self) -> Option<Instant> {
        self.torn
    }

    /// Writes what is missing, all of it.
    ///
    /// # Errors
    /// As before: [`WorkerJournal::deadline`] says when to try again.
    pub fn mend(&mut self) -> io::Result<()> {
        let done = self.compact();
        self.torn = done.is_err().then(|| Instant::now() + AGAIN);
        done
    }

    /// Removes the journal: a master that leaves in order leaves nobody.
    ///
    /// # Errors
    /// EACCES, EROFS.
    pub fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(FILE))
    }

    /// Writes it anew, with the living alone, into this folder from now on.
    ///
    /// # Errors
    /// As [`WorkerJournal::mend`].
    pub fn anew(&mut self, dir: &Path) -> io::Result<()> {
        dir.clone_into(&mut self.dir);
        self.mend()
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        let removed = || self.file.metadata().is_ok_and(|about| about.nlink() == 0);
        if self.torn.is_some() || self.lines >= MOST_LINES.max(2 * self.living.len()) || removed() {
            return self.mend();
        }
        self.lines += 1;
        match self.file.write_all_at(line.as_bytes(), self.end) {
            Ok(()) => {
                self.end += line.len() as u64;
                Ok(())
            }
            // Written anew it is shorter.
            Err(_) => self.mend(),
        }
    }

    fn compact(&mut self) -> io::Result<()> {
        let text = std::iter::once(&self.header)
            .chain(self.living.values())
            .map(String::as_str)
            .collect::<String>();
        let end = text.len() as u64;
        match write_anew(&self.dir, &text) {
            Ok((file, room)) => (self.file, self.room) = (file, room),
            // In place, over what is there: the first line stays the same, and a line of the dead is found to be one.
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

/// Names may hold anything but what separates them.
fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect()
}

/// Empty lines cover what was there before.
fn padded(text: &str, before: u64) -> String {
    let mut text = text.to_owned();
    text.extend(std::iter::repeat_n(
        '\n',
        (before as usize).saturating_sub(text.len()),
    ));
    text
}

/// Writes a file aside and renames it: the journal is whole at any moment. And for how many bytes there is room.
fn write_anew(dir: &Path, text: &str) -> io::Result<(File, u64)> {
    let aside = dir.join(format!(".{FILE}.{}", std::process::id()));
    std::fs::remove_file(&aside).ok();
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    let room = RESERVE.max(2 * text.len() as u64);
    // A courtesy of the disk: without it births are still noted while there is room.
    let set_aside = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, room as i64).is_ok();
    let done = file
        .write_all_at(text.as_bytes(), 0)
        .and_then(|()| std::fs::rename(&aside, dir.join(FILE)));
    if done.is_err() {
        std::fs::remove_file(&aside).ok();
    }
    done.map(|()| (file, if set_aside { room } else { text.len() as u64 }))
}

/// Writes over the journal that is there.
fn over(dir: &Path, text: &str) -> io::Result<(File, u64)> {
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

/// A worker, as a journal tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pid: i32,
    pub(super) start_time: u64,
    pub(super) slot: u32,
    pub(super) pool: String,
    pub(super) tag: String,
    /// Of its output.
    pub(super) pipes: Vec<(Stream, u64)>,
}

/// What a journal of this run of the machine tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Pid and start time of the master that wrote it.
    pub(super) master: (i32, u64),
    /// What ROTAD_WORKER of all its workers begins with.
    pub(super) tag: Option<String>,
    /// The folder of their cgroups.
    pub(super) cgroup: Option<PathBuf>,
    /// Those that had not ended.
    pub(super) living: Vec<Entry>,
    /// Whom an heir has found to be theirs, besides.
    pub(super) members: Vec<Entry>,
}

impl Record {
    /// Whether the master that wrote it lives.
    pub(super) fn is_in_use(&self) -> bool {
        let (pid, start_time) = self.master;
        Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time && !stat.is_leaving())
    }
}

/// None: there is no journal, or it is of another run of the machine.
pub(super) fn read(dir: &Path) -> io::Result<Option<Record>> {
    // Not to be held up by a pipe in its place.
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(dir.join(FILE))
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !file.metadata()?.is_file() {
        let text = format!("{} is no plain file: remove it", dir.join(FILE).display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // No bound on its length: the folder is the master's own.
    let mut bytes = Vec::new();
    (&file).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let Some(mut record) = lines.next().and_then(header) else {
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
                    Entry {
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
                record.members.push(Entry {
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
            _ => {} // cut short by a full disk
        }
    }
    record.living = living.into_values().collect();
    Ok(Some(record))
}

/// Adds to a dead master's journal whom its heir has found: pid, start time, slot, pool, tag.
///
/// # Errors
/// ENOSPC and the like.
pub(super) fn note_found(dir: &Path, found: &[(i32, u64, u32, &str, &str)]) -> io::Result<()> {
    let flags = O_NOFOLLOW | O_NONBLOCK;
    let mut file = OpenOptions::new()
        .append(true)
        .custom_flags(flags)
        .open(dir.join(FILE))?;
    let line = |(pid, start, slot, pool, tag): &(i32, u64, u32, &str, &str)| {
        format!(
            "*\t{pid}\t{start}\t{slot}\t{}\t{}\n",
            plain(pool),
            plain(tag)
        )
    };
    // A line may have been cut short before.
    let text: String = std::iter::once("\n".to_owned())
        .chain(found.iter().map(line))
        .collect();
    io::Write::write_all(&mut file, text.as_bytes())
}

fn pipe(text: &str) -> Option<(Stream, u64)> {
    let (name, inode) = text.split_once(':')?;
    Some((Stream::named(name)?, inode.parse().ok()?))
}

/// None: another run of the machine, or not ours.
fn header(line: &str) -> Option<Record> {
    let (version, rest) = line.strip_prefix("rotad ")?.split_once(' ')?;
    let mut words = rest.split(' ');
    if words.next()? != procfs::boot_id() {
        return None;
    }
    let master = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let record = Record {
        master,
        ..Record::default()
    };
    match version {
        "1" => Some(record),
        "2" => {
            let tag = words.next().filter(|tag| !tag.is_empty())?.to_owned();
            let cgroup = words
                .next()
                .filter(|path| path.starts_with('/'))
                .map(PathBuf::from);
            Some(Record {
                tag: Some(tag),
                cgroup,
                ..record
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
    fn births_and_deaths() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let mut journal =
            WorkerJournal::open(dir.path(), "a-b", Some(Path::new("/cg/rotad-x-1"))).unwrap();
        let record = read(dir.path()).unwrap().unwrap();
        assert_eq!(
            (record.tag.as_deref(), record.cgroup.as_deref()),
            (Some("a-b"), Some(Path::new("/cg/rotad-x-1")))
        );
        assert!(
            record.is_in_use() && record.living.is_empty(),
            "before the first birth"
        );
        journal.born(10, 100, ("we\tb", 0), "t1", &[]).unwrap();
        let pipes = [(Stream::Stdout, 7), (Stream::Stderr, 8)];
        journal.born(11, 101, ("web", 1), "t2", &pipes).unwrap();
        journal.gone(10).unwrap();
        journal.gone(77).unwrap();
        let entry = Entry {
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
    fn one_of_an_older_master_is_understood_and_one_of_another_boot_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: String| std::fs::write(dir.path().join(FILE), text).unwrap();
        write(format!(
            "rotad 1 {} 1 77\n+\t5\t6\t0\tweb\tx-1\t\n",
            procfs::boot_id()
        ));
        let record = read(dir.path()).unwrap().unwrap();
        assert_eq!(
            (record.master, record.tag.clone(), record.living.len()),
            ((1, 77), None, 1)
        );
        assert!(!record.is_in_use());
        write("rotad 2 another 1 77 x-1 -\n+\t5\t6\t0\tweb\tx-1\t\n".to_owned());
        assert_eq!(read(dir.path()).unwrap(), None);
    }

    /// A pipe that nobody writes to would hold the start up for ever.
    #[test]
    fn what_is_no_plain_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join(FILE), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = read(dir.path()).unwrap_err();
        assert!(error.to_string().contains("no plain file"), "{error}");
    }

    #[test]
    fn it_stays_short_and_survives_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = WorkerJournal::open(dir.path(), "a-b", None).unwrap();
        journal.born(1, 1, ("web", 0), "first", &[]).unwrap();
        for pid in 2..10_000 {
            journal.born(pid, 1, ("web", 1), "x", &[]).unwrap();
            journal.gone(pid).unwrap();
        }
        let lines = std::fs::read_to_string(dir.path().join(FILE))
            .unwrap()
            .lines()
            .count();
        assert!(lines <= MOST_LINES, "{lines}");
        OpenOptions::new()
            .append(true)
            .open(dir.path().join(FILE))
            .unwrap()
            .write_all(b"+\t5\t1")
            .unwrap();
        journal.torn = Some(Instant::now());
        journal
            .born(6, 1, ("web", 2), "y", &[(Stream::Both, 9)])
            .unwrap();
        assert_eq!(journal.deadline(), None, "it is whole again");
        assert_eq!(pids(dir.path()), [1, 6]);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }

    /// Somebody tidies the folder up, or takes it away and puts it back.
    #[test]
    fn a_journal_that_was_removed_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let house = dir.path().join("run");
        std::fs::create_dir(&house).unwrap();
        let mut journal = WorkerJournal::open(&house, "a-b", None).unwrap();
        journal.born(1, 1, ("web", 0), "first", &[]).unwrap();
        std::fs::remove_file(house.join(FILE)).unwrap();
        journal.born(2, 1, ("web", 1), "second", &[]).unwrap();
        assert_eq!(pids(&house), [1, 2]);
        std::fs::remove_dir_all(&house).unwrap();
        journal.born(3, 1, ("web", 2), "third", &[]).unwrap_err();
        assert!(
            journal.deadline().is_some(),
            "it is tried again without a birth"
        );
        std::fs::create_dir(&house).unwrap();
        journal.mend().unwrap();
        assert_eq!((pids(&house), journal.deadline()), (vec![1, 2, 3], None));
    }

    /// Written in place, it says the same, whatever stood there.
    #[test]
    fn written_over_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = WorkerJournal::open(dir.path(), "a-b", None).unwrap();
        for pid in 1..=100 {
            journal.born(pid, 1, ("web", 0), "x", &[]).unwrap();
        }
        let (file, room) = over(dir.path(), "rotad 2 - 1 1 c-d -\n").unwrap();
        assert!(room >= file.metadata().unwrap().len());
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(text.trim_end(), "rotad 2 - 1 1 c-d -");
    }
}
