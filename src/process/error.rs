//! Why a worker could not be spawned, as text that fits after "cannot start: ".

use crate::sys::exec::step;
use nix::errno::Errno;
use nix::libc;
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The stages of a spawn, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpawnStage {
    /// Queued for a spawner thread.
    Queue,
    /// Resolving the program and its directory.
    Resolve,
    /// Preparing the child.
    Prepare,
    /// Creating the process (clone(2)).
    Fork,
    /// Creating its session (setsid(2)).
    Session,
    /// Setting resource limits.
    Limits,
    /// Setting the nice value.
    Nice,
    /// Setting the user's groups.
    Groups,
    /// Setting the user's group.
    Gid,
    /// Setting the user.
    Uid,
    /// Checking that the old user's rights are gone.
    Verify,
    /// Entering the working directory.
    Directory,
    /// Moving descriptors to their numbers.
    Descriptors,
    /// Executing the program (execve(2)).
    Exec,
    /// Joining the cgroup.
    Cgroup,
}

impl SpawnStage {
    const ALL: [Self; 15] = [
        Self::Queue,
        Self::Resolve,
        Self::Prepare,
        Self::Fork,
        Self::Session,
        Self::Limits,
        Self::Nice,
        Self::Groups,
        Self::Gid,
        Self::Uid,
        Self::Verify,
        Self::Directory,
        Self::Descriptors,
        Self::Exec,
        Self::Cgroup,
    ];

    /// Its number for [`crate::sys::clone::ExecProgress`].
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Session => step::SESSION,
            Self::Limits => step::LIMITS,
            Self::Nice => step::NICE,
            Self::Directory => step::DIRECTORY,
            Self::Descriptors => step::DESCRIPTORS,
            Self::Exec => step::EXEC,
            Self::Cgroup => step::CGROUP,
            Self::Queue => 0,
            Self::Resolve => 100,
            Self::Prepare => 101,
            Self::Fork => 102,
            Self::Groups => 103,
            Self::Gid => 104,
            Self::Uid => 105,
            Self::Verify => 106,
        }
    }

    pub(super) fn of_number(number: u32) -> Self {
        Self::ALL
            .into_iter()
            .find(|stage| stage.number() == number)
            .unwrap_or(Self::Prepare)
    }

    fn doing(self) -> &'static str {
        match self {
            Self::Queue => "waiting for a spawner",
            Self::Resolve => "finding the program",
            Self::Prepare => "preparing",
            Self::Fork => "making the process",
            Self::Session => "making its session",
            Self::Limits => "setting limit",
            Self::Nice => "setting nice",
            Self::Groups => "setting the groups of user",
            Self::Gid => "setting the group of user",
            Self::Uid => "setting user",
            Self::Verify => "giving up the rights of the master for user",
            Self::Directory => "entering directory",
            Self::Descriptors => "placing descriptor",
            Self::Exec => "executing",
            Self::Cgroup => "moving into its cgroup",
        }
    }
}

/// The cause, as far as causes that share an errno can be told apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpawnFault {
    /// There is no such program.
    NoSuchProgram,
    /// The program has no execute permission.
    NotExecutable,
    /// The working directory does not exist.
    NoSuchDirectory,
    /// The working directory is not a directory.
    NotADirectory,
    /// A path may not be used by this user.
    PermissionDenied,
    /// The program exists; the interpreter that its first line names, or its dynamic loader, does not.
    BadInterpreter(String),
    /// The program's file is open for writing.
    TextFileBusy,
    /// The file is not a program that the kernel can execute.
    NotAProgram,
    /// The kernel refuses another process (a limit, or memory).
    ForkRefused,
    /// No descriptor is left.
    TooManyFiles,
    /// The spawn did not finish in time.
    Hung,
    /// Described by the stage and the errno.
    Other,
}

/// Why a spawn failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnError {
    /// The stage that failed.
    pub stage: SpawnStage,
    /// The errno of the failed system call.
    pub errno: i32,
    /// What the stage acted on: a path, the name of a limit or of a user; may be empty.
    pub subject: String,
    /// The cause.
    pub fault: SpawnFault,
}

impl std::error::Error for SpawnError {}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.subject;
        match &self.fault {
            SpawnFault::NoSuchProgram => write!(f, "no such program: {subject}"),
            SpawnFault::NotExecutable => write!(f, "not executable: {subject}"),
            SpawnFault::NoSuchDirectory => write!(f, "no such directory: {subject}"),
            SpawnFault::NotADirectory => write!(f, "not a directory: {subject}"),
            SpawnFault::PermissionDenied => write!(f, "permission denied: {subject}"),
            SpawnFault::BadInterpreter(of) => {
                write!(f, "bad interpreter: {of} (asked for by {subject})")
            }
            SpawnFault::TextFileBusy => write!(f, "text file busy: {subject}"),
            SpawnFault::NotAProgram => write!(f, "not a program (exec format error): {subject}"),
            SpawnFault::ForkRefused => {
                write!(
                    f,
                    "fork refused: {} (limit of processes or of the cgroup)",
                    text_of(self.errno)
                )
            }
            SpawnFault::TooManyFiles => write!(f, "too many open files"),
            SpawnFault::Hung => {
                write!(f, "hung while {}", self.stage.doing())?;
                if subject.is_empty() {
                    Ok(())
                } else {
                    write!(f, " {subject}")
                }
            }
            SpawnFault::Other => {
                write!(f, "{}", self.stage.doing())?;
                if !subject.is_empty() {
                    write!(f, " {subject}")?;
                }
                write!(f, ": {}", text_of(self.errno))
            }
        }
    }
}

/// strerror(3), without std's "(os error 11)".
fn text_of(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

impl SpawnError {
    pub(super) fn hung(stage: SpawnStage, subject: &str) -> Self {
        Self {
            stage,
            errno: libc::ETIMEDOUT,
            subject: subject.to_owned(),
            fault: SpawnFault::Hung,
        }
    }

    pub(super) fn with_fault(
        stage: SpawnStage,
        errno: i32,
        subject: &Path,
        fault: SpawnFault,
    ) -> Self {
        Self {
            stage,
            errno,
            subject: subject.display().to_string(),
            fault,
        }
    }

    /// Looks at the file system to tell causes apart that share an errno.
    pub(super) fn diagnose(stage: SpawnStage, errno: i32, subject: &Path) -> Self {
        let fault = match (stage, errno) {
            (_, libc::EMFILE | libc::ENFILE) | (SpawnStage::Descriptors, libc::EBADF) => {
                SpawnFault::TooManyFiles
            }
            (SpawnStage::Fork, libc::EAGAIN | libc::ENOMEM) | (SpawnStage::Exec, libc::EAGAIN) => {
                SpawnFault::ForkRefused
            }
            (SpawnStage::Directory, libc::ENOENT) => SpawnFault::NoSuchDirectory,
            (SpawnStage::Directory, libc::ENOTDIR) => SpawnFault::NotADirectory,
            (SpawnStage::Exec, libc::ENOENT) if subject.exists() => {
                SpawnFault::BadInterpreter(interpreter(subject))
            }
            (SpawnStage::Exec, libc::ENOENT | libc::ENOTDIR) => SpawnFault::NoSuchProgram,
            (SpawnStage::Exec, libc::EACCES) if subject.exists() && !executable(subject) => {
                SpawnFault::NotExecutable
            }
            (SpawnStage::Exec, libc::ENOEXEC) => SpawnFault::NotAProgram,
            (SpawnStage::Exec, libc::ETXTBSY) => SpawnFault::TextFileBusy,
            (SpawnStage::Directory | SpawnStage::Exec | SpawnStage::Resolve, libc::EACCES) => {
                SpawnFault::PermissionDenied
            }
            _ => SpawnFault::Other,
        };
        if stage == SpawnStage::Exec
            && fault == SpawnFault::PermissionDenied
            && let Some(denied) = denied_interpreter(subject)
        {
            return Self::with_fault(stage, errno, Path::new(&denied), fault);
        }
        Self::with_fault(stage, errno, subject, fault)
    }
}

/// A regular file with an execute bit; the kernel decides whether we may execute it.
pub(super) fn executable(program: &Path) -> bool {
    fs::metadata(program)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The interpreter of a script that we may execute, where it is the interpreter that we may not: a virtual environment of
/// another user's Python. Asks by access(2), so as the user of this process: it runs as the worker's.
fn denied_interpreter(program: &Path) -> Option<String> {
    if access(program, AccessFlags::X_OK).is_err() {
        return None;
    }
    let interpreter = interpreter(program);
    match access(Path::new(&interpreter), AccessFlags::X_OK) {
        Err(Errno::EACCES) => Some(format!(
            "{interpreter} (the interpreter of {})",
            program.display()
        )),
        _ => None,
    }
}

/// The interpreter in a script's first line (execve(2)).
fn interpreter(program: &Path) -> String {
    let mut head = [0; 256];
    let length = File::open(program)
        .and_then(|mut file| file.read(&mut head))
        .unwrap_or(0);
    let Some(line) = head[..length].strip_prefix(b"#!") else {
        return "its dynamic loader".to_owned();
    };
    let line = line
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    let name = line
        .split(u8::is_ascii_whitespace)
        .next()
        .unwrap_or_default();
    // A file with CRLF line ends: the carriage return is part of the name that the kernel looked up.
    Path::new(std::ffi::OsStr::from_bytes(name))
        .display()
        .to_string()
        + if head[..length].windows(2).any(|pair| pair == b"\r\n") {
            "\\r"
        } else {
            ""
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_its_own_number() {
        for stage in SpawnStage::ALL {
            assert_eq!(SpawnStage::of_number(stage.number()), stage);
        }
    }

    #[test]
    fn errors_name_cause_and_subject() {
        let text =
            |stage, errno| SpawnError::diagnose(stage, errno, Path::new("/no/x")).to_string();
        assert_eq!(
            text(SpawnStage::Fork, libc::EAGAIN),
            "fork refused: Resource temporarily unavailable (limit of processes or of the cgroup)"
        );
        assert_eq!(text(SpawnStage::Fork, libc::EMFILE), "too many open files");
        assert_eq!(
            text(SpawnStage::Exec, libc::ETXTBSY),
            "text file busy: /no/x"
        );
        assert_eq!(
            text(SpawnStage::Limits, libc::EPERM),
            "setting limit /no/x: Operation not permitted"
        );
        assert_eq!(
            SpawnError::hung(SpawnStage::Directory, "/x").to_string(),
            "hung while entering directory /x"
        );
    }
}
