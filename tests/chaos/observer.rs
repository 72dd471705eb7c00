//! The observer: a client of the control socket, 20 times a second, that believes nothing.

use super::Mode;
use super::support::{Site, ask, number, pool, proc, spaced};
use serde_json::Value;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(50);
/// The master has to answer within that, unless it cannot.
const PATIENCE: Duration = Duration::from_secs(3);
/// More workers of the web pool than that never live: 6 wanted at most, a surge of 2, 6 that finish.
const CEILING: u32 = 14;

/// What is true just now, and what was found not to be.
pub(crate) struct Truth {
    /// So many workers of the web pool are ready at least.
    pub floor: AtomicU32,
    /// The master was stopped, or has no descriptors: nobody has to answer.
    pub excused: AtomicBool,
    /// Workers that were killed.
    pub kills: AtomicU64,
    mode: Mode,
    violations: Mutex<Vec<String>>,
    began: Instant,
    /// What is being done.
    doing: Mutex<String>,
}

impl Truth {
    pub(crate) fn new(mode: Mode) -> Truth {
        Truth {
            floor: AtomicU32::new(if mode == Mode::A { 4 } else { 0 }),
            excused: AtomicBool::new(false),
            kills: AtomicU64::new(0),
            mode,
            violations: Mutex::default(),
            began: Instant::now(),
            doing: Mutex::default(),
        }
    }

    pub(crate) fn violation(&self, text: String) {
        let doing = self.doing.lock().expect("a word").clone();
        let at = self.began.elapsed().as_secs_f64();
        self.violations
            .lock()
            .expect("a list")
            .push(format!("{at:.2} s, {doing}: {text}"));
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().expect("a list").clone()
    }

    pub(crate) fn doing(&self, what: &str) {
        what.clone_into(&mut self.doing.lock().expect("a word"));
    }

    /// Where nobody kills workers, the floor counts.
    pub(crate) fn set_floor(&self, floor: u32) {
        if self.mode == Mode::A {
            self.floor.store(floor, Ordering::SeqCst);
        }
    }
}

pub(crate) struct Observer {
    end: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Observer {
    pub(crate) fn begin(site: &Site, truth: Arc<Truth>) -> Observer {
        let end = Arc::new(AtomicBool::new(false));
        let (socket, config, ended) = (
            site.path("run/control.sock"),
            site.config.clone(),
            end.clone(),
        );
        let thread = std::thread::spawn(move || {
            let mut looks = 0;
            let mut heard = Instant::now();
            while !ended.load(Ordering::SeqCst) {
                let floor = truth.floor.load(Ordering::SeqCst);
                let excused = truth.excused.load(Ordering::SeqCst);
                match status(&socket, &config) {
                    Some(found) => {
                        heard = Instant::now();
                        looks += 1;
                        // The floor of before the question and after it: it may have been lowered meanwhile.
                        let floor = floor.min(truth.floor.load(Ordering::SeqCst));
                        judge(&found, floor, &truth, &|| status(&socket, &config));
                    }
                    None if excused || truth.excused.load(Ordering::SeqCst) => {
                        heard = Instant::now()
                    }
                    None if heard.elapsed() > PATIENCE => {
                        truth.violation(format!("no status for {:?}", heard.elapsed()));
                        heard = Instant::now();
                    }
                    None => {}
                }
                spaced(PERIOD);
            }
            looks
        });
        Observer { end, thread }
    }

    /// How often it has looked.
    pub(crate) fn end(self) -> u64 {
        self.end.store(true, Ordering::SeqCst);
        self.thread.join().expect("the observer")
    }
}

fn status(socket: &Path, config: &Path) -> Option<Value> {
    ask::status(UnixStream::connect(socket).ok()?, config, PATIENCE)
}

fn ready_pids(status: &Value) -> Vec<i32> {
    let workers = |pool: &Value| pool["workers"].as_array().cloned().unwrap_or_default();
    let all = status["pools"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(workers);
    let ready = all.filter(|worker| worker["state"] == "ready" || worker["state"] == "soaking");
    ready
        .filter_map(|worker| Some(worker["pid"].as_i64()? as i32))
        .collect()
}

fn judge(found: &Value, floor: u32, truth: &Truth, again: &dyn Fn() -> Option<Value>) {
    let web = pool(found, "web");
    let (ready, alive) = (number(&web["ready"]) as u32, number(&web["alive"]) as u32);
    if ready < floor {
        truth.violation(format!(
            "{ready} workers of web are ready, {floor} have to be: {web}"
        ));
    }
    if alive > CEILING {
        truth.violation(format!(
            "{alive} workers of web live, more than {CEILING}: {web}"
        ));
    }
    if ready > alive {
        truth.violation(format!(
            "{ready} of {alive} living workers are ready: {web}"
        ));
    }
    let dead: Vec<i32> = ready_pids(found)
        .into_iter()
        .filter(|pid| proc::ended(*pid))
        .collect();
    // It may just have ended: then the next status knows.
    if !dead.is_empty()
        && let Some(next) = again()
    {
        let told: Vec<i32> = ready_pids(&next)
            .into_iter()
            .filter(|pid| dead.contains(pid))
            .collect();
        if !told.is_empty() && !truth.excused.load(Ordering::SeqCst) {
            truth.violation(format!(
                "ready, and dead since before the question: {told:?}"
            ));
        }
    }
}
