//! systemd's units: services, their templates and drop-ins, and sockets. What only systemd can do (the sandbox, limits of
//! cgroups, order after other units) goes to a drop-in for the unit of rotad.

use super::draft::{Pool, Value};
use super::ini::{self, Dialect, Section};
use super::ledger::{Key, Keys, Text, Unreadable};
use super::{Import, shell, words};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What the master itself needs to change to the users of pools and to stop their workers.
const CAPABILITIES: [&str; 4] = ["CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_CHOWN"];

/// Settings of [Service] that hold for a unit as a whole, by the beginning of their name.
const UNIT_WIDE: [&str; 47] = [
    "AllowedCPUs",
    "AllowedMemoryNodes",
    "AmbientCapabilities",
    "AppArmorProfile",
    "BindPaths",
    "BindReadOnlyPaths",
    "CPU",
    "CacheDirectory",
    "CapabilityBoundingSet",
    "ConfigurationDirectory",
    "DeviceAllow",
    "DevicePolicy",
    "ExecPaths",
    "IO",
    "IPAddress",
    "InaccessiblePaths",
    "KeyringMode",
    "LoadCredential",
    "LockPersonality",
    "LogsDirectory",
    "Memory",
    "MountFlags",
    "NoExecPaths",
    "NoNewPrivileges",
    "OOMPolicy",
    "OOMScoreAdjust",
    "Private",
    "ProcSubset",
    "Protect",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RemoveIPC",
    "Restrict",
    "RootDirectory",
    "RootImage",
    "RuntimeDirectory",
    "SecureBits",
    "SetCredential",
    "Slice",
    "SmackProcessLabel",
    "SocketBind",
    "StateDirectory",
    "SystemCall",
    "TasksMax",
    "TemporaryFileSystem",
    "Timer",
    "UtmpIdentifier",
];

/// Whether it looks like a unit or a part of one.
pub(super) fn fits(text: &Text) -> bool {
    let name = text.file.to_string_lossy();
    let is_unit = [".service", ".socket"]
        .iter()
        .any(|end| name.ends_with(end));
    let is_drop_in = name.ends_with(".conf") && unit_of_drop_in(&text.file).is_some();
    let has = |section: &str| text.text.lines().any(|line| line.trim() == section);
    (is_unit || is_drop_in)
        || (has("[Service]") && text.text.contains("ExecStart"))
        || (has("[Socket]") && text.text.contains("Listen"))
}

/// `x.service` of `x.service.d/y.conf`.
fn unit_of_drop_in(file: &Path) -> Option<String> {
    let dir = file.parent()?.file_name()?.to_str()?;
    let unit = dir.strip_suffix(".d")?;
    (unit.ends_with(".service") || unit.ends_with(".socket")).then(|| unit.to_owned())
}

fn is_secret(_: &str, key: &str) -> bool {
    ["Environment", "SetCredential", "SetCredentialEncrypted"].contains(&key)
}

/// A unit with its drop-ins.
struct Unit {
    /// `NAME.service`.
    file: String,
    dir: PathBuf,
    sections: Vec<Section>,
}

impl Unit {
    /// The name without its ending and instance.
    fn prefix(&self) -> &str {
        let stem = self.stem();
        stem.split_once('@').map_or(stem, |(prefix, _)| prefix)
    }

    fn stem(&self) -> &str {
        self.file
            .rsplit_once('.')
            .map_or(self.file.as_str(), |(stem, _)| stem)
    }

    /// The instance of `NAME@INSTANCE.service`; empty for a template.
    fn instance(&self) -> Option<&str> {
        self.stem().split_once('@').map(|(_, instance)| instance)
    }

    fn keys(&mut self, section: &str) -> Keys<String> {
        let found = self.sections.iter_mut().find(|other| other.name == section);
        found
            .map(|section| std::mem::take(&mut section.keys))
            .unwrap_or_default()
    }
}

pub(super) fn read(import: &mut Import, texts: &[Text]) -> Result<(), Unreadable> {
    let mut units = units(import, texts)?;
    let names: Vec<String> = units.iter().map(|unit| unit.file.clone()).collect();
    let mut sockets = BTreeMap::new();
    for unit in units
        .iter_mut()
        .filter(|unit| unit.file.ends_with(".socket"))
    {
        socket(import, unit, &mut sockets);
    }
    let mut orders: Vec<(String, Vec<String>)> = Vec::new();
    let mut pools: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for unit in units
        .iter_mut()
        .filter(|unit| !unit.file.ends_with(".socket"))
    {
        let after = order(import, unit, &names);
        let made = service(import, unit, &sockets);
        for name in &made {
            orders.push((name.clone(), after.clone()));
        }
        pools.insert(unit.file.clone(), made);
    }
    for (name, after) in orders {
        let befores: Vec<String> = after
            .iter()
            .filter_map(|unit| pools.get(unit))
            .flatten()
            .cloned()
            .collect();
        for before in befores.into_iter().filter(|before| *before != name) {
            import.draft.add_after(&name, &before);
        }
    }
    for unit in &mut units {
        for section in &mut unit.sections {
            section.keys.rest_lost(
                "not a setting that `rotad import` knows; the unit of rotad may have it (`systemctl edit rotad`)",
            );
        }
    }
    Ok(())
}

/// The units of the files, each with its drop-ins: those that were given, and those beside it.
fn units(import: &Import, texts: &[Text]) -> Result<Vec<Unit>, Unreadable> {
    let mut units: Vec<Unit> = Vec::new();
    for text in texts
        .iter()
        .filter(|text| unit_of_drop_in(&text.file).is_none())
    {
        let name = text.name();
        let file = match name.rsplit_once('.') {
            Some((_, "service" | "socket")) => name.clone(),
            _ if text.text.contains("[Socket]") => format!("{name}.socket"),
            _ => format!("{name}.service"),
        };
        let mut unit = Unit {
            dir: text.dir().to_owned(),
            sections: Vec::new(),
            file,
        };
        read_into(import, text, &mut unit)?;
        let beside = glob::glob(&format!("{}.d/*.conf", text.file.display()));
        for path in beside.into_iter().flatten().flatten() {
            if texts.iter().any(|text| text.file == path) {
                continue;
            }
            let content = fs::read_to_string(&path)
                .map_err(|error| Unreadable::file(&path, format!("cannot be read: {error}")))?;
            read_into(import, &Text::new(&path, &content), &mut unit)?;
        }
        units.push(unit);
    }
    for text in texts {
        let Some(name) = unit_of_drop_in(&text.file) else {
            continue;
        };
        match units.iter_mut().find(|unit| unit.file == name) {
            Some(unit) => read_into(import, text, unit)?,
            None => {
                return Err(Unreadable::file(
                    &text.file,
                    format!("belongs to {name}, which was not given"),
                )
                .hint("name the unit as well"));
            }
        }
    }
    Ok(units)
}

fn read_into(import: &Import, text: &Text, unit: &mut Unit) -> Result<(), Unreadable> {
    let prefix = format!("{}/", unit.file);
    ini::read(
        text,
        Dialect::Systemd,
        &import.ledger,
        &mut unit.sections,
        &prefix,
        is_secret,
    )
}

/// A socket: a listener for the service of its name, or that it names.
fn socket(import: &mut Import, unit: &mut Unit, sockets: &mut BTreeMap<String, Vec<String>>) {
    let mut keys = unit.keys("Socket");
    let mut service = format!("{}.service", unit.stem());
    if let Some(key) = keys.take("Service") {
        service = key.taken();
    }
    let mut options: Vec<(&'static str, Value)> = Vec::new();
    for (name, ours) in [
        ("SocketMode", "mode"),
        ("SocketUser", "user"),
        ("SocketGroup", "group"),
    ] {
        if let Some(key) = keys.take(name) {
            options.push((ours, key.taken().into()));
        }
    }
    if let Some(key) = keys.take("Backlog") {
        match key.value.parse::<i64>() {
            Ok(backlog) => {
                options.push(("backlog", backlog.into()));
                key.taken();
            }
            Err(_) => drop(key.lost("not a number")),
        }
    }
    let name = match keys.take("FileDescriptorName") {
        Some(key) => key.taken(),
        None => unit.prefix().to_owned(),
    };
    for key in keys.take_all("ListenStream") {
        let value = key.value.clone();
        if value.is_empty() {
            key.taken();
            continue;
        }
        let address = if value.starts_with('/') {
            format!("unix:{value}")
        } else if value.parse::<u16>().is_ok() {
            format!("[::]:{value}")
        } else {
            value
        };
        if address.starts_with('@') {
            key.lost("rotad opens no abstract unix sockets");
            continue;
        }
        let unix = address.starts_with("unix:");
        let listener = import.draft.listener(&name, &address);
        if let Some((_, keys)) = import
            .draft
            .listen
            .iter_mut()
            .find(|(other, _)| *other == listener)
        {
            let fits = |(key, _): &&(&str, Value)| unix || *key == "backlog";
            keys.extend(options.iter().filter(fits).cloned());
        }
        sockets.entry(service.clone()).or_default().push(listener);
        key.taken();
    }
    for name in [
        "ListenDatagram",
        "ListenSequentialPacket",
        "ListenFIFO",
        "ListenNetlink",
    ] {
        for key in keys.take_all(name) {
            key.lost("rotad opens TCP and unix stream sockets; others stay with a socket unit for rotad.service");
        }
    }
    if let Some(key) = keys.take("Accept") {
        if is_true(&key.value) {
            key.lost("a process for each connection: no");
        } else {
            key.taken();
        }
    }
    keys.not_needed(
        &[
            "NoDelay",
            "ReusePort",
            "FreeBind",
            "KeepAlive",
            "RemoveOnStop",
            "BindIPv6Only",
            "Writable",
        ],
        "rotad opens its sockets so that any number of workers share them",
    );
    keys.rest_lost("not an option of `[listen]`");
    unit.keys("Install")
        .rest_not_needed("rotad opens its sockets at its start");
    unit.keys("Unit")
        .rest_not_needed("rotad opens its sockets at its start");
}

/// The units that it comes after, of those that are imported; the others go to the drop-in.
fn order(import: &mut Import, unit: &mut Unit, names: &[String]) -> Vec<String> {
    let mut keys = unit.keys("Unit");
    let mut after = Vec::new();
    for name in ["After", "Requires", "Wants", "BindsTo", "Requisite"] {
        for key in keys.take_all(name) {
            let (ours, others): (Vec<&str>, Vec<&str>) = key
                .value
                .split_whitespace()
                .partition(|unit| names.iter().any(|name| name == unit));
            let ours: Vec<String> = ours.into_iter().map(str::to_owned).collect();
            let others = others.join(" ");
            for other in ours {
                if !after.contains(&other) {
                    after.push(other);
                }
            }
            if others.is_empty() {
                key.taken();
            } else {
                drop_in(import, "Unit", &format!("{name}={others}"));
                key.otherwise("of the unit of rotad: in rotad.service.d/imported.conf");
            }
        }
    }
    keys.not_needed(
        &["Description", "Documentation", "SourcePath"],
        "for people",
    );
    for name in [
        "StartLimitBurst",
        "StartLimitInterval",
        "StartLimitIntervalSec",
        "StartLimitAction",
    ] {
        for key in keys.take_all(name) {
            key.otherwise("rotad never gives up, it tries later and later (`restart.max_delay`)");
        }
    }
    for name in [
        "PartOf",
        "PropagatesReloadTo",
        "ReloadPropagatedFrom",
        "Conflicts",
        "Before",
        "Upholds",
    ] {
        for key in keys.take_all(name) {
            key.lost("pools are named together: `rotad roll 'web*'`, `rotad stop web api`; their order is `after`");
        }
    }
    for name in ["OnFailure", "OnSuccess"] {
        for key in keys.take_all(name) {
            key.lost(
                "`rotad events -f --json` prints each event as a line, for a program of yours",
            );
        }
    }
    for key in keys.take_where(|name| name.starts_with("Condition") || name.starts_with("Assert")) {
        key.lost("a pool has no conditions; those of the unit of rotad hold for all pools");
    }
    for key in keys.take_where(|name| name == "RequiresMountsFor" || name == "DefaultDependencies")
    {
        drop_in(import, "Unit", &format!("{}={}", key.name, key.value));
        key.otherwise("of the unit of rotad: in rotad.service.d/imported.conf");
    }
    keys.rest_lost("not a setting that `rotad import` knows; the unit of rotad may have it");
    unit.keys("Install")
        .rest_not_needed("the unit of rotad has its own");
    after
}

fn drop_in(import: &mut Import, section: &str, line: &str) {
    let sections = &mut import.draft.drop_in;
    let at = sections.iter().position(|(name, _)| name == section);
    let at = at.unwrap_or_else(|| {
        sections.push((section.to_owned(), Vec::new()));
        sections.len() - 1
    });
    if !sections[at].1.iter().any(|known| known == line) {
        sections[at].1.push(line.to_owned());
    }
}

fn is_true(value: &str) -> bool {
    ["1", "yes", "true", "on"].contains(&value.trim().to_lowercase().as_str())
}

/// What `%i` is.
#[derive(Clone, Debug, PartialEq)]
enum Instance {
    /// Not a template.
    None,
    /// A placeholder: `{slot}` or `{port}`.
    Placeholder(&'static str),
    /// A name, for which [`NAME`] stands until all pools are made.
    Name(String),
}

/// Stands for the name of an instance: a private character, which no file has.
const NAME: &str = "\u{e010}";

/// Specifiers and their values.
struct Specifiers<'a> {
    unit: &'a str,
    prefix: &'a str,
    instance: Instance,
    user: Option<String>,
}

impl Specifiers<'_> {
    /// Expands `%x`; braces that are not ours are doubled if `template`.
    fn expand(&self, value: &str, template: bool, differs: &mut Vec<String>) -> String {
        let literal = |text: &str| {
            if template {
                words::escaped(text)
            } else {
                text.to_owned()
            }
        };
        let mut text = String::new();
        let mut letters = value.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                text.push_str(&literal(letter.encode_utf8(&mut [0; 4])));
                continue;
            }
            match letters.next() {
                Some('i' | 'I' | 'j') => match &self.instance {
                    Instance::Placeholder(word) if template => text.push_str(word),
                    Instance::Placeholder(_) => {
                        differs.push(
                            "there is no placeholder for the instance here: it is 0".to_owned(),
                        );
                        text.push('0');
                    }
                    Instance::Name(_) => text.push_str(NAME),
                    Instance::None => {}
                },
                Some('n') => text.push_str(&literal(self.unit)),
                Some('N') => text.push_str(&literal(self.unit.trim_end_matches(".service"))),
                Some('p' | 'P') => text.push_str(&literal(self.prefix)),
                Some('t') => text.push_str("/run"),
                Some('S') => text.push_str("/var/lib"),
                Some('C') => text.push_str("/var/cache"),
                Some('L') => text.push_str("/var/log"),
                Some('E') => text.push_str("/etc"),
                Some('T') => text.push_str("/tmp"),
                Some('V') => text.push_str("/var/tmp"),
                Some('u') => text.push_str(self.user.as_deref().unwrap_or("root")),
                Some('h') => {
                    let user = self.user.as_deref().unwrap_or("root");
                    let home = nix::unistd::User::from_name(user).ok().flatten();
                    let home = home.map_or_else(
                        || format!("/home/{user}"),
                        |user| user.dir.display().to_string(),
                    );
                    text.push_str(&literal(&home));
                }
                Some('H') => {
                    differs.push("the name of this machine was put in".to_owned());
                    let name = nix::unistd::gethostname().unwrap_or_default();
                    text.push_str(&literal(&name.to_string_lossy()));
                }
                Some('%') => text.push('%'),
                Some(other) => {
                    differs.push(format!("the specifier %{other} stays as it is"));
                    text.push('%');
                    text.push(other);
                }
                None => text.push('%'),
            }
        }
        text
    }
}

/// The instances of a template that are enabled on this machine, or the one that the file's name says.
fn instances(unit: &Unit) -> Vec<String> {
    match unit.instance() {
        None => return Vec::new(),
        Some("") => {}
        Some(one) => return vec![one.to_owned()],
    }
    let pattern = format!("{}/*.wants/{}@*.service", unit.dir.display(), unit.prefix());
    let mut found: Vec<String> = glob::glob(&pattern)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|path| {
            let stem = path.file_stem()?.to_str()?;
            stem.split_once('@')
                .map(|(_, instance)| instance.to_owned())
        })
        .filter(|instance| !instance.is_empty())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The pools of a service: one, or one for each named instance. Returns their names.
fn service(
    import: &mut Import,
    unit: &mut Unit,
    sockets: &BTreeMap<String, Vec<String>>,
) -> Vec<String> {
    let found = instances(unit);
    let numbers: Vec<u32> = found
        .iter()
        .filter_map(|instance| instance.parse().ok())
        .collect();
    let all_numbers = !found.is_empty() && numbers.len() == found.len();
    let (mut count, mut ports, mut said) = (None, None, None);
    let instance = match unit.instance() {
        None => Instance::None,
        Some(_) if all_numbers => {
            let (low, high) = (
                numbers.iter().min().copied().unwrap_or(0),
                numbers.iter().max().copied().unwrap_or(0),
            );
            count = Some(i64::try_from(numbers.len()).unwrap_or(1));
            let in_a_row = (high - low) as usize + 1 == numbers.len();
            if low >= 1000 && high <= 65535 && in_a_row {
                ports = Some(format!("{low}-{high}"));
                said =
                    Some("each worker gets a free port of `ports`, not always the same".to_owned());
                Instance::Placeholder("{port}")
            } else if low == 0 && in_a_row {
                Instance::Placeholder("{slot}")
            } else {
                said = Some(format!(
                    "the instances {} are the slots 0 to {}",
                    found.join(", "),
                    numbers.len() - 1
                ));
                Instance::Placeholder("{slot}")
            }
        }
        Some(_) if found.is_empty() => {
            said = Some("how many instances there are is not in the file: `count`".to_owned());
            Instance::Placeholder("{slot}")
        }
        Some(_) => Instance::Name(found[0].clone()),
    };
    let mut made = Vec::new();
    let mut keys = unit.keys("Service");
    let name = match &instance {
        Instance::Name(one) => format!("{}-{one}", unit.prefix()),
        _ => unit.prefix().to_owned(),
    };
    let mut pool = Pool::new(&name, &unit.file, unit.file.clone());
    if let Some(count) = count {
        pool.keys.set("count", count);
    }
    if let Some(ports) = ports {
        pool.keys.set("ports", ports);
    }
    if keys.peek("ExecStart").is_none_or(String::is_empty) {
        keys.rest_lost("a service without ExecStart= starts nothing");
        return Vec::new();
    }
    let user = keys.peek("User").cloned();
    let specifiers = Specifiers {
        unit: &unit.file,
        prefix: unit.prefix(),
        instance: instance.clone(),
        user,
    };
    let chain = Chain::read(import, &mut pool, &mut keys, &specifiers, said);
    match sockets.get(&unit.file) {
        Some(listeners) => {
            for listener in listeners {
                pool.keys.push("listen", listener.clone());
            }
        }
        // Two that bind a port or do the same on a clock must not run side by side.
        None if !pool.is_oneshot() => pool.keys.set("reload.surge", 0),
        None => {}
    }
    if let Instance::Name(_) = &instance {
        // A pool for each of them.
        for (number, one) in found.iter().enumerate() {
            let mut twin = pool.clone();
            let mut chain = chain.clone();
            twin.name = super::draft::fit_name(&format!("{}-{one}", unit.prefix()));
            twin.origin = format!("{}, instance {one}", unit.file);
            if number > 0 {
                twin.parts.clear();
            }
            for pool in chain.all().chain([&mut twin]) {
                pool.keys.replace(NAME, one);
            }
            made.push(chain.add(import, twin));
        }
    } else {
        made.push(chain.add(import, pool));
    }
    keys.rest_lost(
        "not a setting that `rotad import` knows; the unit of rotad may have it (`systemctl edit rotad`)",
    );
    made
}

/// What runs before and after the program of a service.
#[derive(Clone)]
struct Chain {
    before: Vec<Pool>,
    after: Vec<Pool>,
}

impl Chain {
    fn all(&mut self) -> impl Iterator<Item = &mut Pool> {
        self.before.iter_mut().chain(&mut self.after)
    }

    fn add(self, import: &mut Import, pool: Pool) -> String {
        let shared = pool.clone();
        let name = import.draft.add_chain(self.before, pool);
        for mut step in self.after {
            for key in [
                "env",
                "env_file",
                "clear_env",
                "working_directory",
                "user",
                "group",
                "umask",
            ] {
                if let (Some(value), None) = (shared.keys.get(key), step.keys.get(key)) {
                    step.keys.set(key, value.clone());
                }
            }
            step.keys.push("after", name.clone());
            import.draft.add(step);
        }
        name
    }

    fn read(
        import: &mut Import,
        pool: &mut Pool,
        keys: &mut Keys<String>,
        specifiers: &Specifiers<'_>,
        said: Option<String>,
    ) -> Self {
        environment(import, pool, keys, specifiers);
        let kind = kind(pool, keys);
        let mut chain = Self {
            before: Vec::new(),
            after: Vec::new(),
        };
        chain.programs(pool, keys, specifiers, said);
        restarts(pool, keys, kind);
        stop(pool, keys);
        runs_as(pool, keys, specifiers);
        logs(import, pool, keys, specifiers);
        limits(pool, keys);
        unit_wide(import, pool, keys);
        chain
    }

    fn programs(
        &mut self,
        pool: &mut Pool,
        keys: &mut Keys<String>,
        specifiers: &Specifiers<'_>,
        said: Option<String>,
    ) {
        for (name, ours) in [
            ("ExecStartPre", "pre"),
            ("ExecStartPost", "post"),
            ("ExecCondition", "if"),
        ] {
            for key in settings(keys, name) {
                if name == "ExecCondition" {
                    key.lost("a pool has no conditions; a oneshot that fails stops what comes `after` it");
                    continue;
                }
                let mut differs = Vec::new();
                let (words, lenient) = command(&key.value, pool, specifiers, &mut differs);
                let mut step = Pool::new(&format!("{}-{ours}", pool.name), "", "");
                step.origin = format!("{name} of {}", pool.origin);
                step.keys.set("kind", "oneshot");
                let words = match lenient {
                    false => words,
                    true => vec![
                        "sh".to_owned(),
                        "-c".to_owned(),
                        format!("{} || true", shell_words::join(&words)),
                    ],
                };
                step.keys.set("command", words::command(&words));
                differs.push(
                    "a oneshot: it runs at the start and at each reload, not before each restart"
                        .to_owned(),
                );
                key.settle(&differs);
                match ours {
                    "pre" => self.before.push(step),
                    _ => self.after.push(step),
                }
            }
        }
        let mut starts = settings(keys, "ExecStart");
        let Some(last) = starts.pop() else { return };
        for (number, key) in starts.into_iter().enumerate() {
            let mut differs = Vec::new();
            let (words, _) = command(&key.value, pool, specifiers, &mut differs);
            let mut step = Pool::new(&format!("{}-{}", pool.name, number + 1), "", "");
            step.origin = format!("an ExecStart of {}", pool.origin);
            step.keys.set("kind", "oneshot");
            step.keys.set("command", words::command(&words));
            key.settle(&differs);
            self.before.push(step);
        }
        let mut differs: Vec<String> = said.into_iter().collect();
        let (words, _) = command(&last.value, pool, specifiers, &mut differs);
        if words::is_queue_worker(&words) && !pool.is_oneshot() {
            pool.keys.set("kind", "task");
        }
        if shell::is_wrapper(&words) && words::script(&words).is_none() {
            differs.push(
                "a shell or wrapper stays above the program: the stop goes to the whole tree"
                    .to_owned(),
            );
        }
        match words::script(&words) {
            Some(line) => {
                let (steps, said) = words::from_shell(pool, line, &words[0], false);
                self.before.extend(steps);
                differs.extend(said);
            }
            None => pool.keys.set("command", words::command(&words)),
        }
        last.settle(&differs);
    }
}

/// The settings of this name since the last empty one, which resets it.
fn settings(keys: &mut Keys<String>, name: &str) -> Vec<Key<String>> {
    let mut found = Vec::new();
    for key in keys.take_all(name) {
        if key.value.is_empty() {
            for former in found.drain(..) {
                let _: String = Key::not_needed(former, "reset further down");
            }
            key.taken();
        } else {
            found.push(key);
        }
    }
    found
}

/// The words of a command line, and whether its failure counts for nothing (`-`).
fn command(
    value: &str,
    pool: &Pool,
    specifiers: &Specifiers<'_>,
    differs: &mut Vec<String>,
) -> (Vec<String>, bool) {
    let rest = value.trim_start_matches(['@', ':', '+', '!', '-', '|']);
    let prefix = &value[..value.len() - rest.len()];
    let lenient = prefix.contains('-');
    if prefix.contains(['+', '!']) {
        differs.push("it runs as the pool's user, too".to_owned());
    }
    let mut words = shell_words::split(rest).unwrap_or_else(|_| {
        differs.push("a quote in it is never closed".to_owned());
        rest.split_whitespace().map(str::to_owned).collect()
    });
    if prefix.contains('@') && words.len() > 1 {
        // The second word would be argv[0].
        words.remove(1);
        differs.push("the program is called by its own name".to_owned());
    }
    let expand = |word: &str, differs: &mut Vec<String>| specifiers.expand(word, true, differs);
    let variables = !prefix.contains(':')
        && words
            .iter()
            .any(|word| word.replace("$$", "").contains('$'));
    if !variables {
        let words = words
            .iter()
            .map(|word| expand(&word.replace("$$", "$"), differs));
        return (words.collect(), lenient);
    }
    // Variables that the unit itself sets are put in; others need a shell.
    let known = |name: &str| -> Option<String> {
        let Some(Value::Table(entries)) = pool.keys.get("env") else {
            return None;
        };
        let entry = entries.iter().find(|(other, _)| other == name)?;
        match &entry.1 {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    };
    let mut line = Vec::new();
    let mut all_known = true;
    let mut expanded = Vec::new();
    for word in &words {
        let (text, whole) = variables_of(word, &known, &mut all_known);
        let text = expand_unbraced(&text, specifiers, differs);
        if whole {
            expanded.extend(text.split_whitespace().map(str::to_owned));
        } else {
            expanded.push(text);
        }
        let specified = expand(word, differs);
        line.push(match word.strip_prefix('$') {
            // A variable alone is split into words.
            Some(name) if is_name(name) => specified,
            _ if word.contains('$') => {
                let quoted = specified.replace("$$", "\\$").replace('"', "\\\"");
                // Its braces were doubled, as those of a literal.
                format!("\"{quoted}\"")
            }
            _ => shell_words::quote(&specified).into_owned(),
        });
    }
    if all_known {
        return (expanded, lenient);
    }
    differs.push("a shell puts the variables in".to_owned());
    let words = [
        "sh".to_owned(),
        "-c".to_owned(),
        format!("exec {}", line.join(" ")),
    ];
    (words.to_vec(), lenient)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

/// A word with its variables put in, and whether it is a variable alone. Values are templates already.
fn variables_of(
    word: &str,
    known: &dyn Fn(&str) -> Option<String>,
    all_known: &mut bool,
) -> (String, bool) {
    let whole = word.strip_prefix('$').is_some_and(is_name);
    let mut text = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(&words::escaped(before));
        if let Some(left) = after.strip_prefix('$') {
            text.push('$');
            rest = left;
            continue;
        }
        let (name, left) = match after
            .strip_prefix('{')
            .and_then(|after| after.split_once('}'))
        {
            Some((name, left)) => (name, left),
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                after.split_at(end.unwrap_or(after.len()))
            }
        };
        match known(name) {
            Some(value) => text.push_str(&value),
            None => *all_known = false,
        }
        rest = left;
    }
    text.push_str(&words::escaped(rest));
    (text, whole)
}

/// Specifiers of a text whose braces are doubled already.
fn expand_unbraced(text: &str, specifiers: &Specifiers<'_>, differs: &mut Vec<String>) -> String {
    text.split('%')
        .enumerate()
        .map(|(at, part)| {
            if at == 0 {
                return part.to_owned();
            }
            let end = part.chars().next().map_or(0, char::len_utf8);
            let letter = format!("%{}", &part[..end]);
            format!(
                "{}{}",
                specifiers.expand(&letter, true, differs),
                &part[end..]
            )
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Type {
    Service,
    Oneshot,
}

fn kind(pool: &mut Pool, keys: &mut Keys<String>) -> Type {
    let mut kind = Type::Service;
    if let Some(key) = keys.take("Type") {
        match key.value.to_lowercase().as_str() {
            "oneshot" => {
                kind = Type::Oneshot;
                pool.keys.set("kind", "oneshot");
                key.taken();
            }
            "notify" | "notify-reload" => {
                pool.keys.set("ready", "notify");
                key.taken();
            }
            "forking" => {
                key.lost(
                    "a program that goes to the background by itself counts as ended: start it in the foreground",
                );
            }
            "dbus" => {
                key.otherwise("ready once it lives for a second; rotad does not look at the bus");
            }
            _ => drop(key.taken()),
        }
    }
    if let Some(key) = keys.take("PIDFile") {
        key.not_needed("rotad knows its workers");
    }
    keys.not_needed(
        &[
            "NotifyAccess",
            "RemainAfterExit",
            "BusName",
            "GuessMainPID",
            "NonBlocking",
            "Sockets",
        ],
        "rotad does without",
    );
    kind
}

fn restarts(pool: &mut Pool, keys: &mut Keys<String>, kind: Type) {
    let policy = keys.take("Restart");
    if kind == Type::Oneshot {
        if let Some(key) = policy {
            key.not_needed("a oneshot is not restarted");
        }
    } else {
        let value = policy
            .as_ref()
            .map_or("no".to_owned(), |key| key.value.to_lowercase());
        let (ours, differs) = match value.as_str() {
            "always" => ("always", None),
            "on-failure" => ("on-failure", None),
            "on-success" => ("always", Some("after failures, too")),
            "on-abnormal" | "on-abort" | "on-watchdog" => {
                ("on-failure", Some("after every failure"))
            }
            _ => ("never", None),
        };
        pool.keys.set("restart.policy", ours);
        if let Some(key) = policy {
            match differs {
                Some(differs) => drop(key.otherwise(differs)),
                None => drop(key.taken()),
            }
        }
    }
    if let Some(key) = keys.take("RestartSec") {
        match span(&key.value) {
            Some(millis) => {
                pool.keys.set("restart.delay", words::millis(millis.max(1)));
                if millis > 30_000 {
                    pool.keys.set("restart.max_delay", words::millis(millis));
                }
                key.otherwise("the first death of a worker that was ready: at once; then this, doubled each time");
            }
            None => drop(key.lost("not a time")),
        }
    }
    if let Some(key) = keys.take("RestartMaxDelaySec") {
        match span(&key.value) {
            Some(millis) => {
                pool.keys.set("restart.max_delay", words::millis(millis));
                key.taken();
            }
            None => drop(key.lost("not a time")),
        }
    }
    keys.not_needed(
        &["RestartSteps", "RestartMode"],
        "the delay is doubled with each death",
    );
    for name in [
        "StartLimitBurst",
        "StartLimitInterval",
        "StartLimitIntervalSec",
    ] {
        if let Some(key) = keys.take(name) {
            key.otherwise("rotad never gives up, it tries later and later (`restart.max_delay`)");
        }
    }
    for (name, ours) in [
        ("SuccessExitStatus", "restart.success_exit_codes"),
        ("RestartPreventExitStatus", "restart.never_on"),
    ] {
        let Some(key) = keys.take(name) else { continue };
        let mut codes: Vec<Value> = Vec::new();
        let mut left = Vec::new();
        for word in key.value.split_whitespace() {
            match word.parse::<i64>() {
                Ok(code) => codes.push(code.into()),
                Err(_) => left.push(word.to_owned()),
            }
        }
        if name == "SuccessExitStatus" && !codes.contains(&0.into()) {
            codes.insert(0, 0.into());
        }
        if !codes.is_empty() {
            pool.keys.set(ours, Value::List(codes));
        }
        if left.is_empty() {
            key.taken();
        } else {
            key.otherwise(format!("exit codes alone: not {}", left.join(", ")));
        }
    }
    if let Some(key) = keys.take("RestartForceExitStatus") {
        key.lost("`restart.policy = \"always\"` restarts after every end");
    }
    if let Some(key) = keys.take("WatchdogSec") {
        match span(&key.value) {
            Some(0) => drop(key.taken()),
            Some(millis) => {
                pool.keys.set("health.watchdog", words::millis(millis));
                key.taken();
            }
            None => drop(key.lost("not a time")),
        }
    }
    let both = keys.take("TimeoutSec");
    let start = keys.take("TimeoutStartSec");
    if let Some(value) = start.as_ref().or(both.as_ref()).map(|key| span(&key.value)) {
        // Without an end: a day.
        let millis = value.unwrap_or(86_400_000);
        if pool.keys.text("ready") == Some("notify") || kind == Type::Oneshot {
            pool.keys.set("ready_timeout", words::millis(millis.max(1)));
        }
    } else if pool.keys.text("ready") == Some("notify") {
        pool.keys.set("ready_timeout", "90s");
    }
    if let Some(key) = start {
        key.taken();
    }
    let stop = keys.take("TimeoutStopSec");
    let wait = stop.as_ref().or(both.as_ref()).map(|key| key.value.clone());
    if let Some(key) = both {
        key.taken();
    }
    if let Some(key) = stop {
        if span(&key.value).is_none() {
            key.otherwise("a stop has an end: an hour");
        } else {
            key.taken();
        }
    }
    let millis = wait
        .map_or(Some(90_000), |value| span(&value))
        .unwrap_or(3_600_000);
    pool.keys.set("stop", words::millis(millis));
    keys.not_needed(
        &[
            "TimeoutAbortSec",
            "TimeoutStartFailureMode",
            "TimeoutStopFailureMode",
        ],
        "rotad does without",
    );
    if let Some(key) = keys.take("RuntimeMaxSec") {
        match span(&key.value) {
            Some(millis) if kind != Type::Oneshot => {
                pool.keys.set("recycle.max_age", words::millis(millis));
                key.otherwise("replaced gracefully at about this age, its successor first");
            }
            _ => drop(key.lost("not a time")),
        }
    }
}

/// Milliseconds of systemd's time: `90`, `1min 30s`, `500ms`; `None`: infinity, or not a time.
fn span(text: &str) -> Option<u64> {
    let mut millis = 0.0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().ok()?;
        rest = rest[end..].trim_start();
        let end = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        millis += number
            * match &rest[..end] {
                "" | "s" | "sec" | "second" | "seconds" => 1000.0,
                "ms" | "msec" => 1.0,
                "us" | "usec" => 0.001,
                "m" | "min" | "minute" | "minutes" => 60_000.0,
                "h" | "hr" | "hour" | "hours" => 3_600_000.0,
                "d" | "day" | "days" => 86_400_000.0,
                "w" | "week" | "weeks" => 604_800_000.0,
                _ => return None,
            };
        rest = rest[end..].trim_start();
    }
    (millis.is_finite() && millis < 1e15).then_some(millis as u64)
}

fn stop(pool: &mut Pool, keys: &mut Keys<String>) {
    let wait = pool.keys.text("stop").unwrap_or("90s").to_owned();
    let mut signal = "TERM".to_owned();
    if let Some(key) = keys.take("KillSignal") {
        match words::signal(&key.value) {
            Some(name) => {
                signal = name;
                key.taken();
            }
            None => drop(key.lost("no such signal")),
        }
    }
    for key in settings(keys, "ExecStop") {
        let words: Vec<&str> = key.value.split_whitespace().collect();
        let kills = words
            .first()
            .is_some_and(|program| program.trim_start_matches('-').ends_with("kill"));
        let named = words.iter().find_map(|word| {
            let name = word
                .strip_prefix("-s")
                .unwrap_or(word)
                .trim_start_matches('-');
            words::signal(name).filter(|_| name.parse::<i32>().is_err() || word.starts_with('-'))
        });
        if kills && key.value.contains("MAINPID") {
            signal = named.unwrap_or_else(|| "TERM".to_owned());
            key.taken();
        } else {
            key.lost(
                "no program runs at the stop: a signal (`stop`), which the program has to handle",
            );
        }
    }
    for name in ["ExecStopPost", "ExecReloadPost"] {
        for key in settings(keys, name) {
            key.lost("no program runs after the stop; `rotad events -f --json` prints each end as a line");
        }
    }
    for key in settings(keys, "ExecReload") {
        if key.value.contains("MAINPID") {
            let signal = ["HUP", "USR1", "USR2", "QUIT", "WINCH"]
                .into_iter()
                .find(|name| key.value.contains(name))
                .unwrap_or("HUP");
            key.otherwise(format!(
                "`rotad reload` rolls the pool: new workers first; `rotad signal {} {signal}` sends the signal",
                pool.name
            ));
        } else {
            key.otherwise("`rotad reload` rolls the pool: new workers first");
        }
    }
    let mut tree = pool.keys.get("command").is_some_and(|command| {
        let words: Vec<String> = match command {
            Value::Text(line) => line.split(' ').map(str::to_owned).collect(),
            Value::List(words) => words
                .iter()
                .filter_map(|word| match word {
                    Value::Text(word) => Some(word.clone()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        shell::is_wrapper(&words)
    });
    if let Some(key) = keys.take("KillMode") {
        match key.value.as_str() {
            "control-group" => {
                tree = true;
                key.taken();
            }
            "none" => drop(key.lost("what a worker leaves behind is stopped with it")),
            _ => {
                tree = false;
                key.taken();
            }
        }
    }
    for (name, why) in [
        ("SendSIGHUP", "HUP can be a step of `stop`"),
        ("SendSIGKILL", "SIGKILL ends every stop"),
        ("FinalKillSignal", "SIGKILL ends every stop"),
        ("RestartKillSignal", "`stop` is the same for a restart"),
    ] {
        if let Some(key) = keys.take(name) {
            key.otherwise(why);
        }
    }
    pool.keys.set("stop", words::stop(&signal, &wait, tree));
}

fn environment(
    import: &Import,
    pool: &mut Pool,
    keys: &mut Keys<String>,
    specifiers: &Specifiers<'_>,
) {
    for key in settings(keys, "Environment") {
        let mut differs = Vec::new();
        for word in shell_words::split(&key.value).unwrap_or_default() {
            if let Some((name, value)) = word.split_once('=') {
                let value = specifiers.expand(value, true, &mut differs);
                pool.keys.add("env", name, value);
            }
        }
        key.settle(&differs);
    }
    let mut files: Vec<String> = Vec::new();
    for key in settings(keys, "EnvironmentFile") {
        let mut differs = Vec::new();
        let (mark, path) = match key.value.strip_prefix('-') {
            Some(path) => ("?", path),
            None => ("", key.value.as_str()),
        };
        let path = specifiers.expand(path, true, &mut differs);
        files.push(format!("{mark}{}", import.path(Path::new("/"), &path)));
        key.settle(&differs);
    }
    match &files[..] {
        [] => {}
        [file] => pool.keys.set("env_file", file.clone()),
        files => pool.keys.set("env_file", files.to_vec()),
    }
    if let Some(key) = keys.take("PassEnvironment") {
        let names: Vec<String> = key.taken().split_whitespace().map(str::to_owned).collect();
        pool.keys.set("clear_env", true);
        pool.keys.set("pass_env", names);
    }
    if let Some(key) = keys.take("UnsetEnvironment") {
        key.lost("`clear_env = true` with `pass_env` says which variables are kept");
    }
}

fn runs_as(pool: &mut Pool, keys: &mut Keys<String>, specifiers: &Specifiers<'_>) {
    if let Some(key) = keys.take("User") {
        let mut differs = Vec::new();
        let user = specifiers.expand(&key.value, false, &mut differs);
        pool.keys.set("user", user);
        key.settle(&differs);
    }
    if let Some(key) = keys.take("Group") {
        pool.keys.set("group", key.taken());
    }
    if let Some(key) = keys.take("SupplementaryGroups") {
        key.lost("the groups of the user, as /etc/group has them");
    }
    if let Some(key) = keys.take("DynamicUser") {
        if is_true(&key.value) {
            key.lost("rotad makes no users: `useradd --system`, and `user`");
        } else {
            key.taken();
        }
    }
    if let Some(key) = keys.take("WorkingDirectory") {
        let mut differs = Vec::new();
        let value = specifiers.expand(&key.value, false, &mut differs);
        let path = match value.strip_prefix('-') {
            Some(path) => {
                differs.push("a missing directory is an error".to_owned());
                path.to_owned()
            }
            None => value,
        };
        let path = match path.as_str() {
            "~" => specifiers.expand("%h", false, &mut differs),
            path => path.to_owned(),
        };
        words::place_in(pool, &path);
        key.settle(&differs);
    } else {
        // systemd's default.
        words::place_in(pool, "/");
    }
    if let Some(key) = keys.take("UMask") {
        pool.keys.set("umask", key.taken());
    }
    if let Some(key) = keys.take("Nice") {
        match key.value.parse::<i64>() {
            Ok(nice) => {
                pool.keys.set("nice", nice);
                key.taken();
            }
            Err(_) => drop(key.lost("not a number")),
        }
    }
}

fn logs(import: &Import, pool: &mut Pool, keys: &mut Keys<String>, specifiers: &Specifiers<'_>) {
    for (name, ours) in [
        ("StandardOutput", "log.stdout"),
        ("StandardError", "log.stderr"),
    ] {
        let Some(key) = keys.take(name) else { continue };
        let mut differs = Vec::new();
        let value = specifiers.expand(&key.value, true, &mut differs);
        let path = ["file:", "append:", "truncate:"]
            .into_iter()
            .find_map(|prefix| value.strip_prefix(prefix));
        let sink = match (path, value.as_str()) {
            (Some(path), _) => import.path(Path::new("/"), path),
            (None, "null") => "null".to_owned(),
            (None, "inherit") if ours == "log.stderr" => "stdout".to_owned(),
            (None, "journal" | "inherit") => "master".to_owned(),
            (None, "syslog" | "kmsg" | "journal+console" | "kmsg+console") => {
                differs.push(
                    "it is in the master's log, which is the journal under systemd".to_owned(),
                );
                "master".to_owned()
            }
            (None, _) => {
                key.lost("`log` takes a path, \"master\", \"inherit\", \"null\"");
                continue;
            }
        };
        pool.keys.set(ours, sink);
        key.settle(&differs);
    }
    if pool.keys.text("log.stdout") == pool.keys.text("log.stderr") {
        pool.keys.remove("log.stderr");
    }
    if let Some(key) = keys.take("StandardInput") {
        match key.value.as_str() {
            "null" => drop(key.taken()),
            "socket" => drop(key.otherwise("`stdin = \"listen:NAME\"`")),
            _ => drop(key.lost("a worker has nothing to read, or a listener")),
        }
    }
    for name in [
        "SyslogIdentifier",
        "SyslogFacility",
        "SyslogLevel",
        "SyslogLevelPrefix",
    ] {
        if let Some(key) = keys.take(name) {
            key.otherwise(
                "the journal has the fields ROTAD_POOL and ROTAD_SLOT: journalctl ROTAD_POOL=…",
            );
        }
    }
    keys.not_needed(
        &[
            "LogLevelMax",
            "LogRateLimitBurst",
            "LogRateLimitIntervalSec",
            "TTYPath",
            "TTYReset",
        ],
        "rotad does without",
    );
}

fn limits(pool: &mut Pool, keys: &mut Keys<String>) {
    for key in keys.take_where(|name| name.starts_with("Limit")) {
        let name = key.name["Limit".len()..].to_lowercase();
        let limit = |text: &str| -> Option<Value> {
            match text.trim() {
                "infinity" => Some("unlimited".into()),
                text => match text.parse::<i64>() {
                    Ok(number) => Some(number.into()),
                    Err(_) => words::bytes(text).map(|bytes| words::size(bytes).into()),
                },
            }
        };
        let value = match key.value.split_once(':') {
            Some((soft, hard)) => limit(soft).zip(limit(hard)).map(|(soft, hard)| {
                Value::Table(vec![("soft".to_owned(), soft), ("hard".to_owned(), hard)])
            }),
            None => limit(&key.value),
        };
        match value {
            Some(value) => {
                pool.keys.add("limits", &name, value);
                key.taken();
            }
            None => drop(key.lost("not a limit")),
        }
    }
}

/// Settings of the unit of rotad.
fn unit_wide(import: &mut Import, pool: &Pool, keys: &mut Keys<String>) {
    let switches = pool.keys.get("user").is_some();
    let found = keys.take_where(|name| {
        UNIT_WIDE.iter().any(|prefix| name.starts_with(prefix)) || name == "Delegate"
    });
    for key in found {
        let line = format!("{}={}", key.name, key.value);
        match key.name.as_str() {
            "Delegate" => {
                key.not_needed("the unit of rotad has it");
                continue;
            }
            "PrivateUsers" if switches && is_true(&key.value) => {
                key.lost("it would keep the master from changing to the user of the pool");
                continue;
            }
            "SystemCallFilter"
                if switches
                    && key.value.contains('~')
                    && (key.value.contains("@privileged") || key.value.contains("@setuid")) =>
            {
                key.lost("it would keep the master from changing to the user of the pool; with `User=` of the unit it can stand there");
                continue;
            }
            "CapabilityBoundingSet" if switches && !key.value.starts_with('~') => {
                let mut line = format!("{line} {}", CAPABILITIES.join(" "));
                line = line.replace("= ", "=");
                drop_in(import, "Service", &line);
                key.otherwise(
                    "in rotad.service.d/imported.conf, for all pools, with what the master needs to change users",
                );
                continue;
            }
            "AmbientCapabilities" if switches => {
                key.lost("a worker that changes its user loses them: give the program file capabilities (setcap)");
                continue;
            }
            _ => {}
        }
        drop_in(import, "Service", &line);
        key.otherwise("in rotad.service.d/imported.conf: it holds for the master and all pools");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(span("90"), Some(90_000));
        assert_eq!(span("1min 30s"), Some(90_000));
        assert_eq!(span("500ms"), Some(500));
        assert_eq!(span("2h"), Some(7_200_000));
        assert_eq!(span("infinity"), None);
        assert_eq!(span("5 parsecs"), None);
    }

    fn words(value: &str, env: &[(&str, &str)]) -> Vec<String> {
        let mut pool = Pool::new("x", "", "");
        for (name, value) in env {
            pool.keys.add("env", name, *value);
        }
        let specifiers = Specifiers {
            unit: "x@.service",
            prefix: "x",
            instance: Instance::Placeholder("{slot}"),
            user: None,
        };
        command(value, &pool, &specifiers, &mut Vec::new()).0
    }

    #[test]
    fn variables_and_specifiers_of_a_command() {
        assert_eq!(
            words("-/bin/a %i '{b}' 5%%", &[]),
            ["/bin/a", "{slot}", "{{b}}", "5%"]
        );
        assert_eq!(
            words(
                "/bin/a $OPTS --port=${PORT}",
                &[("OPTS", "-x -y"), ("PORT", "80")]
            ),
            ["/bin/a", "-x", "-y", "--port=80"]
        );
        assert_eq!(
            words("/bin/a $OPTS --port=${PORT} 'b c'", &[]),
            ["sh", "-c", "exec /bin/a $OPTS \"--port=${{PORT}}\" 'b c'"]
        );
        assert_eq!(words("/bin/a $$HOME", &[]), ["/bin/a", "$HOME"]);
    }
}
