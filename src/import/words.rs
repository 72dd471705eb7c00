//! Values that several sources share: names of signals, sizes, times, files for output, commands.

use super::draft::{Pool, Value};
use super::shell;
use crate::config;

/// Doubles braces, which have a meaning in the configuration.
pub(super) fn escaped(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

/// A command: one string where splitting it gives these words again, else a list.
pub(super) fn command(words: &[String]) -> Value {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-{}".contains(c);
    let simple = words
        .iter()
        .all(|word| !word.is_empty() && word.chars().all(plain));
    let line = words.join(" ");
    if simple && line.len() <= 90 {
        line.into()
    } else {
        words.to_vec().into()
    }
}

/// Signal names without SIG, in capitals; `None`: no such signal.
pub(super) fn signal(name: &str) -> Option<String> {
    let name = name.trim().to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name).to_owned();
    config::signal(&name).is_some().then_some(name)
}

/// The stop of a pool: a signal, how long is waited, and whether the whole tree gets it.
pub(super) fn stop(signal: &str, wait: &str, tree: bool) -> Value {
    if signal == "TERM" && !tree {
        return wait.into();
    }
    let mut step = vec![
        ("signal".to_owned(), signal.into()),
        ("wait".to_owned(), wait.into()),
    ];
    if tree {
        step.push(("to".to_owned(), "tree".into()));
    }
    Value::List(vec![Value::Table(step)])
}

/// `"90s"`, `"1500ms"`: milliseconds as a duration.
pub(super) fn millis(millis: u64) -> String {
    if millis.is_multiple_of(1000) {
        format!("{}s", millis / 1000)
    } else {
        format!("{millis}ms")
    }
}

/// Bytes as a size.
pub(super) fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// `50MB`, `1K`, `2g`, `4096`: as most tools write sizes, by 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let unit = text[end..].trim().to_lowercase();
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    let bytes =
        number * f64::from(2u32.pow(shift.min(30))) * if shift == 40 { 1024.0 } else { 1.0 };
    (bytes.is_finite() && (0.0..1e18).contains(&bytes)).then_some(bytes as u64)
}

/// A path that leads to the output of the process itself.
pub(super) fn is_own_output(path: &str) -> bool {
    ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/dev/fd/2", "-"].contains(&path)
        || (path.starts_with("/proc/") && (path.ends_with("/fd/1") || path.ends_with("/fd/2")))
}

/// Where output goes, as `log.stdout` says it.
pub(super) fn sink(path: &str) -> String {
    if is_own_output(path) {
        "inherit".to_owned()
    } else if path == "/dev/null" {
        "null".to_owned()
    } else {
        path.to_owned()
    }
}

/// Whether `log.stdout` is a file.
pub(super) fn is_file(sink: &str) -> bool {
    !["master", "inherit", "null", "stdout"].contains(&sink)
}

/// Takes jobs from a queue: its stop may take long, and USR1 is for web workers.
pub(super) fn is_queue_worker(words: &[String]) -> bool {
    let line = words.join(" ");
    let has = |part: &str| line.contains(part);
    let word = |word: &str| {
        words
            .iter()
            .any(|other| other.rsplit('/').next() == Some(word))
    };
    [
        "queue:work",
        "queue:listen",
        "messenger:consume",
        "jobs:work",
        "resque:work",
        "solid_queue:start",
    ]
    .into_iter()
    .any(has)
        || (word("celery") && words.iter().any(|other| other == "worker"))
        || word("sidekiq")
        || word("rqworker")
        || (word("rq") && words.iter().any(|other| other == "worker"))
        || word("dramatiq")
        || word("huey_consumer")
        || word("huey_consumer.py")
}

/// Does everything on a clock, so that two of it would do it twice.
pub(super) fn is_singleton(words: &[String]) -> bool {
    let line = words.join(" ");
    [
        "celerybeat",
        " beat",
        "schedule:work",
        "clockwork",
        "scheduler",
        "cron",
    ]
    .into_iter()
    .any(|part| line.contains(part))
        || words.iter().any(|word| word == "-B" || word == "--beat")
}

/// The script of `sh -c SCRIPT`, where it says what the configuration can say as well.
pub(super) fn script(words: &[String]) -> Option<shell::Line> {
    let script = shell::shell_script(words)?;
    let plain = script.contains("&&") || script.trim_start().starts_with("exec ");
    (words.len() == 3 && plain).then(|| shell::parse(script))
}

/// Sets the directory of a pool. What its command says of directories and files so far is relative to it.
pub(super) fn place_in(pool: &mut Pool, dir: &str) {
    let join = |below: &str| match dir {
        _ if below.starts_with('/') => below.to_owned(),
        "." => below.to_owned(),
        dir => format!("{}/{below}", dir.trim_end_matches('/')),
    };
    for key in ["log.stdout", "log.stderr"] {
        if let Some(file) = pool.keys.text(key).filter(|file| is_file(file)) {
            let file = join(file);
            pool.keys.set(key, file);
        }
    }
    let whole = pool.keys.text("working_directory").map(join);
    pool.keys
        .set("working_directory", whole.unwrap_or_else(|| dir.to_owned()));
}

/// Puts what a shell's line says into a pool, and its steps before it. Returns the steps' pools, and what differs.
pub(super) fn from_shell(
    pool: &mut Pool,
    line: shell::Line,
    shell: &str,
    escape: bool,
) -> (Vec<Pool>, Vec<String>) {
    let keep = |text: &str| {
        if escape {
            escaped(text)
        } else {
            text.to_owned()
        }
    };
    let template = |words: Vec<String>| words.iter().map(|word| keep(word)).collect::<Vec<_>>();
    let shell::Line {
        env,
        dir,
        steps,
        command: last,
        stdout,
        stderr,
        mut remarks,
    } = line;
    let mut pools = Vec::new();
    for step in &steps {
        let words = step.words(shell);
        let short = words
            .iter()
            .rev()
            .find(|word| shell::is_step(std::slice::from_ref(word)))
            .map_or_else(|| "step".to_owned(), |word| word.replace(':', "-"));
        let mut before = Pool::new(&format!("{}-{short}", pool.name), &pool.parts[0], "");
        // What is said of the line is said once, at the pool.
        before.parts.clear();
        before.origin = format!("{}, the step before `&&`", pool.origin);
        before.keys.set("kind", "oneshot");
        before.keys.set("command", command(&template(words)));
        pools.push(before);
    }
    if !steps.is_empty() {
        remarks.push(
            "what stands before `&&` is a oneshot of its own: it runs once at the start and at each reload, not before \
             each restart"
                .to_owned(),
        );
    }
    for (name, value) in env {
        pool.keys.add("env", &name, keep(&value));
    }
    if let Some(file) = stdout {
        pool.keys.set("log.stdout", sink(&file));
    }
    if let Some(file) = stderr {
        pool.keys.set("log.stderr", sink(&file));
    }
    let above = pool.keys.remove("working_directory");
    if let Some(dir) = dir {
        place_in(pool, &dir);
    }
    if let Some(Value::Text(above)) = above {
        place_in(pool, &above);
    }
    if last.is_wrapped() {
        remarks.push(
            "a shell or wrapper stays above the program: the stop goes to the whole tree"
                .to_owned(),
        );
    }
    pool.keys
        .set("command", command(&template(last.words(shell))));
    (pools, remarks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        assert_eq!(bytes("50MB"), Some(50 << 20));
        assert_eq!(bytes("1.5G"), Some(3 << 29));
        assert_eq!(bytes("10 KiB"), Some(10 << 10));
        assert_eq!(bytes("300"), Some(300));
        assert_eq!(bytes("3x"), None);
        assert_eq!(size(50 << 20), "50MiB");
        assert_eq!(size(1500), "1500B");
        assert_eq!(millis(1600), "1600ms");
        assert_eq!(millis(90_000), "90s");
    }

    #[test]
    fn a_command_survives_its_splitting() {
        for words in [
            vec!["a", "b=c"],
            vec!["sh", "-c", "a b"],
            vec!["x", ""],
            vec!["x", "~y", "#"],
        ] {
            let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            match command(&words) {
                Value::Text(line) => assert_eq!(shell_words::split(&line).unwrap(), words),
                Value::List(list) => assert_eq!(list.len(), words.len()),
                other => panic!("{other:?}"),
            }
        }
    }
}
