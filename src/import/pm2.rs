//! pm2's ecosystem files: `apps` in JavaScript, JSON or YAML.

use super::draft::{Pool, Value};
use super::javascript;
use super::ledger::{Keys, Text, Unreadable};
use super::tree::{self, Data, Node};
use super::{Import, shell, words};
use std::path::Path;

/// Milliseconds from pm2's SIGINT to its SIGKILL.
const KILL_TIMEOUT: u64 = 1600;

/// Whether it looks like one.
pub(super) fn fits(text: &Text) -> bool {
    let name = text.name().to_lowercase();
    let extension = [".js", ".cjs", ".mjs", ".json", ".yml", ".yaml"]
        .iter()
        .any(|extension| name.ends_with(extension));
    let named = name.contains("ecosystem") || name.contains("pm2") || name == "process.json";
    let content = &text.text;
    extension && (named || (content.contains("apps") && content.contains("script")))
}

pub(super) fn read(import: &mut Import, texts: &[Text]) -> Result<(), Unreadable> {
    for text in texts {
        let name = text.file.to_string_lossy().to_lowercase();
        let root = if name.ends_with(".json") {
            tree::json(text)?
        } else if name.ends_with(".yml") || name.ends_with(".yaml") {
            tree::yaml(text)?
        } else {
            // A literal need not be run.
            match tree::javascript(text) {
                Ok(root) => root,
                Err(fault) => {
                    let root = javascript::evaluate(text, &fault)?;
                    import.remark(&format!(
                        "node has run {} to read it. Variables of the environment stay variables; what the file decides by \
                         them was decided as without them.",
                        text.file.display()
                    ));
                    root
                }
            }
        };
        file(import, text, &root);
    }
    Ok(())
}

fn file(import: &mut Import, text: &Text, root: &Node) {
    let ledger = import.ledger.clone();
    let apps: Vec<Node> = match root.get("apps") {
        Some(apps) => apps.items().into_iter().cloned().collect(),
        // A list of apps, or one app.
        None => root.items().into_iter().cloned().collect(),
    };
    if root.get("apps").is_some() {
        for (name, span, node) in root.entries().iter().filter(|(name, _, _)| name != "apps") {
            let key = ledger.key(name, "", (text, span.clone()), false, node.clone());
            if name == "deploy" {
                key.lost("stays with `pm2 deploy` or another tool: call `rotad reload` where it calls pm2");
            }
        }
    }
    for (number, node) in apps.iter().enumerate() {
        let part = format!("{}:{number}", text.file.display());
        let secret = |name: &str| name == "env" || name.starts_with("env_");
        let keys = node.keys(&ledger, text, &part, secret);
        app(import, text, &part, number, keys);
    }
}

fn app(import: &mut Import, text: &Text, part: &str, number: usize, mut keys: Keys<Node>) {
    let dir = text.dir().to_owned();
    let file = text.name();
    let script = keys.take_one_of(&["script", "cmd"]);
    let Some(script) = script else {
        keys.rest_lost("an app without `script`: pm2 refuses it, too");
        return;
    };
    let name = match keys.take("name") {
        Some(key) => plain(&key.taken()),
        None => Path::new(&plain(&script.value))
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    };
    let mut pool = Pool::new(&name, part, format!("app {} of {file}", number + 1));
    let mut here = import.path(&dir, ".");
    if let Some(key) = keys.take("cwd") {
        here = import.path(&dir, &plain(&key.taken()));
    }
    pool.keys.set("working_directory", here.clone());
    let steps = command(import, &mut pool, script, &mut keys);
    pool.keys.set("reload.surge", 0);
    let said = keys.peek("instances").is_some();
    let instances = instances(&mut pool, &mut keys);
    environment(import, &dir, &mut pool, &mut keys);
    let preload = sockets(import, &mut pool, &mut keys, &instances, said);
    restarts(&mut pool, &mut keys);
    stop(&mut pool, &mut keys, preload);
    logs(import, &dir, &mut pool, &mut keys, &instances);
    watch(&mut pool, &mut keys);
    if let Some(key) = keys.take_one_of(&["uid", "user"]) {
        pool.keys.set("user", plain(&key.value));
        pool.keys.set("clear_env", false);
        key.otherwise("HOME, USER, LOGNAME and SHELL are the user's, too");
    }
    if let Some(key) = keys.take("gid") {
        pool.keys.set("group", plain(&key.taken()));
    }
    if let Some(key) = keys.take("namespace") {
        key.otherwise("names take a pattern: `rotad roll 'api-*'`");
    }
    keys.not_needed(
        &[
            "pmx",
            "vizion",
            "automation",
            "trace",
            "disable_trace",
            "deep_monitoring",
            "force",
            "kill_retry_time",
            "append_env_to_name",
            "version",
            "description",
            "pid_file",
            "pid",
            "watch_options",
            "autostart",
        ],
        "rotad does without",
    );
    if let Some(key) = keys.take("post_update") {
        key.lost("a step of the deploy: a pool of `kind = \"oneshot\"` runs at each reload");
    }
    if let Some(key) = keys.take("filter_env") {
        key.lost("`clear_env = true` with `pass_env` says which variables are kept");
    }
    import.draft.add_chain(steps, pool);
}

/// A text without placeholders: of a variable its default.
fn plain(node: &Node) -> String {
    javascript::plain(&node.text().unwrap_or_default())
}

/// A text with placeholders.
fn template(text: &str) -> String {
    javascript::template(&words::escaped(text))
}

fn interpreter_of(script: &str) -> Option<&'static str> {
    let extension = Path::new(script).extension()?.to_str()?;
    Some(match extension {
        "js" | "cjs" | "mjs" => "node",
        "ts" | "tsx" => "bun",
        "py" => "python3",
        "rb" => "ruby",
        "php" => "php",
        "pl" => "perl",
        "sh" => "bash",
        _ => return None,
    })
}

fn command(
    import: &Import,
    pool: &mut Pool,
    script: super::ledger::Key<Node>,
    keys: &mut Keys<Node>,
) -> Vec<Pool> {
    let path = script.value.text().unwrap_or_default();
    let mut arguments = Vec::new();
    let mut options = Vec::new();
    let mut interpreter = None;
    if let Some(key) = keys.take_one_of(&["args"]) {
        arguments = list(&key.taken());
    }
    if let Some(key) = keys.take_one_of(&["node_args", "interpreter_args", "interpreterArgs"]) {
        options = list(&key.taken());
    }
    if let Some(key) = keys.take_one_of(&["interpreter", "exec_interpreter"]) {
        interpreter = key.taken().text();
    }
    if let Some(key) = keys.take("source_map_support")
        && key.taken().flag() == Some(true)
    {
        options.push("--enable-source-maps".to_owned());
    }
    // A script with blanks that is no file is a line for a shell.
    let folder = import
        .base
        .join(pool.keys.text("working_directory").unwrap_or_default());
    let is_line = path.contains(' ') && !folder.join(&path).exists();
    if is_line && interpreter.is_none() {
        let line = match arguments.is_empty() {
            true => path,
            false => format!("{path} {}", arguments.join(" ")),
        };
        let (steps, differs) = words::from_shell(pool, shell::parse(&line), "bash", true);
        script.settle(&differs);
        return steps;
    }
    let known = match interpreter.as_deref() {
        Some("none" | "") => None,
        Some(other) => Some(other.to_owned()),
        None => interpreter_of(&path).map(str::to_owned),
    };
    let mut differs = Vec::new();
    let mut line = Vec::new();
    match known {
        Some(program) => {
            line.push(template(&program));
            line.extend(options.iter().map(|word| template(word)));
            line.push(template(&path));
        }
        None => line.push(template(&path)),
    }
    line.extend(arguments.iter().map(|word| template(word)));
    if shell::is_wrapper(&line) {
        differs.push(
            "a wrapper stays above the program: the stop goes to the whole tree, as pm2's does"
                .to_owned(),
        );
    }
    if words::is_queue_worker(&line) {
        pool.keys.set("kind", "task");
    }
    pool.keys.set("command", words::command(&line));
    script.settle(&differs);
    Vec::new()
}

/// Words: a list, or one string.
fn list(node: &Node) -> Vec<String> {
    match &node.data {
        Data::List(_) => node.texts(),
        _ => {
            let text = node.text().unwrap_or_default();
            shell_words::split(&text).unwrap_or_else(|_| vec![text])
        }
    }
}

/// How many there are.
#[derive(PartialEq)]
enum Instances {
    One,
    Many(i64),
    Cpus,
}

fn instances(pool: &mut Pool, keys: &mut Keys<Node>) -> Instances {
    let Some(key) = keys.take("instances") else {
        return Instances::One;
    };
    match plain(&key.value).trim() {
        "max" | "0" => {
            pool.keys.set("count", "cpus");
            key.taken();
            Instances::Cpus
        }
        text => match text.parse::<i64>() {
            Ok(number) if number < 0 => {
                pool.keys.set("count", "cpus");
                key.otherwise("as many as there are CPUs: fewer cannot be said, but as a number");
                Instances::Cpus
            }
            Ok(number) => {
                pool.keys.set("count", number);
                key.taken();
                if number == 1 {
                    Instances::One
                } else {
                    Instances::Many(number)
                }
            }
            Err(_) => {
                key.lost("not a number: `count`");
                Instances::One
            }
        },
    }
}

fn environment(import: &Import, dir: &Path, pool: &mut Pool, keys: &mut Keys<Node>) {
    if let Some(key) = keys.take("env_file") {
        let files: Vec<String> = key
            .value
            .texts()
            .iter()
            .map(|file| import.path(dir, &javascript::plain(file)))
            .collect();
        key.taken();
        match &files[..] {
            [file] => pool.keys.set("env_file", file.clone()),
            files => pool.keys.set("env_file", files.to_vec()),
        }
    }
    let mut add = |node: &Node| {
        for (name, _, value) in node.entries() {
            match &value.data {
                Data::Map(_) | Data::List(_) => {
                    pool.keys.add("env", name, template(&json_text(value)));
                }
                _ => {
                    let text = value.text().unwrap_or_default();
                    pool.keys.add("env", name, template(&text));
                }
            }
        }
    };
    if let Some(key) = keys.take("env") {
        add(&key.taken());
    }
    let profile = import.profile.as_ref().map(|name| format!("env_{name}"));
    for key in keys.take_where(|name| name.starts_with("env_")) {
        if Some(&key.name) == profile.as_ref() {
            add(&key.taken());
        } else {
            let name = key.name.trim_start_matches("env_").to_owned();
            key.not_needed(format!("`rotad import --env {name}` takes it"));
        }
    }
    if let Some(key) = keys.take("instance_var") {
        let name = plain(&key.taken());
        pool.keys.add("env", &name, "{slot}");
    } else if pool
        .keys
        .get("count")
        .is_some_and(|count| *count != 1.into())
    {
        // pm2 sets it in every app.
        pool.keys.add("env", "NODE_APP_INSTANCE", "{slot}");
    }
}

fn json_text(node: &Node) -> String {
    match &node.data {
        Data::Null => "null".to_owned(),
        Data::Flag(flag) => flag.to_string(),
        Data::Number(number) => number.clone(),
        Data::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
        Data::List(items) => {
            let items: Vec<String> = items.iter().map(json_text).collect();
            format!("[{}]", items.join(","))
        }
        Data::Map(entries) => {
            let entry = |(name, _, value): &(String, _, Node)| {
                format!(
                    "{}:{}",
                    serde_json::Value::from(name.as_str()),
                    json_text(value)
                )
            };
            let entries: Vec<String> = entries.iter().map(entry).collect();
            format!("{{{}}}", entries.join(","))
        }
    }
}

/// The port that the app listens on, if `env` says it.
fn port(pool: &Pool) -> Option<u16> {
    let Some(Value::Table(entries)) = pool.keys.get("env") else {
        return None;
    };
    let (_, value) = entries.iter().find(|(name, _)| name == "PORT")?;
    match value {
        Value::Text(text) => {
            // Of a variable its default.
            let default = text
                .strip_prefix("{env:")
                .and_then(|rest| rest.strip_suffix('}'))
                .and_then(|rest| rest.split_once(":-"));
            let text = default.map_or(text.as_str(), |(_, default)| default);
            text.parse().ok().filter(|port| *port > 0)
        }
        _ => None,
    }
}

/// The socket that a cluster shares. Returns whether the preload hands it to the program.
fn sockets(
    import: &mut Import,
    pool: &mut Pool,
    keys: &mut Keys<Node>,
    instances: &Instances,
    said: bool,
) -> bool {
    let node = runs_node(pool);
    let mode = keys.peek("exec_mode").and_then(Node::text);
    // Without a mode, pm2 runs a script of node with `instances` as a cluster.
    let cluster = mode.map_or(said && node, |mode| mode.starts_with("cluster"));
    let mut port = port(pool);
    let mut preload = false;
    if let Some(key) = keys.take("increment_var") {
        let name = plain(&key.value);
        match (port, instances) {
            (Some(first), Instances::Many(count)) if name == "PORT" => {
                let last = i64::from(first) + count - 1;
                pool.keys.set("ports", format!("{first}-{last}"));
                pool.keys.add("env", "PORT", "{port}");
                key.otherwise(
                    "each worker gets a free port of `ports`, not always that of its number",
                );
            }
            _ => drop(
                key.lost("`ports` and `{port}` give each worker a port; `{slot}` is its number"),
            ),
        }
    }
    if pool.keys.get("ports").is_some() {
        port = None;
    }
    if let (true, true, Some(port)) = (cluster, node, port) {
        let listener = import
            .draft
            .listener(&pool.name, &format!("0.0.0.0:{port}"));
        pool.keys.push("listen", listener);
        pool.keys.add("env", "PORT", port.to_string());
        pool.keys.remove("reload.surge");
        with_preload(pool);
        preload = true;
    }
    if let Some(key) = keys.take("exec_mode") {
        match (cluster, port) {
            (false, _) => drop(key.taken()),
            (true, Some(port)) if preload => drop(key.otherwise(format!(
                "rotad opens port {port}, and by the preload listen({port}) takes it: the program needs no change \
                 (docs/programs/node.md)"
            ))),
            (true, _) if *instances == Instances::One => drop(key.otherwise(
                "one worker opens its port by itself; with `listen`, and the preload for node, no request is lost in a \
                 roll (docs/programs/node.md)",
            )),
            (true, _) => drop(key.otherwise(
                "the workers cannot share a port that each of them opens: give the pool `listen` with its address, and \
                 node the preload (docs/programs/node.md)",
            )),
        }
    } else if *instances != Instances::One && pool.keys.get("ports").is_none() && !preload {
        import.remark(
            "Several workers of a program that opens a port by itself need `listen`, or `ports` (docs/ports.md).",
        );
    }
    if let Some(key) = keys.take("wait_ready") {
        if key.value.flag() != Some(true) {
            key.taken();
        } else if preload {
            pool.keys.set("ready", "notify");
            key.taken();
        } else {
            key.otherwise(
                "there is no process.send without the preload: `process.send?.(\"ready\")`; `ready = { connect = \
                 \"HOST:PORT\" }` asks from outside",
            );
        }
    }
    if let Some(key) = keys.take("listen_timeout") {
        match key.value.number() {
            Some(millis) => {
                pool.keys.set("ready_timeout", words::millis(millis as u64));
                key.otherwise("not ready in time is a failure, and the old worker stays; pm2 goes on without a word");
            }
            None => drop(key.lost("not a number of milliseconds")),
        }
    }
    preload
}

/// The program is node.
fn runs_node(pool: &Pool) -> bool {
    match pool.keys.get("command") {
        Some(Value::Text(line)) => line.split(' ').next() == Some("node"),
        Some(Value::List(words)) => words.first() == Some(&"node".into()),
        _ => false,
    }
}

/// Lets the program take rotad's socket by the preload.
fn with_preload(pool: &mut Pool) {
    const OPTIONS: [&str; 2] = ["--require", "{preload:node}"];
    let command = match pool.keys.get("command") {
        Some(Value::Text(line)) => line
            .replacen("node", &format!("node {}", OPTIONS.join(" ")), 1)
            .into(),
        Some(Value::List(words)) => {
            let options = OPTIONS.map(Value::from);
            let words = words[..1]
                .iter()
                .cloned()
                .chain(options)
                .chain(words[1..].iter().cloned());
            Value::List(words.collect())
        }
        _ => return,
    };
    pool.keys.set("command", command);
}

fn restarts(pool: &mut Pool, keys: &mut Keys<Node>) {
    let codes = keys.take("stop_exit_codes");
    let mut never = false;
    if let Some(key) = keys.take("autorestart") {
        never = key.taken().flag() == Some(false);
        if never {
            pool.keys.set("restart.policy", "never");
        }
    }
    if let Some(key) = codes {
        let list: Vec<Value> = key
            .value
            .items()
            .into_iter()
            .filter_map(|node| Some(Value::Number(node.number()? as i64)))
            .collect();
        if never {
            key.not_needed("with autorestart false nothing is restarted");
        } else {
            pool.keys.set("restart.policy", "on-failure");
            pool.keys
                .set("restart.success_exit_codes", Value::List(list));
            key.taken();
        }
    }
    if let Some(key) = keys.take_one_of(&["max_memory_restart"]) {
        match words::bytes(&plain(&key.value)) {
            Some(bytes) if bytes > 0 => {
                pool.keys.set("recycle.max_rss", words::size(bytes));
                key.taken();
            }
            _ => drop(key.lost("not a size: `recycle.max_rss`")),
        }
    }
    if let Some(key) = keys.take("max_restarts") {
        key.otherwise("rotad never gives up, it tries later and later (`restart.max_delay`)");
    }
    if let Some(key) = keys.take("min_uptime") {
        match time(&key.value) {
            Some(millis) => {
                pool.keys.set("restart.stable_after", words::millis(millis));
                key.taken();
            }
            None => drop(key.lost("not a time: `restart.stable_after`")),
        }
    }
    if let Some(key) = keys.take("restart_delay") {
        match time(&key.value) {
            Some(0) => drop(key.taken()),
            Some(millis) => {
                pool.keys.set("restart.delay", words::millis(millis));
                if millis > 30_000 {
                    pool.keys.set("restart.max_delay", words::millis(millis));
                }
                key.otherwise("the first death of a worker that was ready: at once; then this, doubled each time");
            }
            None => drop(key.lost("not a time: `restart.delay`")),
        }
    }
    if let Some(key) = keys.take("exp_backoff_restart_delay") {
        match time(&key.value) {
            Some(0) => drop(key.taken()),
            Some(millis) => {
                pool.keys.set("restart.delay", words::millis(millis));
                pool.keys.set("restart.max_delay", "15s");
                key.taken();
            }
            None => drop(key.lost("not a time: `restart.delay`")),
        }
    }
    if let Some(key) = keys.take_one_of(&["cron_restart", "cron"]) {
        let pattern = plain(&key.value);
        match daily(&pattern) {
            _ if pattern.is_empty() || pattern == "0" => drop(key.taken()),
            _ if never => drop(key.lost(
                "a job on a clock: a timer of systemd or a line of crontab that runs `rotad start POOL`, or the command itself",
            )),
            Some(at) => {
                pool.keys.set("recycle.at", at);
                key.otherwise("replaced gracefully, one at a time, each day at this local time");
            }
            None => drop(key.lost(
                "`recycle.at` is a time of day; for others a line of crontab: `rotad roll POOL`",
            )),
        }
    }
}

/// `"HH:MM"` of a pattern that means once a day.
fn daily(pattern: &str) -> Option<String> {
    let fields: Vec<&str> = pattern.split_whitespace().collect();
    // The first of six fields are seconds.
    let fields = match &fields[..] {
        [seconds, rest @ ..] if rest.len() == 5 && seconds.parse::<u8>().is_ok() => rest,
        fields => fields,
    };
    let [minute, hour, "*", "*", "*"] = fields else {
        return None;
    };
    let (minute, hour): (u8, u8) = (minute.parse().ok()?, hour.parse().ok()?);
    (minute < 60 && hour < 24).then(|| format!("{hour:02}:{minute:02}"))
}

/// Milliseconds: a number of them, or `5s`, `1h`.
fn time(node: &Node) -> Option<u64> {
    let text = plain(node);
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let unit = match text[end..].trim() {
        "" | "ms" => 1.0,
        "s" => 1000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return None,
    };
    let millis = number * unit;
    (millis.is_finite() && (0.0..1e15).contains(&millis)).then_some(millis as u64)
}

fn stop(pool: &mut Pool, keys: &mut Keys<Node>, preload: bool) {
    let mut millis = KILL_TIMEOUT;
    if let Some(key) = keys.take_one_of(&["kill_timeout"]) {
        match time(&key.value) {
            Some(time) => {
                millis = time;
                key.taken();
            }
            None => drop(key.lost("not a number of milliseconds: `stop`")),
        }
    }
    let mut tree = true;
    if let Some(key) = keys.take("treekill") {
        tree = key.taken().flag() != Some(false);
    }
    if let Some(key) = keys.take("shutdown_with_message") {
        if key.value.flag() == Some(true) && !preload {
            key.lost("workers get a signal, no message: process.on(\"SIGINT\", …)");
        } else {
            key.taken();
        }
    }
    // The preload drains at TERM, then calls the handler of INT or of the message.
    let (signal, tree) = if preload {
        ("TERM", false)
    } else {
        ("INT", tree)
    };
    pool.keys
        .set("stop", words::stop(signal, &words::millis(millis), tree));
}

fn logs(
    import: &Import,
    dir: &Path,
    pool: &mut Pool,
    keys: &mut Keys<Node>,
    instances: &Instances,
) {
    let mut merged = *instances == Instances::One;
    if let Some(key) = keys.take_one_of(&["merge_logs", "combine_logs"]) {
        merged |= key.taken().flag() == Some(true);
    }
    let sinks = [
        ("log.stdout", ["out_file", "output", "out", "out_log"]),
        ("log.stderr", ["error_file", "error", "err_file", "err_log"]),
    ];
    let mut files = Vec::new();
    for (ours, names) in sinks {
        let Some(key) = keys.take_one_of(&names) else {
            continue;
        };
        let path = key.value.text().unwrap_or_default();
        let sink = match path.to_lowercase().as_str() {
            "null" | "/dev/null" | "" => "null".to_owned(),
            _ => match words::sink(&path) {
                file if words::is_file(&file) => {
                    let file = template(&import.path(dir, &file));
                    if merged { file } else { numbered(&file) }
                }
                other => other,
            },
        };
        files.push(sink.clone());
        pool.keys.set(ours, sink);
        key.taken();
    }
    if let Some(key) = keys.take_one_of(&["log_file", "log"]) {
        if files.is_empty() {
            // Both streams in one file: what `stderr` does by itself.
            let path = import.path(dir, &plain(&key.value));
            pool.keys.set("log.stdout", template(&path));
            files.push(path);
            key.taken();
        } else {
            key.lost("no third file with both: `log.stderr = \"stdout\"` puts both into one");
        }
    }
    if pool.keys.get("log.stdout").is_none() && !files.is_empty() {
        pool.keys.set("log.stdout", "master");
    }
    if pool.keys.get("log.stderr").is_none() && keys.peek("log_file").is_none() && files.len() == 1
    {
        let both = pool.keys.text("log.stdout").is_some_and(words::is_file);
        if !both {
            pool.keys.remove("log.stdout");
        }
    }
    let has_file = files.iter().any(|file| words::is_file(file));
    for name in ["time", "log_date_format"] {
        let Some(key) = keys.take(name) else { continue };
        let wanted = key.value.flag() != Some(false) && !plain(&key.value).is_empty();
        if !wanted {
            key.taken();
        } else if !has_file {
            key.not_needed("lines in the master's log have their time");
        } else {
            pool.keys.set("log.timestamps", true);
            if name == "time" {
                key.taken();
            } else {
                key.otherwise("the time before each line has a form of its own (RFC 3339)");
            }
        }
    }
    if let Some(key) = keys.take("log_type") {
        if key.value.text().as_deref() == Some("json") {
            key.otherwise("`log_format = \"json\"` of [master] is for its own log, in which output without a file is");
        } else {
            key.taken();
        }
    }
    for (name, ours) in [("max_size", "log.max_size"), ("retain", "log.keep")] {
        let Some(key) = keys.take(name) else { continue };
        match (words::bytes(&plain(&key.value)), has_file) {
            (_, false) => drop(key.not_needed("there is no file of its own to be rotated")),
            (Some(bytes), true) if ours == "log.max_size" => {
                pool.keys.set(ours, words::size(bytes));
                key.taken();
            }
            (Some(number), true) => {
                pool.keys.set(ours, i64::try_from(number).unwrap_or(10));
                key.taken();
            }
            (None, true) => drop(key.lost("not a number")),
        }
    }
    keys.not_needed(&["log_rotate", "rotate"], "log files are rotated at 50 MiB");
    if let Some(key) = keys.take("compress") {
        key.lost("rotated files are not compressed");
    }
    if let Some(key) = keys.take("disable_logs")
        && key.taken().flag() == Some(true)
    {
        pool.keys.set("log.stdout", "null");
        pool.keys.remove("log.stderr");
    }
}

/// `out.log` of one instance: `out-{slot}.log`.
fn numbered(file: &str) -> String {
    match file.rsplit_once('.') {
        Some((stem, extension)) if !extension.contains('/') && !stem.is_empty() => {
            format!("{stem}-{{slot}}.{extension}")
        }
        _ => format!("{file}-{{slot}}"),
    }
}

fn watch(pool: &mut Pool, keys: &mut Keys<Node>) {
    let mut patterns: Vec<String> = Vec::new();
    if let Some(key) = keys.take("watch") {
        match &key.value.data {
            Data::Flag(true) => {
                patterns = vec!["**".to_owned(), "!node_modules/**".to_owned()];
                key.otherwise(
                    "all files below the directory; name those that count, such as \"src/**/*.js\"",
                );
            }
            Data::List(_) | Data::Text(_) => {
                for path in key.value.texts() {
                    let path = path.trim_start_matches("./").trim_end_matches('/');
                    let name = path.rsplit('/').next().unwrap_or(path);
                    if path.contains('*') || name.contains('.') {
                        patterns.push(path.to_owned());
                    } else {
                        patterns.push(format!("{path}/**"));
                    }
                }
                key.otherwise("changed content counts, not a new time; the old worker serves until the new one does");
            }
            _ => drop(key.taken()),
        }
    }
    if let Some(key) = keys.take("ignore_watch") {
        if patterns.is_empty() {
            key.not_needed("nothing is watched");
        } else {
            for path in key.value.texts() {
                let path = path.trim_start_matches("./").trim_end_matches('/');
                let name = path.rsplit('/').next().unwrap_or(path);
                let pattern = match path.contains('*') || name.trim_start_matches('.').contains('.')
                {
                    true => format!("!{path}"),
                    false => format!("!{path}/**"),
                };
                if !patterns.contains(&pattern) {
                    patterns.push(pattern);
                }
            }
            key.taken();
        }
    }
    if let Some(key) = keys.take("watch_delay") {
        match time(&key.value) {
            Some(millis) if !patterns.is_empty() => {
                pool.keys.set("reload.debounce", words::millis(millis));
                key.taken();
            }
            _ => drop(key.not_needed("nothing is watched")),
        }
    }
    if !patterns.is_empty() {
        pool.keys.set("reload.watch", patterns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day() {
        assert_eq!(daily("0 4 * * *").as_deref(), Some("04:00"));
        assert_eq!(daily("0 30 23 * * *").as_deref(), Some("23:30"));
        for other in ["*/5 * * * *", "0 4 * * 1", "0", "60 1 * * *", "@daily"] {
            assert_eq!(daily(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_for_each_instance() {
        assert_eq!(numbered("logs/out.log"), "logs/out-{slot}.log");
        assert_eq!(numbered("/var/log.d/out"), "/var/log.d/out-{slot}");
    }
}
