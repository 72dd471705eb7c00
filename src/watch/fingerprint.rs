//! Fingerprints of files, and the differences between two scans. The watch loop calls [`scan`] and [`changes`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Maximum size, in bytes, of a file whose content is read; of larger files, size and modification time are compared.
const MAX_READ: u64 = 64 << 20;

/// A file that was changed this recently may change again without a change of its times: the kernel's clock for files
/// ticks every few milliseconds, that of some file systems every two seconds.
const YOUNG: Duration = Duration::from_secs(2);

/// The fingerprints of all matching files, by the path at which each was found.
pub(super) type Fingerprints = BTreeMap<PathBuf, Fingerprint>;

/// One file in one scan.
#[derive(Clone, Debug)]
pub(super) struct Fingerprint {
    /// If this is unchanged, the content is not read again.
    stat: FileStat,
    /// Changed within [`YOUNG`] before the scan: the content has to be read again.
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
struct FileStat {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStat {
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
    /// A file that changed during the first scan.
    pub(super) fn unsure() -> Self {
        Self {
            stat: FileStat::default(),
            young: true,
            content: Content::Unsure,
        }
    }

    fn differs(&self, other: &Self) -> bool {
        self.content != other.content || self.content == Content::Unsure
    }
}

/// Takes the fingerprint of each file. Files that are gone by now or are not regular files are left out. Files that are
/// unchanged since the previous scan, `before`, are not read again.
pub(super) fn scan(files: Vec<PathBuf>, before: &Fingerprints) -> Fingerprints {
    let mut buffer = vec![0; 64 << 10];
    let now = SystemTime::now();
    let fingerprint = |file: PathBuf| {
        Some((
            fingerprint(&file, before.get(&file), now, &mut buffer)?,
            file,
        ))
    };
    files
        .into_iter()
        .filter_map(fingerprint)
        .map(|(fingerprint, file)| (file, fingerprint))
        .collect()
}

fn fingerprint(
    path: &Path,
    before: Option<&Fingerprint>,
    now: SystemTime,
    buffer: &mut [u8],
) -> Option<Fingerprint> {
    let meta = path.metadata().ok().filter(Metadata::is_file)?;
    let stat = FileStat::of(&meta);
    if let Some(before) = before.filter(|before| before.stat == stat && !before.young) {
        return Some(before.clone());
    }
    let seconds = u64::try_from(stat.changed.0).unwrap_or(0);
    let young = now <= UNIX_EPOCH + Duration::from_secs(seconds) + YOUNG;
    let content = match content(path, buffer) {
        Ok(hash) => Content::Hash(hash?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => Content::Unreadable,
    };
    // The stat from before the reading, so that a later write is noticed.
    Some(Fingerprint {
        stat,
        young,
        content,
    })
}

/// Hashes the content; None if it is not a regular file.
fn content(path: &Path, buffer: &mut [u8]) -> io::Result<Option<u64>> {
    // The file may have become a FIFO, whose open would wait for a writer.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let mut hasher = DefaultHasher::new();
    if meta.size() > MAX_READ {
        hasher.write_u64(meta.size());
        hasher.write_i64(meta.mtime());
        hasher.write_i64(meta.mtime_nsec());
    } else {
        read(&mut file, &mut hasher, buffer)?;
    }
    Ok(Some(hasher.finish()))
}

fn read(file: &mut File, hasher: &mut DefaultHasher, buffer: &mut [u8]) -> io::Result<()> {
    // A bound, because a file may grow faster than it is read.
    let mut file = file.take(MAX_READ);
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => hasher.write(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The files that were added, removed or changed: at most `max` of them, and how many there are.
pub(super) fn changes(
    before: &Fingerprints,
    now: &Fingerprints,
    max: usize,
) -> (Vec<PathBuf>, usize) {
    let added_or_changed = now.iter().filter(|(path, fingerprint)| {
        before
            .get(*path)
            .is_none_or(|before| before.differs(fingerprint))
    });
    let gone = before.keys().filter(|path| !now.contains_key(*path));
    let mut files = Vec::new();
    let mut count = 0;
    for path in added_or_changed.map(|(path, _)| path).chain(gone) {
        count += 1;
        if files.len() < max {
            files.push(path.clone());
        }
    }
    (files, count)
}

/// One hash for all files and their content. The next master may compare it with that of its own first scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    files: u64,
    /// The same for any files. Another version of this program may hash otherwise; then the digests cannot be compared.
    hasher: u64,
}

impl Digest {
    pub(super) fn of(fingerprints: &Fingerprints) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(b"rotad");
        Self {
            files: digest(fingerprints),
            hasher: hasher.finish(),
        }
    }

    /// Whether the files were others. False also if that cannot be told.
    pub(super) fn differs(self, now: Self) -> bool {
        self.hasher == now.hasher && self.files != now.files
    }
}

fn digest(fingerprints: &Fingerprints) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (path, fingerprint) in fingerprints {
        hasher.write(path.as_os_str().as_encoded_bytes());
        match fingerprint.content {
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
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let files = || vec![a.clone(), b.clone()];
        fs::write(&a, "one").unwrap();
        let first = scan(files(), &Fingerprints::new());
        assert_eq!(first.len(), 1);
        fs::write(&a, "two").unwrap();
        let second = scan(files(), &first);
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
        let third = scan(files(), &second);
        assert_eq!(
            (count(&first, &third), digest(&first) == digest(&third)),
            (0, true)
        );
        fs::rename(&a, &b).unwrap();
        assert_eq!(count(&third, &scan(files(), &third)), 2);
    }

    #[test]
    fn an_unsure_file_differs_from_itself() {
        let dir = tempfile::tempdir().unwrap();
        let a = dir.path().join("a");
        let unsure = Fingerprints::from([(a.clone(), Fingerprint::unsure())]);
        assert_eq!(count(&unsure, &unsure.clone()), 1);
        assert_eq!(count(&unsure, &Fingerprints::new()), 1);
    }

    #[test]
    fn a_fifo_is_ignored_without_blocking() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(scan(vec![fifo.clone()], &Fingerprints::new()).is_empty());
        assert!(content(&fifo, &mut [0; 8]).unwrap().is_none());
    }
}
