//! A program that is to replace the one that runs: it is opened once, and checked before anything changes.
//!
//! It has to be a program for this machine, and to say itself that it can go on: it is executed with [`CHECK_VERB`], a copy
//! of the saved state as its stdin, and prints an [`Answer`]. What runs later is the same open file.

use crate::observe::sanitize::sanitize;
use crate::sys::poll::poll;
use crate::sys::process::Process;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::SIGKILL;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::fstat;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The hidden verb by which a program is asked whether it can go on with a state.
pub const CHECK_VERB: &str = "__check-state";

/// How long a program may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The beginning of a program's file that is compared: up to the machine (elf(5), `e_machine`).
const HEADER: usize = 20;
/// What is read of its answer, in bytes.
const MAX_ANSWER: u64 = 16 * 1024;
/// What is shown of an answer that is not understood, in characters.
const MAX_SHOWN: usize = 200;

/// What a program says about a saved state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its version.
    pub rotad: String,
    /// The oldest version of the state's format that can still read what it saves.
    pub readable_by: u32,
    /// Why it cannot go on with this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A file by device and inode (stat(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// That of an open file.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        let stat = fstat(fd)?;
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }
}

/// A program that can go on with the state.
#[derive(Debug)]
pub struct Candidate {
    /// Opened once, for the check and for the upgrade.
    pub file: File,
    /// Which file that is.
    pub id: FileId,
    /// Where it was found.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
}

impl Candidate {
    /// Opens the program and checks it. `state`: a copy of the saved state. `format`: the version of our own format.
    /// `unattended`: no command has asked for it, so it must be a file that only root and our own user can write.
    ///
    /// # Errors
    /// Why it cannot replace the running program, for people.
    pub fn check(
        path: PathBuf,
        state: OwnedFd,
        format: u32,
        unattended: bool,
    ) -> Result<Self, String> {
        let shown = path.display().to_string();
        // Not a named pipe, whose opening would wait.
        let metadata = std::fs::metadata(&path).map_err(|error| format!("{shown}: {error}"))?;
        if !metadata.is_file() {
            return Err(format!("{shown} is not a file"));
        }
        let file = File::open(&path).map_err(|error| format!("{shown}: {error}"))?;
        if unattended {
            check_owner(&path, &file).map_err(|why| format!("{shown} {why}"))?;
        }
        check_machine(&file).map_err(|why| format!("{shown} {why}"))?;
        let answer = ask(&file, state).map_err(|why| format!("{shown} {why}"))?;
        let version = sanitize(&answer.rotad);
        if let Some(problem) = answer.problem {
            return Err(format!(
                "{shown}: rotad {version} cannot go on with the state of this master: {}",
                sanitize(&problem)
            ));
        }
        if answer.readable_by > format {
            return Err(format!(
                "{shown}: what rotad {version} saves cannot be read by this version ({}), so the upgrade could not be \
                 undone; `rotad stop` and then `start` by the new program",
                env!("CARGO_PKG_VERSION")
            ));
        }
        let id = FileId::of(&file).map_err(|error| format!("{shown}: {error}"))?;
        Ok(Self {
            file,
            id,
            path,
            version,
        })
    }
}

/// Another user could have put such a file there.
fn check_owner(path: &Path, file: &File) -> Result<(), String> {
    let unknown = |error: io::Error| format!("is not executed without being asked for: {error}");
    let directory = path.canonicalize().map_err(unknown)?;
    let directory = directory.parent().unwrap_or(Path::new("/")).metadata();
    for (name, metadata) in [("file", file.metadata()), ("directory", directory)] {
        let metadata = metadata.map_err(unknown)?;
        let (owner, mode) = (metadata.uid(), metadata.mode());
        let is_ours = owner == 0 || owner == geteuid().as_raw();
        let sticky = name == "directory" && mode & 0o1000 != 0;
        if !is_ours || mode & 0o002 != 0 && !sticky {
            return Err(format!(
                "is not executed without being asked for, since other users can write it (its {name} belongs to uid {owner} and \
                 has mode {:04o}); `rotad upgrade` does it",
                mode & 0o7777
            ));
        }
    }
    Ok(())
}

/// A program for another machine could not be executed, and a script has no program of its own.
fn check_machine(file: &File) -> Result<(), String> {
    let header = |file: &File| -> io::Result<[u8; HEADER]> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        Ok(header)
    };
    let theirs = header(file).map_err(|_| "is not a program (it has no ELF header)".to_owned())?;
    let own = File::open(Path::new("/proc/self/exe"))
        .and_then(|file| header(&file))
        .map_err(|error| format!("cannot be compared with the running program: {error}"))?;
    if theirs[..4] != own[..4] {
        return Err("is not a program (it has no ELF header)".to_owned());
    }
    // Class and byte order, and the machine.
    if theirs[4..6] != own[4..6] || theirs[18..] != own[18..] {
        return Err("is a program for another architecture".to_owned());
    }
    Ok(())
}

/// Asks the program whether it can go on with this state.
fn ask(program: &File, state: OwnedFd) -> Result<Answer, String> {
    let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("rotad")
        .arg(CHECK_VERB)
        .env_clear()
        .process_group(0)
        .stdin(state)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot be executed: {error}"))?;
    let process = Process::open_child(child.id().cast_signed());
    let ended = process.pidfd().is_some_and(|pidfd| {
        let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
        poll(&mut fds, Some(ANSWER_TIMEOUT)).is_ok_and(|ready| ready > 0)
    });
    // What it has started ends with it.
    process.signal_group(SIGKILL).ok();
    let status = child
        .wait()
        .map_err(|error| format!("cannot be waited for: {error}"))?;
    if !ended {
        return Err(format!(
            "did not say within {} s whether it can go on with the state of this master: it is no rotad, or hangs",
            ANSWER_TIMEOUT.as_secs()
        ));
    }
    let answer = child.stdout.take().map(available).unwrap_or_default();
    match serde_json::from_str(answer.trim()) {
        Ok(answer) => Ok(answer),
        Err(_) => {
            let said = child.stderr.take().map(available).unwrap_or_default();
            let said = if said.trim().is_empty() { answer } else { said };
            let first = said.lines().next().unwrap_or_default();
            let first: String = sanitize(first).chars().take(MAX_SHOWN).collect();
            let said = match first.as_str() {
                "" => String::new(),
                first => format!(", and said: {first}"),
            };
            Err(format!(
                "is no rotad that can replace this one (asked about the state, it ended with {status}{said})"
            ))
        }
    }
}

/// What is in a pipe whose writers have ended.
fn available(pipe: impl Into<OwnedFd>) -> String {
    let pipe = File::from(pipe.into());
    // A process that has left the group may hold it open.
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok();
    let mut bytes = Vec::new();
    pipe.take(MAX_ANSWER).read_to_end(&mut bytes).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str) -> String {
        let state = File::open("/dev/null").unwrap().into();
        Candidate::check(path.into(), state, 1, false).unwrap_err()
    }

    #[test]
    fn what_is_no_rotad_is_refused_with_the_reason() {
        assert!(refused("/nowhere/rotad").contains("No such file"));
        assert!(refused("/dev/zero").contains("is not a file"));
        assert!(refused("/etc/passwd").contains("is not a program"));
        let told = refused("/bin/true");
        assert!(told.contains("is no rotad that can replace"), "{told}");
        let told = refused("/bin/sh");
        assert!(told.contains(CHECK_VERB), "what it said is shown: {told}");
    }

    #[test]
    fn a_program_for_another_machine_is_refused() {
        let mut header = std::fs::read("/proc/self/exe").unwrap();
        header.truncate(HEADER);
        // A number that no machine has.
        header[18] = 0xfe;
        header[19] = 0xfe;
        let dir = std::env::temp_dir().join(format!("candidate-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("rotad");
        std::fs::write(&path, header).unwrap();
        let told = refused(path.to_str().unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(told.contains("another architecture"), "{told}");
    }

    #[test]
    fn a_program_that_others_can_write_is_not_executed_unasked() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rotad");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        std::fs::copy("/bin/true", &path).unwrap();
        let refused = || {
            let state = File::open("/dev/null").unwrap().into();
            Candidate::check(path.clone(), state, 1, true).unwrap_err()
        };
        mode(&path, 0o755);
        assert!(refused().contains("is no rotad that can replace"));
        mode(&path, 0o757);
        assert!(
            refused().contains("its file belongs to uid"),
            "{}",
            refused()
        );
        mode(&path, 0o755);
        mode(dir.path(), 0o777);
        assert!(refused().contains("has mode 0777"), "{}", refused());
        mode(dir.path(), 0o1777);
        assert!(refused().contains("is no rotad that can replace"));
    }
}
