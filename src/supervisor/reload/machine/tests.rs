//! Stories of reloads as text (`stories.txt`): `== title` begins one; `> TIME event` is an event at that many
//! milliseconds; the machine's actions follow, indented. A deadline before an event's time fires by itself (`~ TIME`).
//! `ROTAD_BLESS=1` rewrites the actions: read the diff before you keep it.
//!
//! Events: `signal NAME` (nobody waits for it) `ask NAME` (a client does) `read` `read opens` `opened` `oneshots NAME…`
//! (`b<a,c`: comes after a and c) `ended NAME` `failed NAME` `compared` `refused CODE` `stop` `nothing` (only time).

use super::{Action, Event, Joins, Oneshot, Reloads};
use crate::exit_code::ExitCode;
use rotad_core::Time;
use std::fmt::Write as _;

#[derive(Debug)]
struct Request {
    name: String,
    waits: bool,
}

impl Joins for Request {
    fn joins(&self, other: &Self) -> bool {
        !self.waits && !other.waits
    }
}

/// The configuration of one request, so that a story shows whose is committed or undone.
type Config = String;

fn show(action: &Action<Request, Config, ()>) -> String {
    match action {
        Action::Joined(request) => format!("{} joins the one that waits", request.name),
        Action::Read => "read".to_owned(),
        Action::Open => "open".to_owned(),
        Action::ListOneshots => "list oneshots".to_owned(),
        Action::RunOneshot(name) => format!("run {name}"),
        Action::UndoOneshots(config) => format!("undo oneshots of {config}"),
        Action::Compare => "compare".to_owned(),
        Action::Commit {
            request, config, ..
        } => format!("commit {config} for {}", request.name),
        Action::Answer {
            request,
            code,
            text,
        } => format!(
            "answer {}: {code}, {}",
            request.name,
            text.replace('\n', " / ")
        ),
    }
}

fn oneshot(word: &str) -> Oneshot {
    let (name, after) = word.split_once('<').unwrap_or((word, ""));
    Oneshot {
        name: name.to_owned(),
        after: after
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    }
}

fn event(reloads: &Reloads<Request, Config>, words: &[&str]) -> Option<Event<Request, Config, ()>> {
    let name = || words[1].to_owned();
    let request = |waits| {
        Event::Requested(Request {
            name: name(),
            waits,
        })
    };
    Some(match words[0] {
        "signal" => request(false),
        "ask" => request(true),
        "read" => Event::Read {
            config: reloads
                .request()
                .map_or_else(String::new, |of| format!("{}'s", of.name)),
            opens: words.contains(&"opens"),
        },
        "opened" => Event::Opened,
        "oneshots" => Event::Oneshots(words[1..].iter().map(|word| oneshot(word)).collect()),
        "ended" => Event::OneshotEnded(name(), None),
        "failed" => Event::OneshotEnded(name(), Some("exited with 1".to_owned())),
        "compared" => Event::Compared(()),
        "refused" => Event::Ended {
            code: ExitCode::of_child(words[1].parse().expect("a code")),
            text: "refused".to_owned(),
        },
        "stop" => Event::Stopping,
        "nothing" => return None,
        what => panic!("unknown event {what}"),
    })
}

fn tell(story: &str) -> String {
    let mut reloads: Reloads<Request, Config> = Reloads::default();
    let mut told = String::new();
    for line in story.lines() {
        if line.starts_with("    ") || line.starts_with('~') {
            continue; // an action from before
        }
        let Some(fact) = line.strip_prefix("> ") else {
            writeln!(told, "{line}").expect("a string");
            continue;
        };
        let words: Vec<&str> = fact.split_whitespace().collect();
        let now = Time(words[0].parse().expect("a time"));
        while let Some(at) = reloads.deadline().filter(|at| *at < now) {
            writeln!(told, "~ {}", at.0).expect("a string");
            for action in reloads.handle(at, Event::TimerFired) {
                writeln!(told, "    {}", show(&action)).expect("a string");
            }
        }
        writeln!(told, "{line}").expect("a string");
        if let Some(event) = event(&reloads, &words[1..]) {
            for action in reloads.handle(now, event) {
                writeln!(told, "    {}", show(&action)).expect("a string");
            }
        }
    }
    told
}

#[test]
fn stories() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/supervisor/reload/machine/stories.txt"
    );
    let text = std::fs::read_to_string(path).expect("stories");
    let told: String = text.split_inclusive("\n\n").map(tell).collect();
    if std::env::var_os("ROTAD_BLESS").is_some() {
        std::fs::write(path, told).expect("stories are written");
        return;
    }
    for (number, (is, was)) in told.lines().zip(text.lines()).enumerate() {
        assert_eq!(is, was, "stories.txt:{}", number + 1);
    }
    assert_eq!(told.lines().count(), text.lines().count());
}

/// Whatever comes in whatever order: each request is answered or committed once, and nothing is committed before it was
/// read, opened and compared, or after a failed oneshot.
#[test]
fn every_request_ends_once_in_any_order_of_events() {
    const EVENTS: [&str; 11] = [
        "signal s",
        "ask c",
        "read",
        "read opens",
        "opened",
        "oneshots a b<a",
        "ended a",
        "ended b",
        "failed a",
        "compared",
        "refused 78",
    ];
    let mut order = 0_u64;
    for _ in 0..20_000 {
        let mut reloads: Reloads<Request, Config> = Reloads::default();
        let (mut asked, mut over, mut compared) = (0, 0, false);
        for step in 0..24 {
            // Knuth's linear congruential generator (MMIX): the same orders in each run.
            order = order
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let word = EVENTS[(order >> 33) as usize % EVENTS.len()];
            let words: Vec<&str> = word.split_whitespace().collect();
            asked += u32::from(matches!(words[0], "signal" | "ask"));
            let event = event(&reloads, &words).expect("an event");
            for action in reloads.handle(Time(step), event) {
                match action {
                    Action::Joined(_) => over += 1,
                    Action::Answer { .. } => {
                        over += 1;
                        compared = false;
                    }
                    Action::Commit { .. } => {
                        assert!(compared, "committed without a comparison");
                        over += 1;
                        compared = false;
                    }
                    Action::Compare => compared = true,
                    Action::Read
                    | Action::Open
                    | Action::ListOneshots
                    | Action::RunOneshot(_)
                    | Action::UndoOneshots(_) => {}
                }
            }
        }
        for action in reloads.handle::<()>(Time(24), Event::Stopping) {
            over += u32::from(matches!(action, Action::Answer { .. }));
        }
        assert_eq!(asked, over, "each request ends once");
        assert!(!reloads.is_active());
    }
}
