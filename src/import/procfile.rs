//! A Procfile: `NAME: COMMAND` lines, run by a shell, with the variables of `.env`.

use super::draft::Pool;
use super::ledger::{Key, Text, Unreadable};
use super::{Import, shell, words};
use std::path::Path;

/// The port that foreman and honcho give to the first process.
const PORT: &str = "5000";

/// Whether this is a file of variables beside a Procfile.
pub(super) fn is_env_file(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name == ".env" || name.starts_with(".env.")
}

pub(super) fn read(import: &mut Import, texts: &[Text]) -> Result<(), Unreadable> {
    let mut pools: Vec<(Vec<Pool>, Pool)> = Vec::new();
    let mut env_files: Vec<String> = Vec::new();
    let mut has_port = false;
    for text in texts.iter().filter(|text| is_env_file(&text.file)) {
        let dir = text.dir().to_owned();
        let name = text.name();
        env_files.push(import.path(&dir, &name));
        has_port |= sets_port(&text.text);
    }
    for text in texts.iter().filter(|text| !is_env_file(&text.file)) {
        let dir = text.dir().to_owned();
        // Read by foreman, honcho and Heroku's own tool without being named.
        let beside = dir.join(".env");
        if beside.is_file() {
            let file = import.path(&dir, ".env");
            has_port |= std::fs::read_to_string(&beside).is_ok_and(|text| sets_port(&text));
            if !env_files.contains(&file) {
                env_files.push(file);
            }
        }
        let mut processes = 0;
        for key in lines(import, text)? {
            let part = format!("{}:{}", text.file.display(), key.name);
            let origin = format!("`{}:` of {}", key.name, text.name());
            let mut pool = Pool::new(&key.name, &part, origin);
            let port = (!has_port).then(|| port(processes));
            processes += u32::from(key.name != "release");
            let (steps, differs) = process(import, &dir, &mut pool, &key, port);
            if pool.keys.get("working_directory").is_none() {
                let here = import.path(&dir, ".");
                pool.keys.set("working_directory", here);
            }
            key.settle(&differs);
            pools.push((steps, pool));
        }
    }
    if !env_files.is_empty() {
        for (_, pool) in &mut pools {
            pool.keys.set("env_file", env_file(&env_files));
        }
    }
    let mut release = None;
    pools.sort_by_key(|(_, pool)| !pool.is_oneshot());
    for (steps, mut pool) in pools {
        if let Some(release) = &release {
            pool.keys.push("after", String::clone(release));
        }
        let oneshot = pool.is_oneshot();
        let name = import.draft.add_chain(steps, pool);
        if oneshot {
            release = Some(name);
        }
    }
    import.remark(
        "foreman and honcho stop everything when one process ends; rotad starts that one again. `essential = \"exit\"` \
         and `restart.policy = \"never\"` of a pool end the master with it.",
    );
    Ok(())
}

/// One file, or a list.
fn env_file(files: &[String]) -> super::draft::Value {
    match files {
        [file] => file.clone().into(),
        files => files.to_vec().into(),
    }
}

fn sets_port(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start();
        line.strip_prefix("export ")
            .unwrap_or(line)
            .trim_start()
            .starts_with("PORT=")
    })
}

/// 5000, 5100, …
fn port(process: u32) -> String {
    if process == 0 {
        PORT.to_owned()
    } else {
        (5000 + 100 * process).to_string()
    }
}

/// The lines, registered.
fn lines(import: &Import, text: &Text) -> Result<Vec<Key<String>>, Unreadable> {
    let mut keys: Vec<Key<String>> = Vec::new();
    let mut offset = 0;
    for line in text.text.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let span = start + indent..start + indent + trimmed.len();
        let fit = |c: u8| c.is_ascii_alphanumeric() || b"_-".contains(&c);
        let Some((name, command)) = trimmed
            .split_once(':')
            .filter(|(name, _)| !name.is_empty() && name.trim().bytes().all(fit))
        else {
            return Err(text
                .fault(&span, "expected NAME: COMMAND")
                .hint("names are made of letters, digits, `_` and `-`"));
        };
        let (name, command) = (name.trim(), command.trim());
        if command.is_empty() {
            return Err(text.fault(&span, "there is no command"));
        }
        let part = format!("{}:{name}", text.file.display());
        // An assignment before the command may be a secret.
        let hidden = !shell::parse(command).env.is_empty();
        let key = import
            .ledger
            .key(name, &part, (text, span), hidden, command.to_owned());
        if let Some(at) = keys.iter().position(|former| former.name == name) {
            keys.remove(at).not_needed("set again further down");
        }
        keys.push(key);
    }
    Ok(keys)
}

/// One process. Returns its steps, and what differs.
fn process(
    import: &Import,
    dir: &Path,
    pool: &mut Pool,
    key: &Key<String>,
    port: Option<String>,
) -> (Vec<Pool>, Vec<String>) {
    let line = shell::parse(&key.value);
    let wants_port = key.value.contains("$PORT") || key.value.contains("${PORT");
    let (steps, mut differs) = words::from_shell(pool, line.clone(), "sh", true);
    for name in ["log.stdout", "log.stderr", "working_directory"] {
        if let Some(path) = pool.keys.text(name).map(str::to_owned)
            && (name == "working_directory" || words::is_file(&path))
        {
            pool.keys.set(name, import.path(dir, &path));
        }
    }
    if key.name == "release" {
        pool.keys.set("kind", "oneshot");
        return (steps, differs);
    }
    if let (Some(port), true) = (port, wants_port || key.name == "web")
        && !pool.keys.has_entry("env", "PORT")
    {
        pool.keys.add("env", "PORT", port.clone());
        if wants_port {
            differs.push(format!(
                "PORT is {port}, as the first `foreman start` has it"
            ));
        }
    }
    if line.command.is_wrapped() {
        pool.keys.set("stop", words::stop("TERM", "30s", true));
    }
    let command = line.command.words("sh");
    if words::is_queue_worker(&command) {
        pool.keys.set("kind", "task");
        if line.command.is_wrapped() {
            pool.keys.set("stop", words::stop("TERM", "300s", true));
        }
    }
    if key.name == "web" {
        differs.push(
            "it binds its port by itself, so the old one ends before the new one starts; with a socket of rotad's \
             (`listen`) no request is lost: docs/programs"
                .to_owned(),
        );
    }
    // Two that bind a port or do the same on a clock must not run side by side; of a queue's workers any number may.
    if !words::is_queue_worker(&command) || words::is_singleton(&command) {
        pool.keys.set("reload.surge", 0);
    }
    (steps, differs)
}
