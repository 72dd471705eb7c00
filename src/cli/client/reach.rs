//! Finds the master of a configuration: in the runtime directory that the file names or that is the default, behind
//! the abstract socket named after the file's path (`runtime_dir/presence.rs`), or in the default place of root's
//! masters. If none is found, says what is known for certain.

use super::{ClientError, WaitLimits, wait};
use crate::config::{self, MasterPaths};
use crate::control::protocol::{Method, Request, Response, SOCKET, VERSION};
use crate::event_loop::clock::Deadline;
use crate::exit_code::ExitCode;
use crate::plan::MAX_UNIX_PATH;
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
const START_WAIT: Duration = Duration::from_secs(5);

/// How long a guardian may take to start the next master after one has died.
const REPLACEMENT_WAIT: Duration = Duration::from_secs(2);

/// How long a master may take to identify its configuration.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection, and the path by which that master knows its configuration.
pub(super) type Connection = (UnixStream, PathBuf);

pub(super) fn reach(paths: &MasterPaths, limits: &WaitLimits) -> Result<Connection, ClientError> {
    let until = Deadline::after(START_WAIT);
    let until = limits.until.map_or(until, |timeout| timeout.min(until));
    let replaced_until = Deadline::after(REPLACEMENT_WAIT).min(until);
    loop {
        let refusal = match connect_if_alive(&paths.runtime_dir) {
            Ok(stream) => return Ok((stream, paths.config.clone())),
            Err(error) if nothing_listens(&error) => None,
            Err(error) => Some(error),
        };
        if let Some(reached) = by_presence_socket(paths)? {
            return Ok(reached);
        }
        if let Some(error) = refusal {
            return Err(refused(&error, paths));
        }
        if let Some(reached) = in_roots_runtime_dir(paths)? {
            return Ok(reached);
        }
        match runtime_dir::lock_owner(&paths.runtime_dir) {
            // The master has died, and its guardian has what it had open still. Not seen by every user.
            None => match runtime_dir::guardian_without_master(&paths.runtime_dir) {
                Some(pid) if until.has_passed() => return Err(not_replaced(pid, paths)),
                Some(_) => await_owner(&paths.runtime_dir, until, limits)?,
                None if !replaced_until.has_passed() && is_abandoned(&paths.runtime_dir) => {
                    await_owner(&paths.runtime_dir, replaced_until, limits)?
                }
                None => return Err(no_master(paths)),
            },
            Some(pid) if until.has_passed() => return Err(not_listening(pid, &paths.runtime_dir)),
            // There is nothing to poll: the socket does not exist yet.
            Some(_) => wait(
                &mut [],
                Some(Deadline::after(Duration::from_millis(20))),
                limits,
            )?,
        }
    }
}

/// Waits until a master owns the lock. It does not connect meanwhile: nothing accepts, and a full queue would hang.
fn await_owner(
    runtime_dir: &Path,
    until: Deadline,
    limits: &WaitLimits,
) -> Result<(), ClientError> {
    while runtime_dir::lock_owner(runtime_dir).is_none() && !until.has_passed() {
        wait(
            &mut [],
            Some(Deadline::after(Duration::from_millis(5))),
            limits,
        )?;
    }
    Ok(())
}

/// The message for a start if another user's master that may run this file is running. A master of our own is found by the
/// start itself, by its lock.
pub fn runs_elsewhere(paths: &MasterPaths) -> Option<String> {
    if let Some(other) = of_another_file(paths) {
        return Some(other);
    }
    let me = geteuid().as_raw();
    let mut masters = presence::masters_of(&[&paths.config, &paths.real]).into_iter();
    let description =
        match masters.find(|master| master.uid != me && is_entitled(master.uid, paths)) {
            Some(master) => master.description(),
            None => in_roots_runtime_dir(paths)
                .ok()
                .flatten()
                .map(|_| "root's".to_owned())?,
        };
    let config = paths.config.display();
    Some(format!(
        "already running: a master of {description} runs {config}; `rotad reload`, as a user who may, brings new code"
    ))
}

/// The message for a start if the master of another file uses the runtime directory.
fn of_another_file(paths: &MasterPaths) -> Option<String> {
    // Where no master has the lock, nothing accepts, and a full queue would hang.
    runtime_dir::lock_owner(&paths.runtime_dir)?;
    let stream = connect_if_alive(&paths.runtime_dir).ok()?;
    let config = config_of(&stream)?;
    if [&paths.config, &paths.real].contains(&&config)
        || config.canonicalize().is_ok_and(|real| real == paths.real)
    {
        return None;
    }
    Some(format!(
        "already running: the master of {} uses {}, the place of {}, too: `rotad stop -c {}` ends it, or give each its own \
         `name` in [master]",
        config.display(),
        paths.runtime_dir.display(),
        paths.config.display(),
        quoted(&config)
    ))
}

/// Whether a user may run the master of a file; any user can claim to.
fn is_entitled(uid: u32, paths: &MasterPaths) -> bool {
    uid == geteuid().as_raw() || uid == 0 || Some(uid) == paths.owner
}

fn by_presence_socket(paths: &MasterPaths) -> Result<Option<Connection>, ClientError> {
    let me = geteuid().as_raw();
    let mut masters = presence::masters_of(&[&paths.config, &paths.real]);
    masters.sort_by_key(|master| {
        (
            !is_entitled(master.uid, paths),
            master.uid != me,
            master.uid,
        )
    });
    let Some(master) = masters.into_iter().next() else {
        return by_real_path(paths);
    };
    if master.uid == me {
        // A killed process closes its sockets only when its last thread has ended.
        let there = query_location(&master.stream).map_or_else(|error| is_late(&error), |_| true);
        let again = presence::masters_of(&[&paths.config, &paths.real])
            .into_iter()
            .find(|again| again.uid == me);
        return Ok(again
            .filter(|_| there)
            .map(|again| (again.stream, paths.config.clone())));
    }
    let text = other_users_master(&master, paths);
    // Root uses the file or its own default, and is only told of others: it may talk to any master, but not by
    // mistake.
    let place = if me == 0 { None } else { master.runtime_dir() };
    match place.map(|place| connect_if_alive(&place)) {
        Some(Ok(stream)) => Ok(Some((stream, paths.config.clone()))),
        Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(ClientError::NotPermitted(text))
        }
        _ => Err(ClientError::Elsewhere(text)),
    }
}

/// A master of the same user that knows the file by another path, whose symlink now leads to this file.
fn by_real_path(paths: &MasterPaths) -> Result<Option<Connection>, ClientError> {
    let me = geteuid().as_raw();
    for master in presence::all_masters()
        .into_iter()
        .filter(|master| master.uid == me)
    {
        let Some(config) = config_of(&master.stream) else {
            continue;
        };
        if config.canonicalize().is_ok_and(|real| real == paths.real) {
            let again = presence::masters_of(&[&config])
                .into_iter()
                .find(|again| again.uid == me);
            return Ok(again.map(|again| (again.stream, config)));
        }
    }
    Ok(None)
}

fn in_roots_runtime_dir(paths: &MasterPaths) -> Result<Option<Connection>, ClientError> {
    let Some(place) = &paths.roots_runtime_dir else {
        return Ok(None);
    };
    match connect_if_alive(place) {
        Ok(stream) => {
            let Some(config) = config_of(&stream) else {
                return Ok(None);
            };
            let ours = [&paths.config, &paths.real].contains(&&config)
                || config.canonicalize().is_ok_and(|real| real == paths.real);
            // Otherwise it is the master of another file with the same name.
            Ok(connect_if_alive(place)
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
                .any(|master| master.pid == pid)
            {
                return Ok(None);
            }
            Err(ClientError::NotPermitted(format!(
                "a master of root (pid {pid}) uses {}, and may be that of {}: this user may not ask it; \
                 `sudo {}` may",
                place.display(),
                paths.config.display(),
                typed_command()
            )))
        }
        Err(_) => Ok(None),
    }
}

/// The configuration of the connected master.
fn config_of(stream: &UnixStream) -> Option<PathBuf> {
    match serde_json::from_str(&query_location(stream).ok()?).ok()? {
        Response::Here { config, .. } => config,
        _ => None,
    }
}

/// The response of a master to a request for its location, as a line of JSON.
fn query_location(stream: &UnixStream) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let request = Request {
        version: VERSION,
        config: PathBuf::new(),
        real: None,
        method: Method::Where,
    };
    let mut line = serde_json::to_vec(&request)?;
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

/// Connects to the control socket of a runtime directory.
///
/// Errors: ECONNREFUSED also if a killed master whose threads have not all ended still has the socket.
fn connect_if_alive(runtime_dir: &Path) -> io::Result<UnixStream> {
    let stream = connect(runtime_dir)?;
    match getsockopt(&stream, PeerCredentials) {
        Ok(peer) if !presence::is_alive(peer.pid()) => Err(io::ErrorKind::ConnectionRefused.into()),
        _ => Ok(stream),
    }
}

/// Whether a process listens on the control socket that is not the one that has opened it.
fn is_abandoned(runtime_dir: &Path) -> bool {
    let peer = connect(runtime_dir)
        .ok()
        .and_then(|stream| getsockopt(&stream, PeerCredentials).ok());
    peer.is_some_and(|peer| !presence::is_alive(peer.pid()))
}

fn connect(runtime_dir: &Path) -> io::Result<UnixStream> {
    let path = runtime_dir.join(SOCKET);
    if path.as_os_str().len() <= MAX_UNIX_PATH {
        return UnixStream::connect(path);
    }
    // /proc/self/fd makes every directory short.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open(runtime_dir, flags, Mode::empty())?;
    UnixStream::connect(runtime_dir::proc_fd_path(&dir, SOCKET))
}

fn nothing_listens(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    )
}

/// The master of another user, and the command to type.
fn other_users_master(master: &presence::PresentMaster, paths: &MasterPaths) -> String {
    let user = match (master.uid, user_name(master.uid)) {
        (0, _) => String::new(),
        (_, Some(name)) => format!("-u {} ", shell_words::quote(&name)),
        (uid, None) => format!("-u '#{uid}' "),
    };
    format!(
        "a master of {} runs {}: use `sudo {user}{}`",
        master.description(),
        paths.config.display(),
        typed_command()
    )
}

/// The name of a user; None if no account has this number.
fn user_name(uid: u32) -> Option<String> {
    config::user_of(uid).ok().flatten().map(|user| user.name)
}

/// The command as it was typed.
fn typed_command() -> String {
    let words: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    crate::observe::print::sanitize(shell_words::join(words))
}

/// No master was found: for certain, or as far as can be known.
fn no_master(paths: &MasterPaths) -> ClientError {
    let config = paths.config.display();
    let left = StaleWorkers::find(&paths.runtime_dir)
        .unwrap_or_default()
        .found;
    if !left.is_empty() {
        let line = |pool: &str, slot: u32, pid: i32| format!("  {pool}/{slot}: pid {pid}");
        let names: Vec<String> = left
            .iter()
            .map(|one| line(&one.pool, one.slot, one.pid))
            .collect();
        return ClientError::Uncertain {
            code: ExitCode::NOT_FOUND,
            text: format!(
                "the master of {config} was killed, and these of its workers still run:\n{}\n`rotad start -c {}` \
                 adopts them",
                names.join("\n"),
                quoted(&paths.config)
            ),
        };
    }
    let socket = paths.runtime_dir.join(SOCKET);
    let socket = socket.display();
    let other = config::other_place(&paths.config).map_or_else(String::new, |other| {
        let name = quoted(&other);
        format!(
            "; {} is another configuration: `-c {name}` names it",
            other.display()
        )
    });
    match &paths.unsure {
        Some(why) => ClientError::Uncertain {
            // A file that does not exist is usually a typing mistake.
            code: if paths.config.exists() {
                ExitCode::NOT_FOUND
            } else {
                ExitCode::CONFIG
            },
            text: format!(
                "no master was found for {config}, but {why}, so where its master would be is not known for sure: \
                 nothing listens on {socket}, and no master says that it runs this file\n  fix the file, or name the \
                 right one with -c; a master in the process list takes TERM{other}"
            ),
        },
        None => ClientError::Unreachable(format!(
            "no master reachable for {config} (nothing listens on {socket}); start it with `rotad start -c {}`, or name \
             the right file with -c{other}",
            quoted(&paths.config)
        )),
    }
}

fn quoted(path: &Path) -> String {
    shell_words::quote(&path.to_string_lossy()).into_owned()
}

fn not_listening(pid: i32, runtime_dir: &Path) -> ClientError {
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

/// A guardian has not started the next master in time.
fn not_replaced(guardian: i32, paths: &MasterPaths) -> ClientError {
    let config = paths.config.display();
    ClientError::Failed(format!(
        "the master of {config} has died, and its guardian (pid {guardian}) has not started the next one yet; its workers serve \
         on. The guardian is stopped, for which `kill -CONT {guardian}` is the cure, or the machine is out of memory or \
         processes: then it tries again each second"
    ))
}

fn refused(error: &io::Error, paths: &MasterPaths) -> ClientError {
    let socket = paths.runtime_dir.join(SOCKET);
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotPermitted(format!(
            "not permitted to use {socket}: ask as the user who started the master, or open it by [control] mode and \
             group in {}",
            paths.config.display()
        )),
        io::ErrorKind::WouldBlock => ClientError::Failed(format!(
            "the master is too busy to listen on {socket}: try again"
        )),
        _ => ClientError::Failed(format!("failed to connect to {socket}: {error}")),
    }
}
