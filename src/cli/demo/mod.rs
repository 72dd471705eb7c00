//! `demo`: a master with built-in workers in a directory of its own, and the commands to try on it.

mod load;
mod stage;
pub(super) mod task;
pub(super) mod web;

use super::print;
use crate::exit_code::ExitCode;
use crate::sys::signal;
use load::Load;
use stage::{DemoMaster, DemoSignals};
use std::net::{Ipv4Addr, TcpListener};

/// Rolling restarts under load that `--once` makes.
const ROLLS: u32 = 3;

/// How many requests must be answered between two rolls, so that there is load in every phase.
const BETWEEN: u64 = 200;

/// Runs until Ctrl-C, or with `once` until the measurement is done. Removes everything it made.
pub(super) fn demo(once: bool, port: Option<u16>) -> ExitCode {
    // If the parent ignores CHLD, the kernel would reap our master and its exit would go unseen.
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
    let mut stage = DemoMaster::open(port)?;
    if !stage.wait_ready(&signals)? {
        return stage.close(&signals);
    }
    if once {
        return measure(stage, &signals, port);
    }
    explain(&stage, port);
    stage.wait_end(&signals)
}

/// The requested port, or 8080, or the next free one.
fn free_port(wish: Option<u16>) -> Result<u16, String> {
    let bind =
        |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|l| l.local_addr());
    match wish {
        Some(port) => bind(port).map(|address| address.port()).map_err(|error| {
            format!("failed to listen on 127.0.0.1:{port}: {error}; take another --port, or none")
        }),
        None => (8080..8180)
            .chain([0])
            .find_map(|port| bind(port).ok())
            .map(|address| address.port())
            .ok_or_else(|| "no port is free for the demo".to_owned()),
    }
}

fn explain(stage: &DemoMaster, port: u16) {
    let rotad = stage.rotad().display();
    let (config, pid_file, broken) = (
        stage.config().display(),
        stage.pid_file().display(),
        stage.broken(),
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
      rolling restart of everything, and how it went
  touch {broken}
      \"deploys broken code\": new workers fail from now on. Roll again: the old ones serve on, and roll tells why
  rm {broken}
      mends it

Ctrl-C here stops everything and removes {}.
",
        stage.folder().display()
    ));
}

/// Load, rolling restarts by signal to the pid in the pid file, and the count of what was lost.
fn measure(mut stage: DemoMaster, signals: &DemoSignals, port: u16) -> Result<ExitCode, String> {
    let load = Load::start(port).map_err(|error| format!("failed to start the load: {error}"))?;
    let mut rolled = Ok(());
    for roll in 1..=ROLLS {
        load.wait_for_more(BETWEEN);
        rolled = stage.roll_by_signal(signals);
        match &rolled {
            Ok(()) => print::line(&format!(
                "roll {roll} of {ROLLS}: every web worker was replaced"
            )),
            Err(_) => break,
        }
    }
    load.wait_for_more(BETWEEN);
    let result = load.stop();
    let ended = stage.close(signals)?;
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
    let good = rolled.is_ok() && result.connection_lost == 0 && ended == ExitCode::DONE;
    Ok(if good {
        ExitCode::DONE
    } else {
        ExitCode::FAILED
    })
}
