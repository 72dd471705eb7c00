//! What a worker can see of itself, as JSON: exactly what rotad handed on.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;

/// Writes the facts and waits for TERM.
pub(crate) fn write(out: &str) {
    // First of all, before anything is opened here.
    let descriptors = descriptors();
    let term = crate::term_stream();
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default()
            .trim_start_matches(':')
            .trim()
            .to_string()
    };
    let numbers = |name: &str| {
        field(name)
            .split_whitespace()
            .map(|text| text.parse().unwrap_or(-1))
            .collect::<Vec<i64>>()
    };
    let stat = fs::read_to_string("/proc/self/stat").expect("stat");
    let stat: Vec<&str> = stat
        .rsplit_once(')')
        .expect("a name in brackets")
        .1
        .split_whitespace()
        .collect();
    let number = |index: usize| stat[index].parse::<i64>().expect("a number");
    let facts = json!({
        "descriptors": descriptors,
        "pid": std::process::id(),
        "parent": number(1),
        "group": number(2),
        "session": number(3),
        "terminal": number(4),
        "nice": number(16),
        "blocked": field("SigBlk"),
        "ignored": field("SigIgn"),
        "uids": numbers("Uid"),
        "gids": numbers("Gid"),
        "groups": numbers("Groups"),
        "capabilities": field("CapEff"),
        "umask": field("Umask"),
        "limits": limits(),
        "environment": environment(),
        "folder": std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
        "stdout_reopens": reopens("/dev/stdout"),
        "stderr_reopens": reopens("/dev/stderr"),
    });
    let draft = format!("{out}.draft");
    fs::write(&draft, facts.to_string()).expect("the facts");
    fs::rename(&draft, out).expect("the facts in their place");
    crate::block_until(term);
    std::process::exit(0)
}

fn reopens(path: &str) -> Value {
    match fs::OpenOptions::new().append(true).open(path) {
        Ok(_) => json!(true),
        Err(error) => json!(error.to_string()),
    }
}

/// Descriptor number to what it is, without the one that looks.
fn descriptors() -> BTreeMap<i32, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd")
        .expect("descriptors")
        .flatten()
    {
        let target = fs::read_link(entry.path())
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        if !(target.starts_with("/proc/") && target.ends_with("/fd")) {
            all.insert(
                entry
                    .file_name()
                    .to_string_lossy()
                    .parse()
                    .expect("a number"),
                target,
            );
        }
    }
    all
}

fn limits() -> Map<String, Value> {
    let text = fs::read_to_string("/proc/self/limits").expect("limits");
    text.lines()
        .skip(1)
        .map(|line| {
            let (name, values) = line.split_at(26);
            (
                name.trim().to_string(),
                json!(values.split_whitespace().take(2).collect::<Vec<_>>()),
            )
        })
        .collect()
}

fn environment() -> Map<String, Value> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().to_string();
    std::env::vars_os()
        .map(|(name, value)| (text(name), Value::from(text(value))))
        .collect()
}
