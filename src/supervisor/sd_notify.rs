//! Messages to the service manager that started the master (sd_notify(3), sd_watchdog_enabled(3)): systemd, or
//! another rotad. `service_manager.rs` decides when to send what.

use crate::observe::counted::counted;
use crate::observe::sanitize::sanitize;
use std::time::Duration;

/// With more pools than this, only those with something to report are named in STATUS=.
const MOST_POOLS: usize = 12;
/// The longest line of a pool in STATUS=, in characters.
const LONGEST: usize = 200;

/// How often to send `WATCHDOG=1`: twice as often as the manager requires of the process that it started with pid
/// `activation_pid`. `None`: it does not require it.
pub(super) fn watchdog(activation_pid: u32) -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let meant = std::env::var_os("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(u64::from(activation_pid));
    let micros = number("WATCHDOG_USEC").filter(|micros| meant && *micros > 0)?;
    Some(Duration::from_micros(micros / 2).max(Duration::from_millis(1)))
}

/// One pool in STATUS=.
#[derive(Debug)]
pub(super) struct PoolLine {
    /// `web 4/4`.
    pub(super) text: String,
    /// There is nothing more to report about it.
    pub(super) well: bool,
}

/// The line that `systemctl status` shows: `running: web 4/4, jobs 1/2 degraded`.
pub(super) fn status(word: &str, pools: &[PoolLine]) -> String {
    let mut shown: Vec<&PoolLine> = pools.iter().collect();
    if pools.len() > MOST_POOLS {
        shown.retain(|pool| !pool.well);
        shown.truncate(MOST_POOLS);
    }
    let mut lines: Vec<String> = shown
        .iter()
        .map(|pool| sanitize(pool.text.chars().take(LONGEST).collect::<String>()))
        .collect();
    match pools.len() - lines.len() {
        0 => {}
        others if lines.is_empty() => lines.push(counted(others, "pool")),
        others => lines.push(counted(others, "other")),
    }
    if lines.is_empty() {
        word.to_owned()
    } else {
        format!("{word}: {}", lines.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(wells: &[bool]) -> Vec<PoolLine> {
        let line = |(index, well): (usize, &bool)| PoolLine {
            text: format!("p{index} 1/1"),
            well: *well,
        };
        wells.iter().enumerate().map(line).collect()
    }

    #[test]
    fn the_status_names_pools_while_they_are_few() {
        assert_eq!(status("running", &[]), "running");
        assert_eq!(
            status("running", &lines(&[true, false])),
            "running: p0 1/1, p1 1/1"
        );
        assert_eq!(status("running", &lines(&[true; 20])), "running: 20 pools");
        let mut many = [true; 20];
        many[3] = false;
        assert_eq!(
            status("running", &lines(&many)),
            "running: p3 1/1, 19 others"
        );
    }

    #[test]
    fn a_status_is_one_line() {
        let line = PoolLine {
            text: "web 1/2 (kept: a\nb)".into(),
            well: false,
        };
        assert_eq!(
            status("running", &[line]),
            "running: web 1/2 (kept: a\\x0ab)"
        );
    }
}
