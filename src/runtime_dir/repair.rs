//! Restores files of the runtime directory that were removed: by a cleaner of old files, a misplaced `rm -rf`, or a deploy
//! that changed a symlink in its path. [`RuntimeDirRepair::repair`] runs as a blocking job; the main loop watches
//! [`RuntimeDirRepair::inotify`], so that nothing wakes up while all files are in place.

use super::{RuntimeDir, RuntimeDirError, SOCKET, SavedRuntimeDir, lock, proc_fd_path};
use crate::runtime_dir::dir::TrustedDir;
use crate::runtime_dir::pid_file::PidFile;
use crate::runtime_dir::stale_workers::StaleWorkers;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// The directory of the workers' notify sockets, in the runtime directory.
pub const NOTIFY_DIR: &str = "notify";

/// The worker journal, which the supervisor writes.
const JOURNAL_FILE: &str = "workers";

/// A file loses its name: while it is open, its number of links changes (IN_ATTRIB).
const FILE_EVENTS: AddWatchFlags = AddWatchFlags::IN_ATTRIB
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// A directory is removed or moved; no events for its content.
const DIR_EVENTS: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF.union(AddWatchFlags::IN_MOVE_SELF);

/// A file is removed from the directory of notify sockets.
const NOTIFY_DIR_EVENTS: AddWatchFlags = AddWatchFlags::IN_DELETE
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(DIR_EVENTS);

/// The result of a repair.
#[derive(Debug, Default)]
pub struct Repaired {
    /// What was restored, in words; empty if everything was in place.
    pub what: Vec<String>,
    /// The new control socket, if there is one.
    pub control: Option<UnixListener>,
    /// The real path of the runtime directory, if it is another directory now.
    pub runtime_dir: Option<PathBuf>,
    /// The worker journal has to be written again.
    pub journal: bool,
}

/// The runtime directory, shared with the thread that repairs it, and the inotify(7) watches of its files.
#[derive(Clone, Debug)]
pub struct RuntimeDirRepair {
    runtime_dir: Arc<Mutex<RuntimeDir>>,
    /// None if the kernel grants no inotify instance: then only signals and reloads cause a check.
    inotify: Option<Arc<Inotify>>,
}

impl RuntimeDirRepair {
    /// Starts watching the files.
    pub fn new(runtime_dir: RuntimeDir) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .ok()
            .map(Arc::new);
        if let Some(inotify) = &inotify {
            runtime_dir.watch_files(inotify);
        }
        Self {
            runtime_dir: Arc::new(Mutex::new(runtime_dir)),
            inotify,
        }
    }

    /// Readable when a file may be missing; None without inotify.
    pub fn inotify(&self) -> Option<&Inotify> {
        self.inotify.as_deref()
    }

    /// Ends the watches, for good. To drop what is returned may block for 20 ms: the kernel waits for all who may still
    /// read the watches (fsnotify_destroy_group).
    pub fn stop_watching(&mut self) -> Option<Arc<Inotify>> {
        self.inotify.take()
    }

    /// Checks all files, and restores those that are missing. May block. `mode` and `group`: of the control socket.
    ///
    /// # Errors
    /// A file cannot be restored, or another master uses the directory now. This master goes on with what it has.
    pub fn repair(&self, mode: u32, group: Option<u32>) -> Result<Repaired, RuntimeDirError> {
        let mut runtime_dir = self
            .runtime_dir
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let repaired = runtime_dir.repair(mode, group);
        if let Some(inotify) = &self.inotify {
            runtime_dir.watch_files(inotify);
        }
        repaired
    }

    /// What the next master needs to go on with the runtime directory; None while it is being repaired. After each
    /// [`RuntimeDirRepair::repair`] it may be something else.
    ///
    /// # Errors
    /// As [`RuntimeDir::saved`].
    pub fn saved(&self) -> io::Result<Option<SavedRuntimeDir>> {
        let runtime_dir = match self.runtime_dir.try_lock() {
            Ok(runtime_dir) => runtime_dir,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        runtime_dir.saved().map(Some)
    }

    /// Closes the descriptors that repairs have replaced, if this is what the next master finds saved and it is true.
    pub fn close_replaced(&self, saved: &SavedRuntimeDir) {
        if let Ok(mut runtime_dir) = self.runtime_dir.try_lock()
            && runtime_dir.saved().is_ok_and(|now| now == *saved)
        {
            runtime_dir.replaced.clear();
        }
    }

    /// Removes our files and releases the lock; called at exit. Does not wait for a repair that hangs on a dead disk: then
    /// the kernel releases the lock with the process.
    pub fn leave(self) {
        let Self {
            runtime_dir,
            inotify,
        } = self;
        drop(inotify);
        if let Ok(mut runtime_dir) = runtime_dir.try_lock() {
            runtime_dir.release();
        }
    }
}

impl RuntimeDir {
    fn repair(&mut self, mode: u32, group: Option<u32>) -> Result<Repaired, RuntimeDirError> {
        let mut repaired = Repaired::default();
        let failed = |what: &str, error: io::Error| {
            RuntimeDirError::failed(format!("{what} cannot be restored: {error}"))
        };
        if !self.path_is_unchanged() {
            // A removed directory has no link left.
            let moved =
                nix::sys::stat::fstat(&self.directory.fd).is_ok_and(|stat| stat.st_nlink > 0);
            self.enter_again()?;
            let why = if moved {
                " (its path leads to another directory now)"
            } else {
                ""
            };
            repaired.what.push(format!(
                "the runtime directory {}{why}",
                self.configured_path.display()
            ));
            (repaired.runtime_dir, repaired.journal) = (Some(self.path.clone()), true);
        } else if !lock::is_in_place(&self.directory, &self.lock) {
            let lock = lock::take(&self.directory, &self.path, &mut repaired.what)?;
            let replaced = std::mem::replace(&mut self.lock, lock);
            self.replaced.push(replaced.into());
            repaired.what.push("its lock".to_owned());
        }
        if self.directory.identity(NOTIFY_DIR).is_none() {
            // mkdirat(2) applies the umask.
            let made = mkdirat(
                &self.directory.fd,
                NOTIFY_DIR,
                Mode::from_bits_truncate(0o711),
            )
            .and_then(|()| {
                fchmodat(
                    &self.directory.fd,
                    NOTIFY_DIR,
                    Mode::from_bits_truncate(0o711),
                    FchmodatFlags::FollowSymlink,
                )
            });
            made.map_err(|error| failed("the directory of notify sockets", error.into()))?;
            repaired
                .what
                .push("the directory of notify sockets".to_owned());
        }
        if self.socket.is_some() && self.directory.identity(SOCKET) != self.socket {
            repaired.control = Some(
                self.control_socket(mode, group)
                    .map_err(|error| failed("the control socket", error))?,
            );
            repaired.what.push("the control socket".to_owned());
        }
        if self.directory.identity(JOURNAL_FILE).is_none() && !repaired.journal {
            repaired.what.push("the list of workers".to_owned());
            repaired.journal = true;
        }
        if !self.pid_file.is_in_place() {
            let mut pid_file = PidFile::check(self.pid_file.path())?;
            pid_file.write()?;
            repaired.what.push("the pid file".to_owned());
            let replaced = std::mem::replace(&mut self.pid_file, pid_file);
            self.replaced.extend(replaced.retire());
        }
        Ok(repaired)
    }

    /// Whether the configured path still leads to the open directory.
    fn path_is_unchanged(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let configured_path = self
            .configured_path
            .metadata()
            .map(|stat| (stat.dev(), stat.ino()));
        nix::sys::stat::fstat(&self.directory.fd).is_ok_and(|written| {
            configured_path
                .is_ok_and(|configured_path| configured_path == (written.st_dev, written.st_ino))
        })
    }

    /// Takes the directory at the configured path, as at the start.
    fn enter_again(&mut self) -> Result<(), RuntimeDirError> {
        let directory = TrustedDir::enter(&self.configured_path)?;
        let mut warnings = Vec::new();
        let lock = lock::take(&directory, &self.configured_path, &mut warnings)?;
        if StaleWorkers::find(&self.configured_path).is_ok_and(|stale| !stale.found.is_empty()) {
            let configured_path = self.configured_path.display();
            let text = format!(
                "{configured_path} is another directory now, in which the journal of a killed master has workers that still run"
            );
            return Err(RuntimeDirError::failed(text));
        }
        super::remove_stale_sockets(&directory);
        if self.directory.identity(SOCKET) == self.socket {
            self.directory.unlink(SOCKET).ok();
        }
        // Matches no file: the control socket is then created in the new directory.
        self.socket = self.socket.map(|_| (0, 0));
        self.path = self
            .configured_path
            .canonicalize()
            .unwrap_or_else(|_| self.configured_path.clone());
        let directory = std::mem::replace(&mut self.directory, directory);
        let lock = std::mem::replace(&mut self.lock, lock);
        self.replaced.extend([directory.fd, lock.into()]);
        Ok(())
    }

    /// Watches whether a file loses its name; by descriptor where there is one, so that no path is resolved.
    fn watch_files(&self, inotify: &Inotify) {
        let watch = |path: &Path, what: AddWatchFlags| {
            inotify.add_watch(path, what).ok();
        };
        for name in [SOCKET, JOURNAL_FILE] {
            watch(
                &proc_fd_path(&self.directory.fd, name),
                FILE_EVENTS | AddWatchFlags::IN_DONT_FOLLOW,
            );
        }
        watch(
            &proc_fd_path(&self.directory.fd, NOTIFY_DIR),
            NOTIFY_DIR_EVENTS | AddWatchFlags::IN_DONT_FOLLOW,
        );
        let files = [
            Some(self.lock.as_raw_fd()),
            self.pid_file.file().map(AsRawFd::as_raw_fd),
        ];
        for number in files.into_iter().flatten() {
            watch(Path::new(&format!("/proc/self/fd/{number}")), FILE_EVENTS);
        }
        watch(
            Path::new(&format!("/proc/self/fd/{}", self.directory.fd.as_raw_fd())),
            DIR_EVENTS,
        );
    }
}

/// Creates the directory of notify sockets, mode 0711: workers of any user reach their own socket, only the master lists
/// and writes it. Removes the files of a dead master.
///
/// # Errors
/// ENOSPC, EROFS, EACCES.
pub fn make_notify_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    match std::fs::DirBuilder::new().mode(0o711).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            for entry in std::fs::read_dir(path)?.flatten() {
                std::fs::remove_file(entry.path()).ok();
            }
        }
        other => other?,
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711))
}
