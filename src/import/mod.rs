//! Reads the configuration of another process manager and writes ours: `rotad import`.
//!
//! One file for each kind of source (`supervisord`, `procfile`, `pm2`, …) turns its keys into pools of a `draft`. The
//! readers (`ini`, `tree`) register each key in the `ledger`, whose entries say at the end what became of it: taken,
//! otherwise, lost or not needed. `account` prints that; `shell` and `words` know what the sources have in common.

mod account;
mod circus;
mod draft;
mod horust;
mod ini;
mod javascript;
mod ledger;
mod pm2;
mod process_compose;
mod procfile;
mod shell;
mod starters;
mod supervisord;
mod systemd;
mod tree;
mod words;

pub use account::Account;
pub use ledger::{Entry, Outcome, Unreadable};

use draft::Draft;
use ledger::{Ledger, Text};
use starters::Starter;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// A larger file, in bytes, is not the configuration of a process manager.
const LARGEST: u64 = 4 << 20;

/// A kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// supervisord.conf and its conf.d.
    Supervisord,
    /// A Procfile, as foreman, honcho and Heroku read it.
    Procfile,
    /// pm2's ecosystem file: JavaScript, JSON or YAML.
    Pm2,
    /// systemd's services, with their templates, drop-ins and sockets.
    Systemd,
    /// circus.ini.
    Circus,
    /// process-compose.yaml.
    ProcessCompose,
    /// Horust's services.
    Horust,
    /// A command line of Einhorn.
    Einhorn,
    /// A command line of Server::Starter.
    ServerStarter,
}

impl Kind {
    /// All of them, with the names that `--from` takes.
    pub const ALL: [(&'static str, Self); 9] = [
        ("supervisord", Self::Supervisord),
        ("procfile", Self::Procfile),
        ("pm2", Self::Pm2),
        ("systemd", Self::Systemd),
        ("circus", Self::Circus),
        ("process-compose", Self::ProcessCompose),
        ("horust", Self::Horust),
        ("einhorn", Self::Einhorn),
        ("server-starter", Self::ServerStarter),
    ];

    /// The name that `--from` takes.
    pub fn name(self) -> &'static str {
        let entry = Self::ALL.into_iter().find(|(_, kind)| *kind == self);
        entry.map_or("", |(name, _)| name)
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        let entry = Self::ALL.into_iter().find(|(other, _)| *other == name);
        entry.map(|(_, kind)| kind)
    }

    /// By name and content; `None`: it looks like none of them.
    fn of(text: &Text) -> Option<Self> {
        let file = text.name().to_lowercase();
        if file == "procfile" || file.starts_with("procfile.") || file.ends_with(".procfile") {
            return Some(Self::Procfile);
        }
        if supervisord::fits(&text.text) {
            return Some(Self::Supervisord);
        }
        if circus::fits(&text.text) {
            return Some(Self::Circus);
        }
        if process_compose::fits(text) {
            return Some(Self::ProcessCompose);
        }
        if horust::fits(text) {
            return Some(Self::Horust);
        }
        if pm2::fits(text) {
            return Some(Self::Pm2);
        }
        if systemd::fits(text) {
            return Some(Self::Systemd);
        }
        starters::find(&text.text).map(|starter| match starter {
            Starter::Einhorn => Self::Einhorn,
            Starter::ServerStarter => Self::ServerStarter,
        })
    }
}

/// What is asked for.
#[derive(Debug, Default)]
pub struct Options {
    /// The kind of the source; `None`: by name and content.
    pub kind: Option<Kind>,
    /// The profile that is merged (`env_NAME` of pm2, the environment of others).
    pub profile: Option<String>,
    /// A command line to read, besides files or in place of them.
    pub command: Vec<String>,
    /// The directory that relative paths of the result are relative to.
    pub base: PathBuf,
}

/// The result of an import.
#[derive(Debug)]
pub struct Imported {
    /// The kind that the source was read as.
    pub kind: Kind,
    /// The configuration.
    pub text: String,
    /// A drop-in for the systemd unit of rotad, if the source has what only systemd can do.
    pub drop_in: Option<String>,
    /// What became of each key.
    pub account: Account,
}

/// An import under way.
struct Import {
    ledger: Ledger,
    draft: Draft,
    /// Absolute.
    base: PathBuf,
    profile: Option<String>,
}

impl Import {
    /// A path of the source, which is relative to `from`, as the result writes it.
    fn path(&self, from: &Path, path: &str) -> String {
        let from = absolute(from);
        // An absolute one stays, unless it was made of the directory of the source.
        let made = from.parent().is_some() && Path::new(path).starts_with(&from);
        if path.starts_with('/') && !made {
            return path.to_owned();
        }
        let whole = clean(&from.join(path));
        match whole.strip_prefix(&self.base) {
            Ok(below) if below.as_os_str().is_empty() => ".".to_owned(),
            Ok(below) => below.to_string_lossy().into_owned(),
            Err(_) => whole.to_string_lossy().into_owned(),
        }
    }

    /// Says something about the whole result, once.
    fn remark(&mut self, text: &str) {
        if !self.draft.remarks.iter().any(|said| said == text) {
            self.draft.remarks.push(text.to_owned());
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Without `.`, and without `..` where what it leaves is known by name.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if clean.file_name().is_some() => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

/// Reads the files of a source and makes a configuration of them.
///
/// # Errors
///
/// A file that cannot be read, is of no known kind, or is not what its kind is.
pub fn import(files: &[PathBuf], options: &Options) -> Result<Imported, Unreadable> {
    let mut texts = Vec::new();
    for file in files {
        texts.push(read(file)?);
    }
    if !options.command.is_empty() {
        let line = shell_words::join(&options.command);
        texts.push(Text::new(Path::new("command line"), &line));
    }
    let kind = match options.kind {
        Some(kind) => kind,
        None => kind_of(&texts)?,
    };
    let mut import = Import {
        ledger: Ledger::default(),
        draft: Draft::default(),
        base: clean(&absolute(&options.base)),
        profile: options.profile.clone(),
    };
    match kind {
        Kind::Supervisord => supervisord::read(&mut import, &texts)?,
        Kind::Procfile => procfile::read(&mut import, &texts)?,
        Kind::Pm2 => pm2::read(&mut import, &texts)?,
        Kind::Systemd => systemd::read(&mut import, &texts)?,
        Kind::Circus => circus::read(&mut import, &texts)?,
        Kind::ProcessCompose => process_compose::read(&mut import, &texts)?,
        Kind::Horust => horust::read(&mut import, &texts)?,
        Kind::Einhorn | Kind::ServerStarter => {
            let starter = match kind {
                Kind::Einhorn => Starter::Einhorn,
                _ => Starter::ServerStarter,
            };
            for text in &texts {
                starters::read(&mut import, text, starter)?;
            }
        }
    }
    let first = texts
        .first()
        .map_or(Path::new(""), |text| text.file.as_path());
    if import.draft.pools.is_empty() {
        return Err(Unreadable::file(
            first,
            format!("no program in it that {} would start", kind.name()),
        ));
    }
    let entries = import.ledger.entries();
    let names: Vec<String> = texts.iter().map(Text::name).collect();
    let title = format!("Made from {} by `rotad import`.", names.join(", "));
    let text = import.draft.render(&title, &entries);
    let drop_in = drop_in(&import.draft);
    Ok(Imported {
        kind,
        text,
        drop_in,
        account: Account::new(entries, import.draft.remarks),
    })
}

fn drop_in(draft: &Draft) -> Option<String> {
    let sections: Vec<String> = draft
        .drop_in
        .iter()
        .map(|(name, lines)| format!("[{name}]\n{}\n", lines.join("\n")))
        .collect();
    (!sections.is_empty()).then(|| sections.join("\n"))
}

fn read(file: &Path) -> Result<Text, Unreadable> {
    let about = file
        .metadata()
        .map_err(|error| Unreadable::file(file, format!("cannot be read: {error}")))?;
    if about.is_dir() {
        return Err(Unreadable::file(file, "is a directory")
            .hint("name the file, or several: `rotad import conf.d/*.conf`"));
    }
    if about.len() > LARGEST {
        return Err(Unreadable::file(file, "is too large for a configuration"));
    }
    let bytes = fs::read(file)
        .map_err(|error| Unreadable::file(file, format!("cannot be read: {error}")))?;
    let content =
        String::from_utf8(bytes).map_err(|_| Unreadable::file(file, "is not text in UTF-8"))?;
    Ok(Text::new(file, &content))
}

/// The kind of all files.
fn kind_of(texts: &[Text]) -> Result<Kind, Unreadable> {
    let mut kind: Option<Kind> = None;
    for text in texts {
        let Some(found) = Kind::of(text) else {
            // What belongs to another file of the source: `.env` of a Procfile.
            if procfile::is_env_file(&text.file) {
                continue;
            }
            let known: Vec<&str> = Kind::ALL.into_iter().map(|(name, _)| name).collect();
            return Err(Unreadable::file(
                &text.file,
                "is not a configuration that `rotad import` knows",
            )
            .hint(format!(
                "known are {}; `--from KIND` says which one it is",
                known.join(", ")
            )));
        };
        if kind.is_some_and(|kind| kind != found) {
            return Err(Unreadable::file(
                &text.file,
                format!(
                    "is of another kind ({}) than the file before it",
                    found.name()
                ),
            )
            .hint("import one kind at a time"));
        }
        kind = Some(found);
    }
    kind.ok_or_else(|| {
        let file = texts.first().map(|text| text.file.clone());
        Unreadable::file(&file.unwrap_or_default(), "says nothing about programs")
    })
}
