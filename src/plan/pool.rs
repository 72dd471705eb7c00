//! One pool of a plan: what it runs, with which limits, and where its output goes.

use super::{Piece, Template};
use rotad_core::Policy;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// One pool: `[pool.NAME]`, with `[defaults]` applied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolPlan {
    /// NAME in `[pool.NAME]`.
    pub name: String,
    /// Which requests concern it.
    pub kind: Kind,
    /// What the engine needs of it. Pools that it comes after have no ids yet: [`PoolPlan::after`] names them.
    pub policy: Policy,
    /// Names of the pools that must be ready (a oneshot: must have succeeded) before this one starts.
    pub after: Vec<String>,
    /// What makes its workers ready.
    pub ready: Ready,
    /// How to spawn its workers.
    pub recipe: Recipe,
    /// The ports of its workers. `None`: they have none of their own.
    pub ports: Option<Ports>,
    /// When its workers are replaced although they are well.
    pub recycle: Recycle,
    /// `[pool.NAME.health]`. `None`: a ready worker is not checked.
    pub health: Option<Health>,
    /// The files that roll it (`reload.watch`). `None`: it watches none.
    pub watch: Option<Watch>,
    /// `reload.on`.
    pub roll_on: RollOn,
    /// `[pool.NAME.log]`.
    pub log: LogPlan,
    /// `[pool.NAME.metrics]`. `None`: its workers have none, or none that are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsPlan>,
}

/// Where the workers' own metrics are; `rotad serve` reads and sums them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsPlan {
    /// `http://HOST:PORT/PATH` or `unix:PATH`, with `{port}`, `{slot}`, `{generation}` and `{pool}`.
    pub scrape: Template,
    /// What becomes of gauges.
    pub gauges: Gauges,
}

/// What becomes of the gauges of several workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gauges {
    /// They are summed.
    #[default]
    Sum,
    /// Each slot has its own, told apart by a label.
    Slot,
}

/// The kind of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Serves; SIGUSR1 rolls it.
    Worker,
    /// Works in the background; SIGUSR2 rolls it, and by default its workers get longer to stop.
    Task,
    /// Runs to its end at startup and at each reload, before the pools that come after it.
    Oneshot,
}

/// A range of ports, both ends included; each worker gets one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The lowest port.
    pub first: u16,
    /// The highest port, not below `first`.
    pub last: u16,
}

impl Ports {
    /// The number of ports.
    pub fn count(self) -> u32 {
        u32::from(self.last.saturating_sub(self.first)) + 1
    }
}

/// When a healthy worker is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recycle {
    /// Once it has run for this long, ± 10 %, so that workers that began together do not leave together. `None`: at
    /// any age.
    pub max_age: Option<Duration>,
    /// Once its whole tree takes more resident memory than this, in bytes. `None`: at any size.
    pub max_rss: Option<u64>,
    /// Once a day, at this local time.
    #[serde(default)]
    pub at: Option<TimeOfDay>,
}

/// A local time, in seconds since midnight as clocks show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeOfDay(pub u32);

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes, seconds) = (self.0 / 3600, self.0 / 60 % 60, self.0 % 60);
        write!(f, "{hours:02}:{minutes:02}")?;
        match seconds {
            0 => Ok(()),
            _ => write!(f, ":{seconds:02}"),
        }
    }
}

/// How a ready worker shows that it is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// WATCHDOG=1 must arrive at least this often (sd_watchdog_enabled(3)).
    Watchdog(Duration),
    /// A check that the master makes.
    Probe {
        /// What is asked.
        check: Check,
        /// Time from one check to the next.
        every: Duration,
        /// No answer for this long is a failure; never longer than `every`.
        timeout: Duration,
        /// Consecutive failures that count; at least 1.
        failures: u32,
    },
}

impl Health {
    /// Whether workers that run with `old` can be watched by `new` from now on. They may not answer another check, and
    /// were told their watchdog interval when they were spawned: that needs new workers.
    pub fn fits_running(old: Option<&Self>, new: Option<&Self>) -> bool {
        match (old, new) {
            (Some(Self::Probe { check: old, .. }), Some(Self::Probe { check: new, .. })) => {
                old == new
            }
            (Some(Self::Probe { .. }), None) => true,
            _ => old == new,
        }
    }
}

/// A check of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// HOST:PORT accepts a connection.
    Connect(Template),
    /// HOST:PORT/PATH answers with a 2xx or 3xx status.
    Http(HttpCheck),
    /// The program exits with 0.
    Command(Vec<Template>),
}

/// An HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SavedHttpCheck", into = "SavedHttpCheck")]
pub struct HttpCheck {
    /// HOST:PORT/PATH.
    pub url: Template,
    /// Names and values of header fields (RFC 9110, 5).
    pub headers: Vec<(String, Template)>,
}

/// An [`HttpCheck`] as it is saved: without headers as versions of rotad that know none save it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SavedHttpCheck {
    Url(Template),
    Check {
        url: Template,
        headers: Vec<(String, Template)>,
    },
}

impl From<SavedHttpCheck> for HttpCheck {
    fn from(saved: SavedHttpCheck) -> Self {
        match saved {
            SavedHttpCheck::Url(url) => Self {
                url,
                headers: Vec::new(),
            },
            SavedHttpCheck::Check { url, headers } => Self { url, headers },
        }
    }
}

impl From<HttpCheck> for SavedHttpCheck {
    fn from(HttpCheck { url, headers }: HttpCheck) -> Self {
        match headers.is_empty() {
            true => Self::Url(url),
            false => Self::Check { url, headers },
        }
    }
}

/// What makes a worker ready, and so how the supervisor finds out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// With listeners: seen accepting; without: READY=1, or alive for 1 s.
    Auto,
    /// It sends READY=1 (sd_notify(3)).
    Notify,
    /// One of its processes waits for connections on a listener, or holds one, as seen in /proc (`probe::accept`).
    Accepting,
    /// Its program has been executed (execve(2)).
    Spawned,
    /// It has lived for this long.
    After(Duration),
    /// The check succeeds.
    Probe(Check),
}

/// Whether a request for all pools, or for all of one kind, rolls this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RollOn {
    /// It always rolls.
    #[default]
    Always,
    /// Only when something that it is made from has changed.
    Change,
}

/// Files that roll the pool when their content changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The directory that relative patterns start from.
    pub base: PathBuf,
    /// As written: `src/**/*.py`.
    pub globs: Vec<String>,
    /// How long nothing must have changed before the pool is rolled.
    pub debounce: Duration,
}

/// Where a pool's output goes. `max_size` and `keep` apply to its own files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlan {
    /// Descriptor 1.
    pub stdout: Sink,
    /// Descriptor 2.
    pub stderr: Sink,
    /// A file of this size is rotated, in bytes. 0: never.
    pub max_size: u64,
    /// How many rotated files are kept.
    pub keep: u32,
    /// A time stands before each line of its files.
    #[serde(default)]
    pub timestamps: bool,
    /// Of its own log files.
    pub access: FileAccess,
}

/// Owner, group and mode of log files; `None`: as the previous file had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAccess {
    /// Permission bits (chmod(2)).
    pub mode: Option<u32>,
    /// The owner's user id.
    pub uid: Option<u32>,
    /// The group id.
    pub gid: Option<u32>,
}

/// Where a worker's output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sink {
    /// The master's log, line by line.
    Master,
    /// The master's own stdout or stderr.
    Inherit,
    /// Nowhere: /dev/null.
    Null,
    /// `stderr = "stdout"`: wherever stdout goes.
    Stdout,
    /// A rotating file.
    File(LogFile),
}

/// The absolute path of a log file: one for the whole pool, or with `{slot}` one for each slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SavedLogFile", into = "SavedLogFile")]
pub struct LogFile(Template);

/// A [`LogFile`] as it is saved: one path as versions of rotad that know no templates of paths save it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SavedLogFile {
    Path(PathBuf),
    Template(Template),
}

impl From<SavedLogFile> for LogFile {
    fn from(saved: SavedLogFile) -> Self {
        match saved {
            SavedLogFile::Path(path) => path.into(),
            SavedLogFile::Template(template) => Self(template),
        }
    }
}

impl From<LogFile> for SavedLogFile {
    fn from(LogFile(template): LogFile) -> Self {
        match template.as_literal() {
            Some(path) => Self::Path(path.into()),
            None => Self::Template(template),
        }
    }
}

impl From<PathBuf> for LogFile {
    /// One file for all slots. The configuration is UTF-8, and so are its paths.
    fn from(path: PathBuf) -> Self {
        Self(Template::literal(path.to_string_lossy()))
    }
}

impl LogFile {
    /// `template`: an absolute path, whose only placeholders are `{slot}` and `{env:NAME}`.
    pub fn new(template: Template) -> Self {
        Self(template)
    }

    /// Whether each slot has a file of its own.
    pub fn is_per_slot(&self) -> bool {
        self.0.0.contains(&Piece::Slot)
    }

    /// The file of this slot.
    pub fn path(&self, slot: u32) -> PathBuf {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Env { value, .. } => value.clone(),
            Piece::Slot => slot.to_string(),
            // The configuration allows no others here.
            _ => String::new(),
        };
        self.0.0.iter().map(text).collect::<String>().into()
    }

    /// What messages call the file of this slot; None: of any. Without the values of `{env:NAME}`.
    pub fn shown(&self, slot: Option<u32>) -> String {
        let text = |piece: &Piece| match (piece, slot) {
            (Piece::Slot, Some(slot)) => slot.to_string(),
            _ => piece.shown(),
        };
        self.0.0.iter().map(text).collect()
    }

    /// Its pieces: texts, variables and slots.
    pub fn pieces(&self) -> &[Piece] {
        &self.0.0
    }
}

/// How to spawn a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Program and arguments, with placeholders.
    pub command: Vec<Template>,
    /// Variables set by the configuration (`env_file`, then `env`), with placeholders; later ones win.
    pub env: Vec<(String, Template)>,
    /// Start from an empty environment instead of the master's.
    pub clear_env: bool,
    /// With `clear_env`: names, or prefixes ending in `*`, of the master's environment that are kept.
    pub pass_env: Vec<String>,
    /// The directory of its workers: an absolute path, links unresolved until a generation begins.
    pub working_directory: PathBuf,
    /// `None`: the master's own user and group.
    pub account: Option<Account>,
    /// umask(2). `None`: the master's.
    pub umask: Option<u32>,
    /// The nice value, -20 to 19 (setpriority(2)). `None`: the master's.
    pub nice: Option<i32>,
    /// Resource limits that differ from the master's.
    pub limits: Vec<Limit>,
    /// The pool's listeners: indices into [`listeners`](super::Plan::listeners).
    pub listen: Vec<usize>,
    /// How many of them are at descriptors 3, 4, …; one more may be at descriptor 0.
    pub passed: usize,
    /// Which of them is descriptor 0 (index into `listen`); `None`: /dev/null.
    pub stdin: Option<usize>,
}

/// A user, looked up when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The name in the user database (passwd(5)).
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id; `group` in the configuration overrides the user's own.
    pub gid: u32,
    /// Supplementary groups, as initgroups(3) would set them.
    pub groups: Vec<u32>,
    /// Home directory: HOME of the worker.
    pub home: PathBuf,
    /// Login shell: SHELL of the worker.
    pub shell: PathBuf,
    /// `group` without `user`: the user and the other groups are the master's own, and so is the environment.
    #[serde(default)]
    pub group_alone: bool,
}

/// One resource limit (setrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The name in lower case: `nofile`, `core`, `as`.
    pub name: String,
    /// The number of the resource (RLIMIT_*).
    pub resource: u32,
    /// The limit that is enforced; `u64::MAX`: none (RLIM_INFINITY).
    pub soft: u64,
    /// The highest value that the worker may raise `soft` to; `u64::MAX`: none.
    pub hard: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An upgrade may have to go back to a version that knows neither headers nor templates of paths.
    #[test]
    fn what_older_versions_know_is_saved_as_they_save_it() {
        let url = Template::literal("127.0.0.1:80/");
        let plain = HttpCheck {
            url: url.clone(),
            headers: Vec::new(),
        };
        let saved = |value: &HttpCheck| serde_json::to_value(value).unwrap();
        assert_eq!(saved(&plain), serde_json::to_value(&url).unwrap());
        let headed = HttpCheck {
            headers: vec![("Host".to_owned(), Template(vec![Piece::Pool]))],
            ..plain.clone()
        };
        for check in [plain, headed] {
            let read: HttpCheck = serde_json::from_value(saved(&check)).unwrap();
            assert_eq!(read, check);
        }
        let one = LogFile::from(PathBuf::from("/var/log/web.log"));
        assert_eq!(serde_json::to_value(&one).unwrap(), "/var/log/web.log");
        let pieces = vec![Piece::Text("/log/".to_owned()), Piece::Slot];
        for file in [one, LogFile::new(Template(pieces))] {
            let saved = serde_json::to_value(&file).unwrap();
            assert_eq!(serde_json::from_value::<LogFile>(saved).unwrap(), file);
        }
    }

    #[test]
    fn the_file_of_a_slot_is_shown_without_the_values_of_variables() {
        let directory = Piece::Env {
            name: "DIR".to_owned(),
            value: "/secret".to_owned(),
        };
        let text = |text: &str| Piece::Text(text.to_owned());
        let file = LogFile::new(Template(vec![directory, text("/web-"), Piece::Slot]));
        assert!(file.is_per_slot());
        assert_eq!(file.path(3), PathBuf::from("/secret/web-3"));
        assert_eq!(file.shown(Some(3)), "{env:DIR}/web-3");
        assert_eq!(file.shown(None), "{env:DIR}/web-{slot}");
    }
}
