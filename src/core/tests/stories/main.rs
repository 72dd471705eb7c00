//! Stories: inputs and the engine's answers, as readable text.
//!
//! A file holds several stories, with an empty line between two. `== title` begins one; `pool P key=value…` sets a policy
//! (for other keys the defaults of `policy` below hold); `> TIME INPUT…` is one input at that many milliseconds; the
//! engine's answers follow, indented: commands, and notices after a dot. Deadlines before an input's time fire by
//! themselves (`~ TIME`). `ROTAD_BLESS=1` rewrites the answers: read the diff before you keep it.
//!
//! Inputs:
//!
//! - requests: `ensure P`, `start P`, `stop-pool P`, `remove P`, `roll P`, `reconfigure P`, `roll-back P GENERATION` (these
//!   two with the policy that was given last), `replace P SLOT`, `cancel P`, `scale P N`, `stop [CAP]`, `stop-now`. Each
//!   but the last two has a ticket of its own: 1, 2, 3…; with `drained` at its end it is answered once no worker is
//!   leaving.
//! - facts about workers: `started W…`, `ready W…`, `up W…` (both), `by-age W…` (ready by age), `unhealthy W…`,
//!   `unreachable W…`, `spawn-failed W…`, `exit CODE W…`, `killed SIGNAL W…`, `exit-unknown W…`, `tree-gone W…`, `gone W…`
//!   (exit 0, then tree gone), `demand PERCENT W…`, `extends MILLISECONDS W…`
//! - facts about pools: `pinned P GENERATION same|other`, `daemonized P`
//! - others: `timer` (the deadline fires), `nothing` (only time passes), `view P` (prints the view), `processors N` (must
//!   come first; 64 otherwise)

mod show;

use rotad_core::{
    AdoptedWorker, Engine, Essential, Exit, Generation, Input, OnFailure, Policy, PoolId, PoolKind,
    Readiness, Reload, Request, Restart, RestartPolicy, Signal, Slot, Span, StopStep, Ticket, Time,
    To, WorkerId,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;

struct Story {
    engine: Engine,
    policies: BTreeMap<u32, Policy>,
    tickets: u64,
    now: u64,
    output: String,
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
            "success-exit-code" => policy.restart.success_exit_codes = vec![number() as i32],
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

/// SLOT:WORKER/GENERATION, with a `+` if it is ready.
fn adopted(text: &str) -> AdoptedWorker {
    let (text, ready) = text
        .strip_suffix('+')
        .map_or((text, false), |of| (of, true));
    let numbers: Vec<u32> = text
        .split([':', '/'])
        .map(|number| number.parse().expect("SLOT:WORKER/GENERATION"))
        .collect();
    AdoptedWorker {
        worker: WorkerId(u64::from(numbers[1])),
        slot: Slot(numbers[0]),
        generation: Generation(numbers[2]),
        ready,
    }
}

impl Story {
    fn play(text: &str) -> String {
        let mut story = Self {
            engine: Engine::with_processors(64),
            policies: BTreeMap::new(),
            tickets: 0,
            now: 0,
            output: String::new(),
        };
        for line in text.lines() {
            if line.starts_with("    ") || line.starts_with('~') {
                continue; // an answer
            }
            if let Some(input) = line.strip_prefix("> ") {
                let words: Vec<&str> = input.split_whitespace().collect();
                story.wait_until(words[0].parse().expect("a time"));
                let _ = writeln!(story.output, "{line}");
                story.input(&words[1..]);
                continue;
            }
            if let Some(rest) = line.strip_prefix("pool ") {
                let words: Vec<&str> = rest.split_whitespace().collect();
                story
                    .policies
                    .insert(words[0].parse().expect("a pool"), policy(&words[1..]));
            }
            let _ = writeln!(story.output, "{line}");
        }
        story.output
    }

    /// Deadlines before `at` fire first.
    fn wait_until(&mut self, at: u64) {
        while let Some(due) = self.engine.deadline().filter(|due| due.0 < at) {
            assert!(
                due.0 > self.now || self.now == 0,
                "no spin:\n{}",
                self.output
            );
            self.now = due.0;
            let _ = writeln!(self.output, "~ {}", self.now);
            self.step(Input::TimerFired);
        }
        self.now = at;
    }

    fn step(&mut self, input: Input) {
        for entry in self.engine.handle(Time(self.now), input) {
            let _ = writeln!(self.output, "    {}", show::entry(&entry));
        }
        self.save_and_restore();
    }

    /// The rest of the story is told by an engine that was read from what this one has written.
    fn save_and_restore(&mut self) {
        let text = serde_json::to_string(&self.engine.save()).expect("JSON");
        let saved = serde_json::from_str(&text).expect("what was written");
        let restored = Engine::restore(saved)
            .unwrap_or_else(|error| panic!("{error}, after:\n{}\n{text}", self.output));
        assert!(
            restored == self.engine,
            "another engine was restored, after:\n{}\n{text}",
            self.output
        );
        self.engine = restored;
    }

    fn input(&mut self, words: &[&str]) {
        let number = |i: usize| words[i].parse::<u64>().expect("a number");
        let pool = |i: usize| PoolId(number(i) as u32);
        let workers = |from: usize| -> Vec<WorkerId> {
            words[from..]
                .iter()
                .map(|word| WorkerId(word.parse().expect("a worker")))
                .collect()
        };
        let request = match words[0] {
            "ensure" => Request::EnsurePool(pool(1), self.policies[&(number(1) as u32)].clone()),
            "adopt" => {
                let latest = words[2..].iter().find_map(|w| w.strip_prefix("latest="));
                let latest = latest.map_or(0, |of| of.parse().expect("a generation"));
                let workers = words[2..].iter().filter(|w| w.contains('/'));
                Request::Adopt {
                    pool: pool(1),
                    policy: self.policies[&(number(1) as u32)].clone(),
                    latest: Generation(latest),
                    workers: workers.map(|word| adopted(word)).collect(),
                }
            }
            "start" => Request::Start(pool(1)),
            "stop-pool" => Request::StopPool(pool(1)),
            "roll" => Request::Roll(pool(1)),
            "remove" => Request::Remove(pool(1)),
            "reconfigure" => Request::Reconfigure {
                pool: pool(1),
                policy: self.policies[&(number(1) as u32)].clone(),
            },
            "roll-back" => {
                let policy = self.policies[&(number(1) as u32)].clone();
                Request::RollBack {
                    pool: pool(1),
                    to: Generation(number(2) as u32),
                    policy,
                }
            }
            "replace" => Request::Replace(pool(1), Slot(number(2) as u32)),
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
            "numbered-after" => {
                let engine = Engine::with_processors(64);
                return self.engine = engine.numbered_after(WorkerId(number(1)));
            }
            "master-keeps-dying" => return self.step(Input::MasterKeepsDying),
            "timer" => return self.step(Input::TimerFired),
            "nothing" => return,
            "view" => {
                let view = show::pool(&self.engine, pool(1));
                return self.output.push_str(&view);
            }
            "exit" => {
                return workers(2)
                    .into_iter()
                    .for_each(|w| self.step(Input::Exited(w, Exit::Code(number(1) as i32))));
            }
            "killed" => {
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
            "exit-unknown" => {
                return workers(1)
                    .into_iter()
                    .for_each(|w| self.step(Input::Exited(w, Exit::Unknown)));
            }
            "extends" => {
                return workers(2)
                    .into_iter()
                    .for_each(|w| self.step(Input::TimeoutExtended(w, Span(number(1)))));
            }
            what => {
                for worker in workers(1) {
                    self.worker_input(what, worker);
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

    fn worker_input(&mut self, what: &str, worker: WorkerId) {
        match what {
            "up" => {
                self.step(Input::Started(worker));
                self.step(Input::Ready(worker));
            }
            "gone" => {
                self.step(Input::Exited(worker, Exit::Code(0)));
                self.step(Input::TreeGone(worker));
            }
            "started" => self.step(Input::Started(worker)),
            "by-age" => self.step(Input::AgeReached(worker)),
            "ready" => self.step(Input::Ready(worker)),
            "spawn-failed" => self.step(Input::SpawnFailed(worker)),
            "unhealthy" => self.step(Input::Unhealthy(worker)),
            "tree-gone" => self.step(Input::TreeGone(worker)),
            _ => panic!("unknown input {what}"),
        }
    }
}

fn check(name: &str, text: &str) {
    let mut output = String::new();
    for story in text
        .split_inclusive('\n')
        .collect::<Vec<_>>()
        .split_inclusive(|line| line.trim().is_empty())
    {
        output.push_str(&Story::play(&story.concat()));
    }
    if std::env::var_os("ROTAD_BLESS").is_some() {
        let path = format!("{}/tests/stories/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, output).expect("stories are written");
        return;
    }
    for (line, (is, was)) in output.lines().zip(text.lines()).enumerate() {
        assert_eq!(is, was, "{name}.txt:{}", line + 1);
    }
    assert_eq!(output.lines().count(), text.lines().count(), "{name}.txt");
}

macro_rules! stories {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), include_str!(concat!(stringify!($name), ".txt")));
        })*
    };
}

stories!(start waiters roll failure requests stop restart scale adopt master_keeps_dying late_inputs reconfigure remove dependencies oneshot replace unhealthy unreachable rollback essential changed_in_place alive start_limit);
