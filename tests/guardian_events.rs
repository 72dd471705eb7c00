//! The master is killed at each event of a rolling restart: one site and one roll for each of them, and so again until
//! there were `ROTAD_GUARDIAN_KILLS`.

#![allow(clippy::print_stderr, reason = "the counts of a long run")]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::process::{Child, Command};
use support::ask::Asked;
use support::{Load, Site, all_ready, alone, asked_for, pids, pool, proc, rotad, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "5"]
count = 3
listen = ["http"]
stop = "10s"
[pool.web.reload]
soak = "50ms"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;
const COUNT: usize = 3;

/// Sites at the same time.
const LANES: usize = 3;

fn number(event: &Value) -> u64 {
    event["seq"].as_u64().expect("a number")
}

/// The word of an event, and the slot that it is about.
fn name(event: &Value) -> String {
    let word = event["event"].as_str().expect("a word");
    match event["slot"].as_u64() {
        Some(slot) => format!("{word} of slot {slot}"),
        None => word.to_owned(),
    }
}

fn last_number(site: &Site) -> u64 {
    number(site.events().last().expect("an event"))
}

/// A client that follows the events on one connection, and what it was told.
struct Follower {
    connection: Asked,
    told: Vec<Value>,
}

impl Follower {
    fn of(site: &Site) -> Self {
        Self {
            connection: site.asking(&json!({ "events": { "follow": true } })),
            told: Vec::new(),
        }
    }

    /// Waits for the event of this number. The next master tells what the one before may have told: the same.
    fn await_event(&mut self, target: u64) -> &Value {
        while self.told.last().is_none_or(|event| number(event) < target) {
            let event = self.connection.event();
            let before = self.told.iter().find(|told| number(told) == number(&event));
            match before {
                Some(before) => assert_eq!(*before, event, "an event is told as before"),
                None => self.told.push(event),
            }
        }
        self.told.last().expect("an event")
    }
}

/// `rotad events -f --json`, which writes into a file of the site.
fn follow_by_verb(site: &Site) -> Child {
    let out = File::create(site.path("followed")).expect("a file");
    let mut command = Command::new(rotad());
    command.args(["events", "-f", "--json", "-c"]);
    let child = command.arg(&site.config).stdout(out).spawn();
    child.expect("rotad events")
}

/// What the verb has printed; its last line may be half there.
fn followed(site: &Site) -> Vec<Value> {
    let text = site.read("followed");
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let event = |line| serde_json::from_str(line).expect("an event");
    whole.lines().map(event).collect()
}

fn roll(site: &Site) {
    let run = site.rotad(&["roll", "--timeout", "60s"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.out.contains("web: done"), "{run:?}");
}

/// What happens in a roll, from its request to the moment at which all is done.
fn events_of_a_roll() -> Vec<String> {
    let site = Site::up(WEB);
    let load = [
        Load::on(&site.address(), 1, 0),
        Load::on(&site.address(), 0, 1),
    ];
    load.iter().for_each(|load| load.await_more(10));
    let before = last_number(&site);
    roll(&site);
    site.await_ready();
    let events = site.events().into_iter();
    let names = events.filter(|event| number(event) > before);
    names.map(|event| name(&event)).collect()
}

#[test]
fn a_roll_goes_on_whatever_event_the_master_dies_at() {
    let _alone = alone();
    let names = events_of_a_roll();
    assert!(names.len() > COUNT * 5, "{names:?}");
    let kills = asked_for("ROTAD_GUARDIAN_KILLS").unwrap_or(0) as usize;
    let kills = kills.max(names.len());
    let lane = |first| {
        let kills = (first..kills).step_by(LANES);
        kills
            .map(|kill| die_at(kill % names.len() + 1, &names))
            .sum::<u64>()
    };
    let requests: u64 = std::thread::scope(|scope| {
        let lane = &lane;
        let lanes = (0..LANES).map(|first| scope.spawn(move || lane(first)));
        let lanes: Vec<_> = lanes.collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().expect("a lane"))
            .sum()
    });
    eprintln!("{kills} kills, {requests} requests, 0 lost; at {names:?}");
}

/// Rolls, kills the master as soon as a client is told of this event of the roll, and looks at what comes of it. Returns
/// how many requests were answered.
fn die_at(point: usize, names: &[String]) -> u64 {
    let site = Site::up(WEB);
    let old = pids(&site.await_ready(), "web");
    let loads = [
        Load::on(&site.address(), 2, 0),
        Load::on(&site.address(), 0, 2),
    ];
    loads.iter().for_each(|load| load.await_more(20));
    let target = last_number(&site) + point as u64;
    let master = Pid::from_raw(site.pid());
    let mut follower = Follower::of(&site);
    let mut verb = follow_by_verb(&site);
    until("the verb follows", 10, || followed(&site).pop());
    let mut killed_at = String::new();
    std::thread::scope(|scope| {
        let roll = scope.spawn(|| roll(&site));
        killed_at = name(follower.await_event(target));
        kill(master, Signal::SIGKILL).expect("the master");
        roll.join().expect("the roll is done");
    });
    let what = format!("killed at event {point}, {killed_at} (of {names:?})");
    let status = site.await_status(&what, 20, |status| {
        status["master"]["restarts"] == 1 && all_ready(status)
    });
    let web = pool(&status, "web");
    assert_eq!(web["generation"], 2, "{what}: {status}");
    assert_eq!(web["reload"]["state"], "done", "{what}: {status}");
    let new = pids(&status, "web");
    assert_eq!(new.len(), COUNT, "{what}: {status}");
    assert!(old.iter().all(|pid| !new.contains(pid)), "{what}");
    until(&format!("each worker is there once, {what}"), 10, || {
        let all = site.processes().into_iter();
        let workers = all.filter(|pid| proc::command_line(*pid).contains("http --work-ms"));
        (workers.collect::<BTreeSet<i32>>() == new.iter().copied().collect()).then_some(())
    });
    assert_events(&site, &mut follower, (&old, &new), &what);
    let mut requests = 0;
    for load in loads {
        let report = load.stop();
        requests += report.ok;
        assert_eq!(report.lost(), 0, "{what}: {:?}", report.lost);
        report.assert_nothing_lost(20);
    }
    assert_eq!(site.rotad(&["stop"]).code, 0, "{what}");
    assert!(verb.wait().expect("the verb's end").success(), "{what}");
    let last = followed(&site).pop().expect("an event");
    assert_eq!(last["event"], "master-stopped", "{what}");
    site.assert_empty();
    requests
}

/// Those that followed were told all events, over the gap, by the number and text that they have in the master's list; the
/// verb prints each once. Each old worker was stopped once, each new one started once, and the roll ended once.
fn assert_events(site: &Site, follower: &mut Follower, (old, new): (&[i32], &[i32]), what: &str) {
    let events = site.events();
    let last = number(events.last().expect("an event"));
    follower.await_event(last);
    let printed = until("the verb prints all", 10, || {
        let printed = followed(site);
        (number(printed.last()?) >= last).then_some(printed)
    });
    for told in [&follower.told, &printed] {
        let first = number(&told[0]);
        let kept = events.iter().filter(|event| number(event) >= first);
        assert_eq!(
            told.iter().collect::<Vec<_>>(),
            kept.collect::<Vec<_>>(),
            "{what}"
        );
    }
    let numbers: Vec<u64> = events.iter().map(number).collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{what}");
    let pids_of = |word: &str| {
        let of_word = events.iter().filter(|event| event["event"] == word);
        let mut pids: Vec<i32> = of_word
            .map(|event| event["pid"].as_i64().expect("a pid") as i32)
            .collect();
        pids.sort_unstable();
        pids
    };
    let sorted = |pids: &[i32]| {
        let mut pids = pids.to_vec();
        pids.sort_unstable();
        pids
    };
    assert_eq!(pids_of("spawn"), sorted(&[old, new].concat()), "{what}");
    assert_eq!(pids_of("stopped"), sorted(old), "{what}");
    assert!(
        !events
            .iter()
            .any(|event| event["text"].to_string().contains("unknown")),
        "{what}: every exit status is known"
    );
    let times = |word: &str| events.iter().filter(|event| event["event"] == word).count();
    assert_eq!(
        [
            "roll-started",
            "roll-ended",
            "master-restored",
            "exit",
            "kill"
        ]
        .map(times),
        [1, 1, 1, 0, 0],
        "{what}: {events:?}"
    );
}
