//! The file that keeps the sums over a restart of this process.

use super::sums::Saved;
use rotad::observe::print;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// In the runtime directory of the master.
const FILE: &str = "serve-metrics.json";
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// The file, held by one process.
pub(super) struct SumsFile {
    path: PathBuf,
    /// Locked as long as this process lives. None: it cannot be kept, which was said.
    lock: Option<File>,
}

impl SumsFile {
    /// Takes the file in this directory, and reads what is in it.
    pub(super) fn open(runtime_dir: &Path) -> (Self, Saved) {
        let path = runtime_dir.join(FILE);
        let lock = match lock(&path) {
            Ok(lock) => Some(lock),
            Err(why) => {
                print::warning(&format!(
                    "what is counted of workers that are gone is forgotten when this process ends: {}: {why}",
                    path.display()
                ));
                None
            }
        };
        let saved = lock.as_ref().map(|_| read(&path)).unwrap_or_default();
        (Self { path, lock }, saved)
    }

    /// Writes the file, in one piece.
    pub(super) fn save(&self, saved: &Saved) {
        if self.lock.is_some() {
            // A full disk: the next time says it better, and there is nothing to be done meanwhile.
            write(&self.path, saved).ok();
        }
    }
}

/// One process keeps the file: two would overwrite each other's.
fn lock(path: &Path) -> Result<File, String> {
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path.with_extension("lock"))
        .map_err(|error| error.to_string())?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err("another `rotad serve` keeps it".to_owned()),
        Err(std::fs::TryLockError::Error(error)) => Err(error.to_string()),
    }
}

fn read(path: &Path) -> Saved {
    let text = File::open(path).and_then(|file| {
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text)?;
        Ok(text)
    });
    let read = match text {
        Err(error) if error.kind() == ErrorKind::NotFound => return Saved::default(),
        Err(error) => Err(error.to_string()),
        Ok(text) => serde_json::from_str(&text).map_err(|error| error.to_string()),
    };
    read.unwrap_or_else(|why| {
        print::warning(&format!(
            "the sums of the workers' metrics begin at 0, since {} cannot be read: {why}",
            path.display()
        ));
        Saved::default()
    })
}

fn write(path: &Path, saved: &Saved) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(serde_json::to_string(saved)?.as_bytes())?;
    std::fs::rename(draft, path)
}
