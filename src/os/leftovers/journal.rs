//! The journal of births: one short line each, so that the next master knows whom a master killed by -9 has left.
//!
//! ```text
//! rotad 1 <boot id> <master's pid> <master's start time>
//! + <pid> <start time> <slot> <pool> <tag> <pipes>        (separated by tabs)
//! - <pid>
//! ```
//!
//! `pipes` are those of its output by the kernel's numbers, `stdout:123,stderr:124`.

use crate::os::pen::Stream;
use crate::os::proc::{self, Stat};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file's name in the runtime directory.
pub(super) const FILE: &str = "workers";
/// Lines after which the journal is written anew with the living alone.
const MOST_LINES: usize = 4096;

/// Appends births and deaths. Errors are the caller's to report; none of them leaves the journal unusable.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    file: File,
    header: String,
    living: BTreeMap<i32, String>,
    lines: usize,
    /// A line may have been cut short by a full disk.
    torn: bool,
}

impl Journal {
    /// Starts a journal anew. What a dead master has left in it has to be read before.
    ///
    /// # Errors
    /// ENOSPC, EACCES and the like.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let me = Stat::of(std::process::id() as i32)?;
        let header = format!("rotad 1 {} {} {}\n", proc::boot_id(), me.pid, me.start_time);
        let file = write_anew(dir, &header)?;
        Ok(Self { dir: dir.to_owned(), file, header, living: BTreeMap::new(), lines: 1, torn: false })
    }

    /// Notes a worker. `start_time`: field 22 of /proc/PID/stat; `tag`: its ROTAD_WORKER; `pipes`: see
    /// [`crate::os::pen::Output::inodes`].
    ///
    /// # Errors
    /// ENOSPC and the like: should the master be killed now, this worker is not known to the next one.
    pub fn born(
        &mut self,
        pid: i32,
        start_time: u64,
        (pool, slot): (&str, u32),
        tag: &str,
        pipes: &[(Stream, u64)],
    ) -> io::Result<()> {
        let pipes: Vec<String> = pipes.iter().map(|(stream, inode)| format!("{}:{inode}", stream.name())).collect();
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

    /// Removes the journal: a master that leaves in order leaves nobody.
    ///
    /// # Errors
    /// EACCES, EROFS.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(FILE))
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.torn || self.lines >= MOST_LINES.max(2 * self.living.len()) {
            return self.compact();
        }
        self.lines += 1;
        let written = self.file.write(line.as_bytes());
        self.torn = !matches!(written, Ok(len) if len == line.len());
        written.and_then(|_| if self.torn { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) })
    }

    fn compact(&mut self) -> io::Result<()> {
        let text = std::iter::once(&self.header).chain(self.living.values()).map(String::as_str).collect::<String>();
        self.file = write_anew(&self.dir, &text)?;
        (self.lines, self.torn) = (1 + self.living.len(), false);
        Ok(())
    }
}

/// Names may hold anything but what separates them.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// Writes a file aside and renames it: the journal is whole at any moment. The descriptor appends.
fn write_anew(dir: &Path, text: &str) -> io::Result<File> {
    let aside = dir.join(format!(".{FILE}.{}", std::process::id()));
    std::fs::remove_file(&aside).ok();
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create_new(true).mode(0o600).open(&aside)?;
    let done = file.write_all(text.as_bytes()).and_then(|()| std::fs::rename(&aside, dir.join(FILE)));
    if done.is_err() {
        std::fs::remove_file(&aside).ok();
    }
    done.map(|()| file)
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

/// The living of a journal whose master is dead and was of this run of the machine; else none.
pub(super) fn read(dir: &Path) -> io::Result<Vec<Entry>> {
    // No bound on its length: the folder is the master's own.
    let text = match std::fs::read(dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => String::from_utf8_lossy(&other?).into_owned(),
    };
    let mut lines = text.lines();
    let master = lines.next().and_then(header);
    if !master.is_some_and(|(boot, pid, start)| boot == proc::boot_id() && !is_alive(pid, start)) {
        return Ok(Vec::new());
    }
    let mut living = BTreeMap::new();
    for line in lines {
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["+", pid, start_time, slot, pool, tag, pipes] => {
                let numbers = (pid.parse(), start_time.parse(), slot.parse());
                let (Ok(pid), Ok(start_time), Ok(slot)) = numbers else { continue };
                let (pool, tag, pipes) = (pool.to_owned(), tag.to_owned(), pipes.split(',').filter_map(pipe).collect());
                living.insert(pid, Entry { pid, start_time, slot, pool, tag, pipes });
            }
            ["-", pid] => {
                pid.parse().ok().and_then(|pid: i32| living.remove(&pid));
            }
            _ => {} // cut short by a full disk
        }
    }
    Ok(living.into_values().collect())
}

fn pipe(text: &str) -> Option<(Stream, u64)> {
    let (name, inode) = text.split_once(':')?;
    Some((Stream::named(name)?, inode.parse().ok()?))
}

fn header(line: &str) -> Option<(&str, i32, u64)> {
    let mut words = line.strip_prefix("rotad 1 ")?.split(' ');
    Some((words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn is_alive(pid: i32, start_time: u64) -> bool {
    Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time && !stat.is_zombie())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if the master of this journal had died: its start time is another one.
    fn bury(dir: &Path) {
        let text = std::fs::read_to_string(dir.join(FILE)).unwrap();
        let (head, rest) = text.split_once('\n').unwrap();
        std::fs::write(dir.join(FILE), format!("{head}9\n{rest}")).unwrap();
    }

    #[test]
    fn births_and_deaths() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.born(10, 100, ("we\tb", 0), "t1", &[]).unwrap();
        let pipes = [(Stream::Stdout, 7), (Stream::Stderr, 8)];
        journal.born(11, 101, ("web", 1), "t2", &pipes).unwrap();
        journal.gone(10).unwrap();
        journal.gone(77).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [], "its master lives");
        bury(dir.path());
        let entry =
            Entry { pid: 11, start_time: 101, slot: 1, pool: "web".into(), tag: "t2".into(), pipes: pipes.into() };
        assert_eq!(read(dir.path()).unwrap(), [entry]);
    }

    #[test]
    fn it_stays_short_and_survives_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.born(1, 1, ("web", 0), "first", &[]).unwrap();
        for pid in 2..10_000 {
            journal.born(pid, 1, ("web", 1), "x", &[]).unwrap();
            journal.gone(pid).unwrap();
        }
        let lines = std::fs::read_to_string(dir.path().join(FILE)).unwrap().lines().count();
        assert!(lines <= MOST_LINES, "{lines}");
        journal.file.write_all(b"+\t5\t1").unwrap();
        journal.torn = true;
        journal.born(6, 1, ("web", 2), "y", &[(Stream::Both, 9)]).unwrap();
        bury(dir.path());
        let pids: Vec<i32> = read(dir.path()).unwrap().iter().map(|entry| entry.pid).collect();
        assert_eq!(pids, [1, 6]);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }
}
