//! Finds the master of a configuration: in the runtime directory that the file names or that is the default, behind
//! the abstract socket named after the file's path (`runtime_dir/presence.rs`), or in the default place of root's
//! masters. If none is found, says what is known for certain.

use super::{ClientError, WaitLimits, wait};
use crate::cli::seam::{self, MasterPaths};
use crate::control::wire::{Method, Request, Response, SOCKET, VERSION};
use crate::event_loop::clock::Deadline;
use crate::runtime_dir::stale_workers::StaleWorkers;
use crate::runtime_dir::{self, presence};
use nix::fcntl::OFlag;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a master that holds its lock may take to open its socket.
const STARTING: Duration = Duration::from_secs(5);

/// How long a master may take to identify its configuration.
const TIME_TO_SAY: Duration = Duration::from_secs(2);

/// A connection, and the path by which that master knows its configuration.
pub(super) type Reached = (UnixStream, PathBuf);

pub(super) fn reach(peek: &MasterPaths, limits: &WaitLimits) -> Result<Reached, ClientError> {
    let until = Deadline::after(STARTING);
    let until = limits.until.map_or(until, |timeout| timeout.min(until));
    loop {
        let refusal = match dial(&peek.runtime_dir) {
            Ok(stream) => return Ok((stream, peek.config.clone())),
            Err(error) if is_nobody(&error) => None,
            Err(error) => Some(error),
        };
        if let Some(reached) = by_sign(peek)? {
            return Ok(reached);
        }
        if let Some(error) = refusal {
            return Err(refused(&error, peek));
        }
        if let Some(reached) = in_roots_place(peek)? {
            return Ok(reached);
        }
        match runtime_dir::lock_owner(&peek.runtime_dir) {
            None => return Err(nobody(peek)),
            Some(pid) if until.has_passed() => return Err(deaf(pid, &peek.runtime_dir)),
            // There is nothing to poll: the socket does not exist yet.
            Some(_) => wait(
                &mut [],
                Some(Deadline::after(Duration::from_millis(20))),
                limits,
            )?,
        }
    }
}

/// The master of another user whom this file's is due to: for a start that would be the second one. One of our own is
/// met by the start itself, under its lock.
pub fn runs_elsewhere(peek: &MasterPaths) -> Option<String> {
    let me = geteuid().as_raw();
    let mut holders = presence::masters_of(&[&peek.config, &peek.real]).into_iter();
    let description = match holders.find(|holder| holder.uid != me && is_due(holder.uid, peek)) {
        Some(holder) => holder.description(),
        None => in_roots_place(peek)
            .ok()
            .flatten()
            .map(|_| "root's".to_owned())?,
    };
    let config = peek.config.display();
    Some(format!(
        "already running: a master of {description} runs {config}; `rotad reload`, as a user who may, brings new code"
    ))
}

/// Any user may claim to run a file: only the users who may run its master count.
fn is_due(uid: u32, peek: &MasterPaths) -> bool {
    uid == geteuid().as_raw() || uid == 0 || Some(uid) == peek.owner
}

fn by_sign(peek: &MasterPaths) -> Result<Option<Reached>, ClientError> {
    let me = geteuid().as_raw();
    let mut holders = presence::masters_of(&[&peek.config, &peek.real]);
    holders.sort_by_key(|holder| (!is_due(holder.uid, peek), holder.uid != me, holder.uid));
    let Some(holder) = holders.into_iter().next() else {
        return by_the_same_file(peek);
    };
    if holder.uid == me {
        // A killed process closes its sockets only when its last thread has ended.
        let there = said(&holder.stream).map_or_else(|error| is_late(&error), |_| true);
        let again = presence::masters_of(&[&peek.config, &peek.real])
            .into_iter()
            .find(|again| again.uid == me);
        return Ok(again
            .filter(|_| there)
            .map(|again| (again.stream, peek.config.clone())));
    }
    let text = anothers(&holder, peek);
    // Root uses the file or its own default, and is only told of others: it may talk to any master, but not by
    // mistake.
    let place = if me == 0 { None } else { holder.runtime_dir() };
    match place.map(|place| dial(&place)) {
        Some(Ok(stream)) => Ok(Some((stream, peek.config.clone()))),
        Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(ClientError::NotPermitted(text))
        }
        _ => Err(ClientError::Elsewhere(text)),
    }
}

/// A master of the same user that knows the file by another path, through a link that has been turned to this one.
fn by_the_same_file(peek: &MasterPaths) -> Result<Option<Reached>, ClientError> {
    let me = geteuid().as_raw();
    for holder in presence::all_masters()
        .into_iter()
        .filter(|holder| holder.uid == me)
    {
        let Some(config) = whose(&holder.stream) else {
            continue;
        };
        if config.canonicalize().is_ok_and(|real| real == peek.real) {
            let again = presence::masters_of(&[&config])
                .into_iter()
                .find(|again| again.uid == me);
            return Ok(again.map(|again| (again.stream, config)));
        }
    }
    Ok(None)
}

fn in_roots_place(peek: &MasterPaths) -> Result<Option<Reached>, ClientError> {
    let Some(place) = &peek.roots_runtime_dir else {
        return Ok(None);
    };
    match dial(place) {
        Ok(stream) => {
            let Some(config) = whose(&stream) else {
                return Ok(None);
            };
            let ours = [&peek.config, &peek.real].contains(&&config)
                || config.canonicalize().is_ok_and(|real| real == peek.real);
            // Otherwise it is the master of another file with the same name.
            Ok(dial(place)
                .ok()
                .filter(|_| ours)
                .map(|stream| (stream, config)))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let Some(pid) = runtime_dir::lock_owner(place) else {
                return Ok(None);
            };
            // Its abstract sockets would have shown it, unless it is in another network namespace.
            if presence::all_masters()
                .iter()
                .any(|holder| holder.pid == pid)
            {
                return Ok(None);
            }
            Err(ClientError::NotPermitted(format!(
                "a master of root's (pid {pid}) has {}, which may be that of {}: this user may not ask it; \
                 `sudo {}` may",
                place.display(),
                peek.config.display(),
                typed()
            )))
        }
        Err(_) => Ok(None),
    }
}

/// The configuration of the connected master.
fn whose(stream: &UnixStream) -> Option<PathBuf> {
    match serde_json::from_str(&said(stream).ok()?).ok()? {
        Response::Here { config, .. } => config,
        _ => None,
    }
}

/// What a master answers when asked where it is.
fn said(stream: &UnixStream) -> io::Result<String> {
    stream.set_read_timeout(Some(TIME_TO_SAY))?;
    stream.set_write_timeout(Some(TIME_TO_SAY))?;
    let question = Request {
        version: VERSION,
        config: PathBuf::new(),
        real: None,
        ask: Method::Where,
    };
    let mut line = serde_json::to_vec(&question)?;
    line.push(b'\n');
    let mut writer = stream;
    writer.write_all(&line)?;
    let mut answer = String::new();
    match BufReader::new(stream.take(64 << 10)).read_line(&mut answer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(answer),
    }
}

/// A master is there but did not answer in time: stopped, or busy.
fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// # Errors
/// Refused also where a killed master, which the kernel has not let go of, still has the socket: nobody will answer.
fn dial(runtime_dir: &Path) -> io::Result<UnixStream> {
    let stream = connect(runtime_dir)?;
    match getsockopt(&stream, PeerCredentials) {
        Ok(peer) if !presence::is_alive(peer.pid()) => Err(io::ErrorKind::ConnectionRefused.into()),
        _ => Ok(stream),
    }
}

fn connect(runtime_dir: &Path) -> io::Result<UnixStream> {
    let path = runtime_dir.join(SOCKET);
    if path.as_os_str().len() < 100 {
        return UnixStream::connect(path);
    }
    // A socket address has room for 108 bytes; /proc/self/fd makes every directory short.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = nix::fcntl::open(runtime_dir, flags, Mode::empty())?;
    UnixStream::connect(runtime_dir::proc_fd_path(&folder, SOCKET))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    )
}

/// The master of another user, and the command to type.
fn anothers(holder: &presence::PresentMaster, peek: &MasterPaths) -> String {
    let user = match (holder.uid, seam::user_name(holder.uid)) {
        (0, _) => String::new(),
        (_, Some(name)) => format!("-u {} ", shell_words::quote(&name)),
        (uid, None) => format!("-u '#{uid}' "),
    };
    format!(
        "a master of {} runs {}: `sudo {user}{}` asks it",
        holder.description(),
        peek.config.display(),
        typed()
    )
}

/// The command as it was typed.
fn typed() -> String {
    let words: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    crate::observe::print::sanitize(shell_words::join(words))
}

/// No master was found: for certain, or as far as can be known.
fn nobody(peek: &MasterPaths) -> ClientError {
    let config = peek.config.display();
    let left = StaleWorkers::find(&peek.runtime_dir)
        .unwrap_or_default()
        .found;
    if !left.is_empty() {
        let line = |pool: &str, slot: u32, pid: i32| format!("  {pool}/{slot}: pid {pid}");
        let names: Vec<String> = left
            .iter()
            .map(|one| line(&one.pool, one.slot, one.pid))
            .collect();
        return ClientError::Unsure {
            code: 4,
            text: format!(
                "the master of {config} was killed, and these of its workers still run:\n{}\n`rotad start -c {}` takes \
                 over: it stops them and starts new ones",
                names.join("\n"),
                quoted(&peek.config)
            ),
        };
    }
    let socket = peek.runtime_dir.join(SOCKET);
    let socket = socket.display();
    match &peek.unsure {
        Some(why) => ClientError::Unsure {
            // A file that does not exist is usually a typing mistake.
            code: if peek.config.exists() { 4 } else { 78 },
            text: format!(
                "no master was found for {config}, but {why}, so where its master would be is not known for sure: \
                 nothing listens on {socket}, and none here says that it runs this file\n  mend the file, or name the \
                 right one with -c; a master in the process list takes TERM"
            ),
        },
        None => ClientError::Unreachable(format!(
            "no master reachable for {config} (nothing listens on {socket}); start it with `rotad start -c {}`, or name \
             the right file with -c",
            quoted(&peek.config)
        )),
    }
}

fn quoted(path: &Path) -> String {
    shell_words::quote(&path.to_string_lossy()).into_owned()
}

fn deaf(pid: i32, runtime_dir: &Path) -> ClientError {
    let description = if pid > 0 {
        format!("process {pid}")
    } else {
        "a process".to_owned()
    };
    ClientError::Failed(format!(
        "{description} holds {} but listens on no control socket there: it is still starting, or it hangs; signals reach it \
         (HUP makes it open its socket again, TERM stops it)",
        runtime_dir.display()
    ))
}

fn refused(error: &io::Error, peek: &MasterPaths) -> ClientError {
    let socket = peek.runtime_dir.join(SOCKET);
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotPermitted(format!(
            "not permitted to use {socket}: ask as the user who started the master, or open it by [control] mode and \
             group in {}",
            peek.config.display()
        )),
        io::ErrorKind::WouldBlock => ClientError::Failed(format!(
            "the master is too busy to listen on {socket}: try again"
        )),
        _ => ClientError::Failed(format!("failed to connect to {socket}: {error}")),
    }
}
