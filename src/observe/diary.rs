//! The diary: what the master did and why, one line each, through `tracing`.

use crate::plan::{LogFormat, LogLevel};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;
use tracing_subscriber::fmt::MakeWriter;

/// Where a finished line goes. It must not fail and not block.
pub type Sink = Arc<dyn Fn(Vec<u8>) + Send + Sync>;

/// Now, in the form that every line of the log begins with (RFC 3339, UTC, microseconds).
pub fn timestamp() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

/// From now on every event of `tracing` becomes a line in the sink. Only the first call of a process counts.
pub fn open(sink: Sink, format: LogFormat, level: LogLevel) {
    // Without `log_internal_errors(false)` the subscriber would report a failing writer with `eprintln!`, which panics
    // on a full disk.
    let builder = tracing_subscriber::fmt()
        .with_writer(Lines(sink))
        .with_max_level(level_of(level))
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false);
    let done = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // A second master in one process (an embedder's) goes on writing into the first one's diary.
    done.ok();
}

fn level_of(level: LogLevel) -> tracing::Level {
    match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    }
}

struct Lines(Sink);

struct Line<'a>(&'a Sink);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
