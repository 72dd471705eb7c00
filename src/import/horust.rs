//! Horust: one TOML file for each service.

use super::draft::{Pool, Value, fit_name};
use super::ledger::{Keys, Text, Unreadable};
use super::tree::{self, Data, Node};
use super::{Import, shell, words};

/// Whether it looks like one.
pub(super) fn fits(text: &Text) -> bool {
    let name = text.file.to_string_lossy();
    let has = |word: &str| {
        text.text
            .lines()
            .any(|line| line.trim_start().starts_with(word))
    };
    name.ends_with(".toml")
        && has("command")
        && !has("[pool")
        && [
            "start-",
            "working-directory",
            "[healthiness]",
            "[termination]",
            "[failure]",
            "[restart]",
            "[environment]",
        ]
        .into_iter()
        .any(has)
}

pub(super) fn read(import: &mut Import, texts: &[Text]) -> Result<(), Unreadable> {
    for text in texts {
        let root = tree::toml(text)?;
        let ledger = import.ledger.clone();
        let name = text
            .file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut keys: Keys<Node> = Keys::default();
        // Keys of tables by their whole name.
        for (name_of_key, span, node) in root.entries() {
            match &node.data {
                Data::Map(entries) => {
                    for (inner, span, node) in entries {
                        let whole = format!("{name_of_key}.{inner}");
                        let secret = whole == "environment.additional";
                        keys.push(ledger.key(
                            whole,
                            &name,
                            (text, span.clone()),
                            secret,
                            node.clone(),
                        ));
                    }
                }
                _ => keys.push(ledger.key(
                    name_of_key,
                    &name,
                    (text, span.clone()),
                    false,
                    node.clone(),
                )),
            }
        }
        service(import, text, &name, keys);
    }
    Ok(())
}

fn service(import: &mut Import, text: &Text, name: &str, mut keys: Keys<Node>) {
    let dir = text.dir().to_owned();
    let file = text.name();
    let mut pool = Pool::new(name, name, file);
    let Some(command) = keys.take("command") else {
        keys.rest_lost("a service without `command`");
        return;
    };
    let line = command.value.text().unwrap_or_default();
    match shell_words::split(&line) {
        Ok(line) if !line.is_empty() => {
            let escaped: Vec<String> = line.iter().map(|word| words::escaped(word)).collect();
            if words::is_queue_worker(&escaped) {
                pool.keys.set("kind", "task");
            }
            let mut differs = Vec::new();
            if shell::is_wrapper(&line) {
                differs.push(
                    "a shell or wrapper stays above the program: the stop goes to the whole tree"
                        .to_owned(),
                );
            }
            if line.iter().any(|word| word.contains("${")) {
                differs.push("`{env:NAME}` puts a variable in, not `${NAME}`".to_owned());
            }
            pool.keys.set("command", words::command(&escaped));
            command.settle(&differs);
            pool.keys
                .set("stop", words::stop("TERM", "5s", shell::is_wrapper(&line)));
        }
        _ => drop(command.lost("a quote in it is never closed")),
    }
    pool.keys.set("reload.surge", 0);
    pool.keys.set("restart.policy", "never");
    let text_of = |node: &Node| node.text().unwrap_or_default();
    if let Some(key) = keys.take("working-directory") {
        let path = import.path(&dir, &text_of(&key.taken()));
        pool.keys.set("working_directory", path);
    }
    if let Some(key) = keys.take("start-after") {
        for other in key.value.texts() {
            let other = other.strip_suffix(".toml").unwrap_or(&other).to_owned();
            pool.keys.push("after", fit_name(&other));
        }
        key.taken();
    }
    if let Some(key) = keys.take("start-delay") {
        key.otherwise("`after` and `ready` of the pools order the start");
    }
    for (theirs, ours) in [("stdout", "log.stdout"), ("stderr", "log.stderr")] {
        let Some(key) = keys.take(theirs) else {
            continue;
        };
        let value = text_of(&key.taken());
        let sink = match value.to_uppercase().as_str() {
            "STDOUT" | "STDERR" => "inherit".to_owned(),
            "NULL" => "null".to_owned(),
            _ => match words::sink(&value) {
                path if words::is_file(&path) => import.path(&dir, &path),
                other => other,
            },
        };
        pool.keys.set(ours, sink);
    }
    if pool.keys.get("log.stdout") == pool.keys.get("log.stderr") {
        pool.keys.remove("log.stderr");
    }
    if let Some(key) = keys.take("stdout-rotate-size") {
        match words::bytes(&text_of(&key.value)) {
            Some(bytes) if bytes > 0 => {
                pool.keys.set("log.max_size", words::size(bytes));
                key.taken();
            }
            _ => drop(key.taken()),
        }
    }
    if let Some(key) = keys.take("stdout-should-append-timestamp-to-filename") {
        key.otherwise("rotated files are numbered");
    }
    if let Some(key) = keys.take("user") {
        pool.keys.set("user", text_of(&key.taken()));
    }
    if let Some(key) = keys.take("signal-rewrite") {
        key.lost("signals reach the worker as `stop` and `rotad signal` say");
    }
    restarts(&mut pool, &mut keys);
    health(&mut pool, &mut keys);
    environment(&mut pool, &mut keys);
    termination(&mut pool, &mut keys);
    for key in keys.take_where(|name| name.starts_with("resource-limit.")) {
        key.lost("a limit of a cgroup: of the unit of rotad for all pools; `recycle.max_rss` replaces a worker that grows");
    }
    keys.rest_lost("not a key that `rotad import` knows");
    import.draft.add(pool);
}

fn restarts(pool: &mut Pool, keys: &mut Keys<Node>) {
    if let Some(key) = keys.take("restart.strategy") {
        match key.value.text().unwrap_or_default().as_str() {
            "always" => pool.keys.set("restart.policy", "always"),
            "on-failure" => pool.keys.set("restart.policy", "on-failure"),
            _ => pool.keys.set("restart.policy", "never"),
        }
        key.taken();
    }
    if let Some(key) = keys.take("restart.backoff") {
        let text = key.value.text().unwrap_or_default();
        if crate::config::duration(&text).is_ok() && !text.starts_with('0') {
            pool.keys.set("restart.delay", text);
            key.otherwise("the delay is doubled with each death");
        } else {
            key.taken();
        }
    }
    if let Some(key) = keys.take("restart.attempts") {
        key.otherwise("rotad never gives up, it tries later and later (`restart.max_delay`)");
    }
    if let Some(key) = keys.take("failure.successful-exit-code") {
        let codes: Vec<Value> = key
            .value
            .items()
            .into_iter()
            .filter_map(|node| Some(Value::Number(node.number()? as i64)))
            .collect();
        pool.keys
            .set("restart.success_exit_codes", Value::List(codes));
        key.taken();
    }
    if let Some(key) = keys.take("failure.strategy") {
        match key.value.text().unwrap_or_default().as_str() {
            "ignore" => drop(key.taken()),
            "shutdown" => {
                if pool.keys.text("restart.policy") == Some("always") {
                    pool.keys.set("restart.policy", "on-failure");
                    pool.keys.set("essential", "60s");
                    key.otherwise("the master stops when no worker has been ready for a minute");
                } else {
                    pool.keys.set("essential", "exit");
                    key.otherwise("the master stops when the pool has ended, also with success");
                }
            }
            _ => {
                drop(key.lost("pools that come `after` it are stopped by name: `rotad stop POOL…`"))
            }
        }
    }
}

fn health(pool: &mut Pool, keys: &mut Keys<Node>) {
    if let Some(key) = keys.take("healthiness.http-endpoint") {
        let text = key.value.text().unwrap_or_default();
        let address = text
            .strip_prefix("http://")
            .unwrap_or(&text)
            .replace("localhost", "127.0.0.1");
        pool.keys.set(
            "ready",
            Value::Table(vec![("http".to_owned(), address.clone().into())]),
        );
        pool.keys.set("health.http", address);
        key.taken();
    }
    if let Some(key) = keys.take("healthiness.file-path") {
        let file = key.value.text().unwrap_or_default();
        let command = vec!["test".to_owned(), "-e".to_owned(), words::escaped(&file)];
        pool.keys.set(
            "ready",
            Value::Table(vec![("command".to_owned(), command.clone().into())]),
        );
        pool.keys.set("health.command", command);
        key.taken();
    }
    if let Some(key) = keys.take("healthiness.command") {
        let line = shell_words::split(&key.value.text().unwrap_or_default()).unwrap_or_default();
        let line: Vec<String> = line.iter().map(|word| words::escaped(word)).collect();
        pool.keys.set(
            "ready",
            Value::Table(vec![("command".to_owned(), line.clone().into())]),
        );
        pool.keys.set("health.command", line);
        key.taken();
    }
    if let Some(key) = keys.take("healthiness.max-failed") {
        match key.value.number() {
            Some(number) if number >= 1.0 => {
                pool.keys.set("health.failures", number as i64);
                key.taken();
            }
            _ => drop(key.lost("a number of at least 1")),
        }
    }
}

fn environment(pool: &mut Pool, keys: &mut Keys<Node>) {
    let mut keep = false;
    if let Some(key) = keys.take("environment.keep-env") {
        keep = key.taken().flag() == Some(true);
    }
    pool.keys.set("clear_env", !keep);
    if let Some(key) = keys.take("environment.re-export") {
        let names = key.value.texts();
        if keep {
            key.not_needed("the whole environment is kept");
        } else {
            key.taken();
            pool.keys.set("pass_env", names);
        }
    }
    if let Some(key) = keys.take("environment.additional") {
        let entries = key.taken();
        for (name, _, value) in entries.entries() {
            pool.keys.add(
                "env",
                name,
                words::escaped(&value.text().unwrap_or_default()),
            );
        }
    }
}

fn termination(pool: &mut Pool, keys: &mut Keys<Node>) {
    let tree = matches!(pool.keys.get("stop"), Some(Value::List(_)));
    let (mut signal, mut wait) = ("TERM".to_owned(), "5s".to_owned());
    if let Some(key) = keys.take("termination.signal") {
        match words::signal(&key.value.text().unwrap_or_default()) {
            Some(name) => {
                signal = name;
                key.taken();
            }
            None => drop(key.lost("no such signal")),
        }
    }
    if let Some(key) = keys.take("termination.wait") {
        let text = key.value.text().unwrap_or_default();
        if crate::config::duration(&text).is_ok() {
            wait = text;
            key.taken();
        } else {
            key.lost("not a time");
        }
    }
    if let Some(key) = keys.take("termination.die-if-failed") {
        key.lost("pools are stopped by name, or all together: `essential` of the other pool stops the master");
    }
    pool.keys.set("stop", words::stop(&signal, &wait, tree));
}
