//! The journal's native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): one datagram per entry, so that
//! `journalctl ROTAD_POOL=web` finds what a pool printed. Never blocks: on an error the caller falls back to stderr.

use super::pipe_peek::{OutputSource, Stream};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::sys::stat::fstat;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

const SOCKET: &str = "/run/systemd/journal/socket";
/// Priorities of syslog(3).
const ERROR: &str = "3";
const WARNING: &str = "4";
const INFO: &str = "6";
const DEBUG: &str = "7";

#[derive(Debug)]
pub(super) struct Journald {
    socket: UnixDatagram,
    address: UnixAddr,
    entry: Vec<u8>,
}

impl Journald {
    /// The journal, if stderr is a stream to it (`$JOURNAL_STREAM`, systemd.exec(5)).
    pub(super) fn behind_stderr() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stat = fstat(io::stderr()).ok()?;
        if stream != format!("{}:{}", stat.st_dev, stat.st_ino) {
            return None;
        }
        Self::at(Path::new(SOCKET)).ok()
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address: UnixAddr::new(path)?,
            entry: Vec::new(),
        })
    }

    /// Sends a line that a worker printed, with or without its newline.
    ///
    /// # Errors
    /// ENOENT or ECONNREFUSED: the journal is not running. EAGAIN: it has no room now.
    pub(super) fn send_line(
        &mut self,
        source: &OutputSource,
        stream: Stream,
        line: &[u8],
    ) -> io::Result<()> {
        self.entry.clear();
        self.field("MESSAGE", line.strip_suffix(b"\n").unwrap_or(line));
        self.field(
            "PRIORITY",
            if stream == Stream::Stderr {
                WARNING
            } else {
                INFO
            }
            .as_bytes(),
        );
        self.field("SYSLOG_IDENTIFIER", source.pool.as_bytes());
        self.field("SYSLOG_PID", source.pid().to_string().as_bytes());
        self.field("ROTAD_POOL", source.pool.as_bytes());
        self.field("ROTAD_SLOT", source.slot.to_string().as_bytes());
        self.field("ROTAD_PID", source.pid().to_string().as_bytes());
        self.field("ROTAD_STREAM", stream.name().as_bytes());
        self.send()
    }

    /// Sends a line of the master's own, in the format of its log.
    ///
    /// # Errors
    /// As [`Journald::send_line`].
    pub(super) fn send_own_line(&mut self, line: &[u8]) -> io::Result<()> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let (priority, message) = parse(line);
        self.entry.clear();
        self.field("MESSAGE", message);
        self.field("PRIORITY", priority.as_bytes());
        self.field("SYSLOG_IDENTIFIER", b"rotad");
        self.send()
    }

    fn field(&mut self, name: &str, value: &[u8]) {
        self.entry.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            self.entry.push(b'\n');
            self.entry
                .extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.entry.push(b'=');
        }
        self.entry.extend_from_slice(value);
        self.entry.push(b'\n');
    }

    fn send(&mut self) -> io::Result<()> {
        let (socket, address) = (self.socket.as_raw_fd(), Some(&self.address));
        match sendmsg(
            socket,
            &[IoSlice::new(&self.entry)],
            &[],
            MsgFlags::empty(),
            address,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::EMSGSIZE | Errno::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
        // Too large for a datagram: pass it as a sealed memory file.
        let memory = memfd_create(
            "rotad-journal",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        )?;
        let mut memory = std::fs::File::from(memory);
        memory.write_all(&self.entry)?;
        let seals = SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_WRITE
            | SealFlag::F_SEAL_SEAL;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
        let fds = [memory.as_raw_fd()];
        sendmsg(
            socket,
            &[],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::empty(),
            address,
        )?;
        Ok(())
    }
}

/// The priority of a line of the master's log, and the line without time and level, which the journal records itself.
fn parse(line: &[u8]) -> (&'static str, &[u8]) {
    let of_level = |level: &[u8]| match level {
        b"ERROR" => Some(ERROR),
        b"WARN" => Some(WARNING),
        b"INFO" => Some(INFO),
        b"DEBUG" | b"TRACE" => Some(DEBUG),
        _ => None,
    };
    if line.starts_with(b"{") {
        let value: Option<serde_json::Value> = serde_json::from_slice(line).ok();
        let level = value.as_ref().and_then(|value| value["level"].as_str());
        return (
            level
                .and_then(|level| of_level(level.as_bytes()))
                .unwrap_or(INFO),
            line,
        );
    }
    let Some(space) = line.iter().position(|byte| *byte == b' ') else {
        return (INFO, line);
    };
    let rest = line[space..].trim_ascii_start();
    let level = rest
        .iter()
        .position(|byte| *byte == b' ')
        .unwrap_or(rest.len());
    of_level(&rest[..level]).map_or((INFO, line), |priority| {
        (priority, rest[level..].trim_ascii_start())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::collections::BTreeMap;

    /// Parses an entry as journald does.
    fn parsed(mut entry: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut fields = BTreeMap::new();
        while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&entry[..end], &entry[end + 1..]);
            let name = |name: &[u8]| String::from_utf8(name.to_vec()).expect("a name");
            if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
                fields.insert(name(&line[..equals]), line[equals + 1..].to_vec());
                entry = rest;
            } else {
                let (length, rest) = rest.split_at(8);
                let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
                fields.insert(name(line), rest[..length].to_vec());
                assert_eq!(rest[length], b'\n');
                entry = &rest[length + 1..];
            }
        }
        fields
    }

    #[test]
    fn entries_carry_pool_slot_and_pid() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let server = UnixDatagram::bind(&path).expect("a socket");
        let mut journal = Journald::at(&path).expect("a journal");
        let source = OutputSource::new("web", 3, 77);
        journal
            .send_line(&source, Stream::Stderr, b"some\x1b line\n")
            .expect("sent");
        let mut buffer = [0; 4096];
        let count = server.recv(&mut buffer).expect("an entry");
        let fields = parsed(&buffer[..count]);
        for (name, value) in [
            ("MESSAGE", "some\x1b line"),
            ("PRIORITY", "4"),
            ("ROTAD_POOL", "web"),
        ] {
            assert_eq!(fields[name], value.as_bytes());
        }
        assert_eq!(
            (&fields["ROTAD_SLOT"][..], &fields["ROTAD_PID"][..]),
            (&b"3"[..], &b"77"[..])
        );
        journal
            .send_own_line(b"2026-11-22T07:06:00.000000Z  WARN two\nlines\n")
            .expect("sent");
        let count = server.recv(&mut buffer).expect("an entry");
        let fields = parsed(&buffer[..count]);
        assert_eq!(
            (&fields["MESSAGE"][..], &fields["PRIORITY"][..]),
            (&b"two\nlines"[..], &b"4"[..])
        );
    }

    #[test]
    fn a_huge_line_is_sent_as_a_memory_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let server = UnixDatagram::bind(&path).expect("a socket");
        let mut journal = Journald::at(&path).expect("a journal");
        let line = vec![b'x'; 4 << 20];
        journal
            .send_line(&OutputSource::new("web", 0, 1), Stream::Both, &line)
            .expect("sent");
        let mut space = nix::cmsg_space!([i32; 1]);
        let heard = recvmsg::<UnixAddr>(
            server.as_raw_fd(),
            &mut [],
            Some(&mut space),
            MsgFlags::empty(),
        );
        let mut fds = Vec::new();
        for message in heard.expect("an entry").cmsgs().expect("control data") {
            if let ControlMessageOwned::ScmRights(got) = message {
                fds.extend(got);
            }
        }
        let path = format!("/proc/self/fd/{}", fds[0]);
        let entry = std::fs::read(path).expect("the memory");
        assert_eq!(parsed(&entry)["MESSAGE"], line);
        nix::unistd::close(fds[0]).expect("closed");
    }

    #[test]
    fn a_missing_or_full_journal_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let mut journal = Journald::at(&path).expect("a journal");
        assert!(journal.send_own_line(b"no journal is there").is_err());
        let _server = UnixDatagram::bind(&path).expect("a socket");
        let errors =
            (0..100_000).find_map(|_| journal.send_own_line(b"a reader that is slow").err());
        assert_eq!(
            errors.expect("it is full").raw_os_error(),
            Some(nix::libc::EAGAIN)
        );
    }

    #[test]
    fn priorities_are_parsed_from_the_line() {
        assert_eq!(parse(b"T  INFO all is well"), ("6", &b"all is well"[..]));
        assert_eq!(parse(b"T ERROR"), ("3", &b""[..]));
        assert_eq!(parse(b"rotad: 3 lines"), ("6", &b"rotad: 3 lines"[..]));
        assert_eq!(parse(br#"{"level":"DEBUG"}"#).0, "7");
    }
}
