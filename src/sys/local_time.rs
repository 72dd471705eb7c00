//! Local time (localtime(3)), by the zone that TZ or /etc/localtime names. The C library reads that file at the first call
//! in a process and does not look at it again, so that later calls wait for no disk.

use nix::libc;

const DAY: i64 = 86_400;

/// Reads the zone, if nothing has read it yet.
pub fn load() {
    day_of(0);
}

/// The local date of this time in seconds since 1970 (UTC), as days since 1970-01-01.
pub fn day_of(wall: i64) -> i64 {
    let Some(tm) = broken_down(wall) else {
        return wall.div_euclid(DAY);
    };
    // The same date and time in UTC.
    let mut same = tm;
    // SAFETY: `same` is a whole tm of our own, which timegm(3) reads and normalizes.
    let utc = unsafe { libc::timegm(&raw mut same) };
    utc.div_euclid(DAY)
}

/// When clocks show so many seconds since midnight on this day: in seconds since 1970 (UTC). Of two such moments one, and
/// for none (clocks are put forward) one nearby.
pub fn instant(day: i64, second: u32) -> i64 {
    let moment = i32::try_from(day).ok().and_then(|day| {
        let mut tm = broken_down(0)?;
        (tm.tm_year, tm.tm_mon, tm.tm_mday) = (70, 0, day.checked_add(1)?);
        tm.tm_hour = i32::try_from(second / 3600).ok()?;
        tm.tm_min = i32::try_from(second / 60 % 60).ok()?;
        tm.tm_sec = i32::try_from(second % 60).ok()?;
        tm.tm_isdst = -1;
        // SAFETY: `tm` is a whole tm of our own, which mktime(3) reads and normalizes.
        Some(unsafe { libc::mktime(&raw mut tm) })
    });
    moment.unwrap_or(day * DAY + i64::from(second))
}

/// None: a year that does not fit (EOVERFLOW).
fn broken_down(wall: i64) -> Option<libc::tm> {
    let time: libc::time_t = wall;
    let mut tm = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call; localtime_r(3) fills the whole tm unless it returns NULL. A tm of zeros
    // is valid as well: numbers, and a NULL pointer to the name of the zone.
    let done = unsafe { !libc::localtime_r(&raw const time, tm.as_mut_ptr()).is_null() };
    // SAFETY: as above.
    done.then(|| unsafe { tm.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the zone of this machine is.
    #[test]
    fn a_time_of_a_day_lies_on_that_day_and_days_follow_one_another() {
        for day in 20_000..20_800 {
            let noon = instant(day, 12 * 3600);
            assert_eq!(day_of(noon), day);
            assert_eq!(day_of(noon + DAY), day + 1);
            assert!((noon - day * DAY).abs() < 2 * DAY);
        }
    }
}
