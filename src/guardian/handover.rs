//! Executes a program as the guardian, in the process that is the guardian or becomes it: pid and children stay, and the
//! descriptors and the saved state are handed over.
//!
//! Three cases need that: the guardian has died, and its master takes its place; an upgrade, in which the guardian itself
//! executes the new program; an upgrade that is undone. The program is executed by a descriptor that was opened when it
//! began to run, so that a file that was replaced or removed meanwhile does no harm.
//!
//! The program that was executed finds the number of the descriptor of the saved state in its environment ([`take`]).

use super::page::SharedState;
use crate::sys::descriptors::{can_keep_over_exec, keep_over_exec, take_inherited};
use crate::sys::exec::become_file;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

/// The variable with the number of the state's descriptor. Workers do not see it.
const STATE: &str = "ROTAD_GUARDIAN_STATE";
/// The variable with the master's name, which the title of the process shows. A program that does not find it goes on without.
const NAME: &str = "ROTAD_GUARDIAN_NAME";
/// The first descriptor that is not a standard stream.
const FIRST_FD: RawFd = 3;

/// Opens the program that this process runs, if descriptors can be handed over to it.
///
/// # Errors
/// `Unsupported`: they cannot ([`can_keep_over_exec`]). ENOENT: there is no /proc.
pub(super) fn own_program() -> io::Result<OwnedFd> {
    if !can_keep_over_exec() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    Ok(open("/proc/self/exe", flags, Mode::empty())?)
}

/// Executes the program of this descriptor with our arguments, and with all descriptors that are open. `name`: the master's. All signals are
/// blocked from here on: they wait for the program's handlers.
///
/// Returns only on failure. The calling thread has a descriptor table of its own then, if the error is one of execve(2).
pub(super) fn execute(program: RawFd, state: &SharedState, name: &str) -> io::Error {
    let entry = |name: OsString, value: OsString| -> Option<CString> {
        let bytes = [name.into_vec(), value.into_vec()].join(&b'=');
        CString::new(bytes).ok()
    };
    let memory = state.memory().as_fd().as_raw_fd();
    let others = std::env::vars_os().filter(|(name, _)| name != STATE && name != NAME);
    let environment: Vec<CString> = others
        .chain([
            (STATE.into(), memory.to_string().into()),
            (NAME.into(), name.into()),
        ])
        .filter_map(|(name, value)| entry(name, value))
        .collect();
    let arguments: Vec<CString> = std::env::args_os()
        .filter_map(|argument| CString::new(argument.into_vec()).ok())
        .collect();
    if let Err(error) = SigSet::all().thread_set_mask() {
        return error.into();
    }
    match keep_over_exec(FIRST_FD) {
        Ok(()) => become_file(program, &arguments, &environment),
        Err(error) => error,
    }
}

/// In a program that was executed so: the state, and the master's name. None: it was not.
///
/// # Errors
/// What the variable names is no state.
pub(super) fn take() -> Option<io::Result<(SharedState, String)>> {
    let number = std::env::var_os(STATE)?;
    let number = number.to_str().and_then(|number| number.parse().ok());
    let number = number.filter(|number| *number >= FIRST_FD);
    let fd = number.ok_or(io::ErrorKind::InvalidInput.into());
    let name = std::env::var(NAME).unwrap_or_default();
    let state = fd.and_then(take_inherited).and_then(SharedState::of);
    Some(state.map(|state| (state, name)))
}
