//! Restores files of the runtime directory that were removed: by a cleaner of old files, an `rm -rf` in the wrong
//! place, a deploy that changed a symlink on the way to it. Runs on a thread that may block, and learns of removals by
//! inotify(7), so that nothing wakes up while all is in place.

use super::{RuntimeDir, RuntimeDirError, SOCKET, lock, near};
use crate::runtime_dir::dir::TrustedDir;
use crate::runtime_dir::pid_file::PidFile;
use crate::runtime_dir::stale_workers::StaleWorkers;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The folder of the workers' notify sockets.
pub const NOTIFY: &str = "notify";

/// The list of workers, which is not ours to write.
const JOURNAL: &str = "workers";

/// That a file loses its name: its number of names changes (IN_ATTRIB) while we have it open, else it is gone.
const GOES: AddWatchFlags = AddWatchFlags::IN_ATTRIB
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// The same of a folder; of what is in it nothing is heard.
const FOLDER_GOES: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF.union(AddWatchFlags::IN_MOVE_SELF);

/// What goes in the folder of notify sockets, where nothing happens but births and deaths.
const LEAVES: AddWatchFlags = AddWatchFlags::IN_DELETE
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(FOLDER_GOES);

/// What was made again.
#[derive(Debug, Default)]
pub struct Mended {
    /// For people; empty: all was in place.
    pub what: Vec<String>,
    pub control: Option<UnixListener>,
    /// The real path of the runtime directory, where it is another folder now.
    pub folder: Option<PathBuf>,
    /// The list of workers is to be written anew.
    pub journal: bool,
}

/// The house, for the thread that mends it, and the ear for what is taken away.
#[derive(Clone, Debug)]
pub struct RuntimeDirRepair {
    house: Arc<Mutex<RuntimeDir>>,
    /// None: the kernel grants no more of them; then signals and reloads look alone.
    ear: Option<Arc<Inotify>>,
}

impl RuntimeDirRepair {
    /// From here on it is heard when something is taken away.
    pub fn new(house: RuntimeDir) -> Self {
        let ear = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .ok()
            .map(Arc::new);
        if let Some(ear) = &ear {
            house.listen(ear);
        }
        Self {
            house: Arc::new(Mutex::new(house)),
            ear,
        }
    }

    /// Readable when something may be missing.
    pub fn ear(&self) -> Option<&Inotify> {
        self.ear.as_deref()
    }

    /// Looks after everything, and makes again what is missing. May wait for a disk.
    ///
    /// # Errors
    /// Something cannot be made again, or another master sits there now: what is left serves on.
    pub fn mend(&self, mode: u32, group: Option<u32>) -> Result<Mended, RuntimeDirError> {
        let mut house = self.house.lock().unwrap_or_else(PoisonError::into_inner);
        let mended = house.mend(mode, group);
        if let Some(ear) = &self.ear {
            house.listen(ear);
        }
        mended
    }

    /// The end: what is ours is removed, then the lock is released. A mending that hangs on a dead disk is not waited
    /// for: then the kernel releases it with the process.
    pub fn leave(self) {
        let Self { house, ear } = self;
        drop(ear);
        if let Ok(mut house) = house.try_lock() {
            house.tidy_up();
        }
    }
}

impl RuntimeDir {
    fn mend(&mut self, mode: u32, group: Option<u32>) -> Result<Mended, RuntimeDirError> {
        let mut mended = Mended::default();
        let failed = |what: &str, error: io::Error| {
            RuntimeDirError::failed(format!("{what} cannot be made again: {error}"))
        };
        if !self.is_at_home() {
            // A folder that was removed has no name left.
            let moved =
                nix::sys::stat::fstat(&self.folder.fd).is_ok_and(|about| about.st_nlink > 0);
            self.move_in()?;
            let why = if moved {
                " (its path leads to another folder now)"
            } else {
                ""
            };
            mended.what.push(format!(
                "the runtime directory {}{why}",
                self.wanted.display()
            ));
            (mended.folder, mended.journal) = (Some(self.path.clone()), true);
        } else if !lock::is_in_place(&self.folder, &self.lock) {
            self.lock = lock::take(&self.folder, &self.path, &mut mended.what)?;
            mended.what.push("its lock".to_owned());
        }
        if self.folder.identity(NOTIFY).is_none() {
            // The umask of the master may be anything.
            let made =
                mkdirat(&self.folder.fd, NOTIFY, Mode::from_bits_truncate(0o711)).and_then(|()| {
                    fchmodat(
                        &self.folder.fd,
                        NOTIFY,
                        Mode::from_bits_truncate(0o711),
                        FchmodatFlags::FollowSymlink,
                    )
                });
            made.map_err(|error| failed("the folder of notify sockets", error.into()))?;
            mended.what.push("the folder of notify sockets".to_owned());
        }
        if self.socket.is_some() && self.folder.identity(SOCKET) != self.socket {
            mended.control = Some(
                self.control_socket(mode, group)
                    .map_err(|error| failed("the control socket", error))?,
            );
            mended.what.push("the control socket".to_owned());
        }
        if self.folder.identity(JOURNAL).is_none() && !mended.journal {
            mended.what.push("the list of workers".to_owned());
            mended.journal = true;
        }
        if !self.pid_file.is_in_place() {
            let mut anew = PidFile::look(self.pid_file.path())?;
            anew.write()?;
            mended.what.push("the pid file".to_owned());
            std::mem::replace(&mut self.pid_file, anew).remove();
        }
        Ok(mended)
    }

    /// The configured path still leads to the folder that we are in.
    fn is_at_home(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let wanted = self
            .wanted
            .metadata()
            .map(|about| (about.dev(), about.ino()));
        nix::sys::stat::fstat(&self.folder.fd)
            .is_ok_and(|ours| wanted.is_ok_and(|wanted| wanted == (ours.st_dev, ours.st_ino)))
    }

    /// Takes the folder at the configured path, as at the start.
    fn move_in(&mut self) -> Result<(), RuntimeDirError> {
        let folder = TrustedDir::enter(&self.wanted)?;
        let mut said = Vec::new();
        let lock = lock::take(&folder, &self.wanted, &mut said)?;
        if StaleWorkers::find(&self.wanted).is_ok_and(|left| !left.found.is_empty()) {
            let place = self.wanted.display();
            let text = format!(
                "{place} is another folder now, in which a killed master has noted workers that live"
            );
            return Err(RuntimeDirError::failed(text));
        }
        super::sweep(&folder);
        if self.folder.identity(SOCKET) == self.socket {
            self.folder.unlink(SOCKET).ok();
        }
        // So that the next step makes a new one.
        self.socket = self.socket.map(|_| (0, 0));
        self.path = self
            .wanted
            .canonicalize()
            .unwrap_or_else(|_| self.wanted.clone());
        (self.folder, self.lock) = (folder, lock);
        Ok(())
    }

    /// Hears when one of these files loses its name. By descriptors where we have them: no path is walked.
    fn listen(&self, ear: &Inotify) {
        let hear = |path: &Path, what: AddWatchFlags| {
            ear.add_watch(path, what).ok();
        };
        for name in [SOCKET, JOURNAL] {
            hear(
                &near(&self.folder.fd, name),
                GOES | AddWatchFlags::IN_DONT_FOLLOW,
            );
        }
        hear(
            &near(&self.folder.fd, NOTIFY),
            LEAVES | AddWatchFlags::IN_DONT_FOLLOW,
        );
        let files = [
            Some(self.lock.as_raw_fd()),
            self.pid_file.file().map(AsRawFd::as_raw_fd),
        ];
        for number in files.into_iter().flatten() {
            hear(Path::new(&format!("/proc/self/fd/{number}")), GOES);
        }
        hear(
            Path::new(&format!("/proc/self/fd/{}", self.folder.fd.as_raw_fd())),
            FOLDER_GOES,
        );
    }
}

/// Workers of any user pass through it to their own socket; nobody but us lists or writes it. What a dead master left in
/// it is removed.
///
/// # Errors
/// The kernel's: no room, a read-only file system.
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
