//! The notify sockets of workers (NOTIFY_SOCKET, sd_notify(3)). Each worker has its own, so that a flood from one worker
//! cannot fill the queue that another one's READY=1 needs, and so that the socket identifies the worker even if the sender
//! has already exited.
//!
//! Only datagrams of up to 4096 bytes and from the worker's uid or root are accepted. Their descriptors are closed unread
//! (that is how BARRIER=1 works), on a separate thread since close(2) may block.
//!
//! A master that dies between a message and its record must not lose it: such a caller reads in two steps,
//! [`NotifySocket::peek`] and [`NotifySocket::consume`].

use crate::plan::MAX_UNIX_PATH;
use crate::sys::kept_fd::{FdTable, KeptFd};
use crate::sys::message::{self, Datagram};
use crate::sys::poll::is_ready;
use crate::sys::thread;
use crossbeam_channel::{Sender, TrySendError, bounded};
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, bind, getsockname, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Uid, geteuid};
use rotad_core::WorkerId;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Maximum length of a datagram, in bytes.
const MAX_BYTES: usize = 4096;
/// Maximum length of a status, in characters.
const MAX_STATUS: usize = 256;
/// Maximum number of former sockets that are read besides the current one.
const MAX_OLD_SOCKETS: usize = 2;

/// The content of one datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// READY=1: the worker is ready.
    pub ready: bool,
    /// STOPPING=1: the worker stops.
    pub stopping: bool,
    /// RELOADING=1: the worker reloads its configuration.
    pub reloading: bool,
    /// WATCHDOG=1: the worker is alive.
    pub watchdog: bool,
    /// WATCHDOG=trigger: the worker declares itself broken.
    pub trigger: bool,
    /// WATCHDOG_USEC: the watchdog interval from now on; zero switches the watchdog off.
    pub watchdog_interval: Option<Duration>,
    /// EXTEND_TIMEOUT_USEC: the time that the worker needs from now on.
    pub extend: Option<Duration>,
    /// STATUS: at most 256 characters; may contain control characters.
    pub status: Option<String>,
    /// MAINPID: the pid of the main process.
    pub main_pid: Option<i32>,
}

/// The notify socket of one worker.
#[derive(Debug)]
pub struct NotifySocket {
    fd: OwnedFd,
    /// Former sockets whose file was removed: processes that are connected to them may still send.
    old_sockets: Vec<OwnedFd>,
    /// None for an abstract address.
    path: Option<PathBuf>,
    value: OsString,
    /// Datagrams of this user and of root are accepted.
    uid: u32,
    too_long: AtomicU64,
    foreign: AtomicU64,
}

/// What is saved of a notify socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedNotifySocket {
    fd: KeptFd,
    #[serde(default, skip_serializing_if = "crate::saved_state::is_default")]
    old_sockets: Vec<KeptFd>,
    has_file: bool,
    #[serde(with = "crate::saved_state::os_text")]
    value: OsString,
    #[serde(default, skip_serializing_if = "crate::saved_state::is_default")]
    uid: u32,
    #[serde(default, skip_serializing_if = "crate::saved_state::is_default")]
    too_long: u64,
    #[serde(default, skip_serializing_if = "crate::saved_state::is_default")]
    foreign: u64,
}

/// Messages that are still in the queues of a notify socket.
#[derive(Debug, Default)]
#[must_use = "they are read again until they are consumed"]
pub struct Peeked {
    /// Their content.
    pub messages: Vec<Message>,
    /// How many datagrams of which socket: the messages, and those that were not accepted.
    datagrams: Vec<(RawFd, usize)>,
}

impl NotifySocket {
    /// What the next master needs to go on reading.
    ///
    /// # Errors
    /// Those of fstat(2); none for open descriptors.
    pub fn saved(&self) -> io::Result<SavedNotifySocket> {
        Ok(SavedNotifySocket {
            fd: KeptFd::of(&self.fd)?,
            old_sockets: self
                .old_sockets
                .iter()
                .map(KeptFd::of)
                .collect::<io::Result<_>>()?,
            has_file: self.path.is_some(),
            value: self.value.clone(),
            uid: self.uid,
            too_long: self.too_long(),
            foreign: self.foreign(),
        })
    }

    /// Goes on with the socket of a dead master. Whether its file is still there: [`NotifySocket::is_missing`].
    ///
    /// # Errors
    /// As [`FdTable::take`], for the current socket; a former one that is missing is left out.
    pub fn restore(saved: SavedNotifySocket, table: &mut FdTable) -> io::Result<Self> {
        let fd = table.take(saved.fd)?;
        let old_sockets = saved
            .old_sockets
            .into_iter()
            .filter_map(|old| table.take(old).ok());
        Ok(Self {
            fd,
            old_sockets: old_sockets.collect(),
            path: saved.has_file.then(|| PathBuf::from(&saved.value)),
            value: saved.value,
            uid: saved.uid,
            too_long: AtomicU64::new(saved.too_long),
            foreign: AtomicU64::new(saved.foreign),
        })
    }

    /// Opens `dir/ID`, mode 0600, owned by the worker's uid (None: our own). Uses an abstract address if the path is too
    /// long or the directory was removed. The worker's user must be able to enter the directory, and only we to write it.
    ///
    /// # Errors
    /// EADDRINUSE: the file exists; EPERM: only root can change the owner; EMFILE, ENOSPC, EROFS.
    pub fn open(dir: &Path, worker: WorkerId, owner: Option<u32>) -> io::Result<Self> {
        let uid = owner.unwrap_or_else(|| geteuid().as_raw());
        let mut fd = notify_socket()?;
        let mut path = Some(dir.join(worker.to_string()))
            .filter(|path| path.as_os_str().len() <= MAX_UNIX_PATH);
        if let Some(file) = &path
            && let Err(error) = bind_file(&fd, file, uid)
        {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            // Without the directory; a new one, since the file may have gone after bind(2).
            fd = notify_socket()?;
            path = None;
        }
        let value = match &path {
            Some(path) => path.clone().into_os_string(),
            None => bind_abstract(&fd)?,
        };
        Ok(Self {
            fd,
            old_sockets: Vec::new(),
            path,
            value,
            uid,
            too_long: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
        })
    }

    /// Opens the socket of a worker whose master has died, at the same address: `abstract_value` if that is an abstract
    /// one, else as [`NotifySocket::open`]. A worker that is connected to the old socket does not reach it.
    ///
    /// # Errors
    /// As [`NotifySocket::open`].
    pub fn reopen(
        abstract_value: Option<OsString>,
        dir: &Path,
        worker: WorkerId,
        owner: Option<u32>,
    ) -> io::Result<Self> {
        let Some(value) = abstract_value else {
            return Self::open(dir, worker, owner);
        };
        let fd = notify_socket()?;
        let name = value.as_encoded_bytes().get(1..).unwrap_or_default();
        bind(fd.as_raw_fd(), &UnixAddr::new_abstract(name)?)?;
        Ok(Self {
            fd,
            old_sockets: Vec::new(),
            path: None,
            value,
            uid: owner.unwrap_or_else(|| geteuid().as_raw()),
            too_long: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
        })
    }

    /// Whether its file was removed.
    pub fn is_missing(&self) -> bool {
        let gone = |path: &PathBuf| {
            path.symlink_metadata()
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        self.path.as_ref().is_some_and(gone)
    }

    /// Binds a new socket to the path; the old one is still read. Returns a former socket that is no longer read, if there
    /// are too many.
    ///
    /// # Errors
    /// ENOENT: the directory is gone; EMFILE, ENOSPC, EROFS. Then nothing has changed.
    pub fn rebind(&mut self) -> io::Result<Option<OwnedFd>> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let fd = notify_socket()?;
        bind_file(&fd, path, self.uid)?;
        self.old_sockets.push(std::mem::replace(&mut self.fd, fd));
        Ok((self.old_sockets.len() > MAX_OLD_SOCKETS).then(|| self.old_sockets.remove(0)))
    }

    /// The value of NOTIFY_SOCKET: a path, or `@` and an abstract name.
    pub fn env_value(&self) -> OsString {
        self.value.clone()
    }

    /// Whether [`NotifySocket::peek`] has something to read. One system call for each socket.
    pub fn has_messages(&self) -> bool {
        self.sockets().any(|fd| is_ready(fd, PollFlags::POLLIN))
    }

    /// Reads at most `most` datagrams and leaves them in the queue, until [`NotifySocket::consume`] removes them. So a
    /// message that was not recorded is read again by the next master; one that was recorded, but not consumed, too.
    /// Does not block.
    pub fn peek(&self, most: usize) -> Peeked {
        let mut peeked = Peeked::default();
        let mut received = Vec::new();
        let mut buffer = [0; MAX_BYTES];
        let mut left = most;
        for fd in self.sockets() {
            let (mut count, mut offset) = (0, 0);
            while left > 0 {
                match message::peek(fd, &mut buffer, offset) {
                    Ok((datagram, whole)) => {
                        peeked.messages.extend(self.accept(&datagram, &buffer));
                        received.extend(datagram.fds);
                        (count, offset) = (count + 1, offset + whole);
                        left -= 1;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // An empty datagram that was seen before is not seen again; or there is no SO_PEEK_OFF.
                    Err(_) if count == 0 && is_ready(fd, PollFlags::POLLIN) => {
                        let Ok(datagram) = message::receive(fd, &mut buffer) else {
                            break;
                        };
                        peeked.messages.extend(self.accept(&datagram, &buffer));
                        received.extend(datagram.fds);
                        left -= 1;
                    }
                    Err(_) => break,
                }
            }
            peeked.datagrams.push((fd.as_raw_fd(), count));
        }
        close_on_thread(received);
        peeked
    }

    /// Removes what was peeked from the queues. Only then are the descriptors closed that came with it, for which
    /// sd_notify_barrier(3) waits.
    pub fn consume(&self, peeked: Peeked) {
        let mut received = Vec::new();
        for (number, mut left) in peeked.datagrams {
            let Some(fd) = self.sockets().find(|fd| fd.as_raw_fd() == number) else {
                continue;
            };
            while left > 0 {
                match message::receive(fd, &mut []) {
                    Ok(datagram) => received.extend(datagram.fds),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => break,
                }
                left -= 1;
            }
        }
        close_on_thread(received);
    }

    /// The former sockets first: what was sent to them is older.
    fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.old_sockets.iter().chain([&self.fd])
    }

    fn accept(&self, datagram: &Datagram, buffer: &[u8]) -> Option<Message> {
        if !datagram
            .sender
            .is_some_and(|(_, uid)| uid == self.uid || uid == Uid::from_raw(0).as_raw())
        {
            self.foreign.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if datagram.truncated {
            self.too_long.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(parse(&buffer[..datagram.len]))
    }

    /// The number of datagrams that were too long.
    pub fn too_long(&self) -> u64 {
        self.too_long.load(Ordering::Relaxed)
    }

    /// The number of datagrams from another user.
    pub fn foreign(&self) -> u64 {
        self.foreign.load(Ordering::Relaxed)
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            std::fs::remove_file(path).ok();
        }
    }
}

fn notify_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    setsockopt(&fd, sockopt::PassCred, &true)?;
    Ok(fd)
}

fn bind_file(fd: &OwnedFd, path: &Path, uid: u32) -> io::Result<()> {
    // The file gets the mode of the socket when it is bound: it never has another one.
    fchmod(fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    if uid != geteuid().as_raw()
        && let Err(error) = std::os::unix::fs::lchown(path, Some(uid), None)
    {
        std::fs::remove_file(path).ok();
        return Err(error);
    }
    Ok(())
}

/// Lets the kernel pick a free abstract name (unix(7), autobind).
fn bind_abstract(fd: &OwnedFd) -> io::Result<OsString> {
    bind(fd.as_raw_fd(), &UnixAddr::new_unnamed())?;
    let name = getsockname::<UnixAddr>(fd.as_raw_fd())?;
    let name = name
        .as_abstract()
        .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    Ok(OsString::from_vec([b"@", name].concat()))
}

/// Parses the lines of one datagram. Skips unknown ones, as sd_notify(3) asks.
fn parse(bytes: &[u8]) -> Message {
    let mut message = Message::default();
    for line in bytes.split(|&byte| byte == b'\n') {
        let Some(equals) = line.iter().position(|&byte| byte == b'=') else {
            continue;
        };
        let (key, value) = (&line[..equals], &line[equals + 1..]);
        let number = || std::str::from_utf8(value).ok()?.trim().parse::<u64>().ok();
        match (key, value) {
            (b"READY", b"1") => message.ready = true,
            (b"STOPPING", b"1") => message.stopping = true,
            (b"RELOADING", b"1") => message.reloading = true,
            (b"WATCHDOG", b"1") => message.watchdog = true,
            (b"WATCHDOG", b"trigger") => message.trigger = true,
            (b"WATCHDOG_USEC", _) => {
                message.watchdog_interval = number().map(Duration::from_micros)
            }
            (b"EXTEND_TIMEOUT_USEC", _) => {
                message.extend = number().map(Duration::from_micros).or(message.extend)
            }
            (b"MAINPID", _) => {
                message.main_pid = number()
                    .and_then(|pid| i32::try_from(pid).ok())
                    .filter(|&pid| pid > 0);
            }
            (b"STATUS", _) => {
                message.status = Some(
                    String::from_utf8_lossy(value)
                        .chars()
                        .take(MAX_STATUS)
                        .collect(),
                );
            }
            _ => {}
        }
    }
    message
}

/// Closes received descriptors on a separate thread: close(2) of a lingering socket or of a file on a FUSE file system may
/// block, and the caller must not.
fn close_on_thread(fds: Vec<OwnedFd>) {
    static CLOSER: OnceLock<Option<Sender<Vec<OwnedFd>>>> = OnceLock::new();
    if fds.is_empty() {
        return;
    }
    let closer = CLOSER.get_or_init(|| {
        let (sender, receiver) = bounded::<Vec<OwnedFd>>(256);
        let close = move || receiver.iter().for_each(drop);
        let thread = thread::spawn("closer", 64 << 10, close);
        thread.ok().map(|_| sender)
    });
    // Without a thread, or if it hangs, they are closed here: running out of descriptors would be worse.
    let unsent = match closer {
        None => Some(fds),
        Some(closer) => match closer.try_send(fds) {
            Ok(()) => None,
            Err(TrySendError::Full(fds) | TrySendError::Disconnected(fds)) => Some(fds),
        },
    };
    drop(unsent);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::kept_fd::killed;
    use std::os::unix::net::UnixDatagram;

    fn open(dir: &Path) -> NotifySocket {
        NotifySocket::open(dir, WorkerId(3), None).unwrap()
    }

    #[test]
    fn datagrams_are_parsed_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let socket = open(dir.path());
        assert_eq!(read(&socket, 10), []);
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(socket.env_value()).unwrap();
        sender
            .send(b"READY=1\nSTATUS=up\x1b[31m \xff\nMAINPID=42\nNOISE\nX_A=b")
            .unwrap();
        sender.send(b"").unwrap();
        sender
            .send(b"EXTEND_TIMEOUT_USEC=1500000\nWATCHDOG=1\nRELOADING=1\nWATCHDOG_USEC=20")
            .unwrap();
        sender
            .send(b"STOPPING=1\nREADY=0\nWATCHDOG=trigger\nMAINPID=-1\nEXTEND_TIMEOUT_USEC=x")
            .unwrap();
        drop(sender); // closed before the datagrams are read
        let messages = read(&socket, 10);
        let status = Some("up\u{1b}[31m \u{fffd}".to_owned());
        let extend = Some(Duration::from_millis(1500));
        assert_eq!(
            messages[0],
            Message {
                ready: true,
                status,
                main_pid: Some(42),
                ..Message::default()
            }
        );
        assert_eq!(messages[1], Message::default());
        assert_eq!(
            messages[2],
            Message {
                extend,
                watchdog: true,
                reloading: true,
                watchdog_interval: Some(Duration::from_micros(20)),
                ..Message::default()
            }
        );
        assert_eq!(
            messages[3],
            Message {
                stopping: true,
                trigger: true,
                ..Message::default()
            }
        );
        assert_eq!(read(&socket, 10), []);
    }

    #[test]
    fn floods_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let socket = open(dir.path());
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(socket.env_value()).unwrap();
        sender.send(&vec![b'x'; 100_000]).unwrap();
        sender
            .send(format!("STATUS={}", "ä".repeat(300)).as_bytes())
            .unwrap();
        sender.send(b"READY=1").unwrap();
        let first = read(&socket, 2);
        assert_eq!(socket.too_long(), 1);
        assert_eq!(first[0].status.as_ref().unwrap().chars().count(), 256);
        assert!(read(&socket, 2)[0].ready);
    }

    #[test]
    fn datagrams_of_another_user_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let mut socket = open(dir.path());
        let sender = UnixDatagram::unbound().unwrap();
        socket.uid = 4_000_000;
        sender.send_to(b"READY=1", socket.env_value()).unwrap();
        let root = geteuid().is_root();
        assert_eq!(read(&socket, 9).len(), usize::from(root));
        assert_eq!(socket.foreign(), u64::from(!root));
    }

    #[test]
    fn the_file_is_private_and_goes_with_the_socket() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let owner = geteuid().is_root().then_some(65534);
        let socket = NotifySocket::open(dir.path(), WorkerId(7), owner).unwrap();
        let path = dir.path().join("7");
        let meta = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
        assert_eq!(meta.uid(), owner.unwrap_or_else(|| geteuid().as_raw()));
        assert!(
            NotifySocket::open(dir.path(), WorkerId(7), None).is_err(),
            "never twice"
        );
        assert!(path.exists(), "and the second attempt did not take it away");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_long_path_becomes_an_abstract_name() {
        use std::os::linux::net::SocketAddrExt;
        let dir = tempfile::tempdir().unwrap();
        let socket = open(&dir.path().join("x".repeat(120)));
        let value = socket.env_value().into_vec();
        assert_eq!(value[0], b'@');
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&value[1..]).unwrap();
        UnixDatagram::unbound()
            .unwrap()
            .send_to_addr(b"READY=1", &address)
            .unwrap();
        assert!(read(&socket, 1)[0].ready);
    }

    #[test]
    fn without_its_directory_a_socket_is_abstract() {
        let dir = tempfile::tempdir().unwrap();
        let socket = open(&dir.path().join("taken-away"));
        assert_eq!(socket.env_value().into_vec()[0], b'@');
        assert!(!socket.is_missing());
    }

    #[test]
    fn a_removed_socket_is_bound_again_and_the_old_one_is_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut socket = open(dir.path());
        let connected = UnixDatagram::unbound().unwrap();
        connected.connect(socket.env_value()).unwrap();
        assert!(!socket.is_missing());
        std::fs::remove_file(dir.path().join("3")).unwrap();
        assert!(socket.is_missing());
        assert!(socket.rebind().unwrap().is_none());
        connected.send(b"READY=1").unwrap();
        UnixDatagram::unbound()
            .unwrap()
            .send_to(b"STOPPING=1", socket.env_value())
            .unwrap();
        let messages = read(&socket, 9);
        assert!(
            messages.iter().any(|message| message.ready)
                && messages.iter().any(|message| message.stopping)
        );
        for _ in 0..MAX_OLD_SOCKETS {
            std::fs::remove_file(dir.path().join("3")).unwrap();
            socket.rebind().unwrap();
        }
        assert_eq!(
            socket.old_sockets.len(),
            MAX_OLD_SOCKETS,
            "a cleaner does not fill our descriptors"
        );
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(socket.rebind().is_err() && socket.is_missing());
    }

    /// The messages of one pass, which are consumed.
    fn read(socket: &NotifySocket, most: usize) -> Vec<Message> {
        let peeked = socket.peek(most);
        let messages = peeked.messages.clone();
        socket.consume(peeked);
        messages
    }

    #[test]
    fn peeked_messages_are_read_again_until_they_are_consumed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = open(dir.path());
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(socket.env_value()).unwrap();
        assert_eq!(read(&socket, 9), []);
        for text in ["", "READY=1", "", "STOPPING=1"] {
            sender.send(text.as_bytes()).unwrap();
        }
        sender.send(&vec![b'x'; 100_000]).unwrap();
        sender.send(b"WATCHDOG=1").unwrap();
        let peeked = socket.peek(9);
        let [empty, ready, _, stopping, watchdog] = &peeked.messages[..] else {
            panic!("{peeked:?}");
        };
        assert_eq!(*empty, Message::default());
        assert!(ready.ready && stopping.stopping && watchdog.watchdog);
        assert_eq!(socket.too_long(), 1);
        sender.send(b"RELOADING=1").unwrap();
        socket.consume(peeked);
        assert!(matches!(&read(&socket, 9)[..], [message] if message.reloading));
        assert!(!is_ready(&socket, PollFlags::POLLIN));
        // Not more than was asked for.
        sender.send(b"READY=1").unwrap();
        sender.send(b"STOPPING=1").unwrap();
        assert!(matches!(&read(&socket, 1)[..], [message] if message.ready));
        assert!(matches!(&read(&socket, 9)[..], [message] if message.stopping));
    }

    /// A reader that is woken again and again by something that it does not see would never sleep.
    #[test]
    fn an_empty_datagram_that_was_peeked_before_is_consumed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = open(dir.path());
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(socket.env_value()).unwrap();
        sender.send(b"").unwrap();
        sender.send(b"").unwrap();
        assert_eq!(socket.peek(9).messages.len(), 2);
        assert_eq!(read(&socket, 9).len(), 2);
        assert!(!is_ready(&socket, PollFlags::POLLIN));
    }

    #[test]
    fn the_next_master_reads_what_was_not_consumed() {
        let dir = tempfile::tempdir().unwrap();
        let mut socket = open(dir.path());
        let old = UnixDatagram::unbound().unwrap();
        old.connect(socket.env_value()).unwrap();
        std::fs::remove_file(dir.path().join("3")).unwrap();
        socket.rebind().unwrap();
        let new = UnixDatagram::unbound().unwrap();
        new.connect(socket.env_value()).unwrap();
        new.send(&[b'x'; MAX_BYTES + 1]).unwrap();
        assert_eq!(read(&socket, 9), []);
        old.send(b"READY=1").unwrap();
        new.send(b"STATUS=up").unwrap();
        // The master dies with what it has peeked.
        assert_eq!(socket.peek(9).messages.len(), 2);
        let saved = socket.saved().unwrap();
        let (saved, mut table) = killed(socket, &saved);
        let socket = NotifySocket::restore(saved, &mut table).unwrap();
        assert!(!socket.is_missing() && table.left() == 0);
        assert_eq!(socket.too_long(), 1);
        new.send(b"STOPPING=1").unwrap();
        let messages = read(&socket, 9);
        assert!(messages[0].ready && messages[2].stopping);
        assert_eq!(messages[1].status.as_deref(), Some("up"));
        let path = PathBuf::from(socket.env_value());
        drop(socket);
        assert!(!path.exists(), "its file goes with it");
    }

    #[test]
    fn a_barrier_waits_until_its_message_is_consumed() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let dir = tempfile::tempdir().unwrap();
        let socket = open(dir.path());
        let (ours, theirs) = nix::unistd::pipe().unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        let to = UnixAddr::new(Path::new(&socket.env_value())).unwrap();
        let part = [std::io::IoSlice::new(b"BARRIER=1")];
        let fds = [theirs.as_raw_fd(); 200];
        let rights = [ControlMessage::ScmRights(&fds)];
        let flags = MsgFlags::empty();
        sendmsg(sender.as_raw_fd(), &part, &rights, flags, Some(&to)).unwrap();
        drop(theirs);
        for _ in 0..3 {
            assert_eq!(socket.peek(9).messages, [Message::default()]);
        }
        assert!(!is_ready(&ours, PollFlags::POLLHUP));
        assert_eq!(read(&socket, 9), [Message::default()]);
        let mut poll = [nix::poll::PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut poll, 10_000u16).unwrap(), 1);
    }

    #[test]
    fn received_descriptors_are_closed() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let dir = tempfile::tempdir().unwrap();
        let socket = open(dir.path());
        let (ours, theirs) = nix::unistd::pipe().unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        let fds = [theirs.as_raw_fd(); 200];
        let part = [std::io::IoSlice::new(b"BARRIER=1")];
        let to = UnixAddr::new(Path::new(&socket.env_value())).unwrap();
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg(
            sender.as_raw_fd(),
            &part,
            &rights,
            MsgFlags::empty(),
            Some(&to),
        )
        .unwrap();
        drop(theirs);
        assert_eq!(read(&socket, 9), [Message::default()]);
        // The barrier: the end of the pipe comes once the last copy is closed.
        let mut poll = [nix::poll::PollFd::new(
            ours.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        assert_eq!(nix::poll::poll(&mut poll, 10_000u16).unwrap(), 1);
    }
}
