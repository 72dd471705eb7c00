//! The diary: what the master did and why, one line each, through `tracing`.

use crate::plan::{LogFormat, LogLevel};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Where a finished line goes. It must not fail and not block.
pub type Sink = Arc<dyn Fn(Vec<u8>) + Send + Sync>;

/// Now, in the form that every line of the log begins with (RFC 3339, UTC, microseconds).
pub fn timestamp() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

/// Changes the level of the diary that is open.
type SetLevel = Box<dyn Fn(LevelFilter) + Send + Sync>;

static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// From now on every event of `tracing` becomes a line in the sink. Only the first call of a process counts.
pub fn open(sink: Sink, format: LogFormat, level: LogLevel) {
    let (filter, handle) = reload::Layer::new(level_of(level));
    // Without `log_internal_errors(false)` the subscriber would report a failing writer with `eprintln!`, which panics
    // on a full disk.
    let layer = fmt::layer().with_writer(Lines(sink)).with_target(false).with_ansi(false).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    let done = match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    // A second master in one process (an embedder's) goes on writing into the first one's diary.
    if done.is_ok() {
        SET_LEVEL.set(Box::new(move |level| drop(handle.reload(level)))).ok();
    }
}

/// What is below this level is left out from now on.
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
