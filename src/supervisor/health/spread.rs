//! Spreads what is due for workers of one age over time, so that they are not all probed or replaced at once. `probes.rs`
//! and `recycling.rs` call it.

use rotad_core::{Span, WorkerId};

/// Varies a span by ±10 %, differently for each worker and time, so that workers of one age are not all probed, or
/// replaced, at the same moment.
pub(super) fn spread(worker: WorkerId, time: u64, span: Span) -> Span {
    // The finalizer of splitmix64.
    let mut hash = worker
        .0
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(time.wrapping_mul(0xd1b5_4a32_d192_ed03));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    span.spread(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn workers_of_one_age_are_spread() {
        let all: BTreeSet<u64> = (0..100)
            .map(|n| spread(WorkerId(n), 0, Span::from_secs(10)).as_millis())
            .collect();
        assert!(
            all.first().is_some_and(|ms| *ms >= 9_000)
                && all.last().is_some_and(|ms| *ms <= 11_000)
        );
        assert!(all.len() > 80, "{} different ones", all.len());
        assert_ne!(
            spread(WorkerId(1), 0, Span::from_secs(10)),
            spread(WorkerId(1), 1, Span::from_secs(10))
        );
        assert_eq!(
            spread(WorkerId(1), 0, Span::from_millis(3)),
            Span::from_millis(3)
        );
    }
}
