//! NOTIFY_SOCKET: one per worker (sd_notify(3)), so that a flood from one worker cannot fill the queue that another's
//! READY=1 needs, and so that the socket identifies the worker even if the sender has already exited.
//!
//! Datagrams are bounded: 4096 bytes, a uid that is the worker's own or root's. Their descriptors are closed unread
//! (that is how BARRIER=1 works), on a thread of their own since close(2) may block.

use crate::sys::message::{self, Datagram};
use crate::sys::thread;
use crossbeam_channel::{Sender, TrySendError, bounded};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, bind, getsockname, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Uid, geteuid};
use rotad_core::WorkerId;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The longest datagram that is read.
const MOST_BYTES: usize = 4096;
/// The longest status, in characters.
const MOST_STATUS: usize = 256;
/// Sockets that are heard besides the present one.
const MOST_BEFORE: usize = 2;
/// The longest path of a unix socket, in bytes.
const LONGEST_PATH: usize = 107;

/// What one datagram says. Several may come together; their order is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// READY=1
    pub ready: bool,
    /// STOPPING=1
    pub stopping: bool,
    /// RELOADING=1
    pub reloading: bool,
    /// WATCHDOG=1: still alive.
    pub watchdog: bool,
    /// WATCHDOG=trigger: the worker itself says that it is broken.
    pub trigger: bool,
    /// WATCHDOG_USEC: the interval from now on; zero: none.
    pub watchdog_interval: Option<Duration>,
    /// EXTEND_TIMEOUT_USEC: so much from now.
    pub extend: Option<Duration>,
    /// STATUS, at most 256 characters, control characters as they came.
    pub status: Option<String>,
    /// MAINPID
    pub main_pid: Option<i32>,
}

/// The socket that one worker speaks to.
#[derive(Debug)]
pub struct NotifySocket {
    fd: OwnedFd,
    /// Those of before, whose name was taken away: who was connected goes on speaking there.
    before: Vec<OwnedFd>,
    /// None: an abstract address.
    path: Option<PathBuf>,
    value: OsString,
    /// Whose word counts, besides root's.
    uid: u32,
    ignored: AtomicU64,
    refused: AtomicU64,
}

impl NotifySocket {
    /// Opens `dir/ID`, mode 0600, owned by the worker's uid (None: our own); or an abstract address where the path
    /// would be too long, or somebody has just taken the folder away. The folder has to be ours alone to write, and the worker's to pass.
    ///
    /// # Errors
    /// EADDRINUSE: the file exists; EPERM: only root can give it away; the kernel's others.
    pub fn open(dir: &Path, worker: WorkerId, owner: Option<u32>) -> io::Result<Self> {
        let fd = notify_socket()?;
        let path = dir.join(worker.to_string());
        let uid = owner.unwrap_or_else(|| geteuid().as_raw());
        let (ignored, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        if path.as_os_str().len() > LONGEST_PATH {
            let value = bind_abstract(&fd)?;
            return Ok(Self {
                fd,
                before: Vec::new(),
                path: None,
                value,
                uid,
                ignored,
                refused,
            });
        }
        match bind_file(&fd, &path, uid) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let fd = notify_socket()?;
                let value = bind_abstract(&fd)?;
                return Ok(Self {
                    fd,
                    before: Vec::new(),
                    path: None,
                    value,
                    uid,
                    ignored,
                    refused,
                });
            }
            other => other?,
        }
        let value = path.clone().into_os_string();
        Ok(Self {
            fd,
            before: Vec::new(),
            path: Some(path),
            value,
            uid,
            ignored,
            refused,
        })
    }

    /// Somebody has removed its file.
    pub fn is_missing(&self) -> bool {
        let gone = |path: &PathBuf| {
            path.symlink_metadata()
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        self.path.as_ref().is_some_and(gone)
    }

    /// Binds a new socket to the name, and listens to the old one, too. Gives one of before that is not heard any more.
    ///
    /// # Errors
    /// ENOENT: its folder is gone; the kernel's others. Then nothing has changed.
    pub fn again(&mut self) -> io::Result<Option<OwnedFd>> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let fd = notify_socket()?;
        bind_file(&fd, path, self.uid)?;
        self.before.push(std::mem::replace(&mut self.fd, fd));
        Ok((self.before.len() > MOST_BEFORE).then(|| self.before.remove(0)))
    }

    /// The value of NOTIFY_SOCKET: a path, or `@` and an abstract name.
    pub fn env_value(&self) -> OsString {
        self.value.clone()
    }

    /// Takes what has come, at most `most` datagrams (call again until it is empty, but not within one turn of the
    /// loop). Never waits.
    pub fn drain(&self, most: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut received = Vec::new();
        let mut buffer = [0; MOST_BYTES];
        let mut fds = self.before.iter().chain([&self.fd]).peekable();
        for _ in 0..most {
            let Some(fd) = fds.peek() else { break };
            match message::receive(fd, &mut buffer) {
                Ok(datagram) => {
                    messages.extend(self.judge(&datagram, &buffer));
                    received.extend(datagram.fds);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => drop(fds.next()),
            }
        }
        close_elsewhere(received);
        messages
    }

    fn judge(&self, datagram: &Datagram, buffer: &[u8]) -> Option<Message> {
        if !datagram
            .sender
            .is_some_and(|(_, uid)| uid == self.uid || uid == Uid::from_raw(0).as_raw())
        {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if datagram.cut {
            self.ignored.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(parse(&buffer[..datagram.len]))
    }

    /// Datagrams that were too long.
    pub fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    /// Datagrams from a uid that has no say here.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
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
    // The file gets the mode that the socket has when it is bound: there is no moment with another one.
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

/// Reads the lines of one datagram; what is not known is skipped, as sd_notify(3) wants it.
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
                        .take(MOST_STATUS)
                        .collect(),
                );
            }
            _ => {}
        }
    }
    message
}

/// Closes descriptors that somebody else made: a lingering socket or a file of a user's own file system may keep
/// close(2) waiting, and the caller must not wait.
fn close_elsewhere(fds: Vec<OwnedFd>) {
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
    // No thread, or a closer that is stuck: closed here after all, since descriptors are the scarcer good.
    let left = match closer {
        None => Some(fds),
        Some(closer) => match closer.try_send(fds) {
            Ok(()) => None,
            Err(TrySendError::Full(fds) | TrySendError::Disconnected(fds)) => Some(fds),
        },
    };
    drop(left);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn open(dir: &Path) -> NotifySocket {
        NotifySocket::open(dir, WorkerId(3), None).unwrap()
    }

    #[test]
    fn several_keys_and_several_datagrams_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let socket = open(dir.path());
        assert_eq!(socket.drain(10), []);
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
        drop(sender); // gone before it is heard
        let messages = socket.drain(10);
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
        assert_eq!(socket.drain(10), []);
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
        let first = socket.drain(2);
        assert_eq!(socket.ignored(), 1);
        assert_eq!(first[0].status.as_ref().unwrap().chars().count(), 256);
        assert!(socket.drain(2)[0].ready);
    }

    #[test]
    fn a_stranger_has_no_say() {
        let dir = tempfile::tempdir().unwrap();
        let mut socket = open(dir.path());
        let sender = UnixDatagram::unbound().unwrap();
        socket.uid = 4_000_000;
        sender.send_to(b"READY=1", socket.env_value()).unwrap();
        let root = geteuid().is_root();
        assert_eq!(socket.drain(9).len(), usize::from(root));
        assert_eq!(socket.refused(), u64::from(!root));
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
        assert!(socket.drain(1)[0].ready);
    }

    #[test]
    fn without_its_folder_a_worker_is_born_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let socket = open(&dir.path().join("taken-away"));
        assert_eq!(socket.env_value().into_vec()[0], b'@');
        assert!(!socket.is_missing());
    }

    #[test]
    fn a_name_that_was_taken_away_is_bound_again_and_the_old_one_is_heard_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut socket = open(dir.path());
        let connected = UnixDatagram::unbound().unwrap();
        connected.connect(socket.env_value()).unwrap();
        assert!(!socket.is_missing());
        std::fs::remove_file(dir.path().join("3")).unwrap();
        assert!(socket.is_missing());
        assert!(socket.again().unwrap().is_none());
        connected.send(b"READY=1").unwrap();
        UnixDatagram::unbound()
            .unwrap()
            .send_to(b"STOPPING=1", socket.env_value())
            .unwrap();
        let messages = socket.drain(9);
        assert!(
            messages.iter().any(|message| message.ready)
                && messages.iter().any(|message| message.stopping)
        );
        for _ in 0..MOST_BEFORE {
            std::fs::remove_file(dir.path().join("3")).unwrap();
            socket.again().unwrap();
        }
        assert_eq!(
            socket.before.len(),
            MOST_BEFORE,
            "a cleaner does not fill our descriptors"
        );
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(socket.again().is_err() && socket.is_missing());
    }

    #[test]
    fn descriptors_are_closed_unseen() {
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
        assert_eq!(socket.drain(9), [Message::default()]);
        // The barrier: the end of the pipe comes once the last copy is closed.
        let mut poll = [nix::poll::PollFd::new(
            ours.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        assert_eq!(nix::poll::poll(&mut poll, 10_000u16).unwrap(), 1);
    }
}
