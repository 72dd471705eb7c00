//! How much of what each pool's workers print was written, and how much was lost. The writer's thread counts; the main
//! thread reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was written and lost of the output of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputCount {
    /// The pool's name.
    pub pool: String,
    /// The bytes that were taken from its workers' pipes and written, or discarded where the configuration says so.
    pub bytes: u64,
    /// The bytes that were dropped, since the log could not be written.
    pub lost: u64,
}

/// The counts of one pool.
#[derive(Debug, Default)]
pub(super) struct Counts {
    bytes: AtomicU64,
    lost: AtomicU64,
}

impl Counts {
    pub(super) fn written(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn lost(&self, bytes: usize) {
        self.lost.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Those of all pools, by name. A clone has the same counts.
#[derive(Clone, Debug, Default)]
pub(super) struct OutputCounts(Arc<Mutex<BTreeMap<Arc<str>, Arc<Counts>>>>);

impl OutputCounts {
    /// Those of this pool.
    pub(super) fn of(&self, pool: &Arc<str>) -> Arc<Counts> {
        self.lock().entry(pool.clone()).or_default().clone()
    }

    pub(super) fn all(&self) -> Vec<OutputCount> {
        let all = self.lock();
        let counts = all.iter().map(|(pool, counts)| OutputCount {
            pool: pool.to_string(),
            bytes: counts.bytes.load(Ordering::Relaxed),
            lost: counts.lost.load(Ordering::Relaxed),
        });
        counts.collect()
    }

    pub(super) fn go_on(&self, from: &[OutputCount]) {
        for OutputCount { pool, bytes, lost } in from {
            let counts = self.of(&pool.as_str().into());
            counts.bytes.fetch_add(*bytes, Ordering::Relaxed);
            counts.lost.fetch_add(*lost, Ordering::Relaxed);
        }
    }

    pub(super) fn forget(&self, pool: &str) {
        self.lock().remove(pool);
    }

    /// It is held for the length of a look-up.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Counts>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_and_end_with_their_pool() {
        let counts = OutputCounts::default();
        let from = OutputCount {
            pool: "web".into(),
            bytes: 5,
            lost: 1,
        };
        counts.go_on(&[from]);
        let web = counts.of(&"web".into());
        web.written(10);
        web.lost(2);
        let all = counts.clone().all();
        assert_eq!((all.len(), all[0].bytes, all[0].lost), (1, 15, 3));
        counts.forget("web");
        web.written(1);
        assert_eq!(counts.all(), []);
    }
}
