//! Commands, notices and views as text.

use rotad_core::{
    Cause, Command, EmptySlot, Engine, Entry, Exit, Failure, Generation, KillReason, Notice,
    Outcome, PoolId, PoolState, Span, Standing, StartFailure, WorkerView,
};
use std::fmt::Write as _;

pub(crate) fn entry(entry: &Entry) -> String {
    match entry {
        Entry::Command(command) => self::command(command),
        Entry::Notice(notice) => record(notice),
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
            format!("signal {signal} to what outlives {worker}")
        }
        Command::SignalRemaining(worker, None) => format!("wait for what outlives {worker}"),
        Command::Kill(worker) => format!("kill {worker}"),
        Command::KillTree(worker) => format!("sweep {worker}"),
        Command::Reply(ticket, pool, outcome) => {
            format!("reply {ticket}, pool {pool}: {}", end(outcome))
        }
        Command::BeginGeneration { pool, generation } => {
            format!("pool {pool} begins generation {generation}")
        }
        Command::RevertConfig(pool) => format!("pool {pool} reverts its configuration"),
        Command::EndGeneration { pool, .. } => format!("pool {pool} forgets old generations"),
        Command::StartHealth(worker) => format!("check the health of {worker}"),
        Command::StopHealth(worker) => format!("end the checks of {worker}"),
        Command::GiveUp { pool, cause } => format!("give up for pool {pool}: {cause:?}"),
        Command::Exit { lost } if lost.is_empty() => "leave".into(),
        Command::Exit { lost } => {
            format!(
                "leave, lost: {}",
                lost.iter()
                    .map(|id| id.to_string())
                    .collect::<Vec<_>>()
                    .join(" ")
            )
        }
    }
}

fn record(record: &Notice) -> String {
    match record {
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
            format!(". {worker} says that it is ready, after {took}")
        }
        Notice::Watched { span, .. } => format!(". the new ones are watched for {span}"),
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
            let vain = if *early_exits > 1 {
                format!(", {early_exits} in vain")
            } else {
                String::new()
            };
            let end = if *given_up { ", given up" } else { "" };
            format!(". {worker} {how}{when}: {}{retry}{vain}{end}", why(*cause))
        }
        Notice::Stopped { worker, exit, took } => {
            let exit = exit.map_or("never born".into(), |exit| why(Cause::Exited(exit)));
            format!(". {worker} is gone {took} after it was asked: {exit}")
        }
        Notice::Retired { worker, why } => format!(". {worker} has to leave: {why:?}"),
        Notice::Killed {
            worker,
            reason,
            waited,
        } => match reason {
            KillReason::Steps => format!(". {worker} is deaf for {waited}"),
            KillReason::Cap => format!(". {worker} is cut off after {waited}"),
            KillReason::Now => format!(". {worker} is cut off at once, after {waited}"),
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
            format!(". pool {pool} crash-loops on, the rest is started")
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
            format!(". rolling back to {to}: {}", fault(failure))
        }
        Notice::RollEnded { outcome, .. } => format!(". roll ended: {}", end(outcome)),
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
        Notice::RollWaits { .. } => ". the wish waits".into(),
        Notice::RollSuperseded {
            generation,
            by,
            retired_any,
            ..
        } => {
            let touched = if *retired_any {
                ", workers have been replaced"
            } else {
                ""
            };
            format!(". generation {generation} is superseded by {by:?}{touched}")
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
            format!(". {pool}/{slot} has {worker}, renewed in {took}")
        }
        Notice::EssentialEnded { pool, exit } => {
            let exit = exit.map_or("never ran".into(), |exit| why(Cause::Exited(exit)));
            format!(". pool {pool} is essential and has ended: {exit}")
        }
        Notice::EssentialLost { pool, span } => {
            format!(". pool {pool} is essential and had nobody ready for {span}")
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

fn end(outcome: &Outcome) -> String {
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
            standing: who,
            ..
        } => format!("aborted: {}; {}", fault(failure), standing(who)),
        Outcome::RolledBack {
            failure,
            standing: who,
            ..
        } => {
            format!("rolled back: {}; {}", fault(failure), standing(who))
        }
        Outcome::Cancelled {
            generation,
            stuck,
            standing: who,
        } => {
            let stuck = if *stuck { ", stuck" } else { "" };
            format!(
                "generation {generation} cancelled{stuck}; {}",
                standing(who)
            )
        }
        Outcome::ReplaceFailed {
            slot,
            failure,
            old_serves,
        } => {
            let old = if *old_serves {
                "the old one serves"
            } else {
                "nobody serves there"
            };
            format!("slot {slot} not renewed: {}; {old}", fault(failure))
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
            let vain = if *early_exits > 1 {
                format!(", {early_exits} in vain")
            } else {
                String::new()
            };
            let end = if *given_up { ", given up" } else { "" };
            format!("{worker} {}{vain}{end}", why(*cause))
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

fn fault(failure: &Failure) -> String {
    let who = failure
        .worker
        .map_or(String::new(), |worker| format!("{worker} "));
    let mixed = if failure.mixed { ", mixed" } else { "" };
    format!("{who}{}{mixed}", why(failure.cause))
}

fn why(cause: Cause) -> String {
    match cause {
        Cause::Exited(Exit::Code(code)) => format!("exit {code}"),
        Cause::Exited(Exit::Signal { signal, .. }) => format!("signal {signal}"),
        Cause::Exited(Exit::Unknown) => "unknown".to_owned(),
        Cause::SpawnFailed => "not born".into(),
        Cause::NotReadyInTime => "not ready in time".into(),
        Cause::Unhealthy => "unhealthy".into(),
        Cause::Cancelled => "cancelled".into(),
        Cause::After(pool) => format!("pool {pool} was not rolled"),
    }
}

pub(crate) fn pool(engine: &Engine, id: PoolId) -> String {
    let view = engine.view();
    let Some(pool) = view.pool(id) else {
        return "    no such pool\n".into();
    };
    let mut text = format!(
        "    {:?}: {} of {} ready, {} alive, {} draining, generation {} proven, {} filling, roll {:?}\n",
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
        let _ = writeln!(text, "      before that: {}", pool.previous_good);
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
        let _ = writeln!(text, "      remembered: {}", numbers(&served));
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
        let lost = if lost { ", lost" } else { "" };
        let _ = writeln!(
            text,
            "      {id}/{slot}: {worker} {state:?}, generation {generation}{lost}"
        );
    }
    for EmptySlot {
        slot,
        state,
        retry_in,
    } in view.empty_slots(id)
    {
        let retry = retry_in.map_or(String::new(), |span| format!(" {span}"));
        let _ = writeln!(
            text,
            "      {id}/{slot}: {state:?}{retry}, {} restarts",
            view.restarts(id, slot)
        );
    }
    text
}
