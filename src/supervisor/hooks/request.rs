//! What a run of a hook is spawned from: its command, its environment, and the event on its stdin.

use super::queue::Delivery;
use crate::observe::events::Event;
use crate::observe::sanitize::sanitize_json;
use crate::plan::{Context, HookPlan};
use crate::probe::ProbeRequest;
use crate::process::tree::TAG;
use crate::process::{PinnedPaths, SpawnRequest, environment};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rotad_core::WorkerId;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// What a hook is told of its master.
pub(super) struct Facts<'a> {
    pub master: &'a str,
    pub config: &'a Path,
    /// The path that `{rotad}` expands to.
    pub rotad: &'a Path,
    /// The value of ROTAD_WORKER, by which its orphans are found.
    pub tag: &'a str,
    pub null: &'a Arc<OwnedFd>,
}

/// The event as a hook gets it: as `rotad events --json` prints it, and what a message needs beside that.
#[derive(Serialize)]
struct Message<'a> {
    #[serde(flatten)]
    event: &'a Event,
    hook: &'a str,
    on: &'a str,
    folded: u64,
    folded_events: &'a BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    test: bool,
    master: &'a str,
    config: Cow<'a, str>,
    host: String,
}

/// The request for a run.
///
/// # Errors
/// EMFILE, ENOMEM: there is no memory or no descriptor for its stdin.
pub(super) fn of(
    plan: &HookPlan,
    delivery: &Delivery,
    facts: &Facts<'_>,
) -> io::Result<ProbeRequest> {
    let context = Context {
        addresses: &[],
        pool: "",
        slot: 0,
        generation: 0,
        port: None,
        rotad: facts.rotad,
        node_preload: Path::new(""),
    };
    let words = plan.command.iter();
    let argv: Vec<OsString> = words.map(|word| word.expand(&context)).collect();
    let event = &delivery.event;
    let mut env = environment::base(false, &[], None);
    let own: [(&str, OsString); 6] = [
        (TAG, facts.tag.into()),
        ("ROTAD_HOOK", plan.name.as_str().into()),
        ("ROTAD_CONFIG", facts.config.into()),
        ("ROTAD_EVENT", delivery.on.as_str().into()),
        // ROTAD_POOL is that of a worker, by which a process is known to belong to one.
        (
            "ROTAD_EVENT_POOL",
            event.pool.as_deref().unwrap_or_default().into(),
        ),
        // The text may quote a worker, which may print anything.
        ("ROTAD_EVENT_TEXT", event.text.replace('\0', "").into()),
    ];
    env.extend(own.map(|(name, value)| (name.into(), value)));
    let path = env.iter().find(|(name, _)| name == "PATH");
    let path = path.map(|(_, value)| value.clone());
    let program = argv.first().cloned().unwrap_or_default();
    let pinned = PinnedPaths::new(program, plan.directory.clone(), path);
    let spawn = SpawnRequest {
        // The prober gives it its own.
        worker: WorkerId(0),
        pinned: Arc::new(pinned),
        argv,
        env,
        account: None,
        umask: None,
        nice: None,
        limits: Vec::new(),
        stdin: Some(Arc::new(stdin(plan, delivery, facts)?)),
        stdout: facts.null.clone(),
        stderr: facts.null.clone(),
        listeners: Vec::new(),
        listen_names: String::new(),
        watchdog: None,
        cgroup: None,
        pid: Arc::default(),
    };
    Ok(ProbeRequest::Hook(plan.name.clone(), Box::new(spawn)))
}

/// A file in memory with the event as a line of JSON: a pipe would have to be written while the hook reads.
fn stdin(plan: &HookPlan, delivery: &Delivery, facts: &Facts<'_>) -> io::Result<OwnedFd> {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let message = Message {
        event: &delivery.event,
        hook: &plan.name,
        on: &delivery.on,
        folded: delivery.folded,
        folded_events: &delivery.folded_events,
        test: delivery.test,
        master: facts.master,
        config: facts.config.to_string_lossy(),
        host: host.to_string_lossy().into_owned(),
    };
    let line = serde_json::to_string(&message).map_err(io::Error::other)?;
    let mut file = File::from(memfd_create("rotad-event", MFdFlags::MFD_CLOEXEC)?);
    writeln!(file, "{}", sanitize_json(&line))?;
    file.rewind()?;
    Ok(file.into())
}
