//! Commands, notices and views as text.

use rotad_core::{
    Cause, Command, EmptySlot, Engine, Entry, Exit, Failure, Generation, KillReason, Notice,
    Outcome, PoolId, PoolState, Span, Standing, StartFailure, WorkerView,
};
use std::fmt::Write as _;

pub(crate) fn entry(entry: &Entry) -> String {
    match entry {
        Entry::Command(command) => self::command(command),
        Entry::Notice(notice) => self::notice(notice),
    }
}

fn command(command: &Command) -> String {
    match command {
        Command::Spawn {
            worker,
            pool,
            slot,
            generation,
        } => {
            format!("spawn {worker} for {pool}/{slot}, generation {generation}")
        }
        Command::Signal(worker, signal) => format!("signal {signal} to {worker}"),
        Command::SignalTree(worker, signal) => format!("signal {signal} to the tree of {worker}"),
        Command::SignalRemaining(worker, Some(signal)) => {
            format!("signal {signal} to the rest of the tree of {worker}")
        }
        Command::SignalRemaining(worker, None) => {
            format!("wait for the rest of the tree of {worker}")
        }
        Command::Kill(worker) => format!("kill {worker}"),
        Command::KillTree(worker) => format!("kill the rest of the tree of {worker}"),
        Command::Reply(ticket, pool, outcome) => {
            format!("reply {ticket}, pool {pool}: {}", outcome_text(outcome))
        }
        Command::BeginGeneration { pool, generation } => {
            format!("pool {pool} begins generation {generation}")
        }
        Command::RevertConfig(pool) => format!("pool {pool} reverts its configuration"),
        Command::EndGeneration { pool, .. } => format!("pool {pool} forgets old generations"),
        Command::StartHealth(worker) => format!("check the health of {worker}"),
        Command::StopHealth(worker) => format!("end the checks of {worker}"),
        Command::GiveUp { pool, cause } => format!("give up for pool {pool}: {cause:?}"),
        Command::Exit { lost } if lost.is_empty() => "exit".into(),
        Command::Exit { lost } => {
            format!(
                "exit, unkillable: {}",
                lost.iter()
                    .map(|id| id.to_string())
                    .collect::<Vec<_>>()
                    .join(" ")
            )
        }
    }
}

fn notice(notice: &Notice) -> String {
    match notice {
        Notice::Ready {
            worker,
            took,
            by_age: false,
            ..
        } => format!(". {worker} is ready after {took}"),
        Notice::Ready {
            worker,
            took,
            by_age: true,
            soak,
        } if *soak > Span::ZERO => {
            format!(". {worker} is alive after {took}, and soaks for {soak}")
        }
        Notice::Ready {
            worker,
            took,
            by_age: true,
            ..
        } => format!(". {worker} is alive after {took}"),
        Notice::Confirmed { worker, took } => {
            format!(". {worker} reports ready after {took}")
        }
        Notice::Watched { span, .. } => format!(". the new workers are watched for {span}"),
        Notice::CanaryPassed { worker } => format!(". {worker} has soaked"),
        Notice::Died {
            worker,
            cause,
            failure,
            before_ready,
            early_exits,
            retry_in,
            given_up,
        } => {
            let how = if *failure { "died" } else { "ended" };
            let when = if *before_ready { " before ready" } else { "" };
            let retry = retry_in.map_or(String::new(), |span| format!(", again in {span}"));
            let early = if *early_exits > 1 {
                format!(", {early_exits} early exits")
            } else {
                String::new()
            };
            let end = if *given_up { ", given up" } else { "" };
            format!(
                ". {worker} {how}{when}: {}{retry}{early}{end}",
                cause_text(*cause)
            )
        }
        Notice::Stopped { worker, exit, took } => {
            let exit = exit.map_or("never started".into(), |exit| {
                cause_text(Cause::Exited(exit))
            });
            format!(". {worker} is gone {took} after its stop began: {exit}")
        }
        Notice::Retired { worker, why } => format!(". {worker} is retired: {why:?}"),
        Notice::Killed {
            worker,
            reason,
            waited,
        } => match reason {
            KillReason::Steps => format!(". {worker} is killed {waited} after its stop began"),
            KillReason::Cap => {
                format!(". {worker} is killed by the cap, {waited} after its stop began")
            }
            KillReason::Now => {
                format!(". {worker} is killed immediately, {waited} after its stop began")
            }
        },
        Notice::Unkillable { worker } => format!(". {worker} cannot be killed"),
        Notice::CrashLoop { pool, deaths, span } => {
            let within = if *span > Span::from_secs(1) {
                format!(" in {span}")
            } else {
                String::new()
            };
            format!(". pool {pool} crash-loops: {deaths} deaths{within}")
        }
        Notice::CrashLoopEases { pool } => {
            format!(". pool {pool} still crash-loops, the other slots are started")
        }
        Notice::CrashLoopOver { pool } => format!(". pool {pool} has recovered"),
        Notice::RollStarted {
            pool,
            generation,
            of,
        } => format!(". roll of {pool} to {generation}, {of} slots"),
        Notice::SlotReplaced {
            pool,
            slot,
            worker,
            done,
            of,
        } => {
            format!(". {pool}/{slot} has {worker}, {done} of {of}")
        }
        Notice::RollingBack { to, failure, .. } => {
            format!(". rolling back to {to}: {}", failure_text(failure))
        }
        Notice::RollEnded { outcome, .. } => format!(". roll ended: {}", outcome_text(outcome)),
        Notice::RollAfter { pool, by } => format!(". roll of {pool} after {}", pools(by)),
        Notice::BeginsWith {
            pool,
            generation,
            by,
        } => {
            format!(
                ". {pool} begins with generation {generation}, after {}",
                pools(by)
            )
        }
        Notice::RollWaits { .. } => ". the request waits".into(),
        Notice::RollSuperseded {
            generation,
            by,
            retired_any,
            ..
        } => {
            let retired = if *retired_any {
                ", after a worker was retired"
            } else {
                ""
            };
            format!(". generation {generation} is superseded by {by:?}{retired}")
        }
        Notice::PoolReady { pool, generation } => {
            format!(". pool {pool} is ready, generation {generation}")
        }
        Notice::PoolStopped { pool } => format!(". pool {pool} has stopped"),
        Notice::Waiting { pool, by } => format!(". pool {pool} waits for {}", pools(by)),
        Notice::OneshotDone {
            pool,
            generation,
            took,
        } => {
            format!(". oneshot {pool} is done, generation {generation}, in {took}")
        }
        Notice::WorkerReplaced {
            pool,
            slot,
            worker,
            took,
        } => {
            format!(". {pool}/{slot} has {worker}, replaced in {took}")
        }
        Notice::EssentialEnded { pool, exit } => {
            let exit = exit.map_or("never ran".into(), |exit| cause_text(Cause::Exited(exit)));
            format!(". pool {pool} is essential and has ended: {exit}")
        }
        Notice::EssentialLost { pool, span } => {
            format!(". pool {pool} is essential and had no ready worker for {span}")
        }
    }
}

fn numbers(numbers: &[Generation]) -> String {
    numbers
        .iter()
        .map(|number| number.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

fn pools(pools: &[PoolId]) -> String {
    pools
        .iter()
        .map(|id| id.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

fn outcome_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done {
            generation,
            replaced,
            took,
        } => {
            format!("done, generation {generation}, {replaced} replaced in {took}")
        }
        Outcome::Aborted {
            failure,
            standing: workers,
            ..
        } => format!("aborted: {}; {}", failure_text(failure), standing(workers)),
        Outcome::RolledBack {
            failure,
            standing: workers,
            ..
        } => {
            format!(
                "rolled back: {}; {}",
                failure_text(failure),
                standing(workers)
            )
        }
        Outcome::Cancelled {
            generation,
            stuck,
            standing: workers,
        } => {
            let stuck = if *stuck { ", stuck" } else { "" };
            format!(
                "generation {generation} cancelled{stuck}; {}",
                standing(workers)
            )
        }
        Outcome::ReplaceFailed {
            slot,
            failure,
            old_serves,
        } => {
            let old = if *old_serves {
                "the old worker serves"
            } else {
                "no worker serves there"
            };
            format!("slot {slot} not replaced: {}; {old}", failure_text(failure))
        }
        Outcome::HeldUp { generation, by } => {
            format!("held up by {}, generation {generation}", pools(by))
        }
        Outcome::Up(how) => format!("up: {how:?}"),
        Outcome::StartFailed(failure) => format!("start failed: {}", start_failure(failure)),
        Outcome::Stopped => "stopped".into(),
        Outcome::Removed => "removed".into(),
        Outcome::Scaled { from, to } => format!("scaled from {from} to {to}"),
        Outcome::Superseded { by } => format!("superseded by {by:?}"),
        Outcome::NothingDone(why) => format!("nothing: {why:?}"),
    }
}

fn start_failure(failure: &StartFailure) -> String {
    match failure {
        StartFailure::Worker {
            worker,
            cause,
            early_exits,
            given_up,
        } => {
            let early = if *early_exits > 1 {
                format!(", {early_exits} early exits")
            } else {
                String::new()
            };
            let end = if *given_up { ", given up" } else { "" };
            format!("{worker} {}{early}{end}", cause_text(*cause))
        }
        StartFailure::NotReadyInTime => "not ready in time".into(),
        StartFailure::Daemonized => "goes into the background".into(),
        StartFailure::Ended => "has ended".into(),
        StartFailure::Stopped => "stopped".into(),
        StartFailure::Dependency { pool, failure } => {
            format!("pool {pool} failed: {}", start_failure(failure))
        }
    }
}

fn standing(standing: &Standing) -> String {
    let Standing {
        base,
        of_base,
        wanted,
        others,
        in_place,
        outdated,
    } = standing;
    let mut text = format!("{of_base} of {wanted} serve, generation {base}");
    for (slot, generation) in others {
        let _ = write!(text, ", slot {slot} generation {generation}");
    }
    if *in_place {
        text.push_str(", in place");
    }
    if *outdated > 0 {
        let _ = write!(text, ", {outdated} outdated");
    }
    text
}

fn failure_text(failure: &Failure) -> String {
    let worker = failure
        .worker
        .map_or(String::new(), |worker| format!("{worker} "));
    let mixed = if failure.mixed { ", mixed" } else { "" };
    format!("{worker}{}{mixed}", cause_text(failure.cause))
}

fn cause_text(cause: Cause) -> String {
    match cause {
        Cause::Exited(Exit::Code(code)) => format!("exit {code}"),
        Cause::Exited(Exit::Signal { signal, .. }) => format!("signal {signal}"),
        Cause::Exited(Exit::Unknown) => "unknown".to_owned(),
        Cause::SpawnFailed => "not spawned".into(),
        Cause::NotReadyInTime => "not ready in time".into(),
        Cause::Unhealthy => "unhealthy".into(),
        Cause::Cancelled => "cancelled".into(),
        Cause::MasterKeepsDying => "the master keeps dying".into(),
        Cause::After(pool) => format!("pool {pool} was not rolled"),
    }
}

pub(crate) fn pool(engine: &Engine, id: PoolId) -> String {
    let view = engine.view();
    let Some(pool) = view.pool(id) else {
        return "    no such pool\n".into();
    };
    let mut text = format!(
        "    {:?}: {} of {} ready, {} alive, {} draining, last good {}, filling with {}, roll {:?}\n",
        pool.state,
        pool.ready,
        pool.wanted,
        pool.alive,
        pool.draining,
        pool.last_good,
        pool.fill_generation,
        pool.roll.state
    );
    if !pool.held_by.is_empty() {
        let _ = writeln!(text, "      waits for {}", pools(&pool.held_by));
    }
    if !pool.roll.after.is_empty() {
        let _ = writeln!(text, "      rolls after {}", pools(&pool.roll.after));
    }
    if pool.previous_good != Generation::NONE {
        let _ = writeln!(text, "      rollback goes to: {}", pool.previous_good);
    }
    if pool.state == PoolState::Mixed || pool.outdated > 0 {
        let serving = pool
            .serving
            .iter()
            .map(|(generation, count)| format!("{count} of generation {generation}"));
        let outdated = if pool.outdated > 0 {
            format!(", {} outdated", pool.outdated)
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "      serving: {}{outdated}",
            serving.collect::<Vec<_>>().join(", ")
        );
    }
    let served = view.served(id);
    if served.iter().any(|known| *known > pool.last_good) {
        let _ = writeln!(text, "      in the history: {}", numbers(&served));
    }
    for WorkerView {
        id: worker,
        slot,
        generation,
        state,
        lost,
        ..
    } in view.workers().filter(|w| w.pool == id)
    {
        let lost = if lost { ", unkillable" } else { "" };
        let _ = writeln!(
            text,
            "      {id}/{slot}: {worker} {state:?}, generation {generation}{lost}"
        );
    }
    for EmptySlot {
        slot,
        state,
        retry_at,
    } in view.empty_slots(id)
    {
        let retry = retry_at.map_or(String::new(), |at| format!(" {}", at - engine.now()));
        let _ = writeln!(
            text,
            "      {id}/{slot}: {state:?}{retry}, {} restarts",
            view.restarts(id, slot)
        );
    }
    text
}
