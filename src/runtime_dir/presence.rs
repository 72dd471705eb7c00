//! The presence socket of a master: an abstract unix socket (unix(7)) named after the path of its configuration. By it
//! the master is found, and a second one is kept from starting, even if the runtime directory is gone. No cleaner can
//! remove it, and it ends with the process.
//!
//! The namespace is open to every local user, so a name proves nothing: the kernel says who listens (SO_PEERCRED), and
//! only root, our own user and the owner of the file are trusted. If another user holds the name, the socket is bound
//! beside it under an unpredictable name, and found in /proc/net/unix.
//!
//! Abstract names belong to one network namespace: from another one only the runtime directory shows the master. The
//! name includes the identity of the root file system, so that two containers that share a network do not collide.

use crate::control::wire::Response;
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

const BACKLOG: i32 = 128;

/// Of signs for one path, or of all masters, so many are asked at most: anybody can put up as many as he likes.
const MOST: usize = 4096;

/// How long a master that we may not speak to may take to say where it is reached.
const TIME_TO_SAY: Duration = Duration::from_secs(2);

/// Listens under a name of this path.
#[derive(Debug)]
pub struct PresenceSocket {
    pub path: PathBuf,
    pub listener: UnixListener,
}

/// Somebody who listens under a name of a path.
#[derive(Debug)]
pub struct Holder {
    pub uid: u32,
    /// 0: in another pid namespace.
    pub pid: i32,
    pub stream: UnixStream,
}

impl PresenceSocket {
    /// Puts the sign of our own master up; where the name is taken, beside it.
    ///
    /// # Errors
    /// The kernel's: no descriptor, a filter of system calls.
    pub fn put_up(path: &Path) -> io::Result<Self> {
        let uid = geteuid().as_raw();
        let plain = name(path, uid);
        let listener = match listen_on(&plain) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                listen_on(&format!("{plain}/{}", guess()?))?
            }
            other => other?,
        };
        Ok(Self {
            path: path.to_owned(),
            listener,
        })
    }
}

impl Holder {
    /// Where a master that we may not ask here has its control socket.
    pub fn runtime_dir(&self) -> Option<PathBuf> {
        self.stream
            .set_nonblocking(false)
            .and_then(|()| self.stream.set_read_timeout(Some(TIME_TO_SAY)))
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

    /// The master, for people.
    pub fn who(&self) -> String {
        match self.pid {
            0 => format!("uid {}", self.uid),
            pid => format!("uid {} (pid {pid})", self.uid),
        }
    }
}

/// Who runs the configuration at one of these paths, but for this process: each once.
pub fn holders(paths: &[&Path]) -> Vec<Holder> {
    let marks: Vec<String> = paths.iter().map(|path| mark(path)).collect();
    let listed = listed();
    let meant = listed.iter().filter(|name| {
        marks
            .iter()
            .any(|mark| name.strip_prefix(mark.as_str()).is_some())
    });
    // Also where /proc may not be read.
    let sure = paths
        .iter()
        .flat_map(|path| [geteuid().as_raw(), 0].map(|uid| name(path, uid)));
    distinct(sure.chain(meant.cloned()))
}

/// All masters here that say so, but for this process.
pub fn all() -> Vec<Holder> {
    distinct(listed().into_iter())
}

fn distinct(names: impl Iterator<Item = String>) -> Vec<Holder> {
    let mut found: Vec<Holder> = Vec::new();
    for holder in names.take(MOST).filter_map(|name| ask(&name)) {
        let known = found
            .iter()
            .any(|other| (other.uid, other.pid) == (holder.uid, holder.pid) && holder.pid != 0);
        if !known && holder.pid != std::process::id().cast_signed() && lives(holder.pid) {
            found.push(holder);
        }
    }
    found
}

/// Whether a master, known by the pid of who listens (0: in another pid namespace), is there and not on its way out.
///
/// A child that was about to run its program when the master was killed may hold the name for a moment more, and so may
/// its own threads until the last of them has left.
pub fn lives(pid: i32) -> bool {
    let gone = |error: io::Error| error.raw_os_error() == Some(nix::libc::ESRCH);
    // In this order: of one that ends in between the file is missing. Without /proc the first has to do.
    pid == 0
        || match Stat::of(pid) {
            Ok(stat) => !stat.is_leaving(),
            Err(_) => !Process::open_pid(pid).is_err_and(gone),
        }
}

/// Connects without waiting.
fn ask(name: &str) -> Option<Holder> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(
        fd.as_raw_fd(),
        &UnixAddr::new_abstract(name.as_bytes()).ok()?,
    )
    .ok()?;
    // The credentials of who has called listen(2), as they were then.
    let peer = getsockopt(&fd, sockopt::PeerCredentials).ok()?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false).ok()?;
    Some(Holder {
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

/// The names of masters in /proc/net/unix, those that listen.
fn listed() -> Vec<String> {
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
    format!("{}{uid}", mark(path))
}

/// What all names of a path begin with: 108 bytes are room for a number of the path, not for itself (FNV-1a; that
/// two paths of one user never share it is enough: whose it is says the kernel).
fn mark(path: &Path) -> String {
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

/// What nobody can have listened on before us.
fn guess() -> io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_a_path_and_a_user_and_fits_into_an_address() {
        let long = PathBuf::from("/x".repeat(2000));
        assert!(
            name(&long, u32::MAX).len() + 33 <= 107,
            "{}",
            name(&long, u32::MAX)
        );
        assert_ne!(mark(Path::new("/a")), mark(Path::new("/b")));
        assert_ne!(name(Path::new("/a"), 0), name(Path::new("/a"), 1));
        assert_eq!(mark(Path::new("/a")), mark(Path::new("/a")));
    }

    #[test]
    fn where_a_name_is_taken_the_sign_goes_up_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rotad.toml");
        let first = PresenceSocket::put_up(&path).unwrap();
        let second = PresenceSocket::put_up(&path).unwrap();
        let ours = listed()
            .iter()
            .filter(|name| name.starts_with(&mark(&path)))
            .count();
        assert_eq!(ours, 2);
        assert!(holders(&[&path]).is_empty(), "this process does not count");
        drop((first, second));
        assert_eq!(
            listed()
                .iter()
                .filter(|name| name.starts_with(&mark(&path)))
                .count(),
            0
        );
    }
}
