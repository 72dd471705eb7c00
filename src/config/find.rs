//! Finds the configuration file, and reads what clients need of it even when it is broken.

use super::foreign_files;
use super::paths::{self, ConfigPaths};
use super::permissions;
use super::reader::Parser;
use super::report::{Finding, Severity};
use super::sections::Master;
use super::{schema, tables};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// Where a configuration is looked for, after `-c` and `$ROTAD_CONFIG`.
const SEARCH: [&str; 3] = ["rotad.toml", "config/rotad.toml", "/etc/rotad/rotad.toml"];

/// There is no usable configuration. The exit code is 78.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// Nothing names one, and the search has found none.
    #[error(
        "no configuration: looked for ./rotad.toml, ./config/rotad.toml and /etc/rotad/rotad.toml\n  {0}"
    )]
    Nowhere(String),
    /// The file that was named cannot be used.
    #[error("{} ({by}) cannot be used: {source}", path.display())]
    Missing {
        /// As it was named.
        path: PathBuf,
        /// What named it: `-c`, or `$ROTAD_CONFIG`.
        by: &'static str,
        /// ENOENT, EACCES, ELOOP, ENAMETOOLONG (stat(2)).
        source: std::io::Error,
    },
    /// Root does not run what the search has found and another user owns.
    #[error(
        "{} was found by the search, but does not belong to root\n  name it with `-c {}` if it is meant",
        .0.display(), .0.display()
    )]
    NotRoots(PathBuf),
    /// Root does not run what others can write.
    #[error("{message}\n  {hint}")]
    Writable {
        /// What can be written, and by whom.
        message: String,
        /// What to do.
        hint: String,
    },
}

/// The configuration file: `explicit` (`-c`), else `$ROTAD_CONFIG`, else the first that exists of `./rotad.toml`,
/// `./config/rotad.toml` and `/etc/rotad/rotad.toml`. For root, a file found this way must belong to root, and
/// neither it nor a directory above it may be writable by others.
///
/// # Errors
/// [`NotFound`]: there is none, it cannot be used, or root must not trust it.
pub fn find(explicit: Option<&Path>) -> Result<PathBuf, NotFound> {
    if let Some(path) = explicit {
        return usable(path, "-c");
    }
    let named = std::env::var_os("ROTAD_CONFIG")
        .filter(|name| !name.is_empty())
        .map(PathBuf::from);
    let path = match named {
        Some(path) => usable(&path, "$ROTAD_CONFIG")?,
        None => SEARCH
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .ok_or_else(|| NotFound::Nowhere(near_by()))?,
    };
    if !permissions::is_own(&path) {
        return Err(NotFound::NotRoots(path));
    }
    match permissions::writable_by_others(&path) {
        None => Ok(path),
        Some(found) => {
            let (message, hint) = permissions::refusal(&found);
            Err(NotFound::Writable { message, hint })
        }
    }
}

/// What there is instead of a configuration that the search would find.
fn near_by() -> String {
    let own: Vec<PathBuf> = ["", "config"]
        .iter()
        .flat_map(|dir| configurations_in(dir))
        .collect();
    if let Some(path) = own.first() {
        let names: Vec<String> = own.iter().map(|path| path.display().to_string()).collect();
        let are = if own.len() == 1 { "is one" } else { "are some" };
        let path = path.to_string_lossy();
        return format!(
            "{} {are}: name it, as in `rotad start -c {}`, or by $ROTAD_CONFIG",
            names.join(", "),
            shell_words::quote(&path)
        );
    }
    if let Some(path) = foreign_files::importable_in(Path::new("")).first() {
        return format!(
            "`rotad import {}` makes one of it, `rotad init` writes a first one; `-c FILE` or $ROTAD_CONFIG names one",
            shell_words::quote(&path.to_string_lossy())
        );
    }
    "name one with `-c FILE` or $ROTAD_CONFIG, or write one with `rotad init`".to_owned()
}

/// Files of a directory that are configurations of ours, whatever their names.
fn configurations_in(directory: &str) -> Vec<PathBuf> {
    let here = if directory.is_empty() { "." } else { directory };
    let entries = std::fs::read_dir(here).into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ending == "toml")
            && crate::plan::read(path)
                .is_ok_and(|content| String::from_utf8_lossy(&content).contains("[pool."))
    };
    let mut found: Vec<PathBuf> = entries
        .map(|entry| Path::new(directory).join(entry.file_name()))
        .filter(is_ours)
        .take(5)
        .collect();
    found.sort();
    found
}

/// Where a configuration of the same project may lie, too: the search finds only the first.
pub fn other_place(path: &Path) -> Option<PathBuf> {
    let directory = path.parent()?;
    let above = directory.parent().filter(|_| directory.ends_with("config"));
    let other = match above {
        Some(above) => above.join("rotad.toml"),
        None => directory.join("config/rotad.toml"),
    };
    let same = other.canonicalize().ok()? == path.canonicalize().unwrap_or_default();
    (!same && path.file_name() == other.file_name()).then_some(other)
}

/// A finding about a second configuration that the search would have found had it not found this one. `explicit`: see
/// [`find`].
pub(super) fn passed_over(explicit: Option<&Path>, path: &Path) -> Option<Finding> {
    let searched = explicit.is_none() && path == Path::new(SEARCH[0]);
    let other = other_place(path).filter(|_| searched)?;
    let other = other.display();
    Some(Finding {
        severity: Severity::Warning,
        file: path.to_owned(),
        place: None,
        message: format!("{other} is there, too, and is not read"),
        hint: Some(format!(
            "`-c {other}` names it; remove the one that is not meant"
        )),
        for_log: None,
    })
}

fn usable(path: &Path, by: &'static str) -> Result<PathBuf, NotFound> {
    match path.metadata() {
        Ok(_) => Ok(path.to_owned()),
        Err(source) => Err(NotFound::Missing {
            path: path.to_owned(),
            by,
            source,
        }),
    }
}

/// The configuration file for commands to a running master: as [`find`], but a file that was named may be gone, since
/// its master may still run.
pub fn meant(explicit: Option<&Path>) -> Result<PathBuf, NotFound> {
    match find(explicit) {
        Err(NotFound::Missing { path, source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(path)
        }
        other => other,
    }
}

/// What a client must know of a configuration to reach its master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterPaths {
    /// The file's absolute path as given, with links unresolved.
    pub config: PathBuf,
    /// Its real path.
    pub real: PathBuf,
    /// The name of the master: `master.name`, or that of the file.
    pub name: String,
    /// Where its control socket and its lock are.
    pub runtime_dir: PathBuf,
    /// Where a master of root would be, if that is a different place and the file names none.
    pub roots_runtime_dir: Option<PathBuf>,
    /// Why the file does not say reliably where its master is: it cannot be read, or it is broken above that.
    pub unsure: Option<String>,
    /// Its pid file.
    pub pid_file: PathBuf,
    /// As configured; without it a daemonized master logs to `default_log_file`.
    pub log_file: Option<PathBuf>,
    /// The log of a daemonized master without a configured one.
    pub default_log_file: PathBuf,
    /// The owner of the file, or of its directory if it is gone; `None`: unknown.
    pub owner: Option<u32>,
}

/// A master cannot be identified by this path, since it is not valid UTF-8.
pub fn unnameable(path: &Path) -> Option<String> {
    ConfigPaths::of(path).unnameable()
}

/// Reads as much of a configuration as a client needs. Whatever is broken or missing (including the file) falls back
/// to the defaults, because a running master must be found with a broken file, too.
pub fn peek(path: &Path) -> MasterPaths {
    let ConfigPaths {
        given,
        real,
        base,
        name,
    } = ConfigPaths::of(path);
    let read = crate::plan::read(&given);
    let text = read
        .as_ref()
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .unwrap_or_default();
    let (table, faults) = DeTable::parse_recoverable(&text);
    let mut parser = Parser::new(&given, &text, base, schema::elsewhere);
    let master: Master = match table.get_ref().get("master") {
        Some(value) => tables::read(&mut parser, value),
        None => Master::default(),
    };
    let name = master.name.map_or(name, |at| at.value);
    let configured = master.runtime_dir.map(|at| at.value);
    let unsure = match (&read, &configured) {
        (Err(error), _) => Some(format!("{} cannot be read ({error})", given.display())),
        (Ok(_), Some(_)) => None,
        (Ok(_), None) if !faults.is_empty() => Some(format!("{} is broken", given.display())),
        (Ok(_), None) if table.get_ref().is_empty() => {
            Some(format!("{} says nothing", given.display()))
        }
        (Ok(_), None) => None,
    };
    let roots = Some(paths::roots_runtime_dir(&name)).filter(|_| configured.is_none());
    let runtime_dir = configured.unwrap_or_else(|| paths::runtime_dir(&name));
    let owner = given
        .metadata()
        .or_else(|_| given.parent().unwrap_or(Path::new("/")).metadata());
    MasterPaths {
        pid_file: master
            .pid_file
            .map_or_else(|| runtime_dir.join("master.pid"), |at| at.value),
        log_file: master.log_file.map(|at| at.value),
        default_log_file: paths::log_file(&name),
        roots_runtime_dir: roots.filter(|place| *place != runtime_dir),
        owner: owner.ok().map(|about| about.uid()),
        config: given,
        real,
        name,
        runtime_dir,
        unsure,
    }
}
