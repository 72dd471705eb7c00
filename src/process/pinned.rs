//! The resolved paths of a generation's program and directory. They are resolved at its first spawn and kept, so that a
//! respawn after a crash does not follow a `current` symlink that has moved since.

use super::error::executable;
use super::{SpawnError, SpawnFault, SpawnStage};
use nix::libc;
use rotad_core::Time;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Where programs are looked for if the worker's environment has no PATH.
pub(super) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The program and directory of one generation of one pool: as written, and as resolved.
#[derive(Debug)]
pub struct PinnedPaths {
    program: OsString,
    directory: PathBuf,
    path: Option<OsString>,
    resolved: Mutex<Option<Resolved>>,
    /// The files found at its first spawn.
    first: OnceLock<FileIds>,
    hang: Mutex<Hang>,
    /// The resolved directory, known even if the program was not found in it.
    dir: Mutex<Option<PathBuf>>,
    /// Only the resolved paths will do: they are not resolved again when they are gone.
    held: AtomicBool,
}

/// Spawns of this generation that hung.
#[derive(Debug, Default)]
struct Hang {
    last: Option<(Time, SpawnError)>,
    /// Number of threads that still hang.
    thread_stuck: u32,
}

/// Real paths, without symlinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The real path of the program.
    pub program: PathBuf,
    /// The real path of the working directory.
    pub directory: PathBuf,
}

/// The identity of program and directory, whatever names lead to them: a file that replaces another under the same name
/// counts as changed, and so does one that was overwritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileIds {
    paths: Resolved,
    /// Device, inode, size, and modification time in seconds and nanoseconds.
    program: (u64, u64, u64, i64, i64),
    /// Device and inode: entries may come and go without changing the directory.
    directory: (u64, u64),
}

impl FileIds {
    fn at(paths: &Resolved) -> Result<Self, SpawnError> {
        let look =
            |stage, path: &Path| path.metadata().map_err(|error| failed(stage, &error, path));
        let program = look(SpawnStage::Exec, &paths.program)?;
        let directory = look(SpawnStage::Directory, &paths.directory)?;
        Ok(Self {
            paths: paths.clone(),
            program: (
                program.dev(),
                program.ino(),
                program.size(),
                program.mtime(),
                program.mtime_nsec(),
            ),
            directory: (directory.dev(), directory.ino()),
        })
    }
}

/// What is saved of the paths of a generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedPaths {
    program: OsString,
    directory: OsString,
    path: Option<OsString>,
    resolved: Option<Resolved>,
    first: Option<FileIds>,
    held: bool,
}

impl PinnedPaths {
    /// What the next master needs to know of it.
    pub fn saved(&self) -> SavedPaths {
        SavedPaths {
            program: self.program.clone(),
            directory: self.directory.clone().into_os_string(),
            path: self.path.clone(),
            resolved: self.resolved(),
            first: self.first.get().cloned(),
            held: self.is_held(),
        }
    }

    /// The paths as they were saved.
    pub fn restore(saved: SavedPaths) -> Self {
        let directory = saved.resolved.as_ref();
        let directory = directory.map(|resolved| resolved.directory.clone());
        Self {
            program: saved.program,
            directory: saved.directory.into(),
            path: saved.path,
            resolved: Mutex::new(saved.resolved),
            first: saved.first.map_or_else(OnceLock::new, OnceLock::from),
            hang: Mutex::default(),
            dir: Mutex::new(directory),
            held: AtomicBool::new(saved.held),
        }
    }

    /// `program`: as written, the first word of the command; `directory`: absolute; `path`: the worker's PATH.
    pub fn new(program: OsString, directory: PathBuf, path: Option<OsString>) -> Self {
        Self {
            program,
            directory,
            path,
            resolved: Mutex::new(None),
            first: OnceLock::new(),
            hang: Mutex::default(),
            dir: Mutex::default(),
            held: AtomicBool::new(false),
        }
    }

    /// Already resolved: for a generation that takes over the paths of another.
    pub fn at(
        program: OsString,
        directory: PathBuf,
        path: Option<OsString>,
        resolved: Resolved,
    ) -> Self {
        Self {
            program,
            directory,
            path,
            resolved: Mutex::new(Some(resolved)),
            first: OnceLock::new(),
            hang: Mutex::default(),
            dir: Mutex::default(),
            held: AtomicBool::new(false),
        }
    }

    /// The resolved paths; none before the first spawn. Does not wait for a resolution.
    pub fn resolved(&self) -> Option<Resolved> {
        self.resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The resolved directory, even if the program was not found in it.
    pub fn directory(&self) -> Option<PathBuf> {
        self.dir
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether to insist on the resolved paths even when they are gone.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether a generation that begins now would get another program or directory than this one had at its first
    /// spawn. Changes nothing; blocks as long as the file system does.
    ///
    /// # Errors
    /// The directory or program does not exist now, or cannot be read.
    pub fn has_changed(&self) -> Result<bool, SpawnError> {
        let directory = self.resolve_dir()?;
        let paths = Resolved {
            program: self.search(&directory)?,
            directory,
        };
        Ok(self.first.get() != Some(&FileIds::at(&paths)?))
    }

    /// Resolves and keeps the paths. Blocks as long as the file system does.
    pub(super) fn resolve(&self) -> Result<Resolved, SpawnError> {
        let directory = self.resolve_dir()?;
        *self.dir.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory.clone());
        let program = self.search(&directory)?;
        let found = Resolved { program, directory };
        if let Ok(files) = FileIds::at(&found) {
            self.first.get_or_init(|| files);
        }
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        Ok(found)
    }

    fn resolve_dir(&self) -> Result<PathBuf, SpawnError> {
        let directory = self
            .directory
            .canonicalize()
            .map_err(|error| failed(SpawnStage::Directory, &error, &self.directory))?;
        if !directory.is_dir() {
            return Err(SpawnError::diagnose(
                SpawnStage::Directory,
                libc::ENOTDIR,
                &self.directory,
            ));
        }
        Ok(directory)
    }

    fn hang(&self) -> MutexGuard<'_, Hang> {
        self.hang.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a spawn of this generation had to be killed.
    pub(super) fn hung(&self, now: Time, error: SpawnError) {
        self.hang().last = Some((now, error));
    }

    /// Records that its thread did not return either …
    pub(super) fn thread_stuck(&self) {
        self.hang().thread_stuck += 1;
    }

    /// … and that it has returned now.
    pub(super) fn thread_freed(&self) {
        self.hang().thread_stuck -= 1;
    }

    /// Why a new spawn would hang as well: a thread still hangs, or one hung after this spawn was requested. So a dead
    /// mount costs the other pools one wait and one thread, and not one for each worker that lives on it.
    pub(super) fn fails_fast(&self, requested: Time) -> Option<SpawnError> {
        let hang = self.hang();
        hang.last
            .as_ref()
            .filter(|(last, _)| hang.thread_stuck > 0 || *last >= requested)
            .map(|(_, error)| error.clone())
    }

    /// The subject of a stage, as written.
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
            let found = directory
                .join(program)
                .canonicalize()
                .map_err(|error| failed(SpawnStage::Exec, &error, program))?;
            return if executable(&found) {
                Ok(found)
            } else {
                Err(not_executable(program))
            };
        }
        let path = self.path.as_deref().unwrap_or(OsStr::new(DEFAULT_PATH));
        let mut seen = None;
        // Empty and relative entries are relative to the worker's directory (execvp(3)).
        for entry in path.as_bytes().split(|&byte| byte == b':') {
            let candidate = directory.join(OsStr::from_bytes(entry)).join(program);
            if executable(&candidate) {
                return candidate
                    .canonicalize()
                    .map_err(|error| failed(SpawnStage::Exec, &error, &candidate));
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
    // There is no file to examine: the errno alone decides.
    match (stage, errno) {
        (SpawnStage::Exec, libc::ENOENT | libc::ENOTDIR) => missing(path),
        (_, libc::EACCES) => {
            SpawnError::with_fault(stage, errno, path, SpawnFault::PermissionDenied)
        }
        _ => SpawnError::diagnose(stage, errno, path),
    }
}

fn missing(program: &Path) -> SpawnError {
    SpawnError::with_fault(
        SpawnStage::Exec,
        libc::ENOENT,
        program,
        SpawnFault::NoSuchProgram,
    )
}

fn not_executable(program: &Path) -> SpawnError {
    SpawnError::with_fault(
        SpawnStage::Exec,
        libc::EACCES,
        program,
        SpawnFault::NotExecutable,
    )
}
