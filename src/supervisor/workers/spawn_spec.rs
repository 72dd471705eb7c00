//! Spawn requests: which program and directory a generation is pinned to, and with which arguments, environment and
//! descriptors one worker of it is spawned. `effects.rs` uses it for workers, `probe_request.rs` for commands of probes.

use super::node_preload::NodePreload;
use crate::listener::Listener;
use crate::plan::{Address, Context, Health};
use crate::process::{PinnedPaths, Resolved, SavedPaths, SpawnRequest, environment};
use crate::supervisor::pool_registry::PoolSpec;
use rotad_core::{Generation, PoolId, Slot, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

#[derive(Debug)]
pub(crate) struct SpawnSpecs {
    pinned: BTreeMap<(PoolId, Generation), Arc<PinnedPaths>>,
    /// The base environment of each generation, computed once.
    base: BTreeMap<(PoolId, Generation), Vec<(OsString, OsString)>>,
    rotad: PathBuf,
    node_preload: NodePreload,
    /// Generations whose paths may have been resolved since they were saved.
    changed: BTreeSet<(PoolId, Generation)>,
}

/// What one spawn adds to its pool's spec.
pub(crate) struct SpawnParams<'a> {
    pub worker: WorkerId,
    pub pool: PoolId,
    pub slot: Slot,
    pub generation: Generation,
    pub tag: &'a str,
    pub port: Option<u16>,
    pub notify: Option<OsString>,
    pub stdout: Arc<OwnedFd>,
    pub stderr: Arc<OwnedFd>,
    pub cgroup: Option<PathBuf>,
    /// The spawner writes the worker's pid here.
    pub pid: Arc<AtomicI32>,
}

impl SpawnSpecs {
    pub(crate) fn new(runtime_dir: &Path) -> Self {
        // Read once: after a package upgrade the path is still right, while /proc/self/exe would be the deleted file.
        let rotad = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("rotad"));
        Self {
            pinned: BTreeMap::new(),
            base: BTreeMap::new(),
            node_preload: NodePreload::new(runtime_dir, &rotad),
            rotad,
            changed: BTreeSet::new(),
        }
    }

    /// Pins a generation to these paths, as its first spawn would.
    #[cfg(test)]
    pub(crate) fn pin(&mut self, pool: PoolId, generation: Generation, paths: Arc<PinnedPaths>) {
        self.pinned.insert((pool, generation), paths);
    }

    pub(crate) fn request(
        &mut self,
        spec: &PoolSpec,
        own: &[&Listener],
        params: &SpawnParams<'_>,
    ) -> SpawnRequest {
        let (plan, recipe) = (&spec.plan, &spec.plan.recipe);
        let addresses: Vec<Address> = own
            .iter()
            .map(|listener| listener.target().address)
            .collect();
        let context = Context {
            addresses: &addresses,
            pool: &plan.name,
            slot: params.slot.0,
            generation: params.generation.0,
            port: params.port,
            rotad: &self.rotad,
            node_preload: self.node_preload.path(),
        };
        let argv: Vec<OsString> = recipe
            .command
            .iter()
            .map(|word| word.expand(&context))
            .collect();
        let mut env = self
            .base
            .entry((params.pool, params.generation))
            .or_insert_with(|| {
                environment::base(recipe.clear_env, &recipe.pass_env, recipe.account.as_ref())
            })
            .clone();
        for (name, value) in &recipe.env {
            set(&mut env, name, value.expand(&context));
        }
        set(&mut env, "ROTAD_POOL", plan.name.clone().into());
        set(
            &mut env,
            "ROTAD_KIND",
            crate::observe::status::kind_name(plan.kind).into(),
        );
        set(&mut env, "ROTAD_SLOT", params.slot.to_string().into());
        set(
            &mut env,
            "ROTAD_GENERATION",
            params.generation.to_string().into(),
        );
        set(&mut env, "ROTAD_WORKER", params.tag.into());
        if let Some(port) = params.port {
            set(&mut env, "ROTAD_PORT", port.to_string().into());
        }
        if let Some(notify) = &params.notify {
            set(&mut env, "NOTIFY_SOCKET", notify.clone());
        }
        let path = env
            .iter()
            .find(|(name, _)| name == "PATH")
            .map(|(_, value)| value.clone());
        let program = argv.first().cloned().unwrap_or_default();
        let directory = recipe.working_directory.clone();
        let pinned = self.pinned.entry((params.pool, params.generation));
        let pinned = pinned
            .or_insert_with(|| Arc::new(PinnedPaths::new(program, directory, path)))
            .clone();
        // A colon separates the names (sd_listen_fds(3)), and the name of a listener given by its address contains one.
        let names: Vec<String> = spec
            .sockets
            .iter()
            .take(recipe.passed)
            .map(|socket| socket.name.replace(':', "_"))
            .collect();
        SpawnRequest {
            worker: params.worker,
            pinned,
            argv,
            env,
            account: recipe.account.clone(),
            umask: recipe.umask,
            nice: recipe.nice,
            limits: recipe.limits.clone(),
            stdout: params.stdout.clone(),
            stderr: params.stderr.clone(),
            stdin: recipe
                .stdin
                .and_then(|index| own.get(index))
                .map(|listener| listener.fd()),
            listeners: own
                .iter()
                .take(recipe.passed)
                .map(|listener| listener.fd())
                .collect(),
            listen_names: names.join(":"),
            watchdog: match plan.health {
                Some(Health::Watchdog(interval)) => Some(interval),
                Some(Health::Probe { .. }) | None => None,
            },
            cgroup: params.cgroup.clone(),
            pid: params.pid.clone(),
        }
    }

    /// A spawn has resolved the paths of a generation.
    pub(crate) fn set_resolved(&mut self, pool: PoolId, generation: Generation) {
        self.changed.insert((pool, generation));
    }

    /// The paths that have been resolved since the last call, as they are saved.
    pub(crate) fn take_changes(&mut self) -> Vec<(PoolId, Generation, SavedPaths)> {
        std::mem::take(&mut self.changed)
            .into_iter()
            .filter_map(|(pool, generation)| self.saved(pool, generation))
            .collect()
    }

    /// All of them.
    pub(crate) fn all_saved(&self) -> Vec<(PoolId, Generation, SavedPaths)> {
        self.pinned
            .keys()
            .filter_map(|(pool, generation)| self.saved(*pool, *generation))
            .collect()
    }

    fn saved(
        &self,
        pool: PoolId,
        generation: Generation,
    ) -> Option<(PoolId, Generation, SavedPaths)> {
        let pinned = self.pinned.get(&(pool, generation))?;
        Some((pool, generation, pinned.saved()))
    }

    /// Pins a generation to what a dead master has resolved.
    pub(crate) fn restore(&mut self, pool: PoolId, generation: Generation, saved: SavedPaths) {
        let pinned = Arc::new(PinnedPaths::restore(saved));
        self.pinned.insert((pool, generation), pinned);
    }

    /// The path that `{rotad}` expands to.
    pub(crate) fn rotad(&self) -> &Path {
        &self.rotad
    }

    /// The script that `{preload:node}` expands to.
    pub(crate) fn node_preload(&self) -> &NodePreload {
        &self.node_preload
    }

    /// The same, to be written or moved.
    pub(crate) fn node_preload_mut(&mut self) -> &mut NodePreload {
        &mut self.node_preload
    }

    /// The program and directory of a generation, known after its first spawn.
    pub(crate) fn resolved(&self, pool: PoolId, generation: Generation) -> Option<Resolved> {
        self.pinned
            .get(&(pool, generation))
            .and_then(|pinned| pinned.resolved())
    }

    /// The paths that a generation is pinned to.
    pub(crate) fn pinned(&self, pool: PoolId, generation: Generation) -> Option<&Arc<PinnedPaths>> {
        self.pinned.get(&(pool, generation))
    }

    /// The directory of a generation whose program was not found in it.
    pub(crate) fn directory(&self, pool: PoolId, generation: Generation) -> Option<PathBuf> {
        let pinned = self.pinned.get(&(pool, generation))?;
        if pinned.resolved().is_some() {
            None
        } else {
            pinned.directory()
        }
    }

    /// Only the generation `held` of a pool must not be resolved again, whatever happens to its directory. None: all
    /// may.
    pub(crate) fn hold_to(&self, pool: PoolId, held: Option<Generation>) {
        for ((_, generation), pinned) in self.pinned.iter().filter(|((of, _), _)| *of == pool) {
            pinned.hold(held == Some(*generation));
        }
    }

    /// Forgets the generations that can no longer be spawned.
    pub(crate) fn retain_generations(&mut self, pool: PoolId, wanted: impl Fn(Generation) -> bool) {
        self.pinned
            .retain(|(of, generation), _| *of != pool || wanted(*generation));
        self.base
            .retain(|(of, generation), _| *of != pool || wanted(*generation));
    }
}

fn set(env: &mut Vec<(OsString, OsString)>, name: &str, value: OsString) {
    match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => env.push((name.into(), value)),
    }
}
