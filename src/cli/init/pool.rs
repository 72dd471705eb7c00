//! A pool that `init` writes: what its program is, which socket it takes, and how it becomes a table of the configuration.

use std::fmt::Write as _;

/// Placeholders that a word of a command may hold; every other brace stands for itself.
const PLACEHOLDERS: [&str; 5] = [
    "{pool}",
    "{slot}",
    "{generation}",
    "{rotad}",
    "{preload:node}",
];

/// The column of a comment behind a key.
const COMMENT: usize = 36;

/// How the program comes to its listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    /// It has none, or nothing is known of one.
    None,
    /// It takes it from file descriptor 3.
    Inherited(Address),
    /// It opens this address itself, if one is known. Two workers cannot run at the same time.
    Own(Option<Address>),
}

/// An address as a program is told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// An address that only this machine reaches.
    pub(super) fn local(port: u16) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port,
        }
    }

    /// `HOST:PORT`, where HOST has to be an IP address, as `listen` wants it; or `:PORT`, `*:PORT`, `localhost:PORT`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Self::of(host, port)
    }

    /// The same, from the two parts.
    pub(super) fn of(host: &str, port: &str) -> Option<Self> {
        let host = match host.trim_matches(['[', ']']) {
            "" | "*" => "0.0.0.0",
            "localhost" => "127.0.0.1",
            host => host,
        };
        let address: std::net::IpAddr = host.parse().ok()?;
        Some(Self {
            host: if address.is_ipv6() {
                format!("[{address}]")
            } else {
                address.to_string()
            },
            port: port.parse().ok()?,
        })
    }

    /// Where to connect to it from this machine.
    fn reachable(&self) -> String {
        match self.host.as_str() {
            "0.0.0.0" => format!("127.0.0.1:{}", self.port),
            "[::]" => format!("[::1]:{}", self.port),
            _ => self.to_string(),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What is written behind `soak`.
const BY_AGE: &str = "only its age says that it is ready; docs/health.md has what proves more";

/// A pool to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) command: Vec<String>,
    /// What it was taken for and where that was found, for people; empty if it was typed and is unknown.
    pub(super) origin: String,
    pub(super) socket: Socket,
    /// Its name in `[listen.NAME]`, if `env` refers to it.
    pub(super) listener: Option<&'static str>,
    /// `kind = "task"`.
    pub(super) task: bool,
    pub(super) count: u32,
    /// Values may hold placeholders.
    pub(super) env: Vec<(String, String)>,
    /// Further keys, as they are written.
    pub(super) keys: Vec<String>,
    /// Why two workers must not run side by side; then `surge = 0`.
    pub(super) alone: Option<String>,
    /// What a person has to know or decide: on the screen, and as comments.
    pub(super) notes: Vec<String>,
}

impl Pool {
    /// A pool of one worker that has no socket.
    pub(super) fn new<W: Into<String>>(
        name: &str,
        command: impl IntoIterator<Item = W>,
        origin: impl Into<String>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            command: command.into_iter().map(Into::into).collect(),
            origin: origin.into(),
            socket: Socket::None,
            listener: None,
            task: false,
            count: 1,
            env: Vec::new(),
            keys: Vec::new(),
            alone: None,
            notes: Vec::new(),
        }
    }

    /// It takes a socket with this address from descriptor 3, so several workers share it.
    pub(super) fn inherits(self, address: Address) -> Self {
        Self {
            socket: Socket::Inherited(address),
            count: 2,
            ..self
        }
    }

    /// It opens its port itself. `instead`: how no request would be lost.
    pub(super) fn binds(mut self, address: Option<Address>, instead: &str) -> Self {
        self.alone = Some(format!(
            "it opens its port itself, so the old worker has to end before the new one starts: in a roll, requests are \
             refused for that long; {instead}"
        ));
        self.socket = Socket::Own(address);
        self
    }

    /// A pool for jobs.
    pub(super) fn task(self) -> Self {
        Self { task: true, ..self }
    }

    /// One more key, as it is written.
    pub(super) fn key(mut self, line: &str) -> Self {
        self.keys.push(line.to_owned());
        self
    }

    /// One more note.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Two workers must not run side by side, because …
    pub(super) fn alone(mut self, reason: impl Into<String>) -> Self {
        self.alone = Some(reason.into());
        self
    }

    /// Where it serves, if that is known.
    pub(super) fn address(&self) -> Option<&Address> {
        match &self.socket {
            Socket::Inherited(address) => Some(address),
            Socket::Own(address) => address.as_ref(),
            Socket::None => None,
        }
    }

    /// Why `surge` is 0, and the notes.
    pub(super) fn remarks(&self) -> Vec<String> {
        let alone = self
            .alone
            .iter()
            .map(|reason| format!("surge = 0: {reason}"));
        alone.chain(self.notes.iter().cloned()).collect()
    }

    /// The pool as tables of the configuration.
    pub(super) fn toml(&self) -> String {
        let mut text = String::new();
        if !self.origin.is_empty() {
            comment(&mut text, &self.origin);
        }
        for remark in self.remarks() {
            comment(&mut text, &remark);
        }
        if let (Some(name), Socket::Inherited(address)) = (self.listener, &self.socket) {
            writeln!(text, "[listen.{name}]\naddress = \"{address}\"\n").ok();
        }
        let words: Vec<String> = self
            .command
            .iter()
            .map(|word| string(&template(word)))
            .collect();
        writeln!(text, "[pool.{}]", self.name).ok();
        if self.task {
            explained(
                &mut text,
                "kind = \"task\"",
                "rolled by USR2; a job has 300 s to end",
            );
        }
        writeln!(text, "command = [{}]", words.join(", ")).ok();
        if let Socket::Inherited(address) = &self.socket {
            let name = self
                .listener
                .map_or_else(|| address.to_string(), str::to_owned);
            let listen = format!("listen = \"{name}\"");
            explained(
                &mut text,
                &listen,
                "opened by the master: file descriptor 3 of every worker",
            );
        }
        let count = format!("count = {}", self.count);
        let brings_its_own = self.count == 1 && matches!(self.socket, Socket::Inherited(_));
        if self.alone.is_some() || brings_its_own {
            writeln!(text, "{count}").ok();
        } else {
            explained(&mut text, &count, "\"cpus\": one for each CPU");
        }
        if let Socket::Own(Some(address)) = &self.socket {
            writeln!(text, "ready = {{ connect = \"{}\" }}", address.reachable()).ok();
        }
        if !self.env.is_empty() {
            let pairs: Vec<String> = self
                .env
                .iter()
                .map(|(name, value)| format!("{name} = {}", string(value)))
                .collect();
            writeln!(text, "env = {{ {} }}", pairs.join(", ")).ok();
        }
        for key in &self.keys {
            writeln!(text, "{key}").ok();
        }
        let by_age = self.is_ready_by_age().then_some("soak = \"10s\"");
        let surge = self.alone.is_some().then_some("surge = 0");
        let reload: Vec<&str> = surge.into_iter().chain(by_age).collect();
        let reload = format!("reload = {{ {} }}", reload.join(", "));
        match (surge, by_age) {
            (None, None) => {}
            (_, Some(_)) => explained(&mut text, &reload, BY_AGE),
            (Some(_), None) => drop(writeln!(text, "{reload}")),
        }
        text
    }

    /// Nothing but its age says that a worker is ready. Said in the file, it is no warning of `check`.
    fn is_ready_by_age(&self) -> bool {
        let has_ready = self.keys.iter().any(|key| key.starts_with("ready"));
        self.socket == Socket::None && !has_ready
    }
}

/// A key and what it says, in a column where there is room.
fn explained(text: &mut String, key: &str, meaning: &str) {
    writeln!(text, "{key:<width$}# {meaning}", width = COMMENT - 1).ok();
}

/// A comment of lines that fit a terminal.
fn comment(text: &mut String, paragraph: &str) {
    const WIDTH: usize = 110;
    let mut line = String::from("#");
    // What was read from files may hold line breaks, which would end the comment.
    for word in paragraph.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH && line.len() > 1 {
            writeln!(text, "{line}").ok();
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(text, "{line}").ok();
}

/// A word as rotad expands it: braces are doubled, except those of a placeholder.
fn template(word: &str) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some(letter) = rest.chars().next() {
        if let Some(known) = PLACEHOLDERS.iter().find(|known| rest.starts_with(*known)) {
            text.push_str(known);
            rest = &rest[known.len()..];
            continue;
        }
        text.push(letter);
        if matches!(letter, '{' | '}') {
            text.push(letter);
        }
        rest = &rest[letter.len_utf8()..];
    }
    text
}

/// A TOML string.
fn string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_toml_and_placeholders() {
        let words = ["sh", "-c", "x=\"{a}\"; echo {slot} '{' \\ \t ü"];
        let text = Pool::new("app", words, "").toml();
        let table: toml::Table = toml::from_str(&text).unwrap();
        let command = table["pool"]["app"]["command"].as_array().unwrap();
        assert_eq!(
            command[2].as_str().unwrap(),
            "x=\"{{a}}\"; echo {slot} '{{' \\ \t ü"
        );
    }

    #[test]
    fn a_remark_of_several_lines_stays_a_comment() {
        let long = "word ".repeat(40);
        let text = Pool::new("app", ["true"], "a\n[pool.evil]\r\n")
            .note(long)
            .alone("it\nhas to be")
            .toml();
        let comments = text.lines().take_while(|line| line.starts_with("# "));
        assert_eq!(comments.count(), 4, "{text}");
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table["pool"].as_table().unwrap().len(), 1, "{text}");
        assert!(text.lines().all(|line| line.len() <= 110), "{text}");
    }

    #[test]
    fn addresses_are_those_that_listen_takes() {
        let parse = |text| Address::parse(text).map(|address| address.to_string());
        assert_eq!(parse("0.0.0.0:80").as_deref(), Some("0.0.0.0:80"));
        assert_eq!(parse("localhost:80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(parse(":80").as_deref(), Some("0.0.0.0:80"));
        assert_eq!(parse("[::]:80").as_deref(), Some("[::]:80"));
        assert_eq!(
            Address::of("::1", "80").map(|it| it.to_string()).as_deref(),
            Some("[::1]:80")
        );
        for bad in ["shop.example:80", "80", "127.0.0.1:http", "127.0.0.1:$PORT"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
