//! What `testworker counts` has printed: numbered lines, and at its end how many there were.

use std::collections::{BTreeMap, BTreeSet};

/// Each line of each worker is there once and in its order, and none is missing at its end. Returns how many lines there
/// are, of how many workers.
pub fn assert_each_line_once(text: &str, what: &str) -> (u64, usize) {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ended = BTreeSet::new();
    let mut total = 0;
    for line in text.lines() {
        let (worker, rest) = line.split_once(' ').expect("a worker and a number");
        let count = counts.entry(worker).or_default();
        assert!(!ended.contains(worker), "{what}: {line:?} after its end");
        if rest == format!("ends after {count}") {
            ended.insert(worker);
        } else {
            *count += 1;
            assert_eq!(rest, count.to_string(), "{what}: {worker}'s next line");
            total += 1;
        }
    }
    let left: Vec<(&&str, &u64)> = counts
        .iter()
        .filter(|(worker, _)| !ended.contains(*worker))
        .collect();
    assert!(
        left.is_empty(),
        "{what}: the last lines of these are missing: {left:?}"
    );
    (total, counts.len())
}
