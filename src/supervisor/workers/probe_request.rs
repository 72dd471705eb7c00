//! What a probe asks one worker: the check of its plan with the worker's placeholders filled in. `action.rs` calls it for
//! each probe that is started.

use super::process_table::WorkerProcess;
use super::spawn_spec::{SpawnParams, SpawnSpecs};
use crate::listener::Listener;
use crate::plan::{Address, Check, Context, Health, Ready, Template};
use crate::probe::ProbeRequest;
use crate::process::PinnedPaths;
use crate::supervisor::health::probes::Purpose;
use rotad_core::WorkerId;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The request of a probe, and what it asks, for people: without the values of variables. `null`: /dev/null, for the output of a command until the prober replaces it.
///
/// # Errors
/// The text names no address that can be asked; or the plan has no such check any more.
pub(crate) fn probe_request(
    worker: WorkerId,
    process: &WorkerProcess,
    purpose: Purpose,
    listeners: &[&Listener],
    specs: &mut SpawnSpecs,
    null: &Arc<OwnedFd>,
) -> Result<(ProbeRequest, String), String> {
    let plan = &process.spec.plan;
    let ((Purpose::Readiness, Ready::Probe(check), _)
    | (Purpose::Health, _, Some(Health::Probe { check, .. }))) =
        (purpose, &plan.ready, &plan.health)
    else {
        return Err("its pool has no such check any more".to_owned());
    };
    let addresses: Vec<Address> = listeners
        .iter()
        .map(|listener| listener.target().address)
        .collect();
    let rotad = specs.rotad().to_owned();
    let node_preload = specs.node_preload().path().to_owned();
    let context = Context {
        addresses: &addresses,
        pool: &plan.name,
        slot: process.slot.0,
        generation: process.generation.0,
        port: process.port,
        rotad: &rotad,
        node_preload: &node_preload,
    };
    let asked = |template: &Template, request: Result<ProbeRequest, String>| {
        let request = request.map_err(|error| template.hide_values(&error))?;
        let shown = template.hide_values(&request.to_string());
        Ok((request, shown))
    };
    let words = match check {
        Check::Connect(place) => {
            return asked(place, ProbeRequest::connect(&place.expand(&context)));
        }
        Check::Http(check) => {
            let headers = check.headers.iter();
            let headers = headers.map(|(name, value)| (name.clone(), value.expand(&context)));
            let url = check.url.expand(&context);
            return asked(&check.url, ProbeRequest::http(&url, headers.collect()));
        }
        Check::Command(words) => words,
    };
    let params = SpawnParams {
        worker,
        pool: process.pool,
        slot: process.slot,
        generation: process.generation,
        tag: &process.tag,
        port: process.port,
        notify: None,
        stdout: null.clone(),
        stderr: null.clone(),
        cgroup: process
            .tree
            .as_ref()
            .and_then(|tree| tree.cgroup.as_ref())
            .map(|cgroup| cgroup.procs()),
        pid: Arc::default(),
    };
    // Like the worker's own spawn, without what makes it a worker: listeners, stdin, watchdog.
    let mut spawn_request = specs.request(&process.spec, listeners, &params);
    spawn_request.argv = words.iter().map(|word| word.expand(&context)).collect();
    spawn_request.stdin = None;
    spawn_request.listeners.clear();
    spawn_request.listen_names.clear();
    spawn_request.watchdog = None;
    let directory = specs
        .resolved(process.pool, process.generation)
        .map_or_else(
            || plan.recipe.working_directory.clone(),
            |resolved| resolved.directory,
        );
    let path = spawn_request
        .env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map(|(_, value)| value.clone());
    spawn_request.pinned = Arc::new(PinnedPaths::new(
        spawn_request.argv.first().cloned().unwrap_or_default(),
        directory,
        path,
    ));
    let request = ProbeRequest::Command(Box::new(spawn_request));
    let shown = request.to_string();
    let program = words.first();
    let shown = program.map_or_else(|| shown.clone(), |program| program.hide_values(&shown));
    Ok((request, shown))
}
