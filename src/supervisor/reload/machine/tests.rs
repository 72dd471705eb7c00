//! Events of the stories: `signal NAME` (nobody waits for it) `ask NAME` (a client does) `read` `read opens` `opened`
//! `oneshots NAME…` (`b<a,c`: comes after a and c) `ended NAME` `failed NAME` `compared` `refused CODE` `stop`.

use super::{Action, Event, Joins, Oneshot, Reloads};
use crate::exit_code::ExitCode;
use crate::supervisor::stories::{self, Machine, Numbers};
use rotad_core::Time;

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

fn event(reloads: &Reloads<Request, Config>, words: &[&str]) -> Event<Request, Config, ()> {
    let name = || words[1].to_owned();
    let request = |waits| {
        Event::Requested(Request {
            name: name(),
            waits,
        })
    };
    match words[0] {
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
        what => panic!("unknown event {what}"),
    }
}

fn show_all(actions: &[Action<Request, Config, ()>]) -> Vec<String> {
    actions.iter().map(show).collect()
}

impl Machine for Reloads<Request, Config> {
    fn next_deadline(&self) -> Option<Time> {
        self.deadline()
    }

    fn fire(&mut self, now: Time) -> Vec<String> {
        show_all(&self.handle(now, Event::TimerFired))
    }

    fn tell(&mut self, now: Time, words: &[&str]) -> Vec<String> {
        let event = event(self, words);
        show_all(&self.handle(now, event))
    }
}

#[test]
fn stories() {
    stories::check::<Reloads<Request, Config>>("reload/machine/stories.txt");
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
    let mut numbers = Numbers::seed(0);
    for _ in 0..20_000 {
        let mut reloads: Reloads<Request, Config> = Reloads::default();
        let (mut asked, mut over, mut compared) = (0, 0, false);
        for step in 0..24 {
            let word = EVENTS[numbers.below(EVENTS.len() as u64) as usize];
            let words: Vec<&str> = word.split_whitespace().collect();
            asked += u32::from(matches!(words[0], "signal" | "ask"));
            let event = event(&reloads, &words);
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
