//! The state that another version has saved. Versions that replace each other read each other's state, and a version that runs
//! beside this one cannot be had from its sources, so what one of each format has saved is kept in `states/`: recorded from a
//! master whose pools were rolled, scaled, stopped and restarted while clients waited. It is not changed; a version that saves
//! another format adds its own.

use super::*;
use rotad_core::PoolState;
use serde_json::Value;

/// Saved by rotad 0.1.0 as format 2, after 78 inputs and two steps of the last. No release has saved format 1.
const FORMAT_2: &str = include_str!("../states/format-2.jsonl");
const PROGRESS: Progress = Progress {
    input: 78,
    steps: 2,
};

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn read(lines: &[String]) -> State {
    State::read(lines, PROGRESS).unwrap_or_else(|failed| panic!("{}", failed.message))
}

#[test]
fn the_state_of_the_second_format_is_read() {
    let state = read(&lines(FORMAT_2));
    assert_eq!(
        (FORMAT, READABLE_BY),
        (2, 2),
        "a new format has its own state"
    );
    assert_eq!(state.plan.master.name, "golden");
    let engine = state.replayed.engine.view();
    let pools = state.pools.iter().filter_map(|(id, pool)| {
        let view = engine.pool(id)?;
        Some((pool.name.clone(), (view.state, view.wanted)))
    });
    let pools: BTreeMap<String, (PoolState, u32)> = pools.collect();
    let expected = [
        ("api", PoolState::Reloading, 2),
        ("crash", PoolState::CrashLoop, 1),
        ("idle", PoolState::Stopped, 0),
        ("jobs", PoolState::Reloading, 4),
        ("setup", PoolState::Done, 0),
        ("web", PoolState::Reloading, 2),
    ];
    let expected = expected.map(|(name, state, wanted)| (name.to_owned(), (state, wanted)));
    assert_eq!(pools, BTreeMap::from(expected));
    let records = state.records;
    let workers: BTreeSet<WorkerId> = records.workers.keys().copied().collect();
    let known: BTreeSet<WorkerId> = engine.workers().map(|worker| worker.id).collect();
    assert_eq!(workers, known, "each worker of the engine has its process");
    assert!(records.listening.is_some() && records.server.is_some());
    assert!(!records.events.is_empty() && !records.paths.is_empty());
}

/// Whether all that is in the old value is in the new one.
fn contains(new: &Value, old: &Value) -> Result<(), String> {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            for (key, value) in old {
                let there = new.get(key).unwrap_or(&Value::Null);
                contains(there, value).map_err(|why| format!("{key}.{why}"))?;
            }
            Ok(())
        }
        (Value::Array(new), Value::Array(old)) if new.len() == old.len() => new
            .iter()
            .zip(old)
            .try_for_each(|(new, old)| contains(new, old)),
        _ if new == old => Ok(()),
        _ => Err(format!(": {old} is {new}")),
    }
}

/// An upgrade may have to go back: what the other version has written is written again, with all that it reads.
#[test]
fn what_the_second_format_reads_is_still_written() {
    for line in lines(FORMAT_2) {
        let record: Record<'_> = serde_json::from_str(&line).unwrap();
        let old: Value = serde_json::from_str(&line).unwrap();
        let new = serde_json::to_value(&record).unwrap();
        if let Err(why) = contains(&new, &old) {
            panic!("{why} in {line}");
        }
    }
}

/// A later version may add kinds of records; what is no record is an error all the same.
#[test]
fn records_of_unknown_kinds_are_passed_over() {
    let mut all = lines(FORMAT_2);
    all.insert(7, r#"{"Weather":{"sun":[1,2]}}"#.to_owned());
    read(&all);
    for damaged in [
        r#"{"Weather":{"sun":"#,
        r#"{"Input":[1]}"#,
        r#"["Weather"]"#,
        "",
    ] {
        damaged.clone_into(&mut all[7]);
        assert!(State::read(&all, PROGRESS).is_err(), "{damaged}");
    }
}

#[test]
fn a_state_of_a_later_format_is_refused() {
    let all = lines(&FORMAT_2.replacen("\"readable_by\":2", "\"readable_by\":99", 1));
    let failed = State::read(&all, PROGRESS).err().expect("it is too new");
    assert!(
        failed.message.contains("which is too new"),
        "{}",
        failed.message
    );
}

/// Counters as they are saved: records add up, and what another version has beside them is passed over.
#[test]
fn counters_are_read_and_written_again() {
    let mut all = lines(FORMAT_2);
    let first = r#"{"Counters":{"noticed":7,"config":{"successful":true,"success_ms":5},"pools":[[1,{"starts":3,"deaths":[0,2,0,0,0,0,0],"ready":{"counts":[1,0,2],"sum_ms":900},"later":[1]}]],"output":[["web",10,1]]}}"#;
    let second = r#"{"Counters":{"noticed":9,"pools":[[1,{"starts":4,"kills":1}]]}}"#;
    all.extend([first.to_owned(), second.to_owned()]);
    let records = read(&all).records;
    let read = serde_json::to_value(records.counters).unwrap();
    let expected = serde_json::json!({
        "noticed": 9,
        "config": {"successful": true, "success_ms": 5},
        "pools": [[1, {"starts": 4, "kills": 1}]],
        "output": [["web", 10, 1]],
    });
    assert_eq!(read, expected);
    let record: Record<'_> = serde_json::from_str(first).unwrap();
    let written = serde_json::to_value(&record).unwrap();
    let pool = &written["Counters"]["pools"][0][1];
    assert_eq!(pool["ready"]["sum_ms"], 900, "{written}");
    assert_eq!(pool["deaths"][1], 2, "{written}");
}
