//! `POST /api/VERB`: what the command of this name does, with its result as JSON.

use super::link::Link;
use hyper::StatusCode;
use rotad::cli::client::{Client, ClientError, WaitLimits};
use rotad::config::MasterPaths;
use rotad::control::protocol::{Method, ReloadScope, Response, ScaleTo, Selector, Wait};
use rotad::event_loop::clock::Deadline;
use rotad::exit_code::ExitCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Actions at a time: each that waits has a thread.
const MAX_ACTIONS: usize = 8;
/// How long an action waits for its result at the most; the work goes on.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// How long for the answer of one that does not wait.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Progress lines that are kept.
const MAX_PROGRESS: usize = 1000;

/// What is asked for, beside the verb. Keys that a verb does not have are refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    pools: Vec<String>,
    pool: Option<String>,
    slot: Option<u32>,
    /// `scale`: `3`, `"+1"`, `"-1"`.
    count: Option<Count>,
    /// `rollback`: the generation.
    to: Option<u32>,
    dry_run: bool,
    /// `reload`: only apply what changed.
    config: bool,
    /// `stop`: kill immediately.
    now: bool,
    /// Answer when it is done.
    wait: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Count {
    Exactly(u32),
    Text(String),
}

/// The result, as the command prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// The exit code of the command.
    code: ExitCode,
    message: String,
    progress: Vec<String>,
}

/// How many actions are under way.
#[derive(Default)]
pub(crate) struct Actions(Cell<usize>);

struct Action(Rc<Actions>);

impl Drop for Action {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}

/// Whether there is an action of this name.
pub(crate) fn is_action(verb: &str) -> bool {
    matches!(
        verb,
        "roll" | "rollback" | "reload" | "cancel" | "scale" | "start" | "stop" | "replace"
    )
}

/// Does what the body asks for. The status and the JSON of the answer.
pub(crate) async fn act(
    actions: &Rc<Actions>,
    link: &Link,
    verb: &str,
    body: &[u8],
) -> (StatusCode, String) {
    let (method, waits) = match method(verb, body) {
        Ok(method) => method,
        Err(why) => return refused(StatusCode::BAD_REQUEST, ExitCode::USAGE, why),
    };
    if actions.0.get() >= MAX_ACTIONS {
        let why = format!("{MAX_ACTIONS} actions are under way: wait for one of them");
        return refused(StatusCode::SERVICE_UNAVAILABLE, ExitCode::FAILED, why);
    }
    actions.0.set(actions.0.get() + 1);
    let action = Action(Rc::clone(actions));
    let paths = link.paths().clone();
    let limit = if waits { MAX_WAIT } else { ANSWER_TIME };
    let done = tokio::task::spawn_blocking(move || ask(&paths, method, limit)).await;
    drop(action);
    match done {
        Ok(Ok(result)) => (status_of(result.code), json(&result)),
        Ok(Err(error)) => {
            let why = match &error {
                ClientError::TimedOut => {
                    "there is no result yet; what was asked for goes on".to_owned()
                }
                error => error.to_string(),
            };
            let status = match error {
                ClientError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
                ClientError::NotPermitted(_) => StatusCode::FORBIDDEN,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            refused(status, error.code(), why)
        }
        Err(error) => refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            ExitCode::FAILED,
            error.to_string(),
        ),
    }
}

/// What is answered where nothing was done.
pub(crate) fn refused(status: StatusCode, code: ExitCode, message: String) -> (StatusCode, String) {
    let result = Outcome {
        code,
        message,
        progress: Vec::new(),
    };
    (status, json(&result))
}

fn json(result: &Outcome) -> String {
    // Numbers and strings alone: this cannot fail.
    rotad::observe::sanitize::sanitize_json(&serde_json::to_string(result).unwrap_or_default())
}

fn status_of(code: ExitCode) -> StatusCode {
    match code {
        ExitCode::DONE => StatusCode::OK,
        ExitCode::USAGE => StatusCode::BAD_REQUEST,
        ExitCode::NOT_FOUND => StatusCode::NOT_FOUND,
        ExitCode::NOT_PERMITTED => StatusCode::FORBIDDEN,
        ExitCode::TIMED_OUT => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::CONFLICT,
    }
}

fn ask(paths: &MasterPaths, method: Method, limit: Duration) -> Result<Outcome, ClientError> {
    let limits = WaitLimits {
        until: Some(Deadline::after(limit)),
        ..WaitLimits::default()
    };
    let mut client = Client::connect(paths, &limits)?;
    client.send(method)?;
    let mut progress = Vec::new();
    loop {
        match client.next_response(&limits)? {
            Response::Done { code, message } => {
                return Ok(Outcome {
                    code,
                    message,
                    progress,
                });
            }
            Response::Progress { text } | Response::Step { text, .. }
                if progress.len() < MAX_PROGRESS =>
            {
                progress.push(text);
            }
            _ => {}
        }
    }
}

/// The request to the master, and whether its answer takes time.
fn method(verb: &str, body: &[u8]) -> Result<(Method, bool), String> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    // An object: a struct is read from a list as well.
    let asked: Asked = serde_json::from_slice(body)
        .and_then(|object: Map<String, Value>| serde_json::from_value(object.into()))
        .map_err(|error| format!("the body is not what {verb} takes: {error}"))?;
    check_keys(verb, &asked)?;
    let wait = if asked.wait { Wait::Done } else { Wait::No };
    let waits = asked.wait || asked.dry_run;
    let which = || Selector {
        pools: asked.pools.clone(),
        ..Selector::default()
    };
    let pool = || asked.pool.clone().ok_or_else(|| missing(verb, "pool"));
    let method = match verb {
        "roll" => Method::Roll {
            which: which(),
            wait,
        },
        "reload" => Method::Reload {
            which: which(),
            extent: match (asked.dry_run, asked.config) {
                (true, _) => ReloadScope::DryRun,
                (false, true) => ReloadScope::ConfigOnly,
                (false, false) => ReloadScope::Everything,
            },
            wait,
        },
        "rollback" => Method::Rollback {
            pools: asked.pools.clone(),
            to: asked.to,
            dry_run: asked.dry_run,
            wait,
        },
        "cancel" => Method::Cancel {
            pools: asked.pools.clone(),
        },
        "scale" => Method::Scale {
            pool: pool()?,
            to: scale_to(asked.count.as_ref().ok_or_else(|| missing(verb, "count"))?)?,
        },
        "start" | "stop" if asked.pools.is_empty() => {
            return Err(format!(
                "{verb} needs `pools`; the master itself is started and stopped by `rotad {verb}` alone"
            ));
        }
        "start" => Method::Start {
            pools: asked.pools.clone(),
            wait,
        },
        "stop" => Method::Stop {
            pools: asked.pools.clone(),
            now: asked.now,
        },
        _ => Method::Replace {
            pool: pool()?,
            slot: asked.slot.ok_or_else(|| missing(verb, "slot"))?,
            wait,
        },
    };
    // A stop of pools, a scaling and a cancellation are answered when they are done.
    let is_slow = matches!(verb, "stop" | "scale" | "cancel");
    Ok((method, waits || is_slow))
}

fn missing(verb: &str, key: &str) -> String {
    format!("{verb} needs `{key}`")
}

/// A key that the verb does not have would be ignored silently.
fn check_keys(verb: &str, asked: &Asked) -> Result<(), String> {
    let given = [
        ("pools", !asked.pools.is_empty()),
        ("pool", asked.pool.is_some()),
        ("slot", asked.slot.is_some()),
        ("count", asked.count.is_some()),
        ("to", asked.to.is_some()),
        ("dry_run", asked.dry_run),
        ("config", asked.config),
        ("now", asked.now),
        ("wait", asked.wait),
    ];
    let keys: &[&str] = match verb {
        "roll" | "start" => &["pools", "wait"],
        "reload" => &["pools", "dry_run", "config", "wait"],
        "rollback" => &["pools", "to", "dry_run", "wait"],
        "cancel" => &["pools"],
        "scale" => &["pool", "count"],
        "stop" => &["pools", "now"],
        _ => &["pool", "slot", "wait"],
    };
    match given
        .iter()
        .find(|(key, given)| *given && !keys.contains(key))
    {
        Some((key, _)) => Err(format!(
            "{verb} has no `{key}`; it has: {}",
            keys.join(", ")
        )),
        None => Ok(()),
    }
}

fn scale_to(count: &Count) -> Result<ScaleTo, String> {
    let text = match count {
        Count::Exactly(count) => return Ok(ScaleTo::Exactly(*count)),
        Count::Text(text) => text,
    };
    let by = text.strip_prefix('+').or_else(|| text.strip_prefix('-'));
    let number = by.unwrap_or(text).parse::<u32>();
    match (number, text.as_bytes().first()) {
        (Ok(number), Some(b'+')) => Ok(ScaleTo::By(i64::from(number))),
        (Ok(number), Some(b'-')) => Ok(ScaleTo::By(-i64::from(number))),
        (Ok(number), _) => Ok(ScaleTo::Exactly(number)),
        (Err(_), _) => Err("`count` is a number, \"+N\" or \"-N\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(verb: &str, body: &str) -> Result<Method, String> {
        method(verb, body.as_bytes()).map(|(method, _)| method)
    }

    #[test]
    fn bodies_are_requests_to_the_master() {
        let pools = || vec!["web".to_owned()];
        assert_eq!(
            asks("roll", ""),
            Ok(Method::Roll {
                which: Selector::default(),
                wait: Wait::No
            })
        );
        assert_eq!(
            asks("start", r#"{"pools": ["web"], "wait": true}"#),
            Ok(Method::Start {
                pools: pools(),
                wait: Wait::Done
            })
        );
        for (count, to) in [
            ("3", ScaleTo::Exactly(3)),
            ("\"3\"", ScaleTo::Exactly(3)),
            ("\"+2\"", ScaleTo::By(2)),
            ("\"-1\"", ScaleTo::By(-1)),
        ] {
            let body = format!(r#"{{"pool": "web", "count": {count}}}"#);
            let pool = "web".to_owned();
            assert_eq!(asks("scale", &body), Ok(Method::Scale { pool, to }));
        }
        let replace = asks("replace", r#"{"pool": "web", "slot": 1}"#);
        assert!(matches!(replace, Ok(Method::Replace { slot: 1, .. })));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (verb, body, why) in [
            ("stop", "{}", "needs `pools`"),
            ("start", r#"{"pools": []}"#, "needs `pools`"),
            ("stop", r#"{"pools": ["web"], "slot": 1}"#, "no `slot`"),
            ("roll", r#"{"pool": "web"}"#, "no `pool`"),
            ("roll", r#"{"pols": ["web"]}"#, "unknown field"),
            ("roll", "{\"pools\"", "EOF"),
            ("scale", r#"{"pool": "web"}"#, "needs `count`"),
            ("scale", r#"{"pool": "web", "count": "x"}"#, "+N"),
            (
                "scale",
                r#"{"pool": "web", "count": -1}"#,
                "not what scale takes",
            ),
            ("replace", r#"{"pool": "web"}"#, "needs `slot`"),
        ] {
            let error = asks(verb, body).unwrap_err();
            assert!(error.contains(why), "{verb} {body}: {error}");
        }
    }
}
