//! Broken files of every kind: seeded, so that a failure comes again.

use super::{Case, project};
use rotad::config;
use std::fs;

/// xorshift: the same mutations in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }
}

/// Whatever a file holds, reading it ends in a plan or in findings with places.
#[test]
fn nothing_in_a_file_makes_the_reader_panic() {
    let example = fs::read_to_string(project("config/rotad.toml"))
        .unwrap()
        .replace("\n# ", "\n");
    let mut texts: Vec<Vec<u8>> = vec![example.into_bytes()];
    for entry in fs::read_dir(project("tests/config")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            texts.push(fs::read(path).unwrap());
        }
    }
    let case = Case::new("");
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let spice: [&[u8]; 12] = [
        b"\"",
        b"[",
        b"]",
        b"{",
        b"}",
        b"=",
        b"\n",
        b"\x00",
        b"\xff",
        "ü".as_bytes(),
        b"\"\"\"",
        b"9999999999999999999999",
    ];
    for round in 0..1500 {
        let mut text = texts[round % texts.len()].clone();
        for _ in 0..=dice.below(3) {
            let at = dice.below(text.len() + 1);
            match dice.below(4) {
                0 => text.truncate(at),
                1 => drop(text.splice(at..at, spice[dice.below(spice.len())].iter().copied())),
                2 => drop(text.drain(at..(at + dice.below(20)).min(text.len()))),
                _ => {
                    let from = dice.below(text.len() + 1);
                    let piece = text[from..(from + 30).min(text.len())].to_vec();
                    drop(text.splice(at..at, piece));
                }
            }
        }
        fs::write(&case.file, &text).unwrap();
        let _ = config::peek(&case.file);
        let report = match case.load() {
            Ok(loaded) => loaded.warnings,
            Err(report) => {
                assert!(report.has_errors());
                report
            }
        };
        let shown = report.to_string();
        for finding in report.findings().iter().take(50) {
            let place = finding
                .place
                .as_ref()
                .expect("a finding in a readable file has a place");
            let number = place.line.to_string();
            let is_beside = |line: &str| {
                let lines = line.split_once("the same holds in line");
                let mut numbers = lines
                    .into_iter()
                    .flat_map(|(_, rest)| rest.split([' ', ',']));
                numbers.any(|word| word == number)
            };
            assert!(
                shown.contains(&format!(":{}:{}", place.line, place.column))
                    || shown.lines().any(is_beside),
                "{finding:?}\n{shown}"
            );
        }
    }
}
