//! `rotad demo`: starts a master with built-in workers in a temporary directory, and prints commands to try. With `--once`
//! it puts load on the workers, rolls them, and prints how many requests were lost.

mod load;
mod master;
pub(super) mod task;
pub(super) mod web;

use super::print;
use crate::exit_code::ExitCode;
use crate::sys::signal;
use load::Load;
use master::{DemoMaster, DemoSignals};
use std::net::{Ipv4Addr, TcpListener};

/// How many rolling restarts `--once` makes.
const ROLLS: u32 = 3;

/// How many requests must end between two rolling restarts, so that there is load in every phase.
const BETWEEN: u64 = 200;

/// Runs until Ctrl-C, or with `once` until the measurement is done. Removes everything that it created. Returns the exit
/// code.
pub(super) fn demo(once: bool, port: Option<u16>) -> ExitCode {
    // If the parent process ignores CHLD, so do we, and the kernel would reap our master before we see its exit.
    signal::reset_all();
    signal::ignore_until_handled();
    match play(once, port) {
        Ok(code) => code,
        Err(message) => {
            print::error(&message);
            ExitCode::FAILED
        }
    }
}

fn play(once: bool, port: Option<u16>) -> Result<ExitCode, String> {
    let port = free_port(port)?;
    let signals =
        DemoSignals::new().map_err(|error| format!("failed to catch signals: {error}"))?;
    let mut master = DemoMaster::open(port)?;
    if !master.wait_ready(&signals)? {
        return master.close(&signals);
    }
    if once {
        return measure(master, &signals, port);
    }
    explain(&master, port);
    master.wait_end(&signals)
}

/// The requested port, or 8080, or the next free one.
fn free_port(requested: Option<u16>) -> Result<u16, String> {
    let bind =
        |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|l| l.local_addr());
    match requested {
        Some(port) => bind(port).map(|address| address.port()).map_err(|error| {
            format!("failed to listen on 127.0.0.1:{port}: {error}; choose another --port, or leave it out")
        }),
        None => (8080..8180)
            .chain([0])
            .find_map(|port| bind(port).ok())
            .map(|address| address.port())
            .ok_or_else(|| "no port is free for the demo".to_owned()),
    }
}

fn explain(master: &DemoMaster, port: u16) {
    let rotad = master.rotad().display();
    let (config, pid_file, broken) = (
        master.config().display(),
        master.pid_file().display(),
        master.broken(),
    );
    let broken = broken.display();
    print::line(&format!(
        "
rotad demo: four web workers and two task workers are up. Type in another terminal:

  curl http://127.0.0.1:{port}/
      which worker answers (/slow takes two seconds)
  kill -USR1 $(cat {pid_file})
      rolling restart of the web workers: no request is lost (USR2: of the task workers)
  {rotad} status -c {config}
      what runs (status web: each worker; --json for programs)
  {rotad} roll -c {config}
      rolling restart of all pools; waits and shows each step
  touch {broken}
      \"deploys\" broken code: new workers fail from now on. Roll again: the old ones keep serving, and roll says why
  rm {broken}
      fixes the code

Ctrl-C here stops everything and removes {}.
",
        master.dir().display()
    ));
}

/// Rolls the web workers under load, by USR1 as a deploy script would, and prints how many
/// requests were lost.
fn measure(mut master: DemoMaster, signals: &DemoSignals, port: u16) -> Result<ExitCode, String> {
    let load = Load::start(port).map_err(|error| format!("failed to start the load: {error}"))?;
    let mut rolled = Ok(());
    for roll in 1..=ROLLS {
        load.wait_for_more(BETWEEN);
        rolled = master.roll_by_signal(signals);
        match &rolled {
            Ok(()) => print::line(&format!(
                "roll {roll} of {ROLLS}: every web worker was replaced"
            )),
            Err(_) => break,
        }
    }
    load.wait_for_more(BETWEEN);
    let result = load.stop();
    let ended = master.close(signals)?;
    if let Err(message) = &rolled {
        print::error(message);
    }
    if let Some(first) = &result.first_loss {
        print::error(&format!("the first request that was lost: {first}"));
    }
    print::line(&format!(
        "requests {}, lost {}",
        result.requests, result.connection_lost
    ));
    let success = rolled.is_ok() && result.connection_lost == 0 && ended == ExitCode::DONE;
    Ok(if success {
        ExitCode::DONE
    } else {
        ExitCode::FAILED
    })
}
