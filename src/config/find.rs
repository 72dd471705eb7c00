//! Which configuration is meant, and what clients need of it even when it is broken.

use super::place::{self, Whereabouts};
use super::reader::in_order;
use super::trust;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Where a configuration is looked for, after `-c` and `$ROTAD_CONFIG`.
const SEARCH: [&str; 3] = ["rotad.toml", "config/rotad.toml", "/etc/rotad/rotad.toml"];

/// No configuration that may be used. The exit code is [`super::Report::EXIT`].
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    #[error(
        "no configuration: looked for ./rotad.toml, ./config/rotad.toml and /etc/rotad/rotad.toml\n  \
         name one with `-c FILE` or $ROTAD_CONFIG, or write one with `rotad init`"
    )]
    Nowhere,
    #[error("{} ({by}) cannot be used: {source}", path.display())]
    Missing { path: PathBuf, by: &'static str, source: std::io::Error },
    #[error(
        "{} was found by the search, but does not belong to root\n  name it with `-c {}` if it is meant",
        .0.display(), .0.display()
    )]
    NotRoots(PathBuf),
    #[error("{message}\n  {hint}")]
    Writable { message: String, hint: String },
}

/// The configuration that is meant: `explicit` (`-c`), else `$ROTAD_CONFIG`, `./rotad.toml`, `./config/rotad.toml`,
/// `/etc/rotad/rotad.toml`, the first that exists. For root, one that was found must belong to root, and neither it
/// nor a folder of it may be writable by others.
pub fn find(explicit: Option<&Path>) -> Result<PathBuf, NotFound> {
    if let Some(path) = explicit {
        return usable(path, "-c");
    }
    let named = std::env::var_os("ROTAD_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from);
    let path = match named {
        Some(path) => usable(&path, "$ROTAD_CONFIG")?,
        None => SEARCH.iter().map(PathBuf::from).find(|path| path.exists()).ok_or(NotFound::Nowhere)?,
    };
    if !trust::is_own(&path) {
        return Err(NotFound::NotRoots(path));
    }
    match trust::writable_by_others(&path) {
        None => Ok(path),
        Some(found) => {
            let (message, hint) = trust::distrust(&found);
            Err(NotFound::Writable { message, hint })
        }
    }
}

fn usable(path: &Path, by: &'static str) -> Result<PathBuf, NotFound> {
    match path.metadata() {
        Ok(_) => Ok(path.to_owned()),
        Err(source) => Err(NotFound::Missing { path: path.to_owned(), by, source }),
    }
}

/// What a client has to know of a configuration to reach its master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peek {
    /// The real path of the file.
    pub config: PathBuf,
    pub name: String,
    pub runtime_dir: PathBuf,
    pub pid_file: PathBuf,
    /// As configured; `default_log_file` is where a daemonized master logs without it.
    pub log_file: Option<PathBuf>,
    pub default_log_file: PathBuf,
}

/// Reads as much of a configuration as a client needs. It never fails: whatever is broken or missing in the file (or
/// the file itself) falls back to the defaults, because a running master must be found with a broken file, too.
pub fn peek(path: &Path) -> Peek {
    let Whereabouts { real, base, name } = Whereabouts::of(path);
    let text = crate::plan::read(&real).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let (table, _) = DeTable::parse_recoverable(&text);
    let master = table.get_ref().get("master").and_then(|master| match master.get_ref() {
        DeValue::Table(master) => Some(in_order(master)),
        _ => None,
    });
    let text_of = |key: &str| {
        let (_, value) = master.as_ref()?.iter().find(|(name, _)| name.value == key)?;
        value.get_ref().as_str().filter(|text| !text.is_empty() && !text.contains('\0')).map(str::to_owned)
    };
    let path_of = |key: &str| text_of(key).map(|text| place::under(&base, Path::new(&text)));
    let name = text_of("name").filter(|name| place::is_name(name)).unwrap_or(name);
    let runtime_dir = path_of("runtime_dir").unwrap_or_else(|| place::runtime_dir(&name));
    Peek {
        pid_file: path_of("pid_file").unwrap_or_else(|| runtime_dir.join("master.pid")),
        log_file: path_of("log_file"),
        default_log_file: place::log_file(&name),
        config: real,
        name,
        runtime_dir,
    }
}
