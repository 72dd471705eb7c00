//! Actions: what a part of the supervisor wants to have done outside of itself.
//!
//! The parts (`workers`, `health`, `reload`, `clients`, …) own their state. Their methods take what they need to know as
//! arguments and return actions; they see neither the engine nor each other. The supervisor performs the actions in
//! their order (`perform.rs`).

use super::event_builder::EventBuilder;
use super::health::probes::Purpose;
use super::listening::ListenerId;
use crate::listener::{FileCheck, FileOwnership, ReplacementSocket};
use rotad_core::{Input, WorkerId};

/// Something to be done outside of the part that returns it.
#[derive(Debug)]
pub(super) enum Action {
    /// Emit an event.
    Emit(EventBuilder),
    /// Queue an input for the engine.
    Input(Input),
    /// Set why a worker is not ready, or unhealthy: the reason given when it is killed for that.
    SetProbeError(WorkerId, Option<String>),
    /// Start a probe of a worker, by `Probing::start`.
    StartProbe {
        number: u64,
        worker: WorkerId,
        purpose: Purpose,
    },
    /// Ask the engine to replace a worker that serves; its reply goes to `Health::on_replace_reply`.
    Replace(WorkerId),
    /// Hand the spawn of a worker to the spawner. `port`: the one that it was given, of its pool's `ports`.
    Spawn { worker: WorkerId, port: Option<u16> },
    /// Report the spawn of a worker as failed; it was not submitted.
    FailSpawn { worker: WorkerId, error: String },
    /// Start the blocking job that checks and repairs the runtime directory; its result goes to `Runtime::repaired`.
    RepairRuntimeDir,
    /// Start the blocking job that checks a listening socket and its file, and may replace it; its result goes to
    /// `Listening::on_checked`.
    CheckListener(ListenerId, FileCheck, bool),
    /// Close a socket that was made for a listener which is gone, and remove its file, in a blocking job.
    DiscardSocket(ReplacementSocket),
    /// Set owner and mode of the file of the listener of this name, in a blocking job.
    SetFileOwnership(String, FileOwnership),
    /// A listener has a new socket: clients no longer reach the workers that hold the old one.
    ReplaceHolders(ListenerId),
    /// The worker's program runs: its readiness and health are looked at from now on, and the engine learns of it.
    ProgramRuns(WorkerId),
    /// The worker has ended, ready or not: nothing looks for its readiness and health any more.
    EndHealth(WorkerId),
    /// Nothing is left of the worker: its port is free for another one.
    ReleasePort(WorkerId),
    /// A process has lost its parent and belongs to no worker: it may be a program that goes into the background.
    UnownedProcess { pid: i32, name: String },
}
