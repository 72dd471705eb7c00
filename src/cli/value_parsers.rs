//! Parses values of the command line: durations, sizes, signals, `POOL/SLOT`.

use crate::config;
use crate::control::protocol::ScaleTo;
use crate::import::Kind;
use clap::builder::PossibleValuesParser;
use nix::libc;
use nix::sys::signal::Signal;
use std::str::FromStr;
use std::time::Duration;

/// A duration such as `30s`, as in the configuration.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text).map(Duration::from)
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
