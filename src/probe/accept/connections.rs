//! Finds connections that a process has accepted from a listener: its sockets that have the listener's local address
//! and are not listeners themselves (proc_net(5)). A client connection to the same port has that port as its remote one.

use super::Target;
use crate::plan::Address;
use crate::process::procfs;
use crate::sys::process::Process;
use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};

/// Maximum number of bytes that are read of a table: it has all connections of the machine.
const MAX_BYTES: u64 = 8 << 20;
/// Lines of a table between two reports of progress.
const LINES_PER_PROGRESS: usize = 256;
/// Maximum number of descriptors of a process that are examined.
const MAX_DESCRIPTORS: usize = 4096;

/// Whether one of these sockets was accepted from a target. `progress` is called whenever the search advances.
pub(super) fn holds_connection(
    pid: i32,
    targets: &[Target],
    sockets: &HashSet<u64>,
    progress: &dyn Fn(),
) -> bool {
    if sockets.is_empty() {
        return false;
    }
    let shown = shows_connection(pid, targets, sockets, progress);
    if shown == Some(true) {
        return true;
    }
    let tables = targets.iter().filter_map(|target| match &target.address {
        // The sockets themselves have shown that there is none.
        Address::Tcp(_) if shown == Some(false) => None,
        Address::Tcp(address) if address.is_ipv4() => Some("tcp"),
        Address::Tcp(_) => Some("tcp6"),
        Address::Unix(_) => Some("unix"),
    });
    let inodes: HashSet<u64> = targets.iter().map(|target| target.inode).collect();
    tables.collect::<HashSet<_>>().into_iter().any(|table| {
        let lines = lines(pid, table).enumerate().map(|(at, line)| {
            if at % LINES_PER_PROGRESS == 0 {
                progress();
            }
            line
        });
        match table {
            "unix" => accepted(lines.filter_map(|line| unix_line(&line)), &inodes, sockets),
            _ => accepted(lines.filter_map(|line| tcp_line(&line)), &inodes, sockets),
        }
    })
}

/// Examines the sockets themselves, by duplicating their descriptors briefly: to read the table of a busy machine takes
/// longer than to answer a request. None: not allowed (pidfd_getfd(2) needs ptrace rights), so the table has to be read.
fn shows_connection(
    pid: i32,
    targets: &[Target],
    sockets: &HashSet<u64>,
    progress: &dyn Fn(),
) -> Option<bool> {
    let process = Process::open_pid(pid).ok()?;
    let dir = format!("/proc/{pid}/fd");
    let numbers = procfs::numbers(&dir).unwrap_or_default();
    for fd in numbers.into_iter().take(MAX_DESCRIPTORS) {
        progress();
        let link = std::fs::read_link(format!("{dir}/{fd}"));
        let is_theirs = link
            .ok()
            .and_then(|link| procfs::socket_inode(&link))
            .is_some_and(|i| sockets.contains(&i));
        if !is_theirs {
            continue;
        }
        match process.dup_fd(fd) {
            Ok(copy) if targets.iter().any(|target| was_accepted(&copy, target)) => {
                return Some(true);
            }
            Ok(_) => {}
            // It has been closed since.
            Err(error) if error.raw_os_error() == Some(nix::libc::EBADF) => {}
            Err(_) => return None,
        }
    }
    Some(false)
}

/// It has the listener's local port and a peer. (Client ports are not listened on.)
fn was_accepted(socket: &OwnedFd, target: &Target) -> bool {
    match &target.address {
        Address::Tcp(bound) => {
            let (Ok(_), Ok(local)) = (
                getpeername::<SockaddrStorage>(socket.as_raw_fd()),
                getsockname::<SockaddrStorage>(socket.as_raw_fd()),
            ) else {
                return false;
            };
            let port = local
                .as_sockaddr_in()
                .map(|a| a.port())
                .or(local.as_sockaddr_in6().map(|a| a.port()));
            port == Some(bound.port())
        }
        Address::Unix(_) => false,
    }
}

/// One socket of a table.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    local: String,
    inode: u64,
    listens: bool,
}

/// The listener's own line shows which local address to search; a wildcard address means any address with that port.
fn accepted(
    lines: impl Iterator<Item = Line>,
    targets: &HashSet<u64>,
    sockets: &HashSet<u64>,
) -> bool {
    let (mut bound, mut held) = (Vec::new(), Vec::new());
    for line in lines {
        if line.listens && targets.contains(&line.inode) {
            bound.push(line.local);
        } else if !line.listens && sockets.contains(&line.inode) {
            held.push(line.local);
        }
    }
    held.iter()
        .any(|local| bound.iter().any(|bound| covers(bound, local)))
}

fn covers(bound: &str, local: &str) -> bool {
    let any = |bound: &str| bound.bytes().all(|digit| digit == b'0');
    bound == local
        || match (bound.rsplit_once(':'), local.rsplit_once(':')) {
            (Some((address, port)), Some((_, local))) => {
                any(address) && !address.is_empty() && port == local
            }
            _ => false,
        }
}

fn lines(pid: i32, table: &str) -> impl Iterator<Item = String> {
    // The table of the worker's own network namespace.
    let file = File::open(format!("/proc/{pid}/net/{table}")).ok();
    let lines = file.map(|file| {
        BufReader::new(file.take(MAX_BYTES))
            .split(b'\n')
            .map_while(Result::ok)
    });
    lines
        .into_iter()
        .flatten()
        .map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// `0: 0100007F:1F90 00000000:0000 0A … uid timeout inode …`: 0A is LISTEN.
fn tcp_line(line: &str) -> Option<Line> {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1)?.to_owned();
    let state = words.nth(1)?;
    let inode = words.nth(5)?.parse().ok()?;
    Some(Line {
        local,
        inode,
        listens: state == "0A",
    })
}

/// `0000000062ebe34b: 00000002 00000000 00010000 0001 01  1600 /run/s.sock`: the flag 00010000 is a listener's.
fn unix_line(line: &str) -> Option<Line> {
    let mut words = line.split_ascii_whitespace();
    let flags = words.nth(3)?;
    let inode: u64 = words.nth(2)?.parse().ok()?;
    let at = line.find(['/', '@']).unwrap_or(line.len());
    let local = line[at..].to_owned();
    (!local.is_empty()).then_some(Line {
        local,
        inode,
        listens: flags == "00010000",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: [&str; 3] = [
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
        "   0: 00000000:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1603 1 0 100 0 0 10 0",
        "   1: 0100007F:07E8 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 77 1 0 20 4 30 10 -1",
    ];

    #[test]
    fn lines_of_the_tcp_table_are_parsed() {
        let lines: Vec<Line> = TCP.iter().filter_map(|line| tcp_line(line)).collect();
        assert_eq!(
            lines[0],
            Line {
                local: "00000000:07E8".into(),
                inode: 1603,
                listens: true
            }
        );
        assert_eq!(
            lines[1],
            Line {
                local: "0100007F:07E8".into(),
                inode: 77,
                listens: false
            }
        );
        assert!(accepted(
            lines.into_iter(),
            &HashSet::from([1603]),
            &HashSet::from([77])
        ));
    }

    #[test]
    fn client_connections_from_the_same_port_do_not_count() {
        let client = Line {
            local: "0100007F:9C40".into(),
            inode: 77,
            listens: false,
        };
        let listener = Line {
            local: "00000000:07E8".into(),
            inode: 1603,
            listens: true,
        };
        assert!(!accepted(
            [client, listener].into_iter(),
            &HashSet::from([1603]),
            &HashSet::from([77])
        ));
        assert!(!covers("0100007F:07E8", "0200007F:07E8"));
        assert!(covers(
            "00000000000000000000000000000000:0050",
            "0000000000000000FFFF00000100007F:0050"
        ));
    }

    #[test]
    fn lines_of_the_unix_table_are_parsed() {
        let line =
            unix_line("0000000062ebe34b: 00000002 00000000 00010000 0001 01  1600 /run/a b.sock")
                .unwrap();
        assert_eq!(
            line,
            Line {
                local: "/run/a b.sock".into(),
                inode: 1600,
                listens: true
            }
        );
        assert_eq!(
            unix_line("0000000062ebe34b: 00000003 00000000 00000000 0001 03  1600"),
            None
        );
    }
}
