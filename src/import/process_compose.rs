//! process-compose.yaml: processes with dependencies, probes and shells.

use super::draft::{Pool, Value};
use super::ledger::{Keys, Text, Unreadable};
use super::tree::{self, Data, Node};
use super::{Import, shell, words};
use std::collections::BTreeSet;
use std::path::Path;

/// Whether it looks like one.
pub(super) fn fits(text: &Text) -> bool {
    let name = text.name();
    let yaml = name.ends_with(".yml") || name.ends_with(".yaml");
    yaml && text.text.lines().any(|line| line.starts_with("processes:"))
}

fn is_secret(name: &str) -> bool {
    ["environment", "vars"].contains(&name)
}

pub(super) fn read(import: &mut Import, texts: &[Text]) -> Result<(), Unreadable> {
    for text in texts {
        let root = tree::yaml(text)?;
        let ledger = import.ledger.clone();
        let entries = |(name, _, _): &&(String, std::ops::Range<usize>, Node)| name != "processes";
        let others: Vec<_> = root.entries().iter().filter(entries).cloned().collect();
        let mut keys = Node::new(0..0, Data::Map(others)).keys(&ledger, text, "", is_secret);
        top(import, text.dir(), &mut keys);
        let empty = Node::new(0..0, Data::Null);
        let processes = root.get("processes").unwrap_or(&empty);
        let awaited: BTreeSet<String> = processes
            .entries()
            .iter()
            .filter_map(|(_, _, process)| process.get("depends_on"))
            .flat_map(|after| after.entries().to_vec())
            .filter(|(_, _, node)| {
                node.get("condition").and_then(Node::text).as_deref()
                    == Some("process_completed_successfully")
            })
            .map(|(name, _, _)| name)
            .collect();
        let mut pools = Vec::new();
        for (name, _, node) in processes.entries() {
            let part = format!("process {name}");
            let keys = node.keys(&ledger, text, &part, is_secret);
            pools.extend(process(
                import,
                text,
                name,
                &part,
                keys,
                awaited.contains(name),
            ));
        }
        for (steps, pool) in pools {
            import.draft.add_chain(steps, pool);
        }
    }
    Ok(())
}

fn top(import: &mut Import, dir: &Path, keys: &mut Keys<Node>) {
    if let Some(key) = keys.take("environment") {
        for (name, value) in variables(&key.taken()) {
            import
                .draft
                .defaults
                .add("env", &name, words::escaped(&value));
        }
    }
    if let Some(key) = keys.take("log_location") {
        let path = key.value.text().unwrap_or_default();
        let path = import.path(dir, &path);
        import.draft.defaults.set("log.stdout", path);
        key.otherwise("each pool writes this file; one for each is `log.stdout = \"{pool}.log\"`");
    }
    if let Some(key) = keys.take("log_level") {
        let level = match key.value.text().unwrap_or_default().as_str() {
            "fatal" | "panic" | "error" => "error",
            "warn" => "warn",
            "debug" => "debug",
            "trace" => "trace",
            _ => "info",
        };
        if level != "info" {
            import.draft.master.insert("log_level", level.into());
        }
        key.taken();
    }
    keys.not_needed(
        &[
            "version",
            "is_strict",
            "is_tui_disabled",
            "disable_env_expansion",
            "log_length",
            "ordered_shutdown",
            "name",
        ],
        "rotad does without",
    );
    if let Some(key) = keys.take("shell") {
        key.otherwise("commands that need a shell are run by `sh -c`");
    }
    keys.rest_lost("not a key that `rotad import` knows");
}

/// `NAME=VALUE` texts, or a map.
fn variables(node: &Node) -> Vec<(String, String)> {
    match &node.data {
        Data::Map(entries) => entries
            .iter()
            .map(|(name, _, value)| (name.clone(), value.text().unwrap_or_default()))
            .collect(),
        _ => node
            .texts()
            .into_iter()
            .filter_map(|text| {
                let (name, value) = text.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect(),
    }
}

fn process(
    import: &mut Import,
    text: &Text,
    name: &str,
    part: &str,
    mut keys: Keys<Node>,
    awaited: bool,
) -> Option<(Vec<Pool>, Pool)> {
    let dir = text.dir().to_owned();
    let file = text.name();
    let mut pool = Pool::new(name, part, format!("process {name} of {file}"));
    let Some(command) = keys.take_one_of(&["command", "entrypoint"]) else {
        keys.rest_lost("a process without `command`");
        return None;
    };
    if let Some(key) = keys.take("environment") {
        for (name, value) in variables(&key.taken()) {
            pool.keys.add("env", &name, words::escaped(&value));
        }
    }
    let line = match &command.value.data {
        Data::List(_) => shell_words::join(command.value.texts()),
        _ => command.value.text().unwrap_or_default(),
    };
    let (steps, differs) = words::from_shell(&mut pool, shell::parse(line.trim()), "sh", true);
    command.settle(&differs);
    if awaited {
        pool.keys.set("kind", "oneshot");
    } else {
        pool.keys.set("reload.surge", 0);
        pool.keys.set("restart.policy", "never");
    }
    if let Some(key) = keys.take("working_dir") {
        let path = import.path(&dir, &key.taken().text().unwrap_or_default());
        words::place_in(&mut pool, &path);
    }
    if let Some(key) = keys.take("replicas") {
        match key.value.number() {
            Some(number) if number >= 1.0 && !awaited => {
                pool.keys.set("count", number as i64);
                if number > 1.0 {
                    pool.keys.add("env", "PC_REPLICA_NUM", "{slot}");
                }
                key.taken();
            }
            _ => drop(key.lost("a number of at least 1")),
        }
    }
    if let Some(key) = keys.take("depends_on") {
        let mut differs = Vec::new();
        for (name, _, node) in key.value.entries() {
            pool.keys.push("after", super::draft::fit_name(name));
            let condition = node
                .get("condition")
                .and_then(Node::text)
                .unwrap_or_default();
            if condition == "process_started" || condition == "process_log_ready" {
                differs.push(format!("waits until {name} is ready"));
            }
        }
        key.settle(&differs);
    }
    if let Some(key) = keys.take("disabled") {
        if key.value.flag() == Some(true) {
            pool.off = true;
            key.lost("rotad starts every pool: this one is written as a comment");
        } else {
            key.taken();
        }
    }
    availability(&mut pool, &mut keys, awaited);
    probes(&mut pool, &mut keys, awaited);
    shutdown(&mut pool, &mut keys);
    if let Some(key) = keys.take("log_location") {
        let path = import.path(&dir, &key.taken().text().unwrap_or_default());
        pool.keys
            .set("log.stdout", words::escaped(&words::sink(&path)));
    }
    if let Some(key) = keys.take("log_configuration") {
        key.otherwise("`log.max_size` and `log.keep` say when a file is rotated");
    }
    if let Some(key) = keys.take("is_daemon") {
        if key.value.flag() == Some(true) {
            key.lost("a program that goes to the background by itself counts as ended: start it in the foreground");
        } else {
            key.taken();
        }
    }
    if let Some(key) = keys.take("namespace") {
        key.otherwise("names take a pattern: `rotad roll 'api-*'`");
    }
    if let Some(key) = keys.take("ready_log_line") {
        key.lost("`ready` asks an address, a URL or a command; READY=1 says it by itself");
    }
    if let Some(key) = keys.take("schedule") {
        key.lost("a job on a clock: a timer of systemd or a line of crontab");
    }
    keys.not_needed(
        &[
            "description",
            "disable_ansi_colors",
            "is_tty",
            "is_foreground",
            "is_elevated",
            "launch_timeout_seconds",
        ],
        "rotad does without",
    );
    keys.rest_lost("not a key that `rotad import` knows");
    Some((steps, pool))
}

fn availability(pool: &mut Pool, keys: &mut Keys<Node>, awaited: bool) {
    let Some(key) = keys.take("availability") else {
        return;
    };
    let mut differs = Vec::new();
    let about = &key.value;
    let restart = about
        .get("restart")
        .and_then(Node::text)
        .unwrap_or_default();
    if !awaited {
        match restart.as_str() {
            "always" | "unless-stopped" => pool.keys.set("restart.policy", "always"),
            "on_failure" => pool.keys.set("restart.policy", "on-failure"),
            "exit_on_failure" => {
                pool.keys.set("essential", "exit");
                differs.push("the master stops when the pool ends, also with 0".to_owned());
            }
            _ => {}
        }
    }
    if let Some(seconds) = about.get("backoff_seconds").and_then(Node::number) {
        pool.keys.set(
            "restart.delay",
            words::millis((seconds.max(0.001) * 1000.0) as u64),
        );
        differs.push("the delay is doubled with each death".to_owned());
    }
    if about
        .get("max_restarts")
        .and_then(Node::number)
        .is_some_and(|most| most > 0.0)
    {
        differs.push(
            "rotad never gives up, it tries later and later (`restart.max_delay`)".to_owned(),
        );
    }
    if about.get("exit_on_end").and_then(Node::flag) == Some(true) && !awaited {
        pool.keys.set("essential", "exit");
        if pool.keys.text("restart.policy") == Some("always") {
            pool.keys.set("restart.policy", "on-failure");
        }
    }
    for (name, _, _) in about.entries() {
        let known = [
            "restart",
            "backoff_seconds",
            "max_restarts",
            "exit_on_end",
            "exit_on_skipped",
        ];
        if !known.contains(&name.as_str()) {
            differs.push(format!("`{name}` is not known"));
        }
    }
    key.settle(&differs);
}

/// What a probe asks, as `ready` or `health` say it.
fn probe(node: &Node) -> Option<(&'static str, Value)> {
    if let Some(http) = node.get("http_get") {
        let text = |name: &str, default: &str| {
            http.get(name)
                .and_then(Node::text)
                .unwrap_or_else(|| default.to_owned())
        };
        let host = match text("host", "127.0.0.1").as_str() {
            "localhost" | "0.0.0.0" => "127.0.0.1".to_owned(),
            host => host.to_owned(),
        };
        let (path, port) = (text("path", "/"), text("port", "80"));
        let slash = if path.starts_with('/') { "" } else { "/" };
        return Some((
            "http",
            format!("{host}:{port}{slash}{}", words::escaped(&path)).into(),
        ));
    }
    let command = node.get("exec")?.get("command")?.text()?;
    let line = shell::parse(&words::escaped(&command));
    Some(("command", line.command.words("sh").into()))
}

fn probes(pool: &mut Pool, keys: &mut Keys<Node>, awaited: bool) {
    for (name, is_ready) in [("readiness_probe", true), ("liveness_probe", false)] {
        let Some(key) = keys.take(name) else { continue };
        let node = key.value.clone();
        let Some((way, value)) = probe(&node).filter(|_| !awaited) else {
            key.lost("neither `http_get` nor `exec`, or of a process that ends");
            continue;
        };
        let many = pool
            .keys
            .get("count")
            .is_some_and(|count| *count != 1.into());
        if many && way == "http" && !is_ready {
            key.lost("any worker of the pool would answer there: with `ports` and `{port}` each has an address of its own");
            continue;
        }
        let number = |name: &str| node.get(name).and_then(Node::number);
        let mut differs = Vec::new();
        if node
            .get("http_get")
            .and_then(|http| http.get("scheme"))
            .and_then(Node::text)
            .as_deref()
            == Some("https")
        {
            differs.push("asked without TLS".to_owned());
        }
        if is_ready {
            pool.keys
                .set("ready", Value::Table(vec![(way.to_owned(), value)]));
            if number("initial_delay_seconds").is_some() || number("period_seconds").is_some() {
                differs.push("asked at once, and often, until `ready_timeout`".to_owned());
            }
        } else {
            pool.keys.set(
                if way == "http" {
                    "health.http"
                } else {
                    "health.command"
                },
                value,
            );
            if let Some(seconds) = number("period_seconds") {
                pool.keys
                    .set("health.every", words::millis((seconds * 1000.0) as u64));
            }
            if let Some(seconds) = number("timeout_seconds") {
                pool.keys
                    .set("health.timeout", words::millis((seconds * 1000.0) as u64));
            }
            if let Some(failures) = number("failure_threshold") {
                pool.keys.set("health.failures", failures as i64);
            }
        }
        key.settle(&differs);
    }
}

fn shutdown(pool: &mut Pool, keys: &mut Keys<Node>) {
    let (mut signal, mut wait, mut tree) = ("TERM".to_owned(), 10.0, true);
    if let Some(key) = keys.take("shutdown") {
        let about = key.value.clone();
        let mut differs = Vec::new();
        if let Some(text) = about.get("signal").and_then(Node::text) {
            // A number there.
            match words::signal(&signal_name(&text)) {
                Some(name) => signal = name,
                None => differs.push("no such signal".to_owned()),
            }
        }
        if let Some(seconds) = about.get("timeout_seconds").and_then(Node::number) {
            wait = seconds.max(0.0);
        }
        tree = about.get("parent_only").and_then(Node::flag) != Some(true);
        if about.get("command").is_some() {
            differs.push("no program runs at the stop: the signal alone".to_owned());
        }
        key.settle(&differs);
    }
    let tree = tree && pool.keys.text("kind") != Some("oneshot");
    pool.keys.set(
        "stop",
        words::stop(&signal, &words::millis((wait * 1000.0) as u64), tree),
    );
}

/// The name of a signal that is given as a number.
fn signal_name(text: &str) -> String {
    let Ok(number) = text.parse::<i32>() else {
        return text.to_owned();
    };
    let signal = nix::sys::signal::Signal::try_from(number);
    signal.map_or_else(
        |_| text.to_owned(),
        |signal| signal.as_str().trim_start_matches("SIG").to_owned(),
    )
}
