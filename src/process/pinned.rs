//! Where a generation's program and directory really are: found out at its first birth, and kept, so that a `current`
//! link that has moved since is not followed when a crash is repaired.

use super::error::executable;
use super::{SpawnError, SpawnFault, SpawnStage};
use nix::libc;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Where programs are looked for if the worker's environment has no PATH.
pub(super) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What one generation of one pool is made from: as written, and as found.
#[derive(Debug)]
pub struct PinnedPaths {
    program: OsString,
    directory: PathBuf,
    path: Option<OsString>,
    resolved: Mutex<Option<Resolved>>,
    /// What was found at its first birth.
    first: OnceLock<Files>,
    hang: Mutex<Hang>,
    /// The folder, once it was found, also where the program then was not.
    folder: Mutex<Option<PathBuf>>,
    /// Where it was found is the point of it: nothing else will do.
    held: AtomicBool,
}

/// What is known of births that did not come back.
#[derive(Debug, Default)]
struct Hang {
    last: Option<(Instant, SpawnError)>,
    /// Threads that still hang.
    stuck: u32,
}

/// As found: real paths, without links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub program: PathBuf,
    pub directory: PathBuf,
}

/// The program and the folder themselves, whatever names lead to them: a file that takes another's place under the same
/// name is another one, and so is one that was written over.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    places: Resolved,
    /// Device, inode, size, and when it was written last, in seconds and nanoseconds.
    program: (u64, u64, u64, i64, i64),
    /// Device and inode: what comes and goes in it makes it no other folder.
    directory: (u64, u64),
}

impl Files {
    fn at(places: &Resolved) -> Result<Self, SpawnError> {
        let look = |stage, path: &Path| path.metadata().map_err(|error| failed(stage, &error, path));
        let program = look(SpawnStage::Exec, &places.program)?;
        let directory = look(SpawnStage::Directory, &places.directory)?;
        Ok(Self {
            places: places.clone(),
            program: (program.dev(), program.ino(), program.size(), program.mtime(), program.mtime_nsec()),
            directory: (directory.dev(), directory.ino()),
        })
    }
}

impl PinnedPaths {
    /// `program`: as written, the first of the command; `directory`: absolute; `path`: the worker's PATH.
    pub fn new(program: OsString, directory: PathBuf, path: Option<OsString>) -> Self {
        Self {
            program,
            directory,
            path,
            resolved: Mutex::new(None),
            first: OnceLock::new(),
            hang: Mutex::default(),
            folder: Mutex::default(),
            held: AtomicBool::new(false),
        }
    }

    /// Already found: for a generation that goes on from where another was.
    pub fn at(program: OsString, directory: PathBuf, path: Option<OsString>, resolved: Resolved) -> Self {
        Self {
            program,
            directory,
            path,
            resolved: Mutex::new(Some(resolved)),
            first: OnceLock::new(),
            hang: Mutex::default(),
            folder: Mutex::default(),
            held: AtomicBool::new(false),
        }
    }

    /// Where the generation is; none before its first birth. Never blocks for long: it is not held while searching.
    pub fn resolved(&self) -> Option<Resolved> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The folder that it was found to stand in, also where its program was not found there.
    pub fn folder(&self) -> Option<PathBuf> {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether only the place that was found will do, also when it is gone.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether a generation that is begun now would be made from another program or folder than this one was at its
    /// first birth. Changes nothing; blocks as long as the file system does.
    ///
    /// # Errors
    /// There is no such folder or program now, or it cannot be looked at.
    pub fn has_changed(&self) -> Result<bool, SpawnError> {
        let directory = self.find_folder()?;
        let places = Resolved { program: self.search(&directory)?, directory };
        Ok(self.first.get() != Some(&Files::at(&places)?))
    }

    /// Searches, and keeps what is found. Blocks as long as the file system does.
    pub(super) fn resolve(&self) -> Result<Resolved, SpawnError> {
        let directory = self.find_folder()?;
        *self.folder.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory.clone());
        let program = self.search(&directory)?;
        let found = Resolved { program, directory };
        if let Ok(files) = Files::at(&found) {
            self.first.get_or_init(|| files);
        }
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        Ok(found)
    }

    fn find_folder(&self) -> Result<PathBuf, SpawnError> {
        let directory =
            self.directory.canonicalize().map_err(|error| failed(SpawnStage::Directory, &error, &self.directory))?;
        if !directory.is_dir() {
            return Err(SpawnError::diagnose(SpawnStage::Directory, libc::ENOTDIR, &self.directory));
        }
        Ok(directory)
    }

    fn hang(&self) -> MutexGuard<'_, Hang> {
        self.hang.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A birth from here had to be ended.
    pub(super) fn hung(&self, error: SpawnError) {
        self.hang().last = Some((Instant::now(), error));
    }

    /// A thread did not even come back then …
    pub(super) fn stuck(&self) {
        self.hang().stuck += 1;
    }

    /// … and now it has.
    pub(super) fn freed(&self) {
        self.hang().stuck -= 1;
    }

    /// Why a birth would only hang as well: a thread still does, or one did after this was ordered. So a dead mount
    /// costs the other pools one wait, and one thread, instead of one for each worker that lives on it.
    pub(super) fn hopeless(&self, ordered: Instant) -> Option<SpawnError> {
        let hang = self.hang();
        hang.last.as_ref().filter(|(last, _)| hang.stuck > 0 || *last >= ordered).map(|(_, error)| error.clone())
    }

    /// What a stage is about, as written.
    pub(super) fn subject(&self, stage: SpawnStage) -> String {
        match stage {
            SpawnStage::Exec => Path::new(&self.program).display().to_string(),
            SpawnStage::Directory | SpawnStage::Resolve => self.directory.display().to_string(),
            _ => String::new(),
        }
    }

    fn search(&self, directory: &Path) -> Result<PathBuf, SpawnError> {
        let program = Path::new(&self.program);
        if self.program.as_bytes().contains(&b'/') {
            let found =
                directory.join(program).canonicalize().map_err(|error| failed(SpawnStage::Exec, &error, program))?;
            return if executable(&found) { Ok(found) } else { Err(not_executable(program)) };
        }
        let path = self.path.as_deref().unwrap_or(OsStr::new(DEFAULT_PATH));
        let mut seen = None;
        // An empty entry, or a relative one, is meant from where the worker stands (execvp(3)).
        for entry in path.as_bytes().split(|&byte| byte == b':') {
            let candidate = directory.join(OsStr::from_bytes(entry)).join(program);
            if executable(&candidate) {
                return candidate.canonicalize().map_err(|error| failed(SpawnStage::Exec, &error, &candidate));
            }
            if seen.is_none() && candidate.is_file() {
                seen = Some(candidate);
            }
        }
        Err(seen.map_or_else(|| missing(program), |found| not_executable(&found)))
    }
}

fn failed(stage: SpawnStage, error: &io::Error, path: &Path) -> SpawnError {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    // Nothing is there to be looked at: the errno alone decides.
    match (stage, errno) {
        (SpawnStage::Exec, libc::ENOENT | libc::ENOTDIR) => missing(path),
        (_, libc::EACCES) => SpawnError::with_fault(stage, errno, path, SpawnFault::PermissionDenied),
        _ => SpawnError::diagnose(stage, errno, path),
    }
}

fn missing(program: &Path) -> SpawnError {
    SpawnError::with_fault(SpawnStage::Exec, libc::ENOENT, program, SpawnFault::NoSuchProgram)
}

fn not_executable(program: &Path) -> SpawnError {
    SpawnError::with_fault(SpawnStage::Exec, libc::EACCES, program, SpawnFault::NotExecutable)
}
