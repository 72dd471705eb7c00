//! `events`: shows what the master did and why.

use super::client::{Client, ClientError, WaitLimits};
use super::layout::{GREEN, GREY, RED, YELLOW, painted};
use super::{print, request};
use crate::control::pool_names::Pools;
use crate::control::protocol::{Method, Response};
use crate::exit_code::ExitCode;
use crate::observe::counted::missing;
use crate::observe::events::{Event, EventKind};
use crate::observe::sanitize::sanitize_json;
use serde_json::json;
use std::path::Path;
use std::time::SystemTime;

/// What `events` is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) follow: bool,
    pub(super) json: bool,
    pub(super) since: Option<SystemTime>,
    /// Names or patterns; if empty, also events of no pool.
    pub(super) pools: Vec<String>,
}

impl Wanted {
    fn takes(&self, event: &Event) -> bool {
        let is_recent = self.since.is_none_or(|from| {
            humantime::parse_rfc3339(&event.time).is_ok_and(|time| time >= from)
        });
        let of_pool = || {
            let name = event.pool.as_deref();
            let is = |name: &str, meant: &String| {
                Pools::new(&[name])
                    .expand(std::slice::from_ref(meant))
                    .is_ok()
            };
            name.is_some_and(|name| self.pools.iter().any(|meant| is(name, meant)))
        };
        is_recent && (self.pools.is_empty() || of_pool())
    }
}

/// Prints the events that the master keeps, or its latest and those to come, until Ctrl-C or until stdout is closed.
pub(super) fn events(file: Option<&Path>, wanted: &Wanted) -> ExitCode {
    let paths = match request::master_paths(file) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let limits = request::until_interrupted();
    let style = Style {
        json: wanted.json,
        colour: print::colour(),
        columns: Columns::default(),
    };
    let done = Client::connect(&paths, &limits).and_then(|mut client| {
        let follow = wanted.follow;
        client.send(Method::Events { follow })?;
        show(&mut client, &limits, style, wanted)
    });
    match done {
        // The ordinary end of following.
        Err(ClientError::Detached) => ExitCode::DONE,
        Err(error @ (ClientError::Unreachable(_) | ClientError::Uncertain { .. })) => {
            let code = request::failed(&error, &paths.config);
            print::plain_error(&format!(
                "what an earlier master did is in {}",
                request::log_file(&paths)
            ));
            code
        }
        done => request::finish(done, &paths.config),
    }
}

#[derive(Clone, Copy, Debug)]
struct Style {
    json: bool,
    colour: bool,
    columns: Columns,
}

/// The widths of the columns, in characters: those of the widest so far.
#[derive(Clone, Copy, Debug)]
struct Columns {
    who: usize,
    word: usize,
}

impl Default for Columns {
    fn default() -> Self {
        Self { who: 8, word: 13 }
    }
}

impl Columns {
    fn widen(&mut self, event: &Event) {
        self.who = self.who.max(who(event).chars().count());
        self.word = self.word.max(event.event.word().len());
    }
}

/// What an event concerns.
fn who(event: &Event) -> String {
    print::sanitize(match (&event.pool, event.slot) {
        (Some(pool), Some(slot)) => format!("{pool}/{slot}"),
        (Some(pool), None) => pool.clone(),
        (None, _) => "master".to_owned(),
    })
}

fn show(
    client: &mut Client,
    limits: &WaitLimits,
    mut style: Style,
    wanted: &Wanted,
) -> Result<(ExitCode, String), ClientError> {
    let mut last = 0;
    // All are there before the first is printed: the columns are as wide as the widest.
    let mut all = Vec::new();
    loop {
        let text = match client.next_response(limits)? {
            Response::Done { code, message } => {
                let text: String = all.iter().map(|event| style.event(event)).collect();
                print::write(&text).map_err(|_| ClientError::OutputClosed)?;
                return Ok((code, message));
            }
            // A master that has died just after it had sent it: the next one has sent it again.
            Response::Event(event) if event.seq <= last => continue,
            Response::Event(event) => {
                last = event.seq;
                if !wanted.takes(&event) {
                    continue;
                }
                style.columns.widen(&event);
                if !wanted.follow && !wanted.json {
                    all.push(*event);
                    continue;
                }
                style.event(&event)
            }
            Response::Skipped { count } => style.skipped(count),
            _ => continue,
        };
        print::write(&text).map_err(|_| ClientError::OutputClosed)?;
    }
}

impl Style {
    fn event(self, event: &Event) -> String {
        if self.json {
            // Only numbers and strings: this cannot fail.
            return format!(
                "{}\n",
                sanitize_json(&serde_json::to_string(event).unwrap_or_default())
            );
        }
        let today = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let Columns { who: width, word } = self.columns;
        let word = format!("{:<word$}", event.event.word());
        let word = match colour(event) {
            Some(colour) => painted(&word, colour, self.colour),
            None => word,
        };
        // Further lines of an event are indented below it.
        let text = event
            .text
            .lines()
            .map(print::sanitize)
            .collect::<Vec<_>>()
            .join("\n    ");
        let time = print::sanitize(moment(&event.time, &today));
        format!("{time}  {:<width$}  {word}  {text}\n", who(event))
    }

    fn skipped(self, count: u64) -> String {
        if self.json {
            let text = "these events came faster than they were read";
            return format!(
                "{}\n",
                json!({"event": "skipped", "count": count, "text": text})
            );
        }
        format!(
            "… {} here: they came faster than they were read\n",
            missing(count, "event")
        )
    }
}

/// The time of an event: without its date if that is today's. UTC, as in the log.
pub fn moment<'a>(time: &'a str, today: &str) -> &'a str {
    let time = time.trim_end_matches('Z');
    match (time.split_once('T'), today.split_once('T')) {
        (Some((date, clock)), Some((now, _))) if date == now => clock,
        _ => time,
    }
}

/// The colour of an event's word (SGR number). None: none of its own.
pub fn colour(event: &Event) -> Option<u8> {
    use EventKind::*;
    match event.event {
        Exit | SpawnFailed | NotReady | Unhealthy | Unkillable | CrashLoop | ConfigRefused
        | EssentialLost | EssentialEnded | UpgradeFailed | Unwatched => Some(RED),
        Ready | PoolReady | CrashLoopOver | MasterStarted | ConfigApplied | OneshotDone
        | WorkerReplaced | Upgraded => Some(GREEN),
        RollEnded if event.cause.as_deref() == Some("done") => Some(GREEN),
        Journal if event.cause.as_deref() == Some("whole") => Some(GREEN),
        PassedOver if event.cause.as_deref() == Some("unchanged") => None,
        RollEnded | Journal | PassedOver => Some(RED),
        Background | CrashLoopEases | RollingBack | Kill | DescendantsKilled | Orphan
        | LogHangs | PathsResolvedAgain | Listener | MasterPaused | MasterRestored
        | GuardianLost | RollSuperseded | ConfigPutBack | Restored | ProbeFailed | TookOver
        | Adopted | PortsExhausted | Zombie | Cgroup | HookFailed => Some(YELLOW),
        Signal | Spawn | CanaryPassed | Stopped | RollStep | RollWaits | Waiting => Some(GREY),
        Scaled | Watch | Recycled | PoolRemoved => None,
        MasterStopping | MasterStopped | SignalReceived | FilesChanged | Request | Retired
        | PoolStopped | RollStarted | UpgradeStarted => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            seq: 7,
            time: "2026-01-02T03:04:05.678Z".into(),
            event: EventKind::Exit,
            pool: Some("web".into()),
            slot: Some(0),
            worker: Some("1-2-3".into()),
            generation: Some(2),
            pid: Some(4711),
            cause: Some("exited".into()),
            text: "exited with 3\n  | \x1b]0;evil\x07\u{9b}2J".into(),
        }
    }

    #[test]
    fn events_are_lines_of_text() {
        let plain = Style {
            json: false,
            colour: false,
            columns: Columns::default(),
        }
        .event(&event());
        let expected = "2026-01-02T03:04:05.678  web/0     exit           exited with 3\n";
        assert_eq!(
            plain,
            format!("{expected}      | \\x1b]0;evil\\x07\\x9b2J\n")
        );
        assert_eq!(
            moment("2026-01-02T03:04:05.678Z", "2026-01-02T23:00:00Z"),
            "03:04:05.678"
        );
        let coloured = Style {
            json: false,
            colour: true,
            columns: Columns::default(),
        }
        .event(&event());
        assert!(coloured.contains("\x1b[31mexit"));
    }

    #[test]
    fn columns_are_as_wide_as_the_widest_name() {
        let long = Event {
            pool: Some("a-pool-with-a-long-name".into()),
            event: EventKind::DescendantsKilled,
            text: "x".into(),
            ..event()
        };
        let short = Event {
            text: "y".into(),
            ..event()
        };
        let mut columns = Columns::default();
        columns.widen(&long);
        columns.widen(&short);
        let style = Style {
            json: false,
            colour: false,
            columns,
        };
        let at = |line: String| line.trim_end().len();
        assert_eq!(at(style.event(&long)), at(style.event(&short)));
    }

    #[test]
    fn events_are_chosen_by_time_and_pool() {
        let wanted = |since: Option<&str>, pools: &[&str]| Wanted {
            follow: false,
            json: false,
            since: since.map(|time| humantime::parse_rfc3339(time).unwrap()),
            pools: pools.iter().map(|name| (*name).to_owned()).collect(),
        };
        let of_master = Event {
            pool: None,
            ..event()
        };
        assert!(wanted(None, &[]).takes(&of_master) && wanted(None, &["web"]).takes(&event()));
        assert!(wanted(None, &["w*", "api"]).takes(&event()));
        assert!(
            !wanted(None, &["api"]).takes(&event()) && !wanted(None, &["web"]).takes(&of_master)
        );
        assert!(wanted(Some("2026-01-02T03:04:05.678Z"), &[]).takes(&event()));
        assert!(!wanted(Some("2026-01-02T03:04:06Z"), &[]).takes(&event()));
    }

    #[test]
    fn events_are_lines_of_json() {
        let style = Style {
            json: true,
            colour: false,
            columns: Columns::default(),
        };
        let json = style.event(&event());
        assert!(
            json.ends_with('\n') && json.trim_end().chars().all(|c| !c.is_control()),
            "{json:?}"
        );
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event());
        let skipped: serde_json::Value = serde_json::from_str(&style.skipped(3)).unwrap();
        assert_eq!(
            (&skipped["event"], &skipped["count"]),
            (&"skipped".into(), &3.into())
        );
    }
}
