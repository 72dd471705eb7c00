//! What a lookup decides, on a real engine and real specifications, without processes: what can be rolled back, what is
//! passed over, what would be run, opened or closed.

use super::Lookup;
use crate::config;
use crate::control::protocol::{ReloadScope, Selector, Wait};
use crate::plan::{Health, Plan};
use crate::process::{PinnedPaths, Resolved};
use crate::supervisor::clients::requests::Start;
use crate::supervisor::deploys::Asker;
use crate::supervisor::listening::Listening;
use crate::supervisor::pool_registry::{PoolRegistry, PoolSpec};
use crate::supervisor::reload::ReloadRequest;
use crate::supervisor::reload::rollback::Refusal;
use crate::supervisor::workers::process_table::ProcessTable;
use crate::supervisor::workers::spawn_spec::SpawnSpecs;
use rotad_core::{Command, Engine, Exit, Generation, Input, PoolId, Request, Signal, Span, Time};
use std::sync::Arc;
use std::time::Duration;

/// One pool `web` of two workers, and what a supervisor would know of it.
struct Fixture {
    plan: Plan,
    engine: Engine,
    now: Time,
    pools: PoolRegistry,
    specs: SpawnSpecs,
    listening: Listening,
    processes: ProcessTable,
    /// Where the directory of the next generation leads.
    release: &'static str,
    /// Workers of the next generation fail at once.
    broken: bool,
}

const WEB: PoolId = PoolId(0);

fn plan(pools: &str) -> Plan {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rotad.toml");
    // The default is the directory of the file, which is another one each time.
    let pools = pools.replace("command =", "working_directory = \"/\"\ncommand =");
    std::fs::write(&path, pools).unwrap();
    match config::load(&path) {
        Ok(loaded) => loaded.plan,
        Err(report) => panic!("{report}"),
    }
}

fn spec(plan: &Plan, name: &str) -> PoolSpec {
    let pool = plan.pools.iter().find(|pool| pool.name == name).unwrap();
    PoolSpec {
        plan: pool.clone(),
        sockets: Vec::new(),
        listeners: Vec::new(),
    }
}

impl Fixture {
    fn new(pools: &str) -> Self {
        let plan = plan(pools);
        let mut registry = PoolRegistry::default();
        for pool in &plan.pools {
            registry.add(spec(&plan, &pool.name));
        }
        let mut fixture = Self {
            plan,
            engine: Engine::new(),
            now: Time(0),
            pools: registry,
            specs: SpawnSpecs::new(std::path::Path::new("/nonexistent")),
            listening: Listening::default(),
            processes: ProcessTable::default(),
            release: "/srv/1",
            broken: false,
        };
        let policy = fixture.pools.policy(WEB).unwrap();
        fixture.input(Input::Requested(None, Request::EnsurePool(WEB, policy)));
        fixture
    }

    fn web() -> Self {
        Self::new("[pool.web]\ncommand = \"/bin/true\"\ncount = 2\nready = \"notify\"\n")
    }

    /// Hands an input to the engine. Workers start, are ready, and end when asked to, all at once; then time passes.
    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        loop {
            while let Some(input) = inputs.pop() {
                let (commands, _) = self.engine.handle(self.now, input).split();
                for command in commands {
                    self.execute(command, &mut inputs);
                }
            }
            match self.engine.deadline() {
                // Nothing of the pools under test is due later than that.
                Some(at) if at <= self.now + Span::from_secs(60) => {
                    self.now = self.now.max(at);
                    inputs.push(Input::TimerFired);
                }
                _ => return,
            }
        }
    }

    fn execute(&mut self, command: Command, inputs: &mut Vec<Input>) {
        match command {
            Command::BeginGeneration { pool, generation } => self.begin(pool, generation),
            Command::Spawn {
                worker,
                pool,
                generation,
                ..
            } => {
                self.begin(pool, generation);
                inputs.extend(match self.broken {
                    true => vec![Input::SpawnFailed(worker)],
                    false => vec![Input::Ready(worker), Input::Started(worker)],
                });
            }
            Command::Signal(worker, Signal::TERM) | Command::Kill(worker) => {
                inputs.push(Input::Exited(worker, Exit::Code(0)));
            }
            Command::KillTree(worker) | Command::SignalRemaining(worker, _) => {
                inputs.push(Input::TreeGone(worker));
            }
            _ => {}
        }
    }

    fn begin(&mut self, pool: PoolId, generation: Generation) {
        self.pools.begin_generation(pool, generation, Time(0));
        if self.specs.pinned(pool, generation).is_none() {
            let (program, directory) = ("/bin/true".into(), self.release.into());
            let resolved = Resolved { program, directory };
            let pinned = PinnedPaths::at("true".into(), "/srv/current".into(), None, resolved);
            self.specs.pin(pool, generation, Arc::new(pinned));
        }
    }

    fn roll(&mut self, release: &'static str) {
        self.release = release;
        self.input(Input::Requested(None, Request::Roll(WEB)));
    }

    fn lookup(&self) -> Lookup<'_> {
        Lookup {
            plan: &self.plan,
            engine: self.engine.view(),
            pools: &self.pools,
            specs: &self.specs,
            listening: &self.listening,
            processes: &self.processes,
            stopping: false,
        }
    }

    /// The generation that a rollback leads to, or why it is refused.
    fn way(&self, to: Option<u32>) -> Result<u32, String> {
        match self.lookup().way_to(WEB, to) {
            Ok(way) => Ok(way.to.0),
            Err(Refusal::Here(why) | Refusal::No(why)) => Err(why),
        }
    }

    fn serving(&self) -> Vec<(Generation, u32)> {
        self.engine.view().pool(WEB).unwrap().serving
    }
}

fn request(extent: ReloadScope, pools: &[&str]) -> ReloadRequest {
    ReloadRequest {
        client: None,
        who: "a test".to_owned(),
        asker: Asker::default(),
        extent,
        which: Selector {
            pools: pools.iter().map(|name| (*name).to_owned()).collect(),
            ..Selector::default()
        },
        wait: Wait::No,
    }
}

#[test]
fn the_first_generation_has_nothing_to_go_back_to() {
    let fixture = Fixture::web();
    assert_eq!(fixture.serving(), [(Generation(1), 2)]);
    let why = fixture.way(None).unwrap_err();
    assert!(why.contains("there is nothing to go back to"), "{why}");
    let why = fixture.way(Some(7)).unwrap_err();
    assert!(
        why.contains("generation 7 is not known; known are 1 (serves)"),
        "{why}"
    );
}

#[test]
fn a_rollback_goes_to_the_release_before() {
    let mut fixture = Fixture::web();
    fixture.roll("/srv/2");
    assert_eq!(fixture.way(None), Ok(1));
    let shown = fixture.lookup().shown_way(WEB, Generation(1));
    assert_eq!(
        shown,
        "2 workers from generation 2 to generation 1 (/srv/1)"
    );
    let why = fixture.way(Some(2)).unwrap_err();
    assert!(why.contains("generation 2 serves already"), "{why}");
}

#[test]
fn files_changed_in_place_cannot_be_rolled_back() {
    let mut fixture = Fixture::web();
    fixture.roll("/srv/1");
    let why = fixture.way(None).unwrap_err();
    assert!(
        why.contains("made of exactly the same files as generation 2 (/srv/1)"),
        "{why}"
    );
}

#[test]
fn after_an_aborted_roll_the_older_generation_is_named() {
    let mut fixture = Fixture::web();
    fixture.roll("/srv/2");
    fixture.broken = true;
    fixture.roll("/srv/3");
    fixture.broken = false;
    assert_eq!(fixture.serving(), [(Generation(2), 2)]);
    let why = fixture.way(None).unwrap_err();
    for part in [
        "nothing to undo: generation 3 never served in full; generation 2 serves",
        "`rotad rollback web --to 1` would roll 2 workers from generation 2 to generation 1",
    ] {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn a_stopped_pool_is_not_rolled_back() {
    let mut fixture = Fixture::web();
    fixture.roll("/srv/2");
    fixture.pools.set_stopped_by_operator(WEB, true);
    assert_eq!(fixture.way(None), Err("is stopped".to_owned()));
}

#[test]
fn only_an_unchanged_pool_with_on_change_is_compared() {
    let text = "[pool.web]\ncommand = \"/bin/true\"\ncount = 2\nready = \"notify\"\nreload = { on = \"change\" }\n";
    let mut fixture = Fixture::new(text);
    let compared = |fixture: &Fixture, request: &ReloadRequest, new: &Plan| {
        fixture.lookup().comparisons_for_reload(request, new).len()
    };
    let everything = request(ReloadScope::Everything, &[]);
    assert_eq!(compared(&fixture, &everything, &plan(text)), 1);
    assert_eq!(fixture.lookup().comparisons_for_roll(&[WEB], &[]).len(), 1);
    let named = ["web".to_owned()];
    assert_eq!(
        fixture.lookup().comparisons_for_roll(&[WEB], &named).len(),
        0
    );
    // It is named, or its own configuration changes, or only the configuration is applied.
    let named = request(ReloadScope::Everything, &["web"]);
    assert_eq!(compared(&fixture, &named, &plan(text)), 0);
    let other = plan(&text.replace("/bin/true", "/bin/false"));
    assert_eq!(compared(&fixture, &everything, &other), 0);
    let config_only = request(ReloadScope::ConfigOnly, &[]);
    assert_eq!(compared(&fixture, &config_only, &plan(text)), 0);
    fixture.pools.set_stopped_by_operator(WEB, true);
    assert_eq!(fixture.lookup().comparisons_for_roll(&[WEB], &[]).len(), 0);
}

#[test]
fn a_reload_runs_the_oneshots_before_its_pools() {
    let text = "[pool.migrate]\nkind = \"oneshot\"\ncommand = \"/bin/true\"\n\
                [pool.warm]\nkind = \"oneshot\"\ncommand = \"/bin/true\"\nafter = [\"migrate\"]\n\
                [pool.web]\ncommand = \"/bin/true\"\nready = \"notify\"\nafter = [\"warm\"]\n\
                [pool.beside]\ncommand = \"/bin/true\"\nready = \"notify\"\n";
    let fixture = Fixture::new(text);
    let names = |request: &ReloadRequest, new: &Plan| -> Vec<String> {
        let oneshots = fixture.lookup().oneshots_to_run(request, new);
        oneshots.into_iter().map(|oneshot| oneshot.name).collect()
    };
    let same = plan(text);
    assert_eq!(
        names(&request(ReloadScope::Everything, &["web"]), &same),
        ["migrate", "warm"]
    );
    let beside = request(ReloadScope::Everything, &["beside"]);
    assert!(names(&beside, &same).is_empty());
    let config_only = request(ReloadScope::ConfigOnly, &[]);
    assert!(names(&config_only, &same).is_empty());
    let changed = plan(&text.replacen("/bin/true", "/bin/false", 1));
    assert_eq!(names(&config_only, &changed), ["migrate"]);
}

#[test]
fn a_dry_run_says_what_would_be_rolled() {
    let mut fixture = Fixture::web();
    let whole = request(ReloadScope::DryRun, &[]);
    let same = fixture.plan.clone();
    assert_eq!(
        fixture.lookup().dry_run(&whole, &same).to_text(),
        "web: would be rolled"
    );
    fixture.pools.set_stopped_by_operator(WEB, true);
    assert_eq!(
        fixture.lookup().dry_run(&whole, &same).to_text(),
        "web: is stopped, and stays so"
    );
    let json = fixture.lookup().dry_run(&whole, &same).to_json();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let web =
        serde_json::json!({"name": "web", "change": "none", "keys": [], "action": "stay-stopped"});
    assert_eq!(json["pools"], serde_json::json!([web]));
    assert_eq!(json["master"]["applied"], serde_json::json!([]));
}

#[test]
fn a_scale_beyond_the_limit_of_open_files_is_refused() {
    let fixture = Fixture::web();
    assert_eq!(fixture.lookup().has_room_to_scale(WEB, 3), Ok(()));
    let many = fixture.lookup().has_room_to_scale(WEB, u32::MAX);
    let why = many.unwrap_err();
    assert!(why.contains("open files, but the limit is"), "{why}");
}

/// Workers of an older generation may still serve when the check of the newer one is adjusted.
#[test]
fn a_serving_generation_keeps_a_check_of_its_own_kind() {
    let with = |health: &str| {
        spec(
            &plan(&format!(
                "[pool.web]\ncommand = \"/bin/true\"\nready = \"notify\"\n[pool.web.health]\n{health}\n"
            )),
            "web",
        )
    };
    let mut pools = PoolRegistry::default();
    pools.add(with("watchdog = \"30s\""));
    pools.begin_generation(WEB, Generation(1), Time(0));
    pools.set_next_spec(WEB, Arc::new(with("connect = \"127.0.0.1:80\"")));
    pools.begin_generation(WEB, Generation(2), Time(0));
    let adjusted = with("connect = \"127.0.0.1:80\"\nevery = \"20s\"");
    pools.adjust(WEB, adjusted.clone(), |_| true);
    let health = |generation| pools.spec_of(WEB, generation).unwrap().plan.health.clone();
    let watchdog = Some(Health::Watchdog(Duration::from_secs(30)));
    assert_eq!(health(Generation(1)), watchdog);
    assert_eq!(health(Generation(2)), adjusted.plan.health);
}

#[test]
fn a_start_does_what_the_pool_needs() {
    let text = "[pool.web]\ncommand = \"/bin/true\"\ncount = 2\nready = \"notify\"\n\
                [pool.migrate]\nkind = \"oneshot\"\ncommand = \"/bin/true\"\n";
    let mut fixture = Fixture::new(text);
    let migrate = fixture.pools.find("migrate").unwrap();
    assert_eq!(fixture.lookup().start_of(migrate), Start::RunAgain);
    let runs = Start::Nothing("web: runs already".to_owned());
    assert_eq!(fixture.lookup().start_of(WEB), runs);
    fixture.pools.scale(WEB, Some(0));
    let Start::Nothing(why) = fixture.lookup().start_of(WEB) else {
        panic!("a pool of no workers has nothing to start");
    };
    assert!(why.starts_with("web: "), "{why}");
    fixture.pools.scale(WEB, None);
    // Its operator has stopped it: what it is made from is resolved again.
    fixture.pools.set_stopped_by_operator(WEB, true);
    let resolve = Some(Generation(1));
    assert_eq!(fixture.lookup().start_of(WEB), Start::Workers { resolve });
    fixture.pools.set_stopped_by_operator(WEB, false);
    fixture.input(Input::Requested(None, Request::StopPool(WEB)));
    let resolve = None;
    assert_eq!(fixture.lookup().start_of(WEB), Start::Workers { resolve });
}
