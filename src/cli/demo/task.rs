//! `rotad __demo-task`, a worker of the demo's task pool. It has no jobs: it reports ready, counts seconds, and stops on
//! TERM.

use crate::event_loop::signal_pipe::SignalPipe;
use crate::exit_code::ExitCode;
use crate::observe::print;
use crate::sys::poll::poll;
use nix::poll::{PollFd, PollFlags};
use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// The time between two ticks.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two STATUS messages.
const TICKS_PER_STATUS: u64 = 10;

/// Runs until TERM or INT. Returns the exit code.
pub(in super::super) fn main() -> ExitCode {
    crate::sys::signal::ignore(&crate::sys::signal::MEANT_FOR_A_MASTER);
    if Path::new(super::web::BROKEN).exists() {
        print::plain_error(&format!(
            "demo: the new code is broken, because the file {} exists",
            super::web::BROKEN
        ));
        return ExitCode::FAILED;
    }
    match work() {
        Ok(()) => ExitCode::DONE,
        Err(error) => {
            print::plain_error(&format!("demo: {error}"));
            ExitCode::FAILED
        }
    }
}

fn work() -> io::Result<()> {
    // Before READY=1: from then on TERM must be handled.
    let stop = SignalPipe::on(&[nix::libc::SIGTERM, nix::libc::SIGINT])?;
    notify("READY=1\nSTATUS=waiting for jobs")?;
    for tick in 1_u64.. {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, Some(TICK)).ok();
        if stop.take() {
            break;
        }
        if tick % TICKS_PER_STATUS == 0 {
            notify(&format!("STATUS={tick} ticks done"))?;
        }
    }
    notify("STOPPING=1")
}

/// Sends a message as sd_notify(3) does. Does nothing if NOTIFY_SOCKET is not set.
fn notify(message: &str) -> io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match name.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    match UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address) {
        // The master has just exited, which is not this worker's error.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        done => done.map(drop),
    }
}
