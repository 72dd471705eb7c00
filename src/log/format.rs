//! Formats workers' lines for the master's log: with time and origin, and without terminal control sequences.

use super::pipe_peek::{OutputSource, Stream};
use crate::log::tracing_setup::timestamp;
use crate::observe::sanitize::{sanitize, sanitize_json};
use crate::plan::LogFormat;
use serde::Serialize;

/// Maximum output, in bytes, formatted per call.
const MAX_OUTPUT: usize = 256 << 10;

#[derive(Serialize)]
struct Line<'a> {
    timestamp: &'a str,
    pool: &'a str,
    slot: u32,
    pid: i32,
    stream: &'a str,
    line: std::borrow::Cow<'a, str>,
}

/// Formats lines and returns how many bytes of `text` were consumed: all, unless [`MAX_OUTPUT`] is reached.
pub(super) fn format(
    format: LogFormat,
    source: &OutputSource,
    stream: Stream,
    text: &[u8],
    out: &mut Vec<u8>,
) -> usize {
    let time = timestamp();
    let (pool, slot, pid) = (&*source.pool, source.slot, source.pid());
    let tag = if stream == Stream::Stderr {
        "stderr: "
    } else {
        ""
    };
    let prefix = format!("{time}  {pool}/{slot} [{pid}] {tag}");
    let mut done = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if out.len() >= MAX_OUTPUT {
            break;
        }
        done += line.len();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        match format {
            LogFormat::Text => {
                out.extend_from_slice(prefix.as_bytes());
                if line
                    .iter()
                    .all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\t')
                {
                    out.extend_from_slice(line);
                } else {
                    out.extend_from_slice(sanitize(line).as_bytes());
                }
            }
            LogFormat::Json => {
                let line = String::from_utf8_lossy(line);
                let value = Line {
                    timestamp: &time,
                    pool,
                    slot,
                    pid,
                    stream: stream.name(),
                    line,
                };
                // Numbers and strings only: this cannot fail.
                let json = serde_json::to_string(&value).unwrap_or_default();
                if json.is_ascii() && !json.contains('\x7f') {
                    out.extend_from_slice(json.as_bytes());
                } else {
                    out.extend_from_slice(sanitize_json(&json).as_bytes());
                }
            }
        }
        out.push(b'\n');
    }
    done
}

/// Puts the time before each line and returns how many bytes of `text` were consumed: all, unless [`MAX_OUTPUT`] is
/// reached. `goes_on`: the first line is the rest of one that was begun. A line without an end gets none.
pub(super) fn stamp(text: &[u8], goes_on: bool, out: &mut Vec<u8>) -> usize {
    let time = timestamp();
    let mut done = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if out.len() >= MAX_OUTPUT {
            break;
        }
        if done > 0 || !goes_on {
            out.extend_from_slice(time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line);
        done += line.len();
    }
    done
}

/// The length in bytes of the first `lines` lines of `text`.
pub(super) fn lines_len(text: &[u8], lines: usize) -> usize {
    text.split_inclusive(|byte| *byte == b'\n')
        .take(lines)
        .map(<[u8]>::len)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(log_format: LogFormat, stream: Stream, text: &[u8]) -> (usize, String) {
        let mut out = Vec::new();
        let done = format(
            log_format,
            &OutputSource::new("web", 3, 77),
            stream,
            text,
            &mut out,
        );
        (done, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn each_line_carries_its_origin() {
        let (done, text) = formatted(LogFormat::Text, Stream::Both, b"one\n\ntw\x1bo\xff");
        assert_eq!(done, 10);
        let lines: Vec<&str> = text
            .lines()
            .map(|line| line.split_once("  ").expect("a time").1)
            .collect();
        assert_eq!(
            lines,
            ["web/3 [77] one", "web/3 [77] ", "web/3 [77] tw\\x1bo\\xff"]
        );
        let (_, text) = formatted(LogFormat::Json, Stream::Stderr, b"o\"ne\n");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&value["line"], &value["stream"], &value["slot"]),
            (&"o\"ne".into(), &"stderr".into(), &3.into())
        );
    }

    #[test]
    fn json_lines_carry_no_control_characters_and_keep_their_meaning() {
        let original = "C1 \u{9b}2J, DEL \x7f, turned \u{202e}, fine ä";
        let (_, text) = formatted(LogFormat::Json, Stream::Both, original.as_bytes());
        let line = text.trim_end();
        assert!(
            line.chars().all(|c| !c.is_control() && c != '\u{202e}') && line.contains("fine ä"),
            "{line:?}"
        );
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(value["line"], original);
    }

    #[test]
    fn a_time_stands_before_each_line_and_not_before_the_rest_of_one() {
        let stamped = |text: &str, goes_on| {
            let mut out = Vec::new();
            assert_eq!(stamp(text.as_bytes(), goes_on, &mut out), text.len());
            let out = String::from_utf8(out).expect("text");
            let time = timestamp().len();
            let begun = |line: &str| line.get(time..).map(str::to_owned);
            let lines = out.split_inclusive('\n').enumerate().map(|(number, line)| {
                if number == 0 && goes_on {
                    line.to_owned()
                } else {
                    begun(line).expect("a time")
                }
            });
            lines.collect::<Vec<_>>()
        };
        assert_eq!(stamped("one\n\nun", false), [" one\n", " \n", " un"]);
        assert_eq!(stamped("finished\ntwo\n", true), ["finished\n", " two\n"]);
        let mut out = Vec::new();
        let flood = vec![b'\n'; 100_000];
        let done = stamp(&flood, false, &mut out);
        assert!(done < flood.len() && out.len() < MAX_OUTPUT + 100);
    }

    #[test]
    fn a_flood_of_empty_lines_is_formatted_in_parts() {
        let text = vec![b'\n'; 100_000];
        let (done, out) = formatted(LogFormat::Text, Stream::Both, &text);
        assert!(done < text.len() && out.len() < MAX_OUTPUT + 100);
        assert_eq!(lines_len(&text, out.lines().count()), done);
    }
}
