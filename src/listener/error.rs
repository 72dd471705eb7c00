//! Why an address cannot be listened on, and which program holds it.

use crate::listener::{address_text, parent_dir};
use crate::plan::{Address, ListenPlan, MAX_UNIX_PATH};
use crate::process::procfs;
use nix::errno::Errno;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// Maximum number of descriptors examined in the search for the program that holds an address.
const MAX_FDS: usize = 200_000;

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct SocketError {
    /// The listener's name.
    pub name: String,
    /// The address as a configuration writes it.
    pub address: String,
    /// The error of the failed call.
    pub source: io::Error,
    /// The cause in words, with the program or file in the way if it was found.
    pub hint: Option<String>,
}

impl SocketError {
    pub(super) fn new(plan: &ListenPlan, source: io::Error) -> Self {
        let errno = source
            .raw_os_error()
            .map_or(Errno::UnknownErrno, Errno::from_raw);
        let hint = match &plan.address {
            Address::Tcp(address) => tcp_hint(*address, errno),
            Address::Unix(path) => unix_hint(path, errno),
        };
        Self {
            name: plan.name.clone(),
            address: address_text(&plan.address),
            source,
            hint,
        }
    }
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name != self.address {
            write!(f, "listener {:?}: ", self.name)?;
        }
        write!(f, "cannot listen on {}: ", self.address)?;
        match &self.hint {
            Some(hint) => f.write_str(hint),
            None => write!(f, "{}", self.source),
        }
    }
}

impl std::error::Error for SocketError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

fn tcp_hint(address: SocketAddr, errno: Errno) -> Option<String> {
    match errno {
        Errno::EADDRINUSE => Some(format!("address in use{}", tcp_holder(address.port()))),
        Errno::EACCES => {
            let first = procfs::read("/proc/sys/net/ipv4/ip_unprivileged_port_start");
            let first = first
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(1024);
            Some(format!(
                "permission denied: ports below {first} need root or CAP_NET_BIND_SERVICE"
            ))
        }
        Errno::EADDRNOTAVAIL => Some(format!(
            "no network interface of this machine has the address {}",
            address.ip()
        )),
        Errno::EAFNOSUPPORT => Some("this machine has no IPv6".to_owned()),
        _ => None,
    }
}

fn unix_hint(path: &Path, errno: Errno) -> Option<String> {
    let dir = parent_dir(path).display();
    match errno {
        Errno::EADDRINUSE => Some(format!("address in use{}", unix_holder(path))),
        Errno::EEXIST => Some(
            "the path is taken by a file that is not a socket; rotad does not replace it"
                .to_owned(),
        ),
        Errno::ENOENT => Some(format!("the directory {dir} does not exist")),
        Errno::ENOTDIR => Some(format!("{dir} is not a directory")),
        Errno::EACCES => Some(format!("permission denied: {dir} cannot be written")),
        Errno::EROFS => Some(format!("{dir} is on a read-only file system")),
        Errno::EPERM => {
            Some("not permitted: only root can give the file to another user or group".to_owned())
        }
        Errno::ENAMETOOLONG => Some(format!("the path is longer than {} bytes", MAX_UNIX_PATH)),
        _ => None,
    }
}

/// The program that listens on a port: "pid 4711 (nginx) listens there".
fn tcp_holder(port: u16) -> String {
    let port = format!(":{port:04X}");
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| procfs::read(path).unwrap_or_default());
    let lines = tables
        .iter()
        .flat_map(|table| table.lines())
        .map(|line| line.split_ascii_whitespace());
    let mut holders = lines.filter_map(|columns| {
        let columns: Vec<&str> = columns.collect();
        let listens = columns.get(3) == Some(&"0A")
            && columns.get(1).is_some_and(|local| local.ends_with(&port));
        listens
            .then(|| (columns.get(9)?.parse().ok()).zip(columns.get(7).copied()))
            .flatten()
    });
    match holders.next() {
        Some((inode, uid)) => {
            holder(inode).unwrap_or_else(|| format!(": a process of uid {uid} listens there"))
        }
        None => ": a socket is bound to it, or the connections of one that has just gone linger"
            .to_owned(),
    }
}

/// The program that listens on a path. /proc shows the first name of a renamed socket, so the search may fail.
fn unix_holder(path: &Path) -> String {
    let path = path.to_string_lossy();
    let table = procfs::read("/proc/net/unix").unwrap_or_default();
    let mut lines = table
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    // Only the listening socket has the flag __SO_ACCEPTCON; its connections have the same path.
    let line = lines
        .find(|columns| columns.get(7) == Some(&&*path) && columns.get(3) == Some(&"00010000"));
    let inode = line.and_then(|columns| columns.get(6)?.parse().ok());
    inode
        .and_then(holder)
        .unwrap_or_else(|| ": another process listens there".to_owned())
}

/// The process that holds a socket; None if /proc does not show it.
fn holder(inode: u64) -> Option<String> {
    let mut remaining = MAX_FDS;
    for pid in procfs::numbers("/proc").ok()? {
        let Ok(links) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for link in links.flatten() {
            remaining = remaining.checked_sub(1)?;
            let found = std::fs::read_link(link.path())
                .ok()
                .and_then(|target| procfs::socket_inode(&target));
            if found == Some(inode) {
                let name = procfs::Stat::of(pid).map_or_else(|_| "?".to_owned(), |stat| stat.name);
                return Some(format!(": pid {pid} ({name}) listens there"));
            }
        }
    }
    None
}
