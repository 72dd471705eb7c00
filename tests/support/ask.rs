//! Requests to the master as one line of JSON, as any program may make them.

use super::site::Site;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a master may take to tell its status: as long as `rotad status` waits.
pub const STATUS_WITHIN: Duration = Duration::from_secs(10);

/// The status of the master at the other end of a control socket. None: no answer within `within`, it left meanwhile,
/// or it is the master of another configuration.
pub fn status(mut stream: UnixStream, config: &Path, within: Duration) -> Option<Value> {
    stream.set_read_timeout(Some(within)).ok()?;
    writeln!(
        stream,
        "{}",
        json!({ "version": 2, "config": config, "ask": "status" })
    )
    .ok()?;
    let mut answers = BufReader::new(stream);
    loop {
        let mut line = String::new();
        answers.read_line(&mut line).ok()?;
        if !line.ends_with('\n') {
            return None; // cut off
        }
        let mut answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if answer["status"].is_object() {
            return Some(answer["status"].take());
        }
        if answer["done"].is_object() {
            return None; // refused
        }
    }
}

/// The end of a request: the exit code that a verb would have, its last words, and the lines before.
#[derive(Debug)]
pub struct Answered {
    pub code: i64,
    pub message: String,
    pub progress: Vec<String>,
}

impl Answered {
    pub fn text(&self) -> String {
        format!("{}\n{}", self.progress.join("\n"), self.message)
    }
}

/// A request that is under way.
pub struct Asked(BufReader<UnixStream>);

impl Asked {
    /// The next event of a client that follows them.
    pub fn event(&mut self) -> Value {
        let mut line = String::new();
        let read = self.0.read_line(&mut line);
        assert!(
            matches!(read, Ok(bytes) if bytes > 0),
            "no more events: {read:?}"
        );
        let mut answer: Value = serde_json::from_str(&line).expect("an event");
        assert!(answer["event"].is_object(), "{answer}");
        answer["event"].take()
    }

    /// All that is answered, until the connection ends.
    pub fn lines(self) -> impl Iterator<Item = Value> {
        let whole = |line: std::io::Result<String>| serde_json::from_str(&line.ok()?).ok();
        self.0.lines().map_while(whole)
    }

    /// Waits for its end.
    pub fn answered(mut self) -> Answered {
        let mut progress = Vec::new();
        loop {
            let mut line = String::new();
            let read = self
                .0
                .read_line(&mut line)
                .unwrap_or_else(|error| panic!("no answer: {error}; {progress:?}"));
            assert!(read > 0, "the master has hung up after {progress:?}");
            let answer: Value = serde_json::from_str(&line).expect("an answer");
            if let Some(text) = answer["progress"]["text"].as_str() {
                progress.push(text.to_owned());
            } else if answer["done"].is_object() {
                let message = answer["done"]["message"]
                    .as_str()
                    .expect("a message")
                    .to_owned();
                return Answered {
                    code: answer["done"]["code"].as_i64().expect("a code"),
                    message,
                    progress,
                };
            }
        }
    }
}

impl Site {
    /// Sends a request and does not wait for its end.
    pub fn asking(&self, ask: &Value) -> Asked {
        let mut stream =
            UnixStream::connect(self.path("run/control.sock")).expect("the control socket");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a timeout");
        let config = self
            .config
            .canonicalize()
            .unwrap_or_else(|_| self.config.clone());
        let question = json!({ "version": 2, "config": config, "ask": ask });
        writeln!(stream, "{question}").expect("a question");
        Asked(BufReader::new(stream))
    }

    pub fn ask(&self, ask: &Value) -> Answered {
        self.asking(ask).answered()
    }

    /// `reload POOL…` (none: all), `everything`, `config-only` or `dry-run`.
    pub fn reload(&self, extent: &str, pools: &[&str]) -> Answered {
        self.ask(&reload(extent, pools))
    }

    /// Replaces a text of the configuration; it has to be there.
    pub fn edit(&self, from: &str, to: &str) {
        let text = self.read("rotad.toml");
        assert!(text.contains(from), "{from:?} is not in {text}");
        self.write("rotad.toml", &text.replace(from, &self.filled(to)));
    }
}

/// The request of [`Site::reload`].
pub fn reload(extent: &str, pools: &[&str]) -> Value {
    json!({ "reload": { "which": { "pools": pools, "workers": false, "tasks": false },
        "extent": extent, "wait": "done" } })
}

pub fn scale(pool: &str, to: u32) -> Value {
    json!({ "scale": { "pool": pool, "to": { "exactly": to } } })
}
