//! Stories of the supervisor's state machines as text, for their tests (`reload/machine`, `health`, `runtime_files`, `listening`, `workers/trees`): `== title` begins one;
//! `> TIME event` is an event at that many milliseconds; what the machine does follows, indented. A deadline before an
//! event's time fires by itself (`~ TIME`); an event at the same time comes first. `ROTAD_BLESS=1` rewrites what the
//! machine does: read the diff before you keep it.

use rotad_core::{Span, Time};
use std::fmt::Write as _;

/// A machine that a story is told of.
pub(super) trait Machine: Default {
    fn next_deadline(&self) -> Option<Time>;

    /// Its deadline has come. Returns what it does.
    fn fire(&mut self, now: Time) -> Vec<String>;

    /// Something has happened, in words. `nothing` (only time) is no event of the machine.
    fn tell(&mut self, now: Time, words: &[&str]) -> Vec<String>;
}

/// More deadlines between two events of a story than this: the machine does not get on.
const MAX_FIRED: usize = 100;

fn tell<M: Machine>(story: &str) -> String {
    let mut machine = M::default();
    let mut told = String::new();
    for line in story.lines() {
        if line.starts_with("    ") || line.starts_with('~') {
            continue; // what it did before
        }
        let Some(event) = line.strip_prefix("> ") else {
            writeln!(told, "{line}").expect("a string");
            continue;
        };
        let words: Vec<&str> = event.split_whitespace().collect();
        let now = Time(words[0].parse().expect("a time"));
        let mut fired = 0;
        while let Some(at) = machine.next_deadline().filter(|at| *at < now) {
            fired += 1;
            assert!(fired < MAX_FIRED, "{line}: the deadline {} stays", at.0);
            writeln!(told, "~ {}", at.0).expect("a string");
            write_all(&mut told, &machine.fire(at));
        }
        writeln!(told, "{line}").expect("a string");
        if words[1] != "nothing" {
            let done = machine.tell(now, &words[1..]);
            write_all(&mut told, &done);
        }
    }
    told
}

fn write_all(told: &mut String, done: &[String]) {
    for line in done {
        writeln!(told, "    {line}").expect("a string");
    }
}

/// Tells the stories of a file below `src/supervisor`, and compares.
pub(super) fn check<M: Machine>(file: &str) {
    let path = format!("{}/src/supervisor/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("stories");
    let told: String = text.split_inclusive("\n\n").map(tell::<M>).collect();
    if std::env::var_os("ROTAD_BLESS").is_some() {
        std::fs::write(path, told).expect("stories are written");
        return;
    }
    for (number, (is, was)) in told.lines().zip(text.lines()).enumerate() {
        assert_eq!(is, was, "{file}:{}", number + 1);
    }
    assert_eq!(told.lines().count(), text.lines().count(), "{file}");
}

/// `250ms`, `10s`.
pub(super) fn span(word: &str) -> Span {
    let number = |text: &str| text.parse().expect("a number");
    match word.strip_suffix("ms") {
        Some(ms) => Span::from_millis(number(ms)),
        None => Span::from_secs(number(word.strip_suffix('s').expect("ms or s"))),
    }
}

/// Numbers in an order that is the same in each run: Knuth's linear congruential generator (MMIX).
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn seed(seed: u64) -> Self {
        Self(seed)
    }

    /// One of `0..bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
