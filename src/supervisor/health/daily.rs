//! When pools with `recycle.at` are due: once for each local date, whatever happens to the clock.
//!
//! [`Daily`] remembers the last date on which each pool was due. A clock that is put forward over the time makes it due at
//! once, and one that is put back does not repeat it: that date is done. Where the clocks of a zone are put forward or back,
//! each date still has one such moment ([`Zone::instant`]). A clock that was wrong by days and is corrected does not keep a
//! pool waiting until the wrong date: what lies more than a day ahead does not count.
//!
//! `daily_recycling.rs` asks it at each change of the configuration, when its timer fires, and when the clock is set.

use crate::plan::TimeOfDay;
use rotad_core::PoolId;
use std::collections::BTreeMap;

/// What the local time is. Times are in seconds since 1970 (UTC), dates in days since 1970-01-01.
pub(crate) trait Zone {
    /// The local date.
    fn day_of(&self, wall: i64) -> i64;
    /// The moment at which it is this time on this date.
    fn instant(&self, day: i64, at: TimeOfDay) -> i64;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    at: TimeOfDay,
    /// The last date that is done.
    done: i64,
}

/// The pools that are recycled daily.
#[derive(Debug, Default)]
pub(crate) struct Daily(BTreeMap<PoolId, Schedule>);

impl Daily {
    /// Only these pools are recycled daily from now on. The present date of a new one, or of one with another time, is done
    /// if that time has passed.
    pub(crate) fn set(
        &mut self,
        pools: impl Iterator<Item = (PoolId, TimeOfDay)>,
        wall: i64,
        zone: &impl Zone,
    ) {
        let before = std::mem::take(&mut self.0);
        for (pool, at) in pools {
            let known = before.get(&pool).filter(|schedule| schedule.at == at);
            let schedule = known.copied().unwrap_or_else(|| Schedule {
                at,
                done: latest(wall, at, zone),
            });
            self.0.insert(pool, schedule);
        }
    }

    /// For each pool the moment of the present date, or of the one before, that has come last.
    pub(crate) fn last_moments(&self, wall: i64, zone: &impl Zone) -> Vec<(PoolId, i64)> {
        let moment = |(pool, schedule): (&PoolId, &Schedule)| {
            let day = latest(wall, schedule.at, zone);
            (*pool, zone.instant(day, schedule.at))
        };
        self.0.iter().map(moment).collect()
    }

    /// The pools that are due. Each date makes a pool due once.
    pub(crate) fn take_due(&mut self, wall: i64, zone: &impl Zone) -> Vec<PoolId> {
        let mut due = Vec::new();
        for (pool, schedule) in &mut self.0 {
            let day = latest(wall, schedule.at, zone);
            if day > schedule.done {
                due.push(*pool);
            }
            if day > schedule.done || day < schedule.done - 1 {
                schedule.done = day;
            }
        }
        due
    }

    /// When the next pool is due, if nothing sets the clock.
    pub(crate) fn next(&self, zone: &impl Zone) -> Option<i64> {
        let schedules = self.0.values();
        schedules
            .map(|schedule| zone.instant(schedule.done + 1, schedule.at))
            .min()
    }
}

/// The last date on which it has been this time.
fn latest(wall: i64, at: TimeOfDay, zone: &impl Zone) -> i64 {
    let today = zone.day_of(wall);
    // A moment that falls into a gap at midnight may lie on the date before.
    let days = [today + 1, today];
    let come = days.into_iter().find(|day| zone.instant(*day, at) <= wall);
    come.unwrap_or(today - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    const POOL: PoolId = PoolId(1);

    /// One hour ahead of UTC, two from the beginning of day 100 at 01:00 UTC to day 200 at 01:00 UTC: 02:30 does not exist
    /// on day 100 and exists twice on day 200, as in Berlin.
    struct Berlin;

    impl Berlin {
        fn offset(wall: i64) -> i64 {
            match (100 * DAY + HOUR..200 * DAY + HOUR).contains(&wall) {
                true => 2 * HOUR,
                false => HOUR,
            }
        }
    }

    impl Zone for Berlin {
        fn day_of(&self, wall: i64) -> i64 {
            (wall + Self::offset(wall)).div_euclid(DAY)
        }

        fn instant(&self, day: i64, at: TimeOfDay) -> i64 {
            let shown = day * DAY + i64::from(at.0);
            let found = [2 * HOUR, HOUR].map(|offset| shown - offset);
            let exact = found
                .into_iter()
                .find(|wall| wall + Self::offset(*wall) == shown);
            exact.unwrap_or(found[1])
        }
    }

    fn at(hours: u32, minutes: u32) -> TimeOfDay {
        TimeOfDay(hours * 3600 + minutes * 60)
    }

    fn daily(time: TimeOfDay, wall: i64) -> Daily {
        let mut daily = Daily::default();
        daily.set([(POOL, time)].into_iter(), wall, &Berlin);
        daily
    }

    fn is_due(daily: &mut Daily, wall: i64) -> bool {
        daily.take_due(wall, &Berlin) == [POOL]
    }

    /// 400 days, as a timer that fires exactly when it has to, and as a clock that is looked at every few minutes.
    #[test]
    fn each_date_is_due_once_over_all_changes_of_the_zone() {
        for time in [
            at(4, 0),
            at(2, 30),
            at(0, 0),
            at(23, 59),
            at(2, 0),
            at(3, 0),
        ] {
            let mut by_timer = daily(time, 50 * DAY);
            let mut moments = Vec::new();
            while moments.len() < 300 {
                let next = by_timer.next(&Berlin).expect("a date");
                assert!(!is_due(&mut by_timer, next - 1), "not yet");
                assert!(is_due(&mut by_timer, next), "{time} at {next}");
                moments.push(next);
            }
            let apart = moments.windows(2).map(|two| two[1] - two[0]);
            let apart: Vec<i64> = apart.filter(|apart| *apart != DAY).collect();
            assert!(
                apart.iter().all(|apart| (DAY - apart).abs() == HOUR),
                "{apart:?}"
            );
            let mut looked_at = daily(time, 50 * DAY);
            let mut due = 0;
            for wall in (50 * DAY..moments[299] + 1).step_by(420) {
                due += i32::from(is_due(&mut looked_at, wall));
            }
            assert!((299..=300).contains(&due), "{time}: {due}");
        }
    }

    #[test]
    fn a_clock_that_is_put_forward_skips_nothing_and_one_put_back_repeats_nothing() {
        let four = at(4, 0);
        let morning = Berlin.instant(50, four);
        // Forward over the time, by minutes and by days: once.
        for jump in [600, 3 * HOUR, 10 * DAY] {
            let mut daily = daily(four, morning - 60);
            assert!(is_due(&mut daily, morning - 60 + jump));
            assert!(!is_due(&mut daily, morning - 60 + jump));
            let next = daily.next(&Berlin).expect("a date");
            assert!(next > morning - 60 + jump && next <= morning - 60 + jump + DAY);
        }
        // Back over it, after that date was done: the next date is.
        let mut back = daily(four, morning - 60);
        assert!(is_due(&mut back, morning));
        assert!(!is_due(&mut back, morning - 1800));
        assert!(!is_due(&mut back, morning));
        assert_eq!(back.next(&Berlin), Some(morning + DAY));
        assert!(is_due(&mut back, morning + DAY));
        // A clock that was ten years ahead: from its correction on, each date.
        let mut ahead = daily(four, morning + 3650 * DAY);
        assert!(!is_due(&mut ahead, morning + 60));
        assert_eq!(ahead.next(&Berlin), Some(morning + DAY));
        assert!(is_due(&mut ahead, morning + DAY));
    }

    #[test]
    fn a_new_time_is_due_from_its_next_moment_on_and_a_known_one_is_kept() {
        let morning = Berlin.instant(50, at(4, 0));
        let mut daily = daily(at(4, 0), morning + 60);
        assert_eq!(daily.next(&Berlin), Some(morning + DAY));
        // The same configuration, after the time has come and before it was handled.
        daily.set([(POOL, at(4, 0))].into_iter(), morning + DAY + 1, &Berlin);
        assert!(is_due(&mut daily, morning + DAY + 1));
        daily.set([(POOL, at(5, 0))].into_iter(), morning + DAY + 60, &Berlin);
        assert_eq!(daily.next(&Berlin), Some(morning + DAY + HOUR));
        assert_eq!(
            daily.last_moments(morning + DAY + 60, &Berlin),
            [(POOL, morning + HOUR)]
        );
        daily.set(std::iter::empty(), morning, &Berlin);
        assert_eq!(daily.next(&Berlin), None);
    }
}
