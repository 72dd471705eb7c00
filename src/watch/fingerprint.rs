//! Fingerprints of files, and what differs between two scans.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Above this size, in bytes, size and modification time stand for the content.
const MOST_READ: u64 = 64 << 20;

/// A file whose times are this young may change again without its times showing it: the kernel's clock for files
/// ticks every few milliseconds, that of some file systems every two seconds.
const YOUNG: Duration = Duration::from_secs(2);

/// The fingerprints of all matching files, by the path at which each was found.
pub(super) type Fingerprints = BTreeMap<PathBuf, Fingerprint>;

/// One file at one look.
#[derive(Clone, Debug)]
pub(super) struct Fingerprint {
    /// If these are unchanged, the content is not read again.
    outside: Outside,
    young: bool,
    content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// SipHash with a fixed key: it protects against accidents, not attackers.
    Hash(u64),
    Unreadable,
    /// It changed during its first reading: equal to no other content.
    Unsure,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outside {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Outside {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Fingerprint {
    /// A file that was seen to change during the first look.
    pub(super) fn unsure() -> Self {
        Self {
            outside: Outside::default(),
            young: true,
            content: Content::Unsure,
        }
    }

    fn differs(&self, other: &Self) -> bool {
        self.content != other.content || self.content == Content::Unsure
    }
}

/// Looks at each file; those that are gone by now, or are no regular files, are left out. `before`: the look before,
/// whose prints spare reading what has not changed.
pub(super) fn look(files: Vec<PathBuf>, before: &Fingerprints) -> Fingerprints {
    let mut buffer = vec![0; 64 << 10];
    let now = SystemTime::now();
    let print = |file: PathBuf| Some((print(&file, before.get(&file), now, &mut buffer)?, file));
    files
        .into_iter()
        .filter_map(print)
        .map(|(print, file)| (file, print))
        .collect()
}

fn print(
    path: &Path,
    before: Option<&Fingerprint>,
    now: SystemTime,
    buffer: &mut [u8],
) -> Option<Fingerprint> {
    let meta = path.metadata().ok().filter(Metadata::is_file)?;
    let outside = Outside::of(&meta);
    if let Some(before) = before.filter(|before| before.outside == outside && !before.young) {
        return Some(before.clone());
    }
    let seconds = u64::try_from(outside.changed.0).unwrap_or(0);
    let young = now <= UNIX_EPOCH + Duration::from_secs(seconds) + YOUNG;
    let content = match content(path, buffer) {
        Ok(hash) => Content::Hash(hash?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => Content::Unreadable,
    };
    // From before the reading: a later write is noticed.
    Some(Fingerprint {
        outside,
        young,
        content,
    })
}

/// None: not a regular file.
fn content(path: &Path, buffer: &mut [u8]) -> io::Result<Option<u64>> {
    // A former file may be a FIFO by now, whose open would wait for a writer.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let mut hasher = DefaultHasher::new();
    if meta.size() > MOST_READ {
        hasher.write_u64(meta.size());
        hasher.write_i64(meta.mtime());
        hasher.write_i64(meta.mtime_nsec());
    } else {
        read(&mut file, &mut hasher, buffer)?;
    }
    Ok(Some(hasher.finish()))
}

fn read(file: &mut File, hasher: &mut DefaultHasher, buffer: &mut [u8]) -> io::Result<()> {
    // A file may grow faster than it is read.
    let mut file = file.take(MOST_READ);
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => hasher.write(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The files that came, went or differ: at most `most` of them, and how many there are.
pub(super) fn changes(
    before: &Fingerprints,
    now: &Fingerprints,
    most: usize,
) -> (Vec<PathBuf>, usize) {
    let here = now
        .iter()
        .filter(|(path, print)| before.get(*path).is_none_or(|before| before.differs(print)));
    let gone = before.keys().filter(|path| !now.contains_key(*path));
    let mut files = Vec::new();
    let mut count = 0;
    for path in here.map(|(path, _)| path).chain(gone) {
        count += 1;
        if files.len() < most {
            files.push(path.clone());
        }
    }
    (files, count)
}

/// One hash for all files and their content.
pub(super) fn digest(prints: &Fingerprints) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (path, print) in prints {
        hasher.write(path.as_os_str().as_encoded_bytes());
        match print.content {
            Content::Hash(hash) => hasher.write_u64(hash),
            Content::Unreadable => hasher.write_u8(1),
            Content::Unsure => hasher.write_u8(2),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn count(before: &Fingerprints, now: &Fingerprints) -> usize {
        changes(before, now, 1).1
    }

    #[test]
    fn content_counts_and_times_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let files = || vec![a.clone(), b.clone()];
        fs::write(&a, "one").unwrap();
        let first = look(files(), &Fingerprints::new());
        assert_eq!(first.len(), 1);
        fs::write(&a, "two").unwrap();
        let second = look(files(), &first);
        assert_eq!(
            count(&first, &second),
            1,
            "as many bytes, within the same tick of the clock for files"
        );
        fs::write(&a, "one").unwrap();
        File::options()
            .append(true)
            .open(&a)
            .unwrap()
            .set_modified(UNIX_EPOCH)
            .unwrap();
        let third = look(files(), &second);
        assert_eq!(
            (count(&first, &third), digest(&first) == digest(&third)),
            (0, true)
        );
        fs::rename(&a, &b).unwrap();
        assert_eq!(count(&third, &look(files(), &third)), 2);
    }

    #[test]
    fn an_unsure_file_differs_from_itself() {
        let folder = tempfile::tempdir().unwrap();
        let a = folder.path().join("a");
        let unsure = Fingerprints::from([(a.clone(), Fingerprint::unsure())]);
        assert_eq!(count(&unsure, &unsure.clone()), 1);
        assert_eq!(count(&unsure, &Fingerprints::new()), 1);
    }

    #[test]
    fn a_fifo_is_no_file_and_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(look(vec![fifo.clone()], &Fingerprints::new()).is_empty());
        assert!(content(&fifo, &mut [0; 8]).unwrap().is_none());
    }
}
