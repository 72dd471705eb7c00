//! The presence socket of a master: an abstract unix socket (unix(7)) named after the path of its configuration. Commands
//! find the master by it, and a second master is refused, even if the runtime directory is gone. No cleaner can remove
//! it, and it ends with the process.
//!
//! The namespace is open to every local user, so a name proves nothing: the kernel says who listens (SO_PEERCRED), and
//! only root, our own user and the owner of the file are trusted. If another user holds the name, the socket is bound
//! under a second, unpredictable name, which is found in /proc/net/unix.
//!
//! Abstract names belong to one network namespace: from another one only the runtime directory shows the master. The
//! name includes the identity of the root file system, so that two containers that share a network do not collide.

use crate::control::protocol::Response;
use crate::process::procfs::Stat;
use crate::sys::process::Process;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen,
    socket, sockopt,
};
use nix::unistd::geteuid;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Maximum number of sockets that are connected to in one search: any user can bind as many as they like.
const MAX_SOCKETS: usize = 4096;

/// How long a master may take to send the path of its runtime directory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The listening presence socket of this process.
#[derive(Debug)]
pub struct PresenceSocket {
    /// The configuration's path, for which the socket is named.
    pub path: PathBuf,
    /// The socket.
    pub listener: UnixListener,
}

/// A process that listens on a presence socket, and a connection to it. Its uid shows whether to trust it.
#[derive(Debug)]
pub struct PresentMaster {
    /// The user of the process, from the kernel (SO_PEERCRED).
    pub uid: u32,
    /// Its pid; 0 if it is in another pid namespace.
    pub pid: i32,
    /// The connection.
    pub stream: UnixStream,
}

impl PresenceSocket {
    /// Binds the presence socket of this master; under a second name if the first is taken.
    ///
    /// # Errors
    /// EMFILE, ENFILE: no descriptor; EPERM: a filter of system calls (seccomp).
    pub fn bind(path: &Path) -> io::Result<Self> {
        let uid = geteuid().as_raw();
        let name = name(path, uid);
        let listener = match listen_on(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                listen_on(&format!("{name}/{}", random_name()?))?
            }
            other => other?,
        };
        Ok(Self {
            path: path.to_owned(),
            listener,
        })
    }
}

impl PresentMaster {
    /// The runtime directory, which a master sends to clients that may not send requests over this socket.
    pub fn runtime_dir(&self) -> Option<PathBuf> {
        self.stream
            .set_nonblocking(false)
            .and_then(|()| self.stream.set_read_timeout(Some(ANSWER_TIMEOUT)))
            .ok()?;
        let mut line = String::new();
        BufReader::new((&self.stream).take(64 << 10))
            .read_line(&mut line)
            .ok()?;
        match serde_json::from_str(&line).ok()? {
            Response::Here { runtime_dir, .. } => Some(runtime_dir),
            _ => None,
        }
    }

    /// The uid and pid in words, for messages.
    pub fn description(&self) -> String {
        match self.pid {
            0 => format!("uid {}", self.uid),
            pid => format!("uid {} (pid {pid})", self.uid),
        }
    }
}

/// All processes except this one that say they run the configuration at one of these paths.
pub fn masters_of(paths: &[&Path]) -> Vec<PresentMaster> {
    let prefixes: Vec<String> = paths.iter().map(|path| name_prefix(path)).collect();
    let listening_names = listening_names();
    let matching = listening_names.iter().filter(|name| {
        prefixes
            .iter()
            .any(|name_prefix| name.strip_prefix(name_prefix.as_str()).is_some())
    });
    // These names need no /proc, which may not be readable.
    let own_and_roots = paths
        .iter()
        .flat_map(|path| [geteuid().as_raw(), 0].map(|uid| name(path, uid)));
    distinct(own_and_roots.chain(matching.cloned()))
}

/// All processes except this one that say they are a master.
pub fn all_masters() -> Vec<PresentMaster> {
    distinct(listening_names().into_iter())
}

/// Connects to each name; each process once, without this one.
fn distinct(names: impl Iterator<Item = String>) -> Vec<PresentMaster> {
    let mut found: Vec<PresentMaster> = Vec::new();
    for master in names.take(MAX_SOCKETS).filter_map(|name| connect_to(&name)) {
        let known = found
            .iter()
            .any(|other| (other.uid, other.pid) == (master.uid, master.pid) && master.pid != 0);
        if !known && master.pid != std::process::id().cast_signed() && is_alive(master.pid) {
            found.push(master);
        }
    }
    found
}

/// Whether the process that called listen(2) is alive and not exiting; true for pid 0, a process in another pid namespace.
///
/// After a master was killed, a child that has not executed its program yet may still hold the socket, and so may the
/// master's threads until the last of them has exited.
pub fn is_alive(pid: i32) -> bool {
    let gone = |error: io::Error| error.raw_os_error() == Some(nix::libc::ESRCH);
    // The pidfd is tried only if /proc shows no such process: it decides where /proc is missing.
    pid == 0
        || match Stat::of(pid) {
            Ok(stat) => !stat.is_leaving(),
            Err(_) => !Process::open_pid(pid).is_err_and(gone),
        }
}

/// Connects without blocking.
fn connect_to(name: &str) -> Option<PresentMaster> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(
        fd.as_raw_fd(),
        &UnixAddr::new_abstract(name.as_bytes()).ok()?,
    )
    .ok()?;
    // The credentials of the process that called listen(2), as of that call.
    let peer = getsockopt(&fd, sockopt::PeerCredentials).ok()?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false).ok()?;
    Some(PresentMaster {
        uid: peer.uid(),
        pid: peer.pid(),
        stream,
    })
}

fn listen_on(name: &str) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd.into())
}

/// The names of listening presence sockets in /proc/net/unix.
fn listening_names() -> Vec<String> {
    let table = std::fs::read(Path::new("/proc/net/unix")).unwrap_or_default();
    let name = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(3);
        let listens = u32::from_str_radix(words.next()?, 16).ok()? & 0x1_0000 != 0;
        let name = words.nth(3)?.strip_prefix('@')?;
        (listens && name.starts_with("rotad/")).then(|| name.to_owned())
    };
    String::from_utf8_lossy(&table)
        .lines()
        .filter_map(name)
        .collect()
}

fn name(path: &Path, uid: u32) -> String {
    format!("{}{uid}", name_prefix(path))
}

/// The prefix of all names of a path. A socket address has no room for the path itself, so this is a hash of it (FNV-1a). It only
/// has to differ between the paths of one user, because the kernel tells the owner of a socket.
fn name_prefix(path: &Path) -> String {
    let root = Path::new("/")
        .metadata()
        .map(|about| [about.dev(), about.ino()])
        .unwrap_or_default();
    let root = root
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect::<Vec<u8>>();
    let hash = |bytes: &[u8], from: u128| {
        bytes.iter().fold(from, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
    };
    let start = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    format!(
        "rotad/{:032x}/",
        hash(path.as_os_str().as_bytes(), hash(&root, start))
    )
}

/// A name that cannot be guessed.
fn random_name() -> io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_loop::clock::Deadline;
    use crate::plan::MAX_UNIX_PATH;

    #[test]
    fn a_name_belongs_to_a_path_and_a_user_and_fits_into_an_address() {
        let long = PathBuf::from("/x".repeat(2000));
        assert!(
            name(&long, u32::MAX).len() + 33 <= MAX_UNIX_PATH,
            "{}",
            name(&long, u32::MAX)
        );
        assert_ne!(name_prefix(Path::new("/a")), name_prefix(Path::new("/b")));
        assert_ne!(name(Path::new("/a"), 0), name(Path::new("/a"), 1));
        assert_eq!(name_prefix(Path::new("/a")), name_prefix(Path::new("/a")));
    }

    #[test]
    fn a_second_socket_of_a_path_gets_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rotad.toml");
        let first = PresenceSocket::bind(&path).unwrap();
        let second = PresenceSocket::bind(&path).unwrap();
        let ours = listening_names()
            .iter()
            .filter(|name| name.starts_with(&name_prefix(&path)))
            .count();
        assert_eq!(ours, 2);
        assert!(
            masters_of(&[&path]).is_empty(),
            "this process does not count"
        );
        drop((first, second));
        // A child of another test has a copy of them until it executes its program.
        let until = Deadline::after(Duration::from_secs(10));
        let is_ours = |name: &String| name.starts_with(&name_prefix(&path));
        while listening_names().iter().any(is_ours) {
            assert!(!until.has_passed(), "they are closed");
            std::thread::yield_now();
        }
    }
}
