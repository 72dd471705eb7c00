//! Stories: inputs and the engine's answers, as readable text.
//!
//! A file holds several stories. `== title` begins one; `pool P key=value…` sets a policy (for other keys the default
//! below holds); a line `> TIME input…` is one input at that many milliseconds; the engine's answers follow,
//! indented. Deadlines before an input's time fire by themselves (`~ TIME`). `ROTAD_BLESS=1` rewrites the answers:
//! read the diff before you keep it.
//!
//! Inputs: `keep P` `drop P` `remove P` `roll P` `change P` `return P G` `renew P SLOT` (with the policy given last) `cancel P` `scale P N` `stop [CAP]` `stop-now` · `up W…` (born and ready) `born W…`
//! `ready W…` `lived W…` (called ready for its age) `unhealthy W…` `unreachable W…` `fails W…` (spawn failed) `exit CODE W…` `dies SIGNAL W…` `swept W…` `gone W…` (exit 0, swept)
//! `demand PERCENT W…` `asks SPAN W…` `pinned P G same|other` · `woke` `nothing` (only time) `look P` (the view) `processors N` (first of all; 64 otherwise). `daemonized P`. Each request but `stop`
//! has a ticket of its own: 1, 2, 3…; `drained` at its end: answered once no worker is leaving.

mod show;

use rotad_core::{
    Engine, Essential, Exit, Generation, Input, OnFailure, Policy, PoolId, PoolKind, Readiness,
    Reload, Request, Restart, RestartPolicy, Signal, Slot, Span, StopStep, Ticket, Time, To,
    WorkerId,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;

struct Teller {
    engine: Engine,
    policies: BTreeMap<u32, Policy>,
    tickets: u64,
    now: u64,
    told: String,
}

fn policy(words: &[&str]) -> Policy {
    let reload = Reload {
        surge: 1,
        max_draining: 4,
        soak: Some(Span(1000)),
        on_failure: OnFailure::Rollback,
    };
    let restart = Restart {
        policy: RestartPolicy::Always,
        delay: Span(100),
        max_delay: Span(30_000),
        stable_after: Span(10_000),
        success_exit_codes: Vec::new(),
        never_on: Vec::new(),
    };
    let stop = vec![StopStep {
        signal: Some(Signal::TERM),
        wait: Span(5000),
        to: To::Main,
    }];
    let (readiness, ready_timeout) = (Readiness::Reported, Span(60_000));
    let mut policy = Policy {
        kind: PoolKind::Service,
        count: 2,
        readiness,
        ready_timeout,
        stop,
        reload,
        restart,
        after: Vec::new(),
        max_starting: None,
        essential: None,
    };
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<u64>().expect("a number");
        match key {
            "count" => policy.count = number() as u32,
            "alive" => policy.readiness = Readiness::Alive(Span(number())),
            "ready-timeout" => policy.ready_timeout = Span(number()),
            "surge" => policy.reload.surge = number() as u32,
            "max-draining" => policy.reload.max_draining = number() as u32,
            "soak" => policy.reload.soak = (value != "default").then(|| Span(number())),
            "abort" => policy.reload.on_failure = OnFailure::Abort,
            "never" => policy.restart.policy = RestartPolicy::Never,
            "on-failure" => policy.restart.policy = RestartPolicy::OnFailure,
            "ends" => policy.restart.success_exit_codes = vec![number() as i32],
            "never-on" => policy.restart.never_on = vec![number() as i32],
            "essential-exit" => policy.essential = Some(Essential::Exit),
            "oneshot" => policy.kind = PoolKind::Oneshot,
            "after" => {
                policy.after = value
                    .split(',')
                    .map(|pool| PoolId(pool.parse().expect("a pool")))
                    .collect();
            }
            "max-starting" => policy.max_starting = Some(number() as u32),
            "essential" => policy.essential = Some(Essential::Ready(Span(number()))),
            "delay" => policy.restart.delay = Span(number()),
            "max-delay" => policy.restart.max_delay = Span(number()),
            "stable-after" => policy.restart.stable_after = Span(number()),
            // stop=15:5000,-:200,2t:100 (t: to the tree)
            "stop" => {
                policy.stop = value
                    .split(',')
                    .filter(|step| !step.is_empty())
                    .map(stop_step)
                    .collect();
            }
            _ => panic!("unknown key {key}"),
        }
    }
    policy
}

fn stop_step(text: &str) -> StopStep {
    let (signal, wait) = text.split_once(':').expect("SIGNAL:WAIT");
    let (signal, to) = signal
        .strip_suffix('t')
        .map_or((signal, To::Main), |signal| (signal, To::Tree));
    StopStep {
        signal: signal.parse().ok().map(Signal),
        wait: Span(wait.parse().expect("a wait")),
        to,
    }
}

impl Teller {
    fn tell(facts: &str) -> String {
        let mut teller = Self {
            engine: Engine::with_processors(64),
            policies: BTreeMap::new(),
            tickets: 0,
            now: 0,
            told: String::new(),
        };
        for line in facts.lines() {
            if line.starts_with("    ") || line.starts_with('~') {
                continue; // an answer from before
            }
            if let Some(fact) = line.strip_prefix("> ") {
                let words: Vec<&str> = fact.split_whitespace().collect();
                teller.wait_until(words[0].parse().expect("a time"));
                let _ = writeln!(teller.told, "{line}");
                teller.fact(&words[1..]);
                continue;
            }
            if let Some(rest) = line.strip_prefix("pool ") {
                let words: Vec<&str> = rest.split_whitespace().collect();
                teller
                    .policies
                    .insert(words[0].parse().expect("a pool"), policy(&words[1..]));
            }
            let _ = writeln!(teller.told, "{line}");
        }
        teller.told
    }

    /// What is due before that moment comes first.
    fn wait_until(&mut self, at: u64) {
        while let Some(due) = self.engine.deadline().filter(|due| due.0 < at) {
            assert!(due.0 > self.now || self.now == 0, "no spin:\n{}", self.told);
            self.now = due.0;
            let _ = writeln!(self.told, "~ {}", self.now);
            self.step(Input::TimerFired);
        }
        self.now = at;
    }

    fn step(&mut self, event: Input) {
        for entry in self.engine.handle(Time(self.now), event) {
            let _ = writeln!(self.told, "    {}", show::entry(&entry));
        }
    }

    fn fact(&mut self, words: &[&str]) {
        let number = |i: usize| words[i].parse::<u64>().expect("a number");
        let pool = |i: usize| PoolId(number(i) as u32);
        let workers = |from: usize| -> Vec<WorkerId> {
            words[from..]
                .iter()
                .map(|word| WorkerId(word.parse().expect("a worker")))
                .collect()
        };
        let request = match words[0] {
            "keep" => Request::EnsurePool(pool(1), self.policies[&(number(1) as u32)].clone()),
            "start" => Request::Start(pool(1)),
            "drop" => Request::StopPool(pool(1)),
            "roll" => Request::Roll(pool(1)),
            "remove" => Request::Remove(pool(1)),
            "change" => Request::Reconfigure {
                pool: pool(1),
                policy: self.policies[&(number(1) as u32)].clone(),
            },
            "return" => {
                let policy = self.policies[&(number(1) as u32)].clone();
                Request::RollBack {
                    pool: pool(1),
                    to: Generation(number(2) as u32),
                    policy,
                }
            }
            "renew" => Request::Replace(pool(1), Slot(number(2) as u32)),
            "cancel" => Request::Cancel(pool(1)),
            "scale" => Request::Scale(pool(1), number(2) as u32),
            "stop" => Request::Stop {
                cap: words.get(1).map(|_| Span(number(1))),
            },
            "stop-now" => Request::StopNow,
            "pinned" => {
                let (generation, same) = (Generation(number(2) as u32), words[3] == "same");
                return self.step(Input::Pinned {
                    pool: pool(1),
                    generation,
                    same,
                });
            }
            "processors" => return self.engine = Engine::with_processors(number(1) as u32),
            "demand" => {
                let demand = number(1) as u32;
                return self.step(Input::Demand(
                    workers(2)
                        .into_iter()
                        .map(|worker| (worker, demand))
                        .collect(),
                ));
            }
            "woke" => return self.step(Input::TimerFired),
            "nothing" => return,
            "look" => {
                let seen = show::pool(&self.engine, pool(1));
                return self.told.push_str(&seen);
            }
            "exit" => {
                return workers(2)
                    .into_iter()
                    .for_each(|w| self.step(Input::Exited(w, Exit::Code(number(1) as i32))));
            }
            "dies" => {
                let exit = Exit::Signal {
                    signal: number(1) as i32,
                    core_dumped: false,
                };
                return workers(2)
                    .into_iter()
                    .for_each(|w| self.step(Input::Exited(w, exit)));
            }
            "daemonized" => return self.step(Input::Daemonized(pool(1))),
            "unreachable" => return self.step(Input::Unreachable(workers(1))),
            "vanishes" => {
                return workers(1)
                    .into_iter()
                    .for_each(|w| self.step(Input::Exited(w, Exit::Unknown)));
            }
            "asks" => {
                return workers(2)
                    .into_iter()
                    .for_each(|w| self.step(Input::TimeoutExtended(w, Span(number(1)))));
            }
            what => {
                for worker in workers(1) {
                    self.about(what, worker);
                }
                return;
            }
        };
        self.tickets += 1;
        let is_stop = matches!(request, Request::Stop { .. } | Request::StopNow);
        let drained = words.last() == Some(&"drained");
        let ticket = Ticket {
            number: self.tickets,
            drained,
        };
        self.step(Input::Requested((!is_stop).then_some(ticket), request));
    }

    fn about(&mut self, what: &str, worker: WorkerId) {
        match what {
            "up" => {
                self.step(Input::Started(worker));
                self.step(Input::Ready(worker));
            }
            "gone" => {
                self.step(Input::Exited(worker, Exit::Code(0)));
                self.step(Input::TreeGone(worker));
            }
            "born" => self.step(Input::Started(worker)),
            "lived" => self.step(Input::AgeReached(worker)),
            "ready" => self.step(Input::Ready(worker)),
            "fails" => self.step(Input::SpawnFailed(worker)),
            "unhealthy" => self.step(Input::Unhealthy(worker)),
            "swept" => self.step(Input::TreeGone(worker)),
            _ => panic!("unknown fact {what}"),
        }
    }
}

fn hear(name: &str, text: &str) {
    let mut told = String::new();
    for story in text
        .split_inclusive('\n')
        .collect::<Vec<_>>()
        .split_inclusive(|line| line.trim().is_empty())
    {
        told.push_str(&Teller::tell(&story.concat()));
    }
    if std::env::var_os("ROTAD_BLESS").is_some() {
        let path = format!("{}/tests/stories/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, told).expect("stories are written");
        return;
    }
    for (line, (is, was)) in told.lines().zip(text.lines()).enumerate() {
        assert_eq!(is, was, "{name}.txt:{}", line + 1);
    }
    assert_eq!(told.lines().count(), text.lines().count(), "{name}.txt");
}

macro_rules! stories {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            hear(stringify!($name), include_str!(concat!(stringify!($name), ".txt")));
        })*
    };
}

stories!(start waiters roll failure requests stop restart scale late change remove order oneshot renew unhealthy unreachable back essential inplace alive starting);
