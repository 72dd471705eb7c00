//! supervisord.conf: programs, FastCGI programs, groups, event listeners, and the daemon's own sections.

use super::draft::{Pool, Value};
use super::ini::{self, Dialect, Section};
use super::ledger::{Keys, Text, Unreadable};
use super::{Import, shell, words};
use glob::glob;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The priority of a program that says none.
const PRIORITY: i64 = 999;

/// A program, until the order of all is known.
struct Program {
    pool: Pool,
    steps: Vec<Pool>,
    priority: i64,
    after: Vec<String>,
    /// As supervisord names it.
    name: String,
}

/// Whether it looks like one.
pub(super) fn fits(text: &str) -> bool {
    let sections = [
        "[supervisord]",
        "[program:",
        "[group:",
        "[eventlistener:",
        "[fcgi-program:",
        "[supervisorctl]",
        "[unix_http_server]",
    ];
    text.lines().any(|line| {
        sections
            .iter()
            .any(|section| line.trim_start().starts_with(section))
    })
}

fn is_secret(_: &str, key: &str) -> bool {
    ["environment", "password"].contains(&key)
}

pub(super) fn read(import: &mut Import, texts: &[Text]) -> Result<(), Unreadable> {
    let mut sections = Vec::new();
    for text in texts {
        ini::read(
            text,
            Dialect::Supervisord,
            &import.ledger,
            &mut sections,
            "",
            is_secret,
        )?;
        include(import, text, &mut sections)?;
    }
    let groups = groups(&mut sections);
    daemon(import, &mut sections);
    let mut programs = Vec::new();
    for section in &mut sections {
        let fcgi = section.named("fcgi-program").map(str::to_owned);
        let program = section.named("program").map(str::to_owned);
        if let Some(name) = fcgi.as_ref().or(program.as_ref()) {
            let group = groups.get(name).map(String::as_str);
            programs.extend(read_program(import, section, name, group, fcgi.is_some()));
        } else if let Some(name) = section.named("eventlistener").map(str::to_owned) {
            listener(&name, section);
        }
    }
    order(&mut programs);
    for program in programs {
        import.draft.add_chain(program.steps, program.pool);
    }
    for section in &mut sections {
        section
            .keys
            .rest_lost("not a key that `rotad import` knows here");
    }
    Ok(())
}

/// Reads the files of `[include]`, from the directory of the file that includes them.
fn include(import: &Import, text: &Text, sections: &mut Vec<Section>) -> Result<(), Unreadable> {
    let section = sections
        .iter_mut()
        .find(|section| section.name == "include");
    let Some(key) = section.and_then(|section| section.take("files")) else {
        return Ok(());
    };
    let here = text.dir().to_owned();
    let mut found = Vec::new();
    for pattern in key.value.split_whitespace() {
        let pattern = pattern.replace("%(here)s", &here.to_string_lossy());
        let paths = glob(&here.join(&pattern).to_string_lossy());
        found.extend(paths.into_iter().flatten().flatten());
    }
    if found.is_empty() {
        key.otherwise("no file matches it now");
    } else {
        key.taken();
    }
    for file in found {
        let content = fs::read_to_string(&file)
            .map_err(|error| Unreadable::file(&file, format!("cannot be read: {error}")))?;
        let text = Text::new(&file, &content);
        ini::read(
            &text,
            Dialect::Supervisord,
            &import.ledger,
            sections,
            "",
            is_secret,
        )?;
    }
    Ok(())
}

/// The group of each program; the keys of the groups.
fn groups(sections: &mut [Section]) -> BTreeMap<String, String> {
    let mut groups = BTreeMap::new();
    let programs: Vec<String> = sections
        .iter()
        .filter_map(|section| section.named("program").or(section.named("fcgi-program")))
        .map(str::to_owned)
        .collect();
    for section in sections {
        let Some(name) = section.named("group").map(str::to_owned) else {
            continue;
        };
        if let Some(key) = section.take("programs") {
            let members: Vec<String> = key
                .value
                .split(',')
                .map(|member| member.trim().to_owned())
                .filter(|member| !member.is_empty())
                .collect();
            let common = common_prefix(&members);
            let fits = |name: &String| name.starts_with(&common) == members.contains(name);
            if members.len() < 2 {
                key.not_needed("a group of one program");
            } else if common.len() >= 2 && programs.iter().all(fits) {
                key.otherwise(format!(
                    "rotad has no groups; names take a pattern: `rotad roll '{common}*'`"
                ));
            } else {
                key.otherwise(format!(
                    "rotad has no groups; name the pools in a row: `rotad roll {}`",
                    members.join(" ")
                ));
            }
            for member in members {
                groups.insert(member, name.clone());
            }
        }
        if let Some(key) = section.take("priority") {
            key.otherwise("the order of groups: the programs' own `priority` counts");
        }
    }
    groups
}

fn common_prefix(names: &[String]) -> String {
    let Some(first) = names.first() else {
        return String::new();
    };
    let mut length = first.len();
    for name in names {
        let same = first.bytes().zip(name.bytes()).take_while(|(a, b)| a == b);
        length = length.min(same.count());
    }
    while !first.is_char_boundary(length) {
        length -= 1;
    }
    first[..length].to_owned()
}

/// The sections about supervisord itself.
fn daemon(import: &mut Import, sections: &mut [Section]) {
    for section in sections {
        match section.name.as_str() {
            "supervisord" => supervisord(import, section),
            "unix_http_server" => control(import, &mut section.keys),
            "inet_http_server" => {
                if let Some(key) = section.take("port") {
                    key.lost(
                        "the master has no port for HTTP; over the network: ssh and the command line",
                    );
                }
                section.keys.rest_not_needed("the port is not opened");
            }
            "supervisorctl" => section.keys.rest_not_needed(
                "`rotad status`, `rotad stop` … find the master by its configuration",
            ),
            name if name.starts_with("rpcinterface:") || name.starts_with("ctlplugin:") => {
                section
                    .keys
                    .rest_not_needed("the command line uses the control socket");
            }
            _ => {}
        }
    }
}

fn supervisord(import: &mut Import, section: &mut Section) {
    let here = super::absolute(section.text.dir());
    let keys = &mut section.keys;
    let place = |value: &str| value.replace("%(here)s", &here.to_string_lossy());
    keys.not_needed(
        &["nodaemon", "silent"],
        "`rotad run` stays in the foreground, `rotad start` goes to the background",
    );
    let mut logs = false;
    if let Some(key) = keys.take("logfile") {
        let path = place(&key.value);
        if words::is_own_output(&path) || path == "/dev/null" || path.to_lowercase() == "none" {
            key.not_needed("the log of `rotad run` goes to stderr");
        } else {
            logs = true;
            let ours = own_file(&path);
            let value = import.path(&here, &ours);
            let differs = format!("rotad's own log: {value}");
            import.draft.master.insert("log_file", value.into());
            if ours == path {
                key.taken();
            } else {
                key.otherwise(differs);
            }
        }
    }
    if let Some(key) = keys.take("logfile_maxbytes") {
        match words::bytes(&key.value) {
            _ if !logs => drop(key.not_needed("there is no log file")),
            Some(0) => drop(key.otherwise("the master's log is rotated at 50 MiB (log_max_size)")),
            Some(bytes) => {
                key.taken();
                if bytes != 50 << 20 {
                    let size = words::size(bytes);
                    import.draft.master.insert("log_max_size", size.into());
                }
            }
            None => drop(key.lost("not a size")),
        }
    }
    if let Some(key) = keys.take("logfile_backups") {
        match key.value.parse::<i64>() {
            _ if !logs => drop(key.not_needed("there is no log file")),
            Ok(backups) => {
                key.taken();
                if backups != 10 {
                    import.draft.master.insert("log_keep", backups.into());
                }
            }
            Err(_) => drop(key.lost("not a number")),
        }
    }
    if let Some(key) = keys.take("loglevel") {
        let level = match key.value.to_lowercase().as_str() {
            "critical" | "error" => "error",
            "warn" | "warning" => "warn",
            "debug" => "debug",
            "trace" | "blather" => "trace",
            _ => "info",
        };
        key.taken();
        if level != "info" {
            import.draft.master.insert("log_level", level.into());
        }
    }
    if let Some(key) = keys.take("pidfile") {
        let path = place(&key.value);
        let ours = own_file(&path);
        let value = import.path(&here, &ours);
        let differs = format!("rotad's own pid file: {value}");
        import.draft.master.insert("pid_file", value.into());
        if ours == path {
            key.taken();
        } else {
            key.otherwise(differs);
        }
    }
    if let Some(key) = keys.take("umask") {
        let umask = key.taken();
        import.draft.master.insert("umask", umask.into());
    }
    if let Some(key) = keys.take("identifier") {
        let name = super::draft::fit_name(&key.taken());
        import.draft.master.insert("name", name.into());
    }
    if let Some(key) = keys.take("minfds") {
        match key.value.parse::<i64>() {
            Ok(least) if least > 1024 => {
                import.draft.defaults.add("limits", "nofile", least);
                key.taken();
            }
            _ => drop(key.not_needed("the machine's own limit is as high")),
        }
    }
    keys.not_needed(
        &["minprocs"],
        "rotad lowers no limit; `limits.nproc` of a pool sets one",
    );
    if let Some(key) = keys.take("user") {
        if key.value == "root" || key.value == "0" {
            key.not_needed("rotad runs as the user who starts it");
        } else {
            import.draft.defaults.set("user", key.value.clone());
            import.draft.defaults.set("clear_env", false);
            key.otherwise(
                "the pools run as this user; the master as the user who starts it (`User=` of its unit)",
            );
        }
    }
    if let Some(key) = keys.take("directory") {
        let path = place(&key.value);
        key.taken();
        let value = import.path(&here, &path);
        import
            .draft
            .master
            .insert("working_directory", value.clone().into());
        import.draft.defaults.set("working_directory", value);
    }
    if let Some(key) = keys.take("environment") {
        match pairs(&key.value) {
            Ok(pairs) => {
                let mut differs = Vec::new();
                for (name, value) in pairs {
                    let value = expand(&value, &Names::of_daemon(&here), true, &mut differs);
                    import.draft.defaults.add("env", &name, value);
                }
                key.settle(&differs);
            }
            Err(why) => drop(key.lost(why)),
        }
    }
    keys.not_needed(
        &["childlogdir", "nocleanup"],
        "output without a file of its own is in the master's log",
    );
    keys.not_needed(&["strip_ansi"], "`rotad logs` shows no control characters");
    keys.not_needed(
        &[
            "http_port",
            "http_username",
            "http_password",
            "sockchmod",
            "sockchown",
        ],
        "a key of supervisord 2",
    );
    keys.not_needed(
        &["exitcodes", "startsecs"],
        "supervisord ignores it here, too",
    );
}

/// A file that supervisord may hold at the same time gets our name.
fn own_file(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((dir, file)) => format!("{dir}/{}", file.replace("supervisord", "rotad")),
        None => path.replace("supervisord", "rotad"),
    }
}

fn control(import: &mut Import, keys: &mut Keys<String>) {
    keys.not_needed(
        &["file"],
        "the control socket lies in the runtime directory",
    );
    if let Some(key) = keys.take("chmod") {
        match u32::from_str_radix(&key.value, 8) {
            Ok(mode) => {
                let mode = format!("{:04o}", mode & 0o666);
                if mode != "0600" {
                    import.draft.control.insert("mode", mode.into());
                }
                key.taken();
            }
            Err(_) => drop(key.lost("not a mode")),
        }
    }
    if let Some(key) = keys.take("chown") {
        let group = key
            .value
            .split_once([':', '.'])
            .map(|(_, group)| group.to_owned());
        match group {
            Some(group) if !group.is_empty() => {
                import.draft.control.insert("group", group.into());
                key.otherwise("the group alone: the socket belongs to the master's user");
            }
            _ => drop(key.otherwise(
                "the socket belongs to the master's user; `control.group` lets a group in",
            )),
        }
    }
    keys.not_needed(
        &["username", "password"],
        "permissions of the control socket decide: `control.mode`, `control.group`",
    );
}

/// An event listener reads supervisord's events on its stdin, which nothing else writes.
fn listener(name: &str, section: &mut Section) {
    let command = section.keys.peek("command").cloned().unwrap_or_default();
    let program = command
        .split_whitespace()
        .next()
        .and_then(|word| word.rsplit('/').next())
        .unwrap_or_default()
        .to_owned();
    let events = section.keys.peek("events").cloned().unwrap_or_default();
    let instead = match program.as_str() {
        "memmon" => "`recycle.max_rss` of the pool replaces a worker that grows",
        "httpok" => "`health.http` of the pool replaces a worker that does not answer",
        _ if events.contains("PROCESS_STATE_FATAL") => {
            "it speaks supervisord's protocol; `essential` of a pool ends the master when the pool fails, and `rotad \
             events -f --json` prints each event as a line"
        }
        _ if events.contains("PROCESS_LOG") => {
            "it speaks supervisord's protocol; `rotad logs -f` has what all workers print"
        }
        _ => {
            "it speaks supervisord's protocol; `rotad events -f --json` prints each event as a line"
        }
    };
    for key in ["command", "events"] {
        if let Some(key) = section.take(key) {
            key.lost(instead);
        }
    }
    section
        .keys
        .rest_not_needed(&format!("the listener {name} is not imported"));
}

/// What `%(…)s` may name.
struct Names<'a> {
    here: &'a Path,
    program: &'a str,
    group: &'a str,
    processes: u32,
    first: u32,
    /// The number is part of a port: what stands before it.
    port: Option<String>,
}

impl<'a> Names<'a> {
    fn of_daemon(here: &'a Path) -> Self {
        Self {
            here,
            program: "",
            group: "",
            processes: 1,
            first: 0,
            port: None,
        }
    }
}

/// Expands `%(NAME)s`; what is only known at run time becomes a placeholder if `template`.
fn expand(value: &str, names: &Names<'_>, template: bool, differs: &mut Vec<String>) -> String {
    let literal = |text: &str| {
        if template {
            words::escaped(text)
        } else {
            text.to_owned()
        }
    };
    let mut say = |text: &str| {
        if !differs.iter().any(|said| said == text) {
            differs.push(text.to_owned());
        }
    };
    let mut text = String::new();
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        let mut before = literal(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('%') {
            text.push_str(&before);
            text.push('%');
            rest = after;
            continue;
        }
        let Some((name, format, left)) = conversion(after) else {
            text.push_str(&before);
            text.push('%');
            rest = after;
            continue;
        };
        let padded = format.starts_with('0') && format.trim_end_matches('d').len() > 1;
        let expanded = match name {
            "here" => literal(&names.here.to_string_lossy()),
            "program_name" => literal(names.program),
            "group_name" => literal(names.group),
            "numprocs" => names.processes.to_string(),
            "process_num" => match &names.port {
                Some(port) if before.ends_with(port.as_str()) => {
                    before.truncate(before.len() - port.len());
                    "{port}".to_owned()
                }
                _ if template => {
                    if names.first != 0 {
                        say("slots count from 0");
                    }
                    if padded {
                        say("`{slot}` is not padded with zeros");
                    }
                    "{slot}".to_owned()
                }
                _ => {
                    say("there is no placeholder for the number here; it is 0");
                    "0".to_owned()
                }
            },
            "host_node_name" => {
                say("the name of this machine was put in");
                literal(
                    &nix::unistd::gethostname()
                        .unwrap_or_default()
                        .to_string_lossy(),
                )
            }
            _ if name.starts_with("ENV_") => {
                let variable = &name[4..];
                match std::env::var(variable) {
                    _ if template => format!("{{env:{variable}}}"),
                    Ok(value) => {
                        say(&format!("${variable} was put in as it is now"));
                        value
                    }
                    Err(_) => {
                        say(&format!("${variable} is not set here: put it in by hand"));
                        format!("%({name})s")
                    }
                }
            }
            _ => {
                say(&format!("`%({name})s` is unknown and stays as it is"));
                literal(&format!("%({name}){format}"))
            }
        };
        text.push_str(&before);
        text.push_str(&expanded);
        rest = left;
    }
    text.push_str(&literal(rest));
    text
}

/// `(NAME)FORMAT` after a `%`: the name, the format with its letter, and the rest.
fn conversion(text: &str) -> Option<(&str, &str, &str)> {
    let (name, after) = text.strip_prefix('(')?.split_once(')')?;
    let end = after.find(|c: char| !c.is_ascii_digit())?;
    matches!(after.as_bytes()[end], b's' | b'd').then(|| (name, &after[..=end], &after[end + 1..]))
}

/// `DIGITS%(process_num)02d` that is a port: the digits, and the first and last port.
fn port(command: &str, processes: u32, first: u32) -> Option<(String, u32, u32)> {
    let at = command.find("%(process_num)")?;
    let format = command[at + 14..].split_once('d')?.0;
    let width: usize = if format.is_empty() {
        1
    } else {
        format.parse().ok()?
    };
    let digits: String = {
        let before = command[..at].chars().rev();
        let digits: Vec<char> = before.take_while(char::is_ascii_digit).collect();
        digits.into_iter().rev().collect()
    };
    let number = |number: u32| format!("{digits}{number:0width$}").parse::<u32>().ok();
    let (from, to) = (number(first)?, number(first + processes.max(1) - 1)?);
    let fits = digits.len() + width >= 4 && from >= 1000 && to <= 65535;
    (fits && to - from == processes.max(1) - 1).then_some((digits, from, to))
}

/// `KEY="value",KEY2=value`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest
            .split_once('=')
            .ok_or("not of the form KEY=\"value\",KEY2=value")?;
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| ['"', '\''].contains(c));
        let (value, left) = match quote {
            Some(quote) => after[1..]
                .split_once(quote)
                .ok_or("a quote in it is never closed")?,
            None => {
                let end = after.find([',', '\n']).unwrap_or(after.len());
                (after[..end].trim(), &after[end..])
            }
        };
        pairs.push((name.trim().to_owned(), value.to_owned()));
        rest = left.trim_start_matches([',', '\n', ' ', '\t', '\r']);
    }
    Ok(pairs)
}

fn read_program(
    import: &mut Import,
    section: &mut Section,
    name: &str,
    group: Option<&str>,
    fcgi: bool,
) -> Option<Program> {
    let here = super::absolute(section.text.dir());
    let origin = section.origin.clone();
    let part = section.name.clone();
    let keys = &mut section.keys;
    let mut pool = Pool::new(name, &part, origin);
    let Some(command) = keys.take("command") else {
        keys.rest_lost("a program without `command`: supervisord refuses it, too");
        return None;
    };
    let number = |value: Option<&String>| value.and_then(|value| value.trim().parse::<u32>().ok());
    let processes = number(keys.peek("numprocs")).unwrap_or(1);
    let first = number(keys.peek("numprocs_start")).unwrap_or(0);
    let ports = port(&command.value, processes, first).filter(|_| processes > 1);
    let names = Names {
        here: &here,
        program: name,
        group: group.unwrap_or(name),
        processes,
        first,
        port: ports.as_ref().map(|(digits, _, _)| digits.clone()),
    };
    let mut differs = Vec::new();
    let mut steps = Vec::new();
    let mut ends_daemon = false;
    let expanded = expand(&command.value, &names, true, &mut differs);
    match shell_words::split(&expanded) {
        Ok(line) if !line.is_empty() => {
            if words::is_queue_worker(&line) {
                pool.keys.set("kind", "task");
            }
            match words::script(&line) {
                Some(parsed) => {
                    let (before, said) = words::from_shell(&mut pool, parsed, &line[0], false);
                    steps = before;
                    differs.extend(said);
                }
                None => pool.keys.set("command", words::command(&line)),
            }
            if let Some((_, from, to)) = &ports {
                pool.keys.set("ports", format!("{from}-{to}"));
                differs.push(
                    "each worker gets a free port of `ports`, not always that of its number"
                        .to_owned(),
                );
            }
            ends_daemon = ["supervisord.pid", "supervisorctl shutdown", "kill 1"]
                .iter()
                .any(|word| command.value.contains(word));
            if ends_daemon {
                differs.push(
                    "it ends supervisord; with `essential = \"exit\"` the master stops when it has ended".to_owned(),
                );
            }
            command.settle(&differs);
        }
        _ => drop(command.lost("a quote in it is never closed")),
    }
    if fcgi {
        socket(import, keys, &mut pool, name);
    } else {
        // Two that bind a port or do the same on a clock must not run side by side.
        pool.keys.set("reload.surge", 0);
    }
    if let Some(key) = keys.take("numprocs") {
        pool.keys.set("count", i64::from(processes.max(1)));
        if processes == 0 {
            pool.off = true;
            key.otherwise("0 processes: the pool is written as a comment");
        } else {
            key.taken();
        }
    }
    if let Some(key) = keys.take("numprocs_start") {
        if first == 0 || ports.is_some() {
            key.taken();
        } else {
            key.lost(format!(
                "slots count from 0: `{{slot}}` is one of 0 to {}",
                processes.saturating_sub(1)
            ));
        }
    }
    keys.not_needed(&["process_name"], "a worker is called POOL/SLOT");
    restarts(keys, &mut pool);
    if ends_daemon && !pool.is_oneshot() {
        if pool.keys.get("restart.policy").is_none() {
            pool.keys.set("restart.policy", "on-failure");
        }
        pool.keys.set("essential", "exit");
    }
    stop(keys, &mut pool);
    runs_as(import, keys, &mut pool, &names);
    logs(
        import,
        keys,
        &mut pool,
        &Names {
            port: None,
            ..names
        },
    );
    if let Some(key) = keys.take("autostart") {
        let mut differs = Vec::new();
        if is_false(&expand(&key.value, &names, false, &mut differs)) {
            pool.off = true;
            key.lost("rotad starts every pool: this one is written as a comment");
        } else {
            key.settle(&differs);
        }
    }
    let mut priority = PRIORITY;
    if let Some(key) = keys.take("priority") {
        match key.value.parse() {
            Ok(number) if number != PRIORITY => {
                priority = number;
                key.otherwise(
                    "an order of start: `after` waits until those with a lower one are ready, at the start and at each \
                     reload",
                );
            }
            Ok(_) => drop(key.taken()),
            Err(_) => drop(key.lost("not a number")),
        }
    }
    let mut after = Vec::new();
    if let Some(key) = keys.take_one_of(&["depends_on"]) {
        after = key
            .value
            .split([',', ' ', '\n'])
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        key.otherwise("supervisord ignores this key; here it is `after`, as it was meant");
    }
    keys.not_needed(&["serverurl"], "workers get no SUPERVISOR_SERVER_URL");
    Some(Program {
        pool,
        steps,
        priority,
        after,
        name: name.to_owned(),
    })
}

fn is_false(value: &str) -> bool {
    ["false", "no", "off", "0"].contains(&value.trim().to_lowercase().as_str())
}

fn is_true(value: &str) -> bool {
    ["true", "yes", "on", "1"].contains(&value.trim().to_lowercase().as_str())
}

/// The socket of a FastCGI program: descriptor 0.
fn socket(import: &mut Import, keys: &mut Keys<String>, pool: &mut Pool, name: &str) {
    let mut options: Vec<(&'static str, Value)> = Vec::new();
    if let Some(key) = keys.take("socket_owner") {
        let (user, group) = key.value.split_once(':').unwrap_or((&key.value, ""));
        options.push(("user", user.into()));
        if !group.is_empty() {
            options.push(("group", group.into()));
        }
        key.taken();
    }
    if let Some(key) = keys.take("socket_mode") {
        options.push(("mode", key.taken().into()));
    }
    if let Some(key) = keys.take("socket_backlog") {
        match key.value.parse::<i64>() {
            Ok(backlog) => {
                options.push(("backlog", backlog.into()));
                key.taken();
            }
            Err(_) => drop(key.lost("not a number")),
        }
    }
    let Some(key) = keys.take("socket") else {
        return;
    };
    let value = key.value.replace("%(program_name)s", name);
    let address = if let Some(path) = value.strip_prefix("unix://") {
        key.taken();
        format!("unix:{path}")
    } else {
        let address = value.strip_prefix("tcp://").unwrap_or(&value).to_owned();
        match address.strip_prefix("localhost:") {
            Some(port) => {
                key.otherwise("addresses are numbers: 127.0.0.1");
                format!("127.0.0.1:{port}")
            }
            None => {
                key.taken();
                match address.strip_prefix("*:") {
                    Some(port) => format!("0.0.0.0:{port}"),
                    None => address,
                }
            }
        }
    };
    let unix = address.starts_with("unix:");
    let listener = import.draft.listener(name, &address);
    if let Some((_, keys)) = import
        .draft
        .listen
        .iter_mut()
        .find(|(name, _)| *name == listener)
    {
        let fits = |(key, _): &(&str, Value)| unix || *key == "backlog";
        keys.extend(options.into_iter().filter(fits));
    }
    pool.keys.set("stdin", format!("listen:{listener}"));
}

fn restarts(keys: &mut Keys<String>, pool: &mut Pool) {
    let codes: Vec<Value> = keys
        .peek("exitcodes")
        .map_or(String::from("0"), Clone::clone)
        .split(',')
        .filter_map(|code| code.trim().parse::<i64>().ok())
        .map(Value::from)
        .collect();
    let restart = keys.take("autorestart");
    let policy = restart
        .as_ref()
        .map_or("unexpected", |key| key.value.trim());
    let exit_codes = keys.take("exitcodes");
    if is_true(policy) {
        if let Some(key) = exit_codes {
            key.not_needed("with autorestart=true no exit code counts");
        }
        if let Some(key) = restart {
            key.taken();
        }
    } else if is_false(policy) {
        if let Some(key) = exit_codes {
            key.not_needed("with autorestart=false no exit code counts");
        }
        let words: Vec<String> = match pool.keys.text("command") {
            Some(line) => line.split(' ').map(str::to_owned).collect(),
            None => Vec::new(),
        };
        if shell::is_step(&words)
            && pool
                .keys
                .get("count")
                .is_none_or(|count| *count == 1.into())
        {
            pool.keys.set("kind", "oneshot");
            if let Some(key) = restart {
                key.otherwise("a oneshot: runs to its end at the start, and again at each reload");
            }
        } else {
            pool.keys.set("restart.policy", "never");
            if let Some(key) = restart {
                key.taken();
            }
        }
    } else {
        pool.keys.set("restart.policy", "on-failure");
        pool.keys
            .set("restart.success_exit_codes", Value::List(codes));
        if let Some(key) = exit_codes {
            key.taken();
        }
        if let Some(key) = restart {
            key.taken();
        }
    }
    if let Some(key) = keys.take("startsecs") {
        match key.value.trim().parse::<u64>() {
            _ if pool.is_oneshot() => {}
            // Ready once it lives for a second: the default.
            Ok(1) => {}
            Ok(0) => pool.keys.set("ready", "spawned"),
            Ok(seconds) => pool.keys.set(
                "ready",
                Value::Table(vec![(
                    "after".to_owned(),
                    words::millis(seconds * 1000).into(),
                )]),
            ),
            Err(_) => {
                key.lost("not a number of seconds");
                return;
            }
        }
        // Workers that live by a socket are asked, not timed.
        key.taken();
    }
    if let Some(key) = keys.take("startretries") {
        key.otherwise(
            "rotad never gives up, it tries later and later (`restart.max_delay`); `essential` ends the master instead",
        );
    }
    if pool.is_oneshot() {
        pool.keys.remove("reload.surge");
        pool.keys.remove("count");
    }
}

fn stop(keys: &mut Keys<String>, pool: &mut Pool) {
    let mut signal = "TERM".to_owned();
    if let Some(key) = keys.take("stopsignal") {
        match words::signal(&key.value) {
            Some(name) => {
                signal = name;
                key.taken();
            }
            None => drop(key.lost("no such signal")),
        }
    }
    let mut wait = 10;
    if let Some(key) = keys.take("stopwaitsecs") {
        match key.value.trim().parse() {
            Ok(seconds) => {
                wait = seconds;
                key.taken();
            }
            Err(_) => drop(key.lost("not a number of seconds")),
        }
    }
    let mut tree = false;
    if let Some(key) = keys.take("stopasgroup") {
        tree = is_true(&key.taken());
    }
    if let Some(key) = keys.take("killasgroup") {
        if is_true(&key.value) || tree {
            key.taken();
        } else {
            key.otherwise("SIGKILL always goes to the whole tree");
        }
    }
    pool.keys.set(
        "stop",
        words::stop(&signal, &words::millis(wait * 1000), tree),
    );
}

fn runs_as(import: &mut Import, keys: &mut Keys<String>, pool: &mut Pool, names: &Names<'_>) {
    if let Some(key) = keys.take("directory") {
        let mut differs = Vec::new();
        let path = expand(&key.value, names, false, &mut differs);
        let path = import.path(names.here, &path);
        words::place_in(pool, &path);
        key.settle(&differs);
    } else if import.draft.defaults.get("working_directory").is_none() {
        import.remark(
            "A program without `directory` starts in the directory of this file; under supervisord that is wherever \
             supervisord was started.",
        );
    }
    if let Some(key) = keys.take("user") {
        pool.keys.set("user", key.value.clone());
        // supervisord passes its whole environment on.
        pool.keys.set("clear_env", false);
        key.otherwise("HOME, USER, LOGNAME and SHELL are the user's, too");
    }
    if let Some(key) = keys.take("umask") {
        pool.keys.set("umask", key.taken());
    }
    if let Some(key) = keys.take("environment") {
        match pairs(&key.value) {
            Ok(pairs) => {
                let mut differs = Vec::new();
                for (name, value) in pairs {
                    let value = expand(&value, names, true, &mut differs);
                    pool.keys.add("env", &name, value);
                }
                key.settle(&differs);
            }
            Err(why) => drop(key.lost(why)),
        }
    }
}

fn logs(import: &mut Import, keys: &mut Keys<String>, pool: &mut Pool, names: &Names<'_>) {
    let mut merged = false;
    if let Some(key) = keys.take("redirect_stderr") {
        merged = is_true(&key.taken());
    }
    let mut sinks = [None, None];
    for (at, name) in ["stdout_logfile", "stderr_logfile"].into_iter().enumerate() {
        let Some(key) = keys.take(name) else { continue };
        let mut differs = Vec::new();
        let value = expand(&key.value, names, true, &mut differs);
        let sink = match value.to_lowercase().as_str() {
            "none" => "null".to_owned(),
            "auto" => {
                key.otherwise("it is in the master's log: `rotad logs`");
                sinks[at] = Some("master".to_owned());
                continue;
            }
            "syslog" => {
                key.otherwise("it is in the master's log, which is the journal under systemd");
                sinks[at] = Some("master".to_owned());
                continue;
            }
            _ => match words::sink(&value) {
                file if words::is_file(&file) => import.path(names.here, &file),
                other => other,
            },
        };
        if at == 1 && merged {
            key.not_needed("redirect_stderr sends it to stdout");
            continue;
        }
        sinks[at] = Some(sink);
        key.settle(&differs);
    }
    let [stdout, stderr] = sinks;
    // A `>>` of the command itself stays.
    if let Some(stdout) = &stdout
        && pool.keys.get("log.stdout").is_none()
    {
        pool.keys.set("log.stdout", stdout.clone());
    }
    let stderr = if merged { None } else { stderr };
    match &stderr {
        Some(stderr) if Some(stderr) != stdout.as_ref() => {
            pool.keys.set("log.stderr", stderr.clone());
        }
        None if !merged && stdout.as_ref().is_some_and(|sink| sink != "master") => {
            pool.keys.set("log.stderr", "master")
        }
        _ => {}
    }
    let own = |sink: &Option<String>| sink.as_deref().is_some_and(words::is_file);
    let (out, err) = (own(&stdout), own(&stderr));
    let mut size: Option<Value> = None;
    let mut keep: Option<i64> = None;
    for (name, own, first) in [("stdout", out, true), ("stderr", err, !out)] {
        if let Some(key) = keys.take(&format!("{name}_logfile_maxbytes")) {
            match words::bytes(&key.value) {
                _ if !own => drop(key.not_needed("there is no file of its own to be rotated")),
                Some(bytes) => {
                    let value: Value = match bytes {
                        0 => "none".into(),
                        bytes => words::size(bytes).into(),
                    };
                    if first || size.is_none() || size.as_ref() == Some(&value) {
                        size = Some(value);
                        key.taken();
                    } else {
                        key.otherwise("stdout and stderr have one `log.max_size`");
                    }
                }
                None => drop(key.lost("not a size")),
            }
        }
        if let Some(key) = keys.take(&format!("{name}_logfile_backups")) {
            match key.value.trim().parse::<i64>() {
                _ if !own => drop(key.not_needed("there is no file of its own to be rotated")),
                Ok(number) if first || keep.is_none() || keep == Some(number) => {
                    keep = Some(number);
                    key.taken();
                }
                Ok(_) => drop(key.otherwise("stdout and stderr have one `log.keep`")),
                Err(_) => drop(key.lost("not a number")),
            }
        }
        keys.not_needed(
            &[
                &format!("{name}_capture_maxbytes"),
                &format!("{name}_events_enabled"),
            ],
            "there are no events about output; `rotad logs -f` follows it",
        );
        if let Some(key) = keys.take(&format!("{name}_syslog")) {
            key.otherwise("what goes to the master's log is in the journal under systemd");
        }
    }
    if let Some(size) = size {
        let rotated = size != "none".into();
        pool.keys.set("log.max_size", size);
        if let (Some(keep), true) = (keep, rotated) {
            pool.keys.set("log.keep", keep);
        }
    } else if let Some(keep) = keep {
        pool.keys.set("log.keep", keep);
    }
}

/// `after` by priority: each level comes after the one below it; and by `depends_on`.
fn order(programs: &mut [Program]) {
    let mut levels: Vec<i64> = programs
        .iter()
        .filter(|program| !program.pool.off)
        .map(|program| program.priority)
        .collect();
    levels.sort_unstable();
    levels.dedup();
    let live: Vec<(String, String, i64)> = programs
        .iter()
        .filter(|program| !program.pool.off)
        .map(|program| {
            (
                program.name.clone(),
                program.pool.name.clone(),
                program.priority,
            )
        })
        .collect();
    for program in programs.iter_mut().filter(|program| !program.pool.off) {
        let level = levels.iter().position(|level| *level == program.priority);
        if let Some(below) = level.and_then(|at| at.checked_sub(1)) {
            for (_, name, _) in live.iter().filter(|(_, _, level)| *level == levels[below]) {
                program.pool.keys.push("after", name.clone());
            }
        }
        for (_, name, priority) in live
            .iter()
            .filter(|(name, _, _)| program.after.contains(name))
        {
            // Against the order by priority it would be a circle.
            if *name != program.pool.name && *priority <= program.priority {
                program.pool.keys.push("after", name.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(value: &str, template: bool) -> (String, Vec<String>) {
        let names = Names {
            here: Path::new("/srv"),
            program: "web",
            group: "shop",
            processes: 2,
            first: 0,
            port: None,
        };
        let mut differs = Vec::new();
        let text = expand(value, &names, template, &mut differs);
        (text, differs)
    }

    #[test]
    fn expressions_become_placeholders_or_values() {
        let text = "%(here)s/%(program_name)s-%(process_num)s %(ENV_X)s 100%% {a}";
        assert_eq!(expanded(text, true).0, "/srv/web-{slot} {env:X} 100% {{a}}");
        let (_, differs) = expanded("%(process_num)02d", true);
        assert_eq!(differs, ["`{slot}` is not padded with zeros"]);
        assert_eq!(expanded("50% of %(nothing)s", true).0, "50% of %(nothing)s");
    }

    #[test]
    fn ports_are_made_of_numbers() {
        let found = |command: &str, first| port(command, 4, first);
        assert_eq!(
            found("x --port 98%(process_num)02d", 0),
            Some(("98".to_owned(), 9800, 9803))
        );
        assert_eq!(
            found("x 127.0.0.1:800%(process_num)d", 1),
            Some(("800".to_owned(), 8001, 8004))
        );
        assert_eq!(found("x --shard %(process_num)d", 0), None);
        assert_eq!(found("x 8%(process_num)d", 8), None);
    }

    #[test]
    fn variables_in_quotes_and_over_lines() {
        let found = pairs("A=\"x,y\",B=2,\nC='z',D=").unwrap();
        let expected = [("A", "x,y"), ("B", "2"), ("C", "z"), ("D", "")];
        assert_eq!(
            found,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert!(pairs("nonsense").is_err());
        assert!(pairs("A=\"open").is_err());
    }
}
