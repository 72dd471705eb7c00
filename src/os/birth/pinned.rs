//! Where a generation's program and directory really are: found out at its first birth, and kept, so that a `current`
//! link that has moved since is not followed when a crash is repaired.

use super::error::executable;
use super::{BirthError, Fault, Stage};
use nix::libc;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Where programs are looked for if the worker's environment has no PATH.
pub(super) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What one generation of one pool is made from: as written, and as found.
#[derive(Debug)]
pub struct Pinned {
    program: OsString,
    directory: PathBuf,
    path: Option<OsString>,
    resolved: Mutex<Option<Resolved>>,
    hang: Mutex<Hang>,
    /// The folder, once it was found, also where the program then was not.
    folder: Mutex<Option<PathBuf>>,
    /// Where it was found is the point of it: nothing else will do.
    held: AtomicBool,
}

/// What is known of births that did not come back.
#[derive(Debug, Default)]
struct Hang {
    last: Option<(Instant, BirthError)>,
    /// Threads that still hang.
    stuck: u32,
}

/// As found: real paths, without links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub program: PathBuf,
    pub directory: PathBuf,
}

impl Pinned {
    /// `program`: as written, the first of the command; `directory`: absolute; `path`: the worker's PATH.
    pub fn new(program: OsString, directory: PathBuf, path: Option<OsString>) -> Self {
        Self {
            program,
            directory,
            path,
            resolved: Mutex::new(None),
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

    /// Searches, and keeps what is found. Blocks as long as the file system does.
    pub(super) fn resolve(&self) -> Result<Resolved, BirthError> {
        let directory =
            self.directory.canonicalize().map_err(|error| failed(Stage::Directory, &error, &self.directory))?;
        if !directory.is_dir() {
            return Err(BirthError::diagnose(Stage::Directory, libc::ENOTDIR, &self.directory));
        }
        *self.folder.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory.clone());
        let program = self.search(&directory)?;
        let found = Resolved { program, directory };
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        Ok(found)
    }

    fn hang(&self) -> MutexGuard<'_, Hang> {
        self.hang.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A birth from here had to be ended.
    pub(super) fn hung(&self, error: BirthError) {
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
    pub(super) fn hopeless(&self, ordered: Instant) -> Option<BirthError> {
        let hang = self.hang();
        hang.last.as_ref().filter(|(last, _)| hang.stuck > 0 || *last >= ordered).map(|(_, error)| error.clone())
    }

    /// What a stage is about, as written.
    pub(super) fn subject(&self, stage: Stage) -> String {
        match stage {
            Stage::Exec => Path::new(&self.program).display().to_string(),
            Stage::Directory | Stage::Resolve => self.directory.display().to_string(),
            _ => String::new(),
        }
    }

    fn search(&self, directory: &Path) -> Result<PathBuf, BirthError> {
        let program = Path::new(&self.program);
        if self.program.as_bytes().contains(&b'/') {
            let found = directory.join(program).canonicalize().map_err(|error| failed(Stage::Exec, &error, program))?;
            return if executable(&found) { Ok(found) } else { Err(not_executable(program)) };
        }
        let path = self.path.as_deref().unwrap_or(OsStr::new(DEFAULT_PATH));
        let mut seen = None;
        // An empty entry, or a relative one, is meant from where the worker stands (execvp(3)).
        for entry in path.as_bytes().split(|&byte| byte == b':') {
            let candidate = directory.join(OsStr::from_bytes(entry)).join(program);
            if executable(&candidate) {
                return candidate.canonicalize().map_err(|error| failed(Stage::Exec, &error, &candidate));
            }
            if seen.is_none() && candidate.is_file() {
                seen = Some(candidate);
            }
        }
        Err(seen.map_or_else(|| missing(program), |found| not_executable(&found)))
    }
}

fn failed(stage: Stage, error: &io::Error, path: &Path) -> BirthError {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    // Nothing is there to be looked at: the errno alone decides.
    match (stage, errno) {
        (Stage::Exec, libc::ENOENT | libc::ENOTDIR) => missing(path),
        (_, libc::EACCES) => BirthError::with_fault(stage, errno, path, Fault::PermissionDenied),
        _ => BirthError::diagnose(stage, errno, path),
    }
}

fn missing(program: &Path) -> BirthError {
    BirthError::with_fault(Stage::Exec, libc::ENOENT, program, Fault::NoSuchProgram)
}

fn not_executable(program: &Path) -> BirthError {
    BirthError::with_fault(Stage::Exec, libc::EACCES, program, Fault::NotExecutable)
}
