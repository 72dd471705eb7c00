//! Parses numbers with units. The error of each function says in prose what was expected.

use bytesize::ByteSize;
use nix::sys::signal::Signal as Known;
use rotad_core::{Signal, Span};
use std::str::FromStr;
use std::time::Duration;
use toml::de::DeValue;

pub(super) const DURATION: &str = "a duration such as \"500ms\", \"10s\" or \"2min\"";
pub(super) const SIZE: &str = "a size such as \"64MiB\"";
pub(super) const OCTAL: &str = "a string of octal digits such as \"022\"";
pub(super) const SIGNAL: &str = "a signal such as \"TERM\" or \"QUIT\"";

/// A longer duration is a mistake, and none may overflow a deadline.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The first real-time signal that a program may use with glibc and musl (signal(7)).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// `"500ms"`, `"1min 30s"`: whole milliseconds, at most a year.
///
/// # Errors
/// What was expected instead, for the user.
pub fn duration(text: &str) -> Result<Span, String> {
    let duration = humantime::parse_duration(text.trim())
        .map_err(|_| format!("expected {DURATION}, found \"{text}\""))?;
    if duration > LONGEST {
        return Err(format!(
            "\"{text}\" is too long: a year (\"365d\") is the most"
        ));
    }
    if !duration.subsec_nanos().is_multiple_of(1_000_000) {
        return Err(format!(
            "\"{text}\" is too fine: the clock counts whole milliseconds"
        ));
    }
    Ok(duration.into())
}

/// `"64MiB"`, `"1500"`: bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    ByteSize::from_str(text.trim())
        .map(|size| size.as_u64())
        .map_err(|_| format!("expected {SIZE}, found \"{text}\""))
}

/// What a time of day looks like.
pub(super) const TIME_OF_DAY: &str = "a local time such as \"04:00\"";

/// `"04:00"`, `"04:00:30"`: seconds since midnight.
pub(super) fn time_of_day(text: &str) -> Result<u32, String> {
    let wrong = || format!("expected {TIME_OF_DAY}, found \"{text}\"");
    let number = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u32>().ok()).flatten()
    };
    let numbers: Option<Vec<u32>> = text.split(':').map(number).collect();
    match numbers.as_deref() {
        Some([hours @ 0..24, minutes @ 0..60]) => Ok(hours * 3600 + minutes * 60),
        Some([hours @ 0..24, minutes @ 0..60, seconds @ 0..60]) => {
            Ok(hours * 3600 + minutes * 60 + seconds)
        }
        _ => Err(wrong()),
    }
}

/// `"0660"`, `"022"`: permission bits, at most `max`.
pub(super) fn octal(text: &str, max: u32) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let wrong = || format!("expected {OCTAL}, found \"{text}\"");
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong());
    }
    match u32::from_str_radix(digits, 8) {
        Ok(bits) if bits <= max => Ok(bits),
        Ok(_) => Err(format!("\"{text}\" is more than 0{max:o}")),
        Err(_) => Err(wrong()),
    }
}

/// `"25%"`: 0 to 100.
pub(super) fn percent(text: &str) -> Option<u32> {
    let percent: u32 = text.strip_suffix('%')?.trim_end().parse().ok()?;
    (percent <= 100).then_some(percent)
}

/// `"TERM"`, `"SIGTERM"`, `"RTMIN+3"`: a signal's number.
pub fn signal(text: &str) -> Option<Signal> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str, from: i32, sign: i32| {
        let offset = match rest.strip_prefix(if sign > 0 { '+' } else { '-' }) {
            Some(digits) => digits.parse::<u8>().ok()?,
            None if rest.is_empty() => 0,
            None => return None,
        };
        let number = from + sign * i32::from(offset);
        (RTMIN..=RTMAX).contains(&number).then_some(Signal(number))
    };
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => real_time(rest, RTMIN, 1),
        (_, Some(rest)) => real_time(rest, RTMAX, -1),
        _ => Known::from_str(&format!("SIG{name}"))
            .ok()
            .map(|known| Signal(known as i32)),
    }
}

/// The signals that have a name of their own, without `SIG`.
pub(super) fn signal_names() -> impl Iterator<Item = &'static str> {
    Known::iterator().map(|known| known.as_str().trim_start_matches("SIG"))
}

/// A whole number within the limits.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_milliseconds_up_to_a_year() {
        assert_eq!(duration("500ms"), Ok(Span(500)));
        assert_eq!(duration("1min 30s"), Ok(Span(90_000)));
        assert_eq!(duration("0s"), Ok(Span(0)));
        assert_eq!(duration("365d"), Ok(Span(31_536_000_000)));
        for bad in [
            "",
            "10",
            "-1s",
            "1us",
            "366d",
            "1s1",
            "s",
            "99999999999999999999h",
            "1.5.5s",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_bits_and_percents() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1500"), Ok(1500));
        assert!(size("much").is_err());
        assert!(size("-1").is_err());
        assert_eq!(octal("0660", 0o777), Ok(0o660));
        assert!(octal("8", 0o777).is_err());
        assert!(octal("+7", 0o777).is_err());
        assert!(octal("1777", 0o777).is_err());
        assert_eq!(percent("25%"), Some(25));
        assert_eq!(percent("101%"), None);
        assert_eq!(percent("25"), None);
    }

    #[test]
    fn signals_by_name() {
        assert_eq!(signal("TERM"), Some(Signal(15)));
        assert_eq!(signal("sigquit"), Some(Signal(3)));
        assert_eq!(signal("RTMIN+3"), Some(Signal(37)));
        assert_eq!(signal("RTMAX-1"), Some(Signal(63)));
        assert_eq!(signal("RTMIN+99"), None);
        assert_eq!(signal("NOPE"), None);
        assert_eq!(signal(""), None);
    }
}
