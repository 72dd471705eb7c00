//! What was saved is read again by the same version, by its neighbours, and refused when it is damaged. Round trips after
//! each input: the stories; deaths of the master: the simulator.

use rotad_core::{
    Engine, Exit, Input, OnFailure, Output, Policy, PoolId, PoolKind, Readiness, Reload, Request,
    Restart, RestartPolicy, SavedEngine, Signal, Slot, Span, StopStep, Ticket, Time, To, WorkerId,
};
use serde_json::{Value, json};

fn policy(count: u32) -> Policy {
    Policy {
        kind: PoolKind::Service,
        count,
        readiness: Readiness::Alive(Span(300)),
        ready_timeout: Span(60_000),
        stop: vec![StopStep {
            signal: Some(Signal::TERM),
            wait: Span(5000),
            to: To::Tree,
        }],
        reload: Reload {
            surge: 1,
            max_draining: 2,
            soak: None,
            on_failure: OnFailure::Rollback,
        },
        restart: Restart {
            policy: RestartPolicy::Always,
            delay: Span(100),
            max_delay: Span(30_000),
            stable_after: Span(10_000),
            success_exit_codes: vec![0],
            never_on: vec![7],
        },
        after: Vec::new(),
        max_starting: None,
        essential: None,
    }
}

/// An engine with a bit of everything: workers in several states, a rolling restart, requests that wait, a backoff.
fn busy() -> Engine {
    let mut engine = Engine::with_processors(4);
    let mut at = 0;
    let mut ticket = 0;
    let mut step = |input| {
        at += 400;
        while engine.deadline().is_some_and(|due| due <= Time(at)) {
            engine.handle(Time(at), Input::TimerFired);
        }
        engine.handle(Time(at), input);
    };
    let mut ask = |request| {
        ticket += 1;
        Input::Requested(
            Some(Ticket {
                number: ticket,
                drained: ticket % 2 == 0,
            }),
            request,
        )
    };
    let after = Policy {
        after: vec![PoolId(1)],
        ..policy(2)
    };
    step(ask(Request::EnsurePool(PoolId(1), policy(3))));
    step(ask(Request::EnsurePool(PoolId(2), after)));
    for worker in 1..=3 {
        step(Input::Started(WorkerId(worker)));
        step(Input::Ready(WorkerId(worker)));
    }
    step(ask(Request::Roll(PoolId(1))));
    step(Input::Started(WorkerId(6)));
    step(Input::Ready(WorkerId(6)));
    for _ in 0..3 {
        step(Input::TimerFired);
    }
    step(ask(Request::Roll(PoolId(1))));
    step(ask(Request::Replace(PoolId(2), Slot(0))));
    step(ask(Request::StopPool(PoolId(2))));
    step(Input::Exited(WorkerId(2), Exit::Code(1)));
    step(Input::Exited(WorkerId(3), Exit::Code(1)));
    engine
}

fn saved(engine: &Engine) -> Value {
    serde_json::to_value(engine.save()).expect("JSON")
}

fn restored(text: &str) -> Result<Engine, String> {
    let saved: SavedEngine<'_> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    Engine::restore(saved).map_err(|e| e.to_string())
}

fn error_of(value: &Value) -> String {
    match restored(&value.to_string()) {
        Ok(_) => panic!("restored from {value}"),
        Err(error) => error,
    }
}

#[test]
fn a_busy_engine_is_the_same_again_and_goes_on_the_same() {
    let mut engine = busy();
    let text = saved(&engine).to_string();
    for part in ["Stopping", "\"roll\":{", "\"waiting\":[", "\"drained\":[["] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let mut again = restored(&text).expect("restored");
    assert!(again == engine);
    let stop = || Input::Requested(None, Request::Stop { cap: None });
    let at = Time(100_000);
    assert_eq!(again.handle(at, stop()), engine.handle(at, stop()));
    assert!(again == engine);
}

#[test]
fn an_input_is_the_same_again() {
    for input in [
        Input::Started(WorkerId(1)),
        Input::Exited(
            WorkerId(2),
            Exit::Signal {
                signal: 11,
                core_dumped: true,
            },
        ),
        Input::Demand(vec![(WorkerId(3), 100)]),
        Input::Requested(
            Some(Ticket::new(7)),
            Request::Reconfigure {
                pool: PoolId(1),
                policy: policy(3),
            },
        ),
        Input::Requested(None, Request::StopNow),
        Input::TimerFired,
    ] {
        let text = serde_json::to_string(&(Time(5), &input)).expect("JSON");
        let again: (Time, Input) = serde_json::from_str(&text).expect("read");
        assert_eq!(again, (Time(5), input));
    }
}

#[test]
fn what_is_left_of_an_output_begins_after_the_commands_that_were_executed() {
    let mut engine = Engine::with_processors(64);
    let policy = policy(3);
    let output = engine.handle(
        Time(0),
        Input::Requested(
            Some(Ticket::new(1)),
            Request::EnsurePool(PoolId(1), policy.clone()),
        ),
    );
    let (commands, _) = output.clone().split();
    assert_eq!(commands.len(), 3);
    for executed in 0..=3 {
        let (rest, _) = output.clone().rest(executed).split();
        assert_eq!(rest, commands[executed..]);
    }
    assert!(output.rest(4).is_empty());
}

#[test]
fn a_replay_returns_the_last_output_and_refuses_time_that_runs_backwards() {
    let ensure = Input::Requested(None, Request::EnsurePool(PoolId(1), policy(1)));
    let mut engine = Engine::new();
    engine.handle(Time(5), ensure.clone());
    let last = engine.handle(Time(6), Input::Ready(WorkerId(1)));
    let mut again = Engine::new();
    let recorded = [
        (Time(5), ensure.clone()),
        (Time(6), Input::Ready(WorkerId(1))),
    ];
    assert_eq!(again.replay(recorded), Ok(last));
    assert!(again == engine);
    assert_eq!(again.replay([]), Ok(Output::default()));
    let error = again.replay([(Time(5), ensure)]).expect_err("backwards");
    assert_eq!(
        error.to_string(),
        "an input was recorded at 0.005, before 0.006"
    );
}

/// A field that a later version has added is ignored, at every place where there can be one.
#[test]
fn unknown_fields_are_ignored() {
    fn add(value: &mut Value) -> u32 {
        match value {
            Value::Object(map) => {
                let inner: u32 = map.values_mut().map(add).sum();
                // Maps by number, and enums, have no fields; a range has those that it has.
                let is_struct = map.len() > 1
                    && !map.contains_key("start")
                    && map.keys().all(|key| key.parse::<u64>().is_err());
                if is_struct {
                    map.insert("of_a_later_version".into(), json!({"a": [1, 2]}));
                }
                inner + u32::from(is_struct)
            }
            Value::Array(all) => all.iter_mut().map(add).sum(),
            _ => 0,
        }
    }
    let engine = busy();
    let mut value = saved(&engine);
    assert!(add(&mut value) > 20);
    assert!(restored(&value.to_string()).expect("restored") == engine);
}

/// Changes a saved state.
type Damage = dyn Fn(&mut Value);

#[test]
fn a_state_that_contradicts_itself_is_refused_with_the_reason() {
    let engine = busy();
    let good = saved(&engine);
    let change = |with: &Damage| {
        let mut value = good.clone();
        with(&mut value);
        assert_ne!(value, good, "the change has no effect");
        error_of(&value)
    };
    let cases: [(&Damage, &str); 12] = [
        (
            &|v| v["last_worker"] = json!(3),
            "pool 1 knows worker 6, the last one is 3",
        ),
        (
            &|v| v["last_worker"] = json!(u64::MAX),
            "the last worker has number 18446744073709551615",
        ),
        (
            &|v| v["workers"]["1"]["pool"] = json!(9),
            "worker 1 is of pool 9, which does not exist",
        ),
        (
            &|v| v["workers"]["6"]["slot"] = json!(3),
            "worker 6 is in slot 3, which pool 1 does not have",
        ),
        (
            &|v| v["workers"]["6"]["slot"] = v["workers"]["7"]["slot"].clone(),
            "are both",
        ),
        (
            &|v| v["workers"]["6"]["generation"] = json!(5),
            "worker 6 is of generation 5, the latest of pool 1 is 2",
        ),
        (
            &|v| v["workers"]["6"]["role"] = json!("Leaving"),
            "worker 6 is Leaving in state",
        ),
        (
            &|v| v["workers"]["6"]["exit"] = json!({"Code": 0}),
            "worker 6 is in state",
        ),
        (
            &|v| v["pools"]["1"]["slots"] = json!([]),
            "pool 1 has 0 slots, and 3 workers are desired",
        ),
        (
            &|v| v["pools"]["1"]["target"] = json!(9),
            "pool 1 has generation 9, the latest is 2",
        ),
        (
            &|v| {
                v["deadlines"]
                    .as_array_mut()
                    .expect("deadlines")
                    .push(json!(["Cap", 5]));
            },
            "a deadline of Cap, which does not exist",
        ),
        (
            &|v| {
                v["pools"]["1"]["waiting"] = json!([
                    {"number": 90, "drained": false},
                    {"number": 90, "drained": false}
                ]);
            },
            "ticket 90 waits in two places",
        ),
    ];
    for (with, text) in cases {
        let error = change(with);
        assert!(error.contains(text), "{error}, not {text}");
    }
}

#[test]
fn a_state_that_was_cut_is_refused() {
    let text = saved(&busy()).to_string();
    for end in 0..text.len() {
        assert!(restored(&text[..end]).is_err(), "cut at {end}");
    }
}

/// Some damage cannot be seen: another number that could be right. The engine goes on from that as well.
#[test]
fn a_damaged_state_is_refused_or_makes_no_panic() {
    let text = saved(&busy()).to_string();
    let mut random = 7_u64;
    let mut draw = move |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % below
    };
    let pieces = [
        "0",
        "9",
        "4294967295",
        "null",
        "-",
        "true",
        "\"",
        "[]",
        "{}",
        "Ready",
        ",",
    ];
    let (mut refused, mut accepted) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..=draw(3) {
            let at = draw(bytes.len());
            match draw(4) {
                0 => bytes[at] = b"0123456789"[draw(10)],
                1 => drop(bytes.remove(at)),
                2 => {
                    let end = (at + draw(30)).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    let piece = pieces[draw(pieces.len())].bytes();
                    bytes.splice(at..at, piece);
                }
            }
        }
        let Ok(mut engine) = restored(&String::from_utf8_lossy(&bytes)) else {
            refused += 1;
            continue;
        };
        accepted += 1;
        let mut now = Time(1 << 40);
        for pool in [PoolId(1), PoolId(2)] {
            engine.view().pool(pool);
            for request in [
                Request::Start(pool),
                Request::Roll(pool),
                Request::Scale(pool, 5),
            ] {
                engine.handle(now, Input::Requested(Some(Ticket::new(1 << 40)), request));
                now = Time(now.0 + 100_000);
                engine.handle(now, Input::TimerFired);
            }
        }
        let workers: Vec<WorkerId> = engine.view().workers().map(|w| w.id).collect();
        for worker in workers {
            engine.handle(now, Input::Ready(worker));
            engine.handle(now, Input::Exited(worker, Exit::Code(1)));
            engine.handle(now, Input::TreeGone(worker));
        }
        engine.handle(now, Input::Requested(None, Request::StopNow));
        let text = serde_json::to_string(&engine.save()).expect("JSON");
        assert!(restored(&text).is_ok_and(|again| again == engine));
    }
    assert!(refused > 5000 && accepted > 500, "{refused}, {accepted}");
}

/// A thousand workers that serve, in a rolling restart that has begun.
fn thousand() -> Engine {
    let mut engine = Engine::with_processors(64);
    let pool = PoolId(1);
    let policy = Policy {
        max_starting: Some(1000),
        ..policy(1000)
    };
    let ensure = Request::EnsurePool(pool, policy);
    engine.handle(Time(0), Input::Requested(Some(Ticket::new(1)), ensure));
    for worker in 1..=1000 {
        engine.handle(Time(worker), Input::Started(WorkerId(worker)));
        engine.handle(Time(worker), Input::Ready(WorkerId(worker)));
    }
    let roll = Request::Roll(pool);
    engine.handle(Time(2000), Input::Requested(Some(Ticket::new(2)), roll));
    engine
}

/// Milliseconds of one call, the least of several.
fn cost(times: u32, mut call: impl FnMut()) -> f64 {
    let one = |_| {
        let began = std::time::Instant::now();
        (0..times).for_each(|_| call());
        began.elapsed().as_secs_f64() * 1000.0 / f64::from(times)
    };
    (0..5).map(one).fold(f64::MAX, f64::min)
}

/// The bounds are wide, for machines under load; `ROTAD_STATE_FIGURES=1` prints what it was.
#[test]
fn a_record_and_a_snapshot_of_a_thousand_workers_are_cheap() {
    let engine = thousand();
    let mut buffer: Vec<u8> = Vec::with_capacity(1 << 20);
    let record = |buffer: &mut Vec<u8>, input: &Input| {
        buffer.clear();
        serde_json::to_writer(buffer, &(Time(12_345), input)).expect("JSON");
    };
    let input = Input::Exited(WorkerId(4711), Exit::Code(0));
    let per_record = cost(10_000, || record(&mut buffer, &input));
    let ensure = Input::Requested(
        Some(Ticket::new(9)),
        Request::EnsurePool(PoolId(1), policy(3)),
    );
    let per_request = cost(10_000, || record(&mut buffer, &ensure));
    let per_snapshot = cost(5, || {
        buffer.clear();
        serde_json::to_writer(&mut buffer, &engine.save()).expect("JSON");
    });
    let text = String::from_utf8(buffer).expect("JSON is text");
    let per_restore = cost(5, || assert!(restored(&text).is_ok()));
    let figures = format!(
        "record {:.2} µs, of a policy {:.2} µs; 1000 workers: snapshot {per_snapshot:.2} ms and {} KiB, restored in {per_restore:.2} ms",
        per_record * 1000.0,
        per_request * 1000.0,
        text.len() / 1024,
    );
    if std::env::var_os("ROTAD_STATE_FIGURES").is_some() {
        panic!("{figures}");
    }
    assert!(per_record < 0.1 && per_request < 0.3, "{figures}");
    assert!(per_snapshot < 50.0 && per_restore < 100.0, "{figures}");
    assert!(text.len() < 1 << 20, "{figures}");
}
