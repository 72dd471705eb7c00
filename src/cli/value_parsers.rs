//! Parses values of the command line: durations, sizes, signals, `POOL/SLOT`.

use crate::config;
use crate::control::protocol::ScaleTo;
use crate::import::Kind;
use clap::builder::PossibleValuesParser;
use nix::libc;
use nix::sys::signal::Signal;
use regex_lite::Regex;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// A duration such as `30s`, as in the configuration.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text).map(Duration::from)
}

/// What a moment looks like.
const MOMENT: &str =
    "a time such as \"10min\" (ago), \"10:00\", \"2026-11-27\" or \"2026-11-27T10:00:00Z\" (UTC)";

/// A moment in the past: a duration ago, a time of day (the last one), a date, or both. All UTC, as logs and events have it.
pub(super) fn moment(text: &str) -> Result<SystemTime, String> {
    moment_before(text, SystemTime::now())
}

fn moment_before(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let text = text.trim();
    let wrong = || format!("expected {MOMENT}, found \"{text}\"");
    if let Ok(ago) = humantime::parse_duration(text) {
        return now.checked_sub(ago).ok_or_else(wrong);
    }
    let seconds = |time: &str| match time.trim_end_matches('Z').matches(':').count() {
        1 => format!("{}:00", time.trim_end_matches('Z')),
        _ => time.trim_end_matches('Z').to_owned(),
    };
    let parse = |date: &str, time: &str| {
        humantime::parse_rfc3339_weak(&format!("{date}T{}", seconds(time))).map_err(|_| wrong())
    };
    let date_of = |moment: SystemTime| {
        let text = humantime::format_rfc3339_seconds(moment).to_string();
        text.split('T').next().unwrap_or_default().to_owned()
    };
    match text {
        "today" => return parse(&date_of(now), "00:00:00"),
        "yesterday" => return parse(&date_of(now - DAY), "00:00:00"),
        _ => {}
    }
    match text.split_once(['T', ' ']) {
        Some((date, time)) => parse(date, time),
        None if text.contains(':') => {
            let moment = parse(&date_of(now), text)?;
            Ok(if moment > now { moment - DAY } else { moment })
        }
        None => parse(text, "00:00:00"),
    }
}

/// A regular expression.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| error.to_string())
}

/// A kind of source for `import`.
pub(super) fn import_kind() -> PossibleValuesParser {
    PossibleValuesParser::new(Kind::ALL.map(|(name, _)| name))
}

/// A pool, or one of its workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) pool: String,
    pub(super) slot: Option<u32>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pool, slot) = match text.split_once('/') {
            None => (text, None),
            Some((pool, slot)) => {
                let number = slot.parse().map_err(|_| {
                    format!("\"{slot}\" is not a slot: write POOL/SLOT, as in web/0")
                })?;
                (pool, Some(number))
            }
        };
        if pool.is_empty() {
            return Err("the pool's name is missing: write POOL or POOL/SLOT".to_owned());
        }
        Ok(Self {
            pool: pool.to_owned(),
            slot,
        })
    }
}

/// `4`, `+1`, `-1`.
pub(super) fn size(text: &str) -> Result<ScaleTo, String> {
    let wrong = || {
        format!(
            "\"{text}\" is not a number of workers: write 4 for exactly four, +1 for one more, -1 for one less"
        )
    };
    if text.starts_with(['+', '-']) {
        return text.parse().map(ScaleTo::By).map_err(|_| wrong());
    }
    text.parse().map(ScaleTo::Exactly).map_err(|_| wrong())
}

/// A signal by its name, with or without SIG and in any case, or by its number (signal(7)).
pub(super) fn signal(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=libc::SIGRTMAX()).contains(&number) {
            Ok(number)
        } else {
            Err(format!(
                "there is no signal {number}: they go from 1 to {}",
                libc::SIGRTMAX()
            ))
        };
    }
    if let Some(signal) = config::signal(text) {
        return Ok(signal.0);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let names = Signal::iterator().map(|signal| signal.as_str().trim_start_matches("SIG"));
    let nearest = names.min_by_key(|known| strsim::damerau_levenshtein(known, name));
    let hint = nearest.filter(|known| strsim::damerau_levenshtein(known, name) <= 2);
    let hint = hint.map_or_else(String::new, |known| format!("; did you mean {known}?"));
    Err(format!(
        "there is no signal \"{text}\"{hint} (`kill -l` lists them)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_parsed_by_name_and_number() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("hup", 1),
            ("9", 9),
            ("64", 64),
        ] {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        assert_eq!(signal("RTMIN+1"), Ok(35));
        assert_eq!(signal("SIGRTMAX"), Ok(64));
        for text in ["0", "65", "-1", "", "RTMIN+99", "RTMIN-1", "SIG", "NOPE"] {
            assert!(signal(text).is_err(), "{text}");
        }
        assert!(
            signal("SIGURS1")
                .unwrap_err()
                .contains("did you mean USR1?")
        );
        assert!(signal("TREM").unwrap_err().contains("did you mean TERM?"));
        assert!(!signal("ABCDEFGH").unwrap_err().contains("did you mean"));
    }

    #[test]
    fn moments_are_durations_ago_times_of_day_and_dates() {
        let now = humantime::parse_rfc3339("2026-11-27T12:30:00Z").unwrap();
        for (text, expected) in [
            ("10m", "2026-11-27T12:20:00Z"),
            ("1h 30min", "2026-11-27T11:00:00Z"),
            ("10:00", "2026-11-27T10:00:00Z"),
            ("10:00:05", "2026-11-27T10:00:05Z"),
            ("23:00", "2026-11-26T23:00:00Z"),
            ("today", "2026-11-27T00:00:00Z"),
            ("yesterday", "2026-11-26T00:00:00Z"),
            ("2026-11-26", "2026-11-26T00:00:00Z"),
            ("2026-11-26T10:00", "2026-11-26T10:00:00Z"),
            ("2026-11-26 10:00:07", "2026-11-26T10:00:07Z"),
            ("2026-11-26T10:00:07.500Z", "2026-11-26T10:00:07.500Z"),
        ] {
            let expected = humantime::parse_rfc3339(expected).unwrap();
            assert_eq!(moment_before(text, now), Ok(expected), "{text}");
        }
        for text in [
            "",
            "noon",
            "25:00",
            "2026-13-01",
            "2026-11-26T10:00+02:00",
            "10",
        ] {
            assert!(moment_before(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_absolute_or_relative() {
        assert_eq!(size("4"), Ok(ScaleTo::Exactly(4)));
        assert_eq!(size("0"), Ok(ScaleTo::Exactly(0)));
        assert_eq!(size("+2"), Ok(ScaleTo::By(2)));
        assert_eq!(size("-2"), Ok(ScaleTo::By(-2)));
        for text in ["", "+", "-", "4x", "1.5", "99999999999"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn targets_are_pools_or_slots() {
        assert_eq!(
            "web".parse(),
            Ok(Target {
                pool: "web".into(),
                slot: None
            })
        );
        assert_eq!(
            "web/3".parse(),
            Ok(Target {
                pool: "web".into(),
                slot: Some(3)
            })
        );
        for text in ["web/", "web/x", "web/-1", "/0", ""] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
