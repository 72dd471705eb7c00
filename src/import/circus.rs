//! circus.ini: watchers, sockets and variables.

use super::draft::{Pool, Value};
use super::ini::{self, Dialect, Section};
use super::ledger::{Key, Keys, Text, Unreadable};
use super::{Import, shell, words};
use std::fs;
use std::path::Path;

/// Whether it looks like one.
pub(super) fn fits(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start();
        line.starts_with("[circus]") || line.starts_with("[watcher:")
    })
}

fn is_secret(section: &str, _: &str) -> bool {
    section == "env" || section.starts_with("env:")
}

pub(super) fn read(import: &mut Import, texts: &[Text]) -> Result<(), Unreadable> {
    let mut sections = Vec::new();
    for text in texts {
        read_into(import, text, &mut sections)?;
        for path in included(text, &mut sections) {
            let content = fs::read_to_string(&path)
                .map_err(|error| Unreadable::file(&path, format!("cannot be read: {error}")))?;
            read_into(import, &Text::new(&path, &content), &mut sections)?;
        }
    }
    let environments = environments(import, &mut sections);
    let mut pools: Vec<(i64, Vec<Pool>, Pool)> = Vec::new();
    // Sockets first: watchers name them.
    for section in &mut sections {
        if let Some(name) = section.named("socket").map(str::to_owned) {
            socket(import, &name, &mut section.keys);
        }
    }
    for section in &mut sections {
        if let Some(name) = section.named("watcher").map(str::to_owned) {
            pools.extend(watcher(import, section, &name, &environments));
        } else if section.name == "circus" {
            let dir = section.text.dir().to_owned();
            arbiter(import, &dir, &mut section.keys);
        } else if section.named("plugin").is_some() {
            section.keys.rest_lost(
                "rotad has no plugins; `rotad events -f --json` prints each event as a line",
            );
        }
    }
    // The bigger one starts first.
    let mut levels: Vec<i64> = pools.iter().map(|(priority, _, _)| *priority).collect();
    levels.sort_unstable_by(|a, b| b.cmp(a));
    levels.dedup();
    let names: Vec<(i64, String)> = pools
        .iter()
        .filter(|(_, _, pool)| !pool.off)
        .map(|(priority, _, pool)| (*priority, pool.name.clone()))
        .collect();
    for (priority, steps, mut pool) in pools {
        let at = levels.iter().position(|level| *level == priority);
        if let (Some(above), false) = (at.and_then(|at| at.checked_sub(1)), pool.off) {
            for (_, name) in names.iter().filter(|(other, _)| *other == levels[above]) {
                pool.keys.push("after", name.clone());
            }
        }
        import.draft.add_chain(steps, pool);
    }
    for section in &mut sections {
        section
            .keys
            .rest_lost("not a key that `rotad import` knows");
    }
    Ok(())
}

fn read_into(import: &Import, text: &Text, sections: &mut Vec<Section>) -> Result<(), Unreadable> {
    ini::read(
        text,
        Dialect::Circus,
        &import.ledger,
        sections,
        "",
        is_secret,
    )
}

fn included(text: &Text, sections: &mut [Section]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for section in sections
        .iter_mut()
        .filter(|section| section.name == "circus")
    {
        for (name, pattern) in [("include", ""), ("include_dir", "/*.ini")] {
            let Some(key) = section.take(name) else {
                continue;
            };
            for word in key.taken().split_whitespace() {
                let path = text.dir().join(format!("{word}{pattern}"));
                found.extend(
                    glob::glob(&path.to_string_lossy())
                        .into_iter()
                        .flatten()
                        .flatten(),
                );
            }
        }
    }
    found
}

/// Variables for the watchers of these names and patterns.
struct Environment {
    names: Vec<String>,
    variables: Vec<(String, String)>,
}

/// `[env]` and `[env:NAME,PATTERN*]`: the watchers that each is for, and its variables.
fn environments(import: &mut Import, sections: &mut [Section]) -> Vec<Environment> {
    let mut found = Vec::new();
    for section in sections {
        let names = match section.named("env") {
            Some(names) => names
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect(),
            None if section.name == "env" => Vec::new(),
            None => continue,
        };
        let mut variables = Vec::new();
        for key in section.keys.take_where(|_| true) {
            // Names of variables are written in capitals there, whatever the reader makes of them.
            let name = written_name(&section.text, &key.name);
            let mut differs = Vec::new();
            let value = expand(&key.value, &mut differs);
            key.settle(&differs);
            variables.push((name, value));
        }
        if names.is_empty() {
            for (name, value) in variables {
                import.draft.defaults.add("env", &name, value);
            }
        } else {
            found.push(Environment { names, variables });
        }
    }
    found
}

/// The name of a key as the file has it, not in lower case.
fn written_name(text: &Text, name: &str) -> String {
    let written = text.text.lines().find_map(|line| {
        let (written, _) = line.split_once(['=', ':'])?;
        (written.trim().to_lowercase() == name).then(|| written.trim().to_owned())
    });
    written.unwrap_or_else(|| name.to_owned())
}

fn arbiter(import: &mut Import, dir: &Path, keys: &mut Keys<String>) {
    if let Some(key) = keys.take("loglevel") {
        let level = match key.value.to_lowercase().as_str() {
            "critical" | "error" => "error",
            "warning" => "warn",
            "debug" => "debug",
            _ => "info",
        };
        if level != "info" {
            import.draft.master.insert("log_level", level.into());
        }
        key.taken();
    }
    if let Some(key) = keys.take("logoutput") {
        if key.value == "-" {
            key.not_needed("the log of `rotad run` goes to stderr");
        } else {
            let path = import.path(dir, &key.taken());
            import.draft.master.insert("log_file", path.into());
        }
    }
    if let Some(key) = keys.take("pidfile") {
        let path = import.path(dir, &key.taken());
        import.draft.master.insert("pid_file", path.into());
    }
    if let Some(key) = keys.take("umask") {
        import.draft.master.insert("umask", key.taken().into());
    }
    for (name, what) in [
        (
            "endpoint",
            "`rotad status`, `rotad stop` …: the control socket of the master, no TCP",
        ),
        (
            "pubsub_endpoint",
            "`rotad events -f --json` prints each event as a line",
        ),
        (
            "stats_endpoint",
            "`rotad status -w --json` has memory and CPU",
        ),
        ("statsd", "`rotad status --json` has what it would say"),
        ("httpd", "the master has no port for HTTP"),
        ("httpd_host", "the master has no port for HTTP"),
        ("httpd_port", "the master has no port for HTTP"),
        ("warmup_delay", "`ready` and `after` order the start"),
    ] {
        if let Some(key) = keys.take(name) {
            key.otherwise(what);
        }
    }
    keys.not_needed(
        &[
            "check_delay",
            "debug",
            "stream_backend",
            "pidfile_dir",
            "endpoint_owner",
            "papa_endpoint",
            "debug_gc",
        ],
        "rotad sees deaths at once, and does without",
    );
}

fn socket(import: &mut Import, name: &str, keys: &mut Keys<String>) {
    let take = |keys: &mut Keys<String>, name: &str| keys.take(name);
    let address = match take(keys, "path") {
        Some(key) => format!("unix:{}", key.taken()),
        None => {
            let host = take(keys, "host").map_or_else(
                || "127.0.0.1".to_owned(),
                |key| match key.value.as_str() {
                    "localhost" => {
                        key.otherwise("addresses are numbers: 127.0.0.1");
                        "127.0.0.1".to_owned()
                    }
                    _ => key.taken(),
                },
            );
            let port = take(keys, "port").map_or_else(|| "0".to_owned(), Key::taken);
            if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            }
        }
    };
    let listener = import.draft.listener(name, &address);
    if let Some(key) = take(keys, "backlog") {
        match (
            key.value.parse::<i64>(),
            import
                .draft
                .listen
                .iter_mut()
                .find(|(other, _)| *other == listener),
        ) {
            (Ok(backlog), Some((_, options))) => {
                options.push(("backlog", backlog.into()));
                key.taken();
            }
            _ => drop(key.lost("not a number")),
        }
    }
    if let Some(key) = take(keys, "umask") {
        key.otherwise("`mode` of [listen] says the permissions; the default is 0666");
    }
    keys.not_needed(
        &[
            "family",
            "type",
            "replace",
            "so_reuseport",
            "use_papa",
            "blocking",
            "proto",
        ],
        "rotad opens its sockets so that any number of workers share them",
    );
}

/// `$(circus.env.X)`, `$(circus.sockets.X)`, `$(circus.wid)`.
fn expand(value: &str, differs: &mut Vec<String>) -> String {
    let mut text = String::new();
    let mut rest = value;
    loop {
        let marks = ["$(circus.", "((circus."];
        let Some((at, mark)) = marks
            .iter()
            .filter_map(|mark| Some((rest.find(mark)?, mark)))
            .min()
        else {
            break;
        };
        text.push_str(&words::escaped(&rest[..at]));
        let after = &rest[at + mark.len()..];
        let end = if mark.starts_with('$') { ")" } else { "))" };
        let Some((name, left)) = after.split_once(end) else {
            text.push_str(&words::escaped(mark));
            rest = after;
            continue;
        };
        if let Some(variable) = name.strip_prefix("env.") {
            text.push_str(&format!("{{env:{variable}}}"));
        } else if let Some(socket) = name.strip_prefix("sockets.") {
            text.push_str(&format!("{{fd:{}}}", super::draft::fit_name(socket)));
        } else if name == "wid" {
            differs.push("slots count from 0, `circus.wid` from 1".to_owned());
            text.push_str("{slot}");
        } else {
            differs.push(format!("`circus.{name}` stays as it is"));
            text.push_str(&words::escaped(&format!("{mark}{name}{end}")));
        }
        rest = left;
    }
    text.push_str(&words::escaped(rest));
    text
}

fn watcher(
    import: &mut Import,
    section: &mut Section,
    name: &str,
    environments: &[Environment],
) -> Option<(i64, Vec<Pool>, Pool)> {
    let dir = section.text.dir().to_owned();
    let part = section.name.clone();
    let mut pool = Pool::new(name, &part, section.origin.clone());
    let keys = &mut section.keys;
    let Some(command) = keys.take("cmd") else {
        keys.rest_lost("a watcher without `cmd`: circus refuses it, too");
        return None;
    };
    for Environment { names, variables } in environments {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => pattern == name,
        };
        if names.iter().any(fits) {
            for (name, value) in variables {
                pool.keys.add("env", name, value.clone());
            }
        }
    }
    let mut differs = Vec::new();
    let mut line = expand(&command.value, &mut differs);
    if let Some(key) = keys.take("args") {
        let mut said = Vec::new();
        line = format!("{line} {}", expand(&key.value, &mut said));
        key.settle(&said);
    }
    let mut in_shell = false;
    if let Some(key) = keys.take("shell") {
        in_shell = is_true(&key.taken());
    }
    let mut steps = Vec::new();
    if in_shell {
        let (before, said) = words::from_shell(&mut pool, shell::parse(&line), "sh", false);
        steps = before;
        differs.extend(said);
    } else {
        let words = shell_words::split(&line).unwrap_or_default();
        if words::is_queue_worker(&words) {
            pool.keys.set("kind", "task");
        }
        pool.keys.set("command", words::command(&words));
    }
    command.settle(&differs);
    let mut listens = false;
    if let Some(key) = keys.take("use_sockets") {
        listens = is_true(&key.taken());
    }
    if listens {
        // Only those that the command names; circus passes all.
        let named: Vec<String> = import
            .draft
            .listen
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| line.contains(&format!("{{fd:{name}}}")))
            .collect();
        let all: Vec<String> = import
            .draft
            .listen
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        for listener in if named.is_empty() { all } else { named } {
            pool.keys.push("listen", listener);
        }
    } else {
        pool.keys.set("reload.surge", 0);
    }
    if let Some(key) = keys.take("stdin_socket") {
        let listener = super::draft::fit_name(&key.taken());
        pool.keys.set("stdin", format!("listen:{listener}"));
    }
    runs(import, &dir, &mut pool, keys);
    logs(import, &dir, &mut pool, keys);
    let mut priority = 0;
    if let Some(key) = keys.take("priority") {
        priority = key.value.parse().unwrap_or(0);
        key.otherwise("an order of start: `after` waits until those with a bigger one are ready");
    }
    if let Some(key) = keys.take("autostart") {
        if is_true(&key.value) {
            key.taken();
        } else {
            pool.off = true;
            key.lost("rotad starts every pool: this one is written as a comment");
        }
    }
    Some((priority, steps, pool))
}

fn is_true(value: &str) -> bool {
    ["1", "yes", "true", "on"].contains(&value.trim().to_lowercase().as_str())
}

fn runs(import: &Import, dir: &Path, pool: &mut Pool, keys: &mut Keys<String>) {
    if let Some(key) = keys.take_one_of(&["numprocesses", "singleton"]) {
        match key.value.parse::<i64>() {
            Ok(number) if number > 0 => {
                pool.keys.set("count", number);
                key.taken();
            }
            _ if key.name == "singleton" => drop(key.taken()),
            _ => {
                pool.off = true;
                key.lost("no process: the pool is written as a comment");
            }
        }
    }
    if let Some(key) = keys.take("working_dir") {
        let mut differs = Vec::new();
        let path = key.value.clone();
        if path.contains("$(circus.") {
            differs.push("no placeholders in a directory: write it out".to_owned());
        }
        let path = import.path(dir, &path);
        words::place_in(pool, &path);
        key.settle(&differs);
    }
    let user = keys.take("uid").map(|key| {
        let value = key.value.clone();
        key.otherwise("HOME, USER, LOGNAME and SHELL are the user's, too");
        value
    });
    if let Some(user) = &user {
        pool.keys.set("user", user.clone());
    }
    if let Some(key) = keys.take("gid") {
        pool.keys.set("group", key.taken());
    }
    let mut copies = true;
    if let Some(key) = keys.take("copy_env") {
        copies = is_true(&key.taken());
    } else if user.is_some() {
        copies = true;
    }
    match (copies, user.is_some()) {
        (true, true) => pool.keys.set("clear_env", false),
        (false, false) => pool.keys.set("clear_env", true),
        _ => {}
    }
    if let Some(key) = keys.take("copy_path") {
        if is_true(&key.value) {
            key.lost("no sys.path is passed: PYTHONPATH in `env`");
        } else {
            key.taken();
        }
    }
    if let Some(key) = keys.take("virtualenv") {
        let path = import.path(dir, &key.value);
        pool.keys.add("env", "VIRTUAL_ENV", words::escaped(&path));
        pool.keys.add(
            "env",
            "PATH",
            format!("{}/bin:{{env:PATH:-/usr/bin:/bin}}", words::escaped(&path)),
        );
        key.otherwise("its bin comes first in PATH");
    }
    keys.not_needed(
        &["virtualenv_py_ver"],
        "the interpreter of the virtualenv knows",
    );
    let (mut signal, mut wait, mut tree) = ("TERM".to_owned(), "30s".to_owned(), false);
    if let Some(key) = keys.take("stop_signal") {
        match words::signal(&key.value) {
            Some(name) => {
                signal = name;
                key.taken();
            }
            None => drop(key.lost("no such signal")),
        }
    }
    if let Some(key) = keys.take("graceful_timeout") {
        match key.value.parse::<f64>() {
            Ok(seconds) if seconds >= 0.0 => {
                wait = words::millis((seconds * 1000.0) as u64);
                key.taken();
            }
            _ => drop(key.lost("not a number of seconds")),
        }
    }
    if let Some(key) = keys.take("stop_children") {
        tree = is_true(&key.taken());
    }
    pool.keys.set("stop", words::stop(&signal, &wait, tree));
    if let Some(key) = keys.take("respawn") {
        if !is_true(&key.value) {
            pool.keys.set("restart.policy", "never");
        }
        key.taken();
    }
    if let Some(key) = keys.take("max_age") {
        match key.value.parse::<u64>() {
            Ok(seconds) if seconds > 0 => {
                pool.keys
                    .set("recycle.max_age", words::millis(seconds * 1000));
                key.taken();
            }
            Ok(_) => drop(key.taken()),
            Err(_) => drop(key.lost("not a number of seconds")),
        }
    }
    keys.not_needed(&["max_age_variance"], "an age is met within 10 %");
    if let Some(key) = keys.take("max_retry") {
        key.otherwise("rotad never gives up, it tries later and later (`restart.max_delay`)");
    }
    if let Some(key) = keys.take("warmup_delay") {
        key.otherwise("`ready` and `max_starting` order the start of workers");
    }
    if let Some(key) = keys.take("send_hup") {
        key.otherwise(format!(
            "`rotad reload` rolls the pool: new workers first; `rotad signal {} HUP` sends the signal",
            pool.name
        ));
    }
    if let Some(key) = keys.take("on_demand") {
        if is_true(&key.value) {
            key.lost("workers are started before the first connection");
        } else {
            key.taken();
        }
    }
    for key in keys.take_where(|name| name.starts_with("rlimit_")) {
        let name = key.name["rlimit_".len()..].to_owned();
        match key.value.parse::<i64>() {
            Ok(number) => {
                pool.keys.add("limits", &name, number);
                key.taken();
            }
            Err(_) => {
                pool.keys.add("limits", &name, "unlimited");
                key.taken();
            }
        }
    }
    for key in keys.take_where(|name| name.starts_with("hooks.")) {
        key.lost("no code of yours runs in the master; a oneshot before the pool (`after`), or `rotad events -f --json`");
    }
    keys.not_needed(
        &[
            "close_child_stdin",
            "close_child_stdout",
            "close_child_stderr",
            "use_papa",
            "shell_args",
            "dont_kill_children",
        ],
        "rotad does without",
    );
}

fn logs(import: &Import, dir: &Path, pool: &mut Pool, keys: &mut Keys<String>) {
    let mut files = 0;
    for (stream, ours) in [
        ("stdout_stream", "log.stdout"),
        ("stderr_stream", "log.stderr"),
    ] {
        let class = keys.take(&format!("{stream}.class")).map(Key::taken);
        let file = keys.take(&format!("{stream}.filename"));
        match class.as_deref() {
            Some("StdoutStream" | "FancyStdoutStream") => pool.keys.set(ours, "inherit"),
            _ => {
                if let Some(file) = &file {
                    files += 1;
                    let path = words::sink(&file.value);
                    let path = if words::is_file(&path) {
                        import.path(dir, &path)
                    } else {
                        path
                    };
                    pool.keys.set(ours, path);
                }
            }
        }
        if let Some(file) = file {
            file.taken();
        }
        if let Some(key) = keys.take(&format!("{stream}.max_bytes")) {
            match (words::bytes(&key.value), files) {
                (Some(0), 1) => {
                    pool.keys.set("log.max_size", "none");
                    key.taken();
                }
                (Some(bytes), 1) => {
                    pool.keys.set("log.max_size", words::size(bytes));
                    key.taken();
                }
                _ => drop(key.otherwise("stdout and stderr have one `log.max_size`")),
            }
        }
        if let Some(key) = keys.take(&format!("{stream}.backup_count")) {
            match (key.value.parse::<i64>(), files) {
                (Ok(count), 1) => {
                    pool.keys.set("log.keep", count);
                    key.taken();
                }
                _ => drop(key.otherwise("stdout and stderr have one `log.keep`")),
            }
        }
        if let Some(key) = keys.take(&format!("{stream}.time_format")) {
            if pool.keys.text(ours).is_some_and(words::is_file) {
                pool.keys.set("log.timestamps", true);
                key.otherwise("the time before each line has a form of its own (RFC 3339)");
            } else {
                key.not_needed("lines in the master's log have their time");
            }
        }
        for key in keys.take_where(|name| name.starts_with(&format!("{stream}."))) {
            key.not_needed("rotad does without");
        }
    }
    if pool.keys.get("log.stdout") == pool.keys.get("log.stderr") {
        pool.keys.remove("log.stderr");
    } else if pool.keys.get("log.stdout").is_some() && pool.keys.get("log.stderr").is_none() {
        pool.keys.set("log.stderr", Value::from("master"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_circus_become_placeholders() {
        let mut differs = Vec::new();
        let text =
            "x --fd $(circus.sockets.web) {a} $(circus.env.HOME)/y ((circus.wid)) $(circus.no)";
        assert_eq!(
            expand(text, &mut differs),
            "x --fd {fd:web} {{a}} {env:HOME}/y {slot} $(circus.no)"
        );
        assert_eq!(differs.len(), 2);
    }
}
