//! How long it takes from `kill -9` of the master until the next one is there, manages, and answers. The test prints a
//! table; `ROTAD_RECOVERY=ROUNDS` measures so many times, and with a thousand workers as well.

#![allow(clippy::print_stderr, reason = "the table")]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::{Site, all_ready, alone, asked_for, pids, spaced, until};

const POOLS: &str = r#"
[pool.many]
command = ["/bin/sleep", "1000"]
count = @COUNT@
ready = "spawned"
stop = "2s"
[pool.one]
command = ["@WORKER@", "wait", "--starts", "@DIR@/starts"]
ready = "spawned"
stop = "2s"
restart = { stable_after = "100ms" }
"#;

/// Longer, and ten deaths in ten seconds would hold up the next master.
const BETWEEN_KILLS: Duration = Duration::from_millis(1_500);
/// In a loop that takes a whole processor the master would wait for it.
const LOOK_EVERY: Duration = Duration::from_micros(300);
/// Of a median, on a machine that is far too busy.
const LONGEST: Duration = Duration::from_secs(3);

/// From the kill until …
#[derive(Default)]
struct Times {
    /// … the pid file names another process,
    there: Vec<Duration>,
    /// … that process has started a worker again which was killed at the same moment,
    manages: Vec<Duration>,
    /// … and it has told its status.
    answers: Vec<Duration>,
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn now_ms() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock after 1970").as_millis()
}

/// The moment at which the worker of `one` was started last, as it has noted it, and its pid.
fn last_start(site: &Site) -> (u128, i32) {
    until("a start", 10, || {
        let lines = site.lines("starts");
        let mut words = lines.last()?.split(' ');
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    })
}

fn kill_and_measure(site: &Site, times: &mut Times) {
    let master = site.pid();
    let (_, worker) = last_start(site);
    let (killed, killed_ms) = (Instant::now(), now_ms());
    for pid in [master, worker] {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
    }
    let next = || site.read("master.pid").trim().parse::<i32>();
    while next().is_ok_and(|pid| pid == master) || next().is_err() {
        assert!(killed.elapsed() < Duration::from_secs(20), "no next master");
        spaced(LOOK_EVERY);
    }
    times.there.push(killed.elapsed());
    until("its status", 20, || site.status());
    times.answers.push(killed.elapsed());
    let started = until("the worker is started again", 20, || {
        let (started, pid) = last_start(site);
        (pid != worker).then_some(started)
    });
    let took = started.saturating_sub(killed_ms) as u64;
    times.manages.push(Duration::from_millis(took));
}

#[test]
fn a_master_that_is_killed_is_back_in_milliseconds() {
    let _alone = alone();
    let rounds = asked_for("ROTAD_RECOVERY");
    let counts: &[usize] = match rounds {
        None => &[1, 100],
        Some(_) => &[1, 100, 1000],
    };
    let rounds = rounds.unwrap_or(3);
    eprintln!("| workers | next master there, ms | manages | answers |\n|---|---|---|---|");
    for count in counts {
        let site = Site::up(&POOLS.replace("@COUNT@", &count.to_string()));
        let before = pids(&site.await_ready(), "many");
        assert_eq!(before.len(), *count);
        let mut times = Times::default();
        for _ in 0..rounds {
            spaced(BETWEEN_KILLS);
            kill_and_measure(&site, &mut times);
            let status = site.await_status("all are ready", 20, all_ready);
            assert_eq!(pids(&status, "many"), before, "the same workers");
        }
        let all = [&mut times.there, &mut times.manages, &mut times.answers];
        let medians = all.map(|times| median(times));
        assert!(medians.iter().all(|time| *time < LONGEST), "{medians:?}");
        let row = medians.map(|time| format!("{:.0}", time.as_secs_f64() * 1000.0));
        eprintln!("| {count} | {} |", row.join(" | "));
        assert_eq!(site.rotad(&["stop"]).code, 0);
    }
}
