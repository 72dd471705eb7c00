//! Sets up `tracing` for the master's log: each event becomes one line in a sink. The supervisor opens it at startup
//! and changes the level on reload.

use crate::observe::sanitize::{sanitize_json, sanitize_lines};
use crate::plan::{LogFormat, LogLevel};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Takes each finished line. It must not fail and must not block.
pub type Sink = Arc<dyn Fn(Vec<u8>) + Send + Sync>;

/// The current time, as every log line begins (RFC 3339, UTC, microseconds).
pub fn timestamp() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

/// Changes the level of the log that is open.
type SetLevel = Box<dyn Fn(LevelFilter) + Send + Sync>;

static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Sends every `tracing` event as a line to the sink. `colour`: the level of a text line gets its colour, for a terminal.
/// Only the first call in a process has an effect.
pub fn open(sink: Sink, format: LogFormat, level: LogLevel, colour: bool) {
    let (filter, handle) = reload::Layer::new(level_of(level));
    // Without `log_internal_errors(false)` the subscriber would report a failing writer with `eprintln!`, which panics
    // on a full disk.
    let layer = fmt::layer()
        .with_writer(Lines {
            sink,
            format,
            colour,
        })
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    let done = match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    // A second master in one process (of an embedder) keeps writing to the first one's log.
    if done.is_ok() {
        SET_LEVEL
            .set(Box::new(move |level| drop(handle.reload(level))))
            .ok();
    }
}

/// Drops events below this level from now on.
pub fn set_level(level: LogLevel) {
    if let Some(set) = SET_LEVEL.get() {
        set(level_of(level));
    }
}

fn level_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

struct Lines {
    sink: Sink,
    format: LogFormat,
    colour: bool,
}

struct Line<'a>(&'a Lines);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let plain = bytes
            .iter()
            .all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n'));
        let line = if plain {
            bytes.to_vec()
        } else {
            self.0.sanitize(bytes)
        };
        let coloured = self.0.colour && self.0.format == LogFormat::Text;
        (self.0.sink)(if coloured { with_colour(line) } else { line });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of text with its level coloured: the word behind the time.
fn with_colour(line: Vec<u8>) -> Vec<u8> {
    let Some(from) = line.iter().position(|byte| *byte == b' ') else {
        return line;
    };
    let Some(word) = line[from..]
        .trim_ascii_start()
        .split(|byte| *byte == b' ')
        .next()
    else {
        return line;
    };
    let colour = match word {
        b"ERROR" => "1;31",
        b"WARN" => "33",
        b"INFO" => "32",
        b"DEBUG" | b"TRACE" => "90",
        _ => return line,
    };
    let at = line.len() - line[from..].trim_ascii_start().len();
    let (before, rest) = line.split_at(at);
    let (word, behind) = rest.split_at(word.len());
    let (on, off) = (format!("\x1b[{colour}m"), b"\x1b[0m");
    [before, on.as_bytes(), word, off, behind].concat()
}

impl Lines {
    /// Paths and names from a configuration, and text from workers, may hold anything.
    fn sanitize(&self, line: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(line);
        match self.format {
            LogFormat::Json => sanitize_json(&text),
            LogFormat::Text => sanitize_lines(&text) + if text.ends_with('\n') { "\n" } else { "" },
        }
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Mutex;

    #[test]
    fn only_the_level_is_coloured() {
        for (line, coloured) in [
            (
                "2026T1Z  WARN INFO a=\"b\"\n",
                "2026T1Z  \x1b[33mWARN\x1b[0m INFO a=\"b\"\n",
            ),
            ("2026T1Z ERROR x\n", "2026T1Z \x1b[1;31mERROR\x1b[0m x\n"),
            ("half\n", "half\n"),
            ("a b\n", "a b\n"),
        ] {
            let line = with_colour(line.as_bytes().to_vec());
            assert_eq!(String::from_utf8(line).unwrap(), coloured);
        }
    }

    #[test]
    fn lines_of_the_log_are_sanitized() {
        for (format, line, expected) in [
            (
                LogFormat::Text,
                "INFO begins config=/tmp/\x1b[2J\u{202e}/ä\n",
                "INFO begins config=/tmp/\\x1b[2J\\u{202e}/ä\n",
            ),
            (
                LogFormat::Json,
                "{\"config\":\"\u{9b}ä\"}\n",
                "{\"config\":\"\\u009bä\"}\n",
            ),
        ] {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let sink: Sink = Arc::new({
                let seen = seen.clone();
                move |line| seen.lock().unwrap().extend(line)
            });
            let lines = Lines {
                sink,
                format,
                colour: false,
            };
            lines.make_writer().write_all(line.as_bytes()).unwrap();
            assert_eq!(
                String::from_utf8(seen.lock().unwrap().clone()).unwrap(),
                expected
            );
        }
    }
}
