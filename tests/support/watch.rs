//! An eye on a pool during a rolling restart: the fewest ready and the most alive workers that a status ever told.

use super::site::Site;
use super::{number, pool};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    pub min_ready: u32,
    pub max_alive: u32,
    pub samples: u32,
    /// The slowest answer of `status`.
    pub slowest: Duration,
}

/// A thread that asks for the status all the time.
pub struct Watch {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

impl Watch {
    /// Watches one pool.
    pub fn over(site: &Site, name: &str) -> Watch {
        let end = Arc::new(AtomicBool::new(false));
        let (asker, name, ended) = (site.asker(), name.to_string(), end.clone());
        let thread = std::thread::spawn(move || {
            let mut seen = Seen {
                min_ready: u32::MAX,
                max_alive: 0,
                samples: 0,
                slowest: Duration::ZERO,
            };
            while !ended.load(Ordering::SeqCst) {
                let asked = Instant::now();
                if let Some(status) = asker.status() {
                    seen.slowest = seen.slowest.max(asked.elapsed());
                    seen.min_ready = seen
                        .min_ready
                        .min(number(&pool(&status, &name)["ready"]) as u32);
                    seen.max_alive = seen
                        .max_alive
                        .max(number(&pool(&status, &name)["alive"]) as u32);
                    seen.samples += 1;
                }
                std::thread::sleep(super::LOOK_EVERY);
            }
            seen
        });
        Watch {
            end,
            thread: Some(thread),
        }
    }

    /// Ends it; what it saw.
    pub fn seen(mut self) -> Seen {
        self.end.store(true, Ordering::SeqCst);
        self.thread
            .take()
            .expect("a thread")
            .join()
            .expect("the watch")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
    }
}
