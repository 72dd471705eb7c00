//! What a process costs (proc(5)): memory and time.

use super::proc;
use nix::unistd::{SysconfVar, sysconf};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Resident memory, shared pages included.
    pub rss_bytes: u64,
    /// User and system time of all its threads, in seconds; children not included.
    pub cpu_s: f64,
}

/// None when the process is gone. Neither file waits for the process's locks.
pub fn of(pid: i32) -> Option<Usage> {
    let statm = proc::read(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let stat = proc::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
    let hertz = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    Some(Usage { rss_bytes: pages * page, cpu_s: ticks as f64 / hertz })
}

#[cfg(test)]
mod tests {
    #[test]
    fn we_cost_something_and_the_dead_nothing() {
        let usage = super::of(std::process::id() as i32).expect("we live");
        assert!(usage.rss_bytes > 100_000);
        assert_eq!(super::of(0), None);
    }
}
