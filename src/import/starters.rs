//! Command lines of Einhorn and of Server::Starter: masters that open sockets and start one program.

use super::draft::{Pool, Value};
use super::ledger::{Key, Keys, Text, Unreadable};
use super::{Import, words};
use std::ops::Range;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starter {
    Einhorn,
    ServerStarter,
}

impl Starter {
    fn program(self) -> &'static str {
        match self {
            Self::Einhorn => "einhorn",
            Self::ServerStarter => "start_server",
        }
    }

    /// Options that take a value in the next word.
    fn takes_value(self, option: &str) -> bool {
        let with: &[&str] = match self {
            Self::Einhorn => &[
                "-b",
                "--bind",
                "-c",
                "--command-name",
                "-d",
                "--socket-path",
                "-e",
                "--pidfile",
                "-f",
                "--lockfile",
                "-l",
                "--backlog",
                "-n",
                "--number",
                "-p",
                "--preload",
                "-s",
                "--seconds",
                "-t",
                "--signal-timeout",
                "--max-unacked",
                "--max-upgrade-additional",
                "--drop-env-var",
                "--nice",
                "--reexec-as",
            ],
            Self::ServerStarter => &[
                "--port",
                "--path",
                "--log-file",
                "--pid-file",
                "--status-file",
                "--interval",
                "--signal-on-hup",
                "--signal-on-term",
                "--backlog",
                "--kill-old-delay",
                "--envdir",
                "--auto-restart-interval",
                "--dir",
            ],
        };
        with.contains(&option)
    }
}

/// A word of a line, and where it stands.
#[derive(Clone, Debug)]
struct Word {
    text: String,
    span: Range<usize>,
}

/// The starter whose command line is in a text.
pub(super) fn find(text: &str) -> Option<Starter> {
    [Starter::Einhorn, Starter::ServerStarter]
        .into_iter()
        .find(|starter| begin(text, starter.program()).is_some())
}

/// Where the program's name stands as a word of a line that is no comment.
fn begin(text: &str, program: &str) -> Option<usize> {
    let fits = |at: usize| {
        let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..at];
        let before = text[..at].chars().next_back();
        let after = text[at + program.len()..].chars().next();
        !line.trim_start().starts_with('#')
            && before.is_none_or(|c| c.is_whitespace() || c == '/')
            && after.is_some_and(char::is_whitespace)
    };
    text.match_indices(program)
        .map(|(at, _)| at)
        .find(|at| fits(*at))
}

/// The words from the program on to the end of its line, without its own name; a line goes on after `\`.
fn words_of(text: &Text, starter: Starter) -> Result<Vec<Word>, Unreadable> {
    let content = &text.text;
    let program = starter.program();
    let start = begin(content, program).ok_or_else(|| {
        Unreadable::file(
            &text.file,
            format!("there is no command line of {program} in it"),
        )
    })?;
    let mut found = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut letters = content[start + program.len()..].char_indices().peekable();
    let base = start + program.len();
    while let Some((at, letter)) = letters.next() {
        let at = base + at;
        let mut push = |letter: char, end: usize| {
            let word = word.get_or_insert(Word {
                text: String::new(),
                span: at..at,
            });
            word.text.push(letter);
            word.span.end = end;
        };
        match (letter, quote) {
            ('\\', None) => match letters.next() {
                Some((_, '\n')) => {}
                Some((next, other)) => push(other, base + next + other.len_utf8()),
                None => {}
            },
            ('\'' | '"', None) => {
                quote = Some(letter);
                let word = word.get_or_insert(Word {
                    text: String::new(),
                    span: at..at,
                });
                word.span.end = at + 1;
            }
            (letter, Some(open)) if letter == open => {
                quote = None;
                if let Some(word) = &mut word {
                    word.span.end = at + 1;
                }
            }
            ('\n', None) => break,
            (letter, None) if letter.is_whitespace() => found.extend(word.take()),
            (letter, _) => push(letter, at + letter.len_utf8()),
        }
    }
    if quote.is_some() {
        return Err(text.fault(
            &(start..start + program.len()),
            "a quote in this command is never closed",
        ));
    }
    found.extend(word);
    Ok(found)
}

pub(super) fn read(import: &mut Import, text: &Text, starter: Starter) -> Result<(), Unreadable> {
    let mut rest = words_of(text, starter)?.into_iter().peekable();
    let mut keys: Keys<String> = Keys::default();
    let ledger = import.ledger.clone();
    let mut command: Vec<Word> = Vec::new();
    while let Some(word) = rest.next() {
        if word.text == "--" {
            command = rest.collect();
            break;
        }
        if !word.text.starts_with('-') {
            command = std::iter::once(word).chain(rest).collect();
            break;
        }
        let (name, value) = match word.text.split_once('=') {
            Some((name, value)) if name.starts_with("--") => {
                (name.to_owned(), Some(value.to_owned()))
            }
            _ => (word.text.clone(), None),
        };
        let (name, value) = match value {
            None if !name.starts_with("--") && name.len() > 2 => {
                (name[..2].to_owned(), Some(name[2..].to_owned()))
            }
            value => (name, value),
        };
        let mut span = word.span.clone();
        let value = match value {
            Some(value) => value,
            None if starter.takes_value(&name) => rest.next().map_or_else(String::new, |value| {
                span.end = value.span.end;
                value.text
            }),
            None => String::new(),
        };
        keys.push(ledger.key(name, "", (text, span), false, value));
    }
    let Some(first) = command.first() else {
        return Err(Unreadable::file(
            &text.file,
            format!("{} without a program to start", starter.program()),
        ));
    };
    let name = first.text.rsplit('/').next().unwrap_or("web").to_owned();
    let words: Vec<String> = command
        .iter()
        .map(|word| words::escaped(&word.text))
        .collect();
    let mut pool = Pool::new(
        &name,
        "",
        format!("a command line of {}", starter.program()),
    );
    pool.keys.set("command", words::command(&words));
    if words.iter().any(|word| word.contains('$')) {
        import.remark("A `$NAME` in the command stays as it is: `{env:NAME}` puts a variable of the master's in.");
    }
    match starter {
        Starter::Einhorn => einhorn(import, &mut pool, &mut keys),
        Starter::ServerStarter => server_starter(import, &mut pool, &mut keys),
    }
    keys.rest_lost("not an option that `rotad import` knows");
    import.draft.add(pool);
    Ok(())
}

fn backlog(import: &mut Import, key: Key<String>) {
    match key.value.parse::<i64>() {
        Ok(backlog) => {
            for (_, options) in &mut import.draft.listen {
                options.push(("backlog", backlog.into()));
            }
            key.taken();
        }
        Err(_) => drop(key.lost("not a number")),
    }
}

fn seconds(key: Key<String>) -> Option<String> {
    match key.value.parse::<f64>() {
        Ok(seconds) if seconds >= 0.0 => {
            let time = words::millis((seconds * 1000.0) as u64);
            key.taken();
            Some(time)
        }
        _ => {
            key.lost("not a number of seconds");
            None
        }
    }
}

fn einhorn(import: &mut Import, pool: &mut Pool, keys: &mut Keys<String>) {
    let mut listeners = Vec::new();
    for key in keys.take_where(|name| ["-b", "--bind"].contains(&name)) {
        let mut parts = key.value.split(',');
        let address = parts
            .next()
            .unwrap_or_default()
            .replace("localhost", "127.0.0.1");
        let flags: Vec<String> = parts.map(str::to_owned).collect();
        listeners.push(import.draft.listener("web", &address));
        let nonblocking = flags.iter().any(|flag| flag == "n" || flag == "nb");
        if let (Some((_, options)), true) = (import.draft.listen.last_mut(), nonblocking) {
            options.push(("nonblocking", true.into()));
        }
        key.taken();
    }
    for listener in &listeners {
        pool.keys.push("listen", listener.clone());
    }
    if listeners.is_empty() {
        pool.keys.set("reload.surge", 0);
    } else {
        // What Einhorn's own libraries look for.
        pool.keys
            .add("env", "EINHORN_FD_COUNT", listeners.len().to_string());
        for (number, listener) in listeners.iter().enumerate() {
            pool.keys.add(
                "env",
                &format!("EINHORN_FD_{number}"),
                format!("{{fd:{listener}}}"),
            );
        }
        let all: Vec<String> = listeners
            .iter()
            .map(|listener| format!("{{fd:{listener}}}"))
            .collect();
        pool.keys.add("env", "EINHORN_FDS", all.join(" "));
    }
    if let Some(key) = keys.take_one_of(&["-n", "--number"]) {
        match key.value.parse::<i64>() {
            Ok(number) if number > 0 => {
                pool.keys.set("count", number);
                key.taken();
            }
            _ => drop(key.lost("a number of at least 1")),
        }
    }
    if let Some(key) = keys.take_one_of(&["-s", "--seconds"])
        && let Some(time) = seconds(key)
        && listeners.is_empty()
    {
        pool.keys.set(
            "ready",
            Value::Table(vec![("after".to_owned(), time.into())]),
        );
    }
    let mut wait = "30s".to_owned();
    if let Some(key) = keys.take_one_of(&["-t", "--signal-timeout"])
        && let Some(time) = seconds(key)
    {
        wait = time;
    }
    // What Einhorn sends to workers that it replaces.
    pool.keys.set("stop", words::stop("USR2", &wait, false));
    import.remark("Einhorn sends USR2 to workers that it replaces, and so does `stop` here; TERM is the default of rotad.");
    if let Some(key) = keys.take_one_of(&["-m", "--manual-ack"]) {
        key.otherwise("rotad sees by itself when a worker accepts; Einhorn::Worker.ack! has nobody to tell: `ready = \"notify\"` takes READY=1");
    }
    if let Some(key) = keys.take_one_of(&["-l", "--backlog"]) {
        backlog(import, key);
    }
    if let Some(key) = keys.take_one_of(&["-e", "--pidfile"]) {
        import.draft.master.insert("pid_file", key.taken().into());
    }
    if let Some(key) = keys.take_one_of(&["-p", "--preload"]) {
        key.lost("the master loads no code: each worker starts the program");
    }
    if let Some(key) = keys.take_one_of(&["--drop-env-var"]) {
        key.lost("`clear_env = true` with `pass_env` says which variables are kept");
    }
    if let Some(key) = keys.take_one_of(&["--max-unacked"]) {
        match key.value.parse::<i64>() {
            Ok(number) if number > 0 => {
                pool.keys.set("max_starting", number);
                key.taken();
            }
            _ => drop(key.lost("a number of at least 1")),
        }
    }
    if let Some(key) = keys.take_one_of(&["--max-upgrade-additional"]) {
        match key.value.parse::<i64>() {
            Ok(number) if number >= 0 => {
                pool.keys.set("reload.surge", number);
                key.taken();
            }
            _ => drop(key.lost("a number")),
        }
    }
    for names in [["-d", "--socket-path"], ["-g", "--command-socket-as-fd"]] {
        if let Some(key) = keys.take_one_of(&names) {
            key.otherwise("`rotad status`, `rotad roll` … find the master by its configuration, not by einhornsh");
        }
    }
    keys.not_needed(
        &[
            "-c",
            "--command-name",
            "-f",
            "--lockfile",
            "-k",
            "--kill-children-on-exit",
            "-q",
            "--quiet",
            "-v",
            "--verbose",
            "--with-state-fd",
            "--upgrade-check",
            "--reexec-as",
        ],
        "rotad does without",
    );
}

fn server_starter(import: &mut Import, pool: &mut Pool, keys: &mut Keys<String>) {
    let mut listeners: Vec<(String, String)> = Vec::new();
    for key in keys.take_where(|name| name == "--port" || name == "--path") {
        let (value, fd) = match key.value.split_once('=') {
            Some((value, fd)) => (value.to_owned(), Some(fd.to_owned())),
            None => (key.value.clone(), None),
        };
        let address = if key.name == "--path" {
            format!("unix:{value}")
        } else if value.parse::<u16>().is_ok() {
            format!("0.0.0.0:{value}")
        } else {
            value.replace("localhost", "127.0.0.1")
        };
        listeners.push((import.draft.listener("web", &address), value));
        if fd.is_some() {
            key.otherwise("descriptors begin at 3, in the order of `listen`");
        } else {
            key.taken();
        }
    }
    for (listener, _) in &listeners {
        pool.keys.push("listen", listener.clone());
    }
    if listeners.is_empty() {
        pool.keys.set("reload.surge", 0);
    } else {
        // What Server::Starter's own libraries look for.
        let all: Vec<String> = listeners
            .iter()
            .map(|(listener, value)| format!("{}={{fd:{listener}}}", words::escaped(value)))
            .collect();
        pool.keys.add("env", "SERVER_STARTER_PORT", all.join(";"));
        pool.keys
            .add("env", "SERVER_STARTER_GENERATION", "{generation}");
    }
    let mut signal = "TERM".to_owned();
    for (name, which) in [
        ("--signal-on-term", "stop"),
        ("--signal-on-hup", "replaced"),
    ] {
        let Some(key) = keys.take(name) else { continue };
        match words::signal(&key.value) {
            Some(name) if which == "replaced" || signal == "TERM" => {
                signal = name;
                key.otherwise(
                    "`stop` is the same for workers that are replaced and that are stopped",
                );
            }
            _ => drop(key.lost("no such signal")),
        }
    }
    pool.keys.set("stop", words::stop(&signal, "30s", false));
    if let Some(key) = keys.take("--interval")
        && let Some(time) = seconds(key)
        && listeners.is_empty()
    {
        pool.keys.set(
            "ready",
            Value::Table(vec![("after".to_owned(), time.into())]),
        );
    }
    if let Some(key) = keys.take("--backlog") {
        backlog(import, key);
    }
    if let Some(key) = keys.take("--pid-file") {
        import.draft.master.insert("pid_file", key.taken().into());
    }
    if let Some(key) = keys.take("--log-file") {
        pool.keys.set("log.stdout", key.taken());
    }
    if let Some(key) = keys.take("--dir") {
        pool.keys.set("working_directory", key.taken());
    }
    if let Some(key) = keys.take("--envdir") {
        key.otherwise("`env_file` reads lines of NAME=VALUE, not a directory");
    }
    if let Some(key) = keys.take("--kill-old-delay") {
        key.otherwise(
            "the old worker is stopped once the first new one has served for `reload.soak`",
        );
    }
    if let Some(key) = keys.take("--enable-auto-restart") {
        key.otherwise("`recycle.max_age` replaces workers of that age");
    }
    if let Some(key) = keys.take("--auto-restart-interval")
        && let Some(time) = seconds(key)
    {
        pool.keys.set("recycle.max_age", time);
    }
    keys.not_needed(
        &[
            "--status-file",
            "--daemonize",
            "--stop",
            "--restart",
            "--help",
            "--version",
        ],
        "`rotad start`, `rotad stop`, `rotad reload`, `rotad status`",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn words_have_places() {
        let text = Text::new(
            Path::new("run.sh"),
            "#!/bin/sh\n# einhorn is used\nexec /opt/bin/einhorn -n 4 \\\n  -b '127.0.0.1:80' -- serve \"a b\"\nexit 1\n",
        );
        assert_eq!(find(&text.text), Some(Starter::Einhorn));
        let words = words_of(&text, Starter::Einhorn).unwrap();
        let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(
            texts,
            ["-n", "4", "-b", "127.0.0.1:80", "--", "serve", "a b"]
        );
        assert_eq!(&text.text[words[3].span.clone()], "'127.0.0.1:80'");
    }
}
