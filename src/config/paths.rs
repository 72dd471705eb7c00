//! What follows from the location of a configuration: the paths that identify it, the base of relative paths, the
//! master's name, and the defaults made from the name.

use super::users;
use nix::unistd::Uid;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The location of a configuration, and what follows from it.
pub(super) struct ConfigPaths {
    /// The file's absolute path as given. Links are not resolved, so it stays the same when one of them is turned to
    /// the next release.
    pub(super) given: PathBuf,
    /// The real path of the file; if it is gone, the closest path that exists.
    pub(super) real: PathBuf,
    /// The base of relative paths, with links unresolved.
    pub(super) base: PathBuf,
    /// The master's name, unless the file sets one.
    pub(super) name: String,
}

impl ConfigPaths {
    pub(super) fn of(path: &Path) -> Self {
        let given = absolute(path);
        let real = real(&given);
        let base = base(&given);
        let name = default_name(&given, &base);
        Self {
            given,
            real,
            base,
            name,
        }
    }

    /// Why a master cannot be identified by this path: the control protocol, the log and JSON are UTF-8.
    pub(super) fn unnameable(&self) -> Option<String> {
        [&self.given, &self.real]
            .into_iter()
            .find_map(|path| unnameable(path))
    }
}

/// The message for a path that is not UTF-8.
pub(super) fn unnameable(path: &Path) -> Option<String> {
    path.to_str().is_none().then(|| {
        let shown = path.as_os_str().as_encoded_bytes().escape_ascii();
        format!(
            "the path {shown} is not valid UTF-8: nothing could name it in a log or to a command"
        )
    })
}

/// The absolute path, with no link resolved. `.` is removed, and so is `..` after a directory that is not a link.
pub(super) fn absolute(path: &Path) -> PathBuf {
    let whole = if path.is_absolute() {
        path.to_owned()
    } else {
        here().join(path)
    };
    let mut clean = PathBuf::new();
    for component in whole.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                let plain = clean.symlink_metadata().is_ok_and(|about| about.is_dir());
                let named = matches!(clean.components().next_back(), Some(Component::Normal(_)));
                match (named && plain, clean.parent().is_none()) {
                    (true, _) => drop(clean.pop()),
                    // The parent of the root is the root.
                    (false, true) => {}
                    (false, false) => clean.push(".."),
                }
            }
            other => clean.push(other),
        }
    }
    clean
}

/// The working directory, through the links by which the shell reached it: $PWD if it is correct (pwd(1), -L).
fn here() -> PathBuf {
    let told = std::env::var_os("PWD").map(PathBuf::from).filter(|told| {
        let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        told.is_absolute() && told.components().all(plain)
    });
    let same = |told: &PathBuf| match (told.metadata(), Path::new(".").metadata()) {
        (Ok(told), Ok(here)) => (told.dev(), told.ino()) == (here.dev(), here.ino()),
        _ => false,
    };
    told.filter(same)
        .or_else(|| std::env::current_dir().ok())
        .unwrap_or_else(|| PathBuf::from("/"))
}

/// The real path, also of a file that does not exist (any more).
fn real(given: &Path) -> PathBuf {
    if let Ok(real) = given.canonicalize() {
        return real;
    }
    match (given.parent().map(Path::canonicalize), given.file_name()) {
        (Some(Ok(directory)), Some(file)) => directory.join(file),
        _ => given.to_owned(),
    }
}

/// The file's directory or, if that is named `config`, its parent.
fn base(file: &Path) -> PathBuf {
    let directory = file.parent().unwrap_or(Path::new("/"));
    match (directory.file_name(), directory.parent()) {
        (Some(name), Some(above)) if name == "config" => above.to_owned(),
        _ => directory.to_owned(),
    }
}

/// The file's stem; if that is `rotad`, the name of its directory (above `config`). A link called `current` does not
/// name an application, so the directory above it is used.
fn default_name(file: &Path, base: &Path) -> String {
    let stem = file.file_stem().unwrap_or(OsStr::new("rotad"));
    let directory = match (base.file_name(), base.parent()) {
        // Also while a deployment has removed the link, so that the name does not change for a moment.
        (Some(name), Some(above)) if name == "current" && !is_plain_directory(base) => above,
        _ => base,
    };
    let name = if stem == "rotad" {
        directory.file_name().unwrap_or(stem)
    } else {
        stem
    };
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() || "_.-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = name.to_string_lossy().chars().map(fit).take(64).collect();
    if is_name(&name) {
        name
    } else {
        "rotad".to_owned()
    }
}

fn is_plain_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|about| about.is_dir())
}

/// Whether a name may be used in paths, `POOL/SLOT` and LISTEN_FDNAMES.
pub(super) fn is_name(name: &str) -> bool {
    let fit = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
    (1..=64).contains(&name.len()) && name.bytes().all(fit) && !name.bytes().all(|c| c == b'.')
}

/// Makes `path` absolute with `base` and removes `.`; links and `..` stay.
pub(super) fn under(base: &Path, path: &Path) -> PathBuf {
    base.join(path)
        .components()
        .filter(|component| *component != Component::CurDir)
        .collect()
}

/// The default of `runtime_dir`: /run/rotad/NAME for root, else in the user's state directory.
pub(super) fn runtime_dir(name: &str) -> PathBuf {
    if Uid::effective().is_root() {
        roots_runtime_dir(name)
    } else {
        state().join(name)
    }
}

/// The default of `runtime_dir` for a master of root.
pub(super) fn roots_runtime_dir(name: &str) -> PathBuf {
    Path::new("/run/rotad").join(name)
}

/// The log file of a daemonized master whose configuration names none.
pub(super) fn log_file(name: &str) -> PathBuf {
    let file = format!("{name}.log");
    if Uid::effective().is_root() {
        Path::new("/var/log/rotad").join(file)
    } else {
        state().join(file)
    }
}

/// The directories in which masters of this user have their runtime directories, and their logs, by default.
pub fn default_dirs() -> (PathBuf, PathBuf) {
    match Uid::effective().is_root() {
        true => ("/run/rotad".into(), "/var/log/rotad".into()),
        false => (state(), state()),
    }
}

/// $XDG_STATE_HOME/rotad, or ~/.local/state/rotad.
fn state() -> PathBuf {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let me = || users::user_of(Uid::effective().as_raw()).ok().flatten();
    let home = || me().map_or_else(|| PathBuf::from("/"), |user| user.home);
    absolute("XDG_STATE_HOME")
        .unwrap_or_else(|| absolute("HOME").unwrap_or_else(home).join(".local/state"))
        .join("rotad")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(path: &str) -> String {
        let file = Path::new(path);
        default_name(file, &base(file))
    }

    #[test]
    fn a_link_called_current_gives_the_name_of_the_directory_above() {
        let directory = tempfile::tempdir().unwrap();
        let shop = directory.path().join("shop");
        std::fs::create_dir_all(shop.join("releases/1/config")).unwrap();
        std::fs::create_dir_all(directory.path().join("plain/current")).unwrap();
        let name = |path: &str| name_of(directory.path().join(path).to_str().unwrap());
        assert_eq!(
            name("shop/current/rotad.toml"),
            "shop",
            "while a deploy has taken the link away"
        );
        std::os::unix::fs::symlink("releases/1", shop.join("current")).unwrap();
        assert_eq!(name("shop/current/rotad.toml"), "shop");
        assert_eq!(name("shop/current/config/rotad.toml"), "shop");
        assert_eq!(name("shop/current/jobs.toml"), "jobs");
        assert_eq!(name("shop/releases/1/rotad.toml"), "1");
        assert_eq!(name("plain/current/rotad.toml"), "current");
    }

    #[test]
    fn the_given_path_keeps_its_links() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("releases/1")).unwrap();
        std::fs::write(root.join("releases/1/rotad.toml"), "").unwrap();
        std::os::unix::fs::symlink("releases/1", root.join("current")).unwrap();
        let clean = |path: &str| {
            absolute(&root.join(path))
                .strip_prefix(&root)
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            clean("current/./rotad.toml"),
            Path::new("current/rotad.toml")
        );
        assert_eq!(
            clean("releases/1/../../current/rotad.toml"),
            Path::new("current/rotad.toml")
        );
        // What is above a link is above the directory that it leads to.
        assert_eq!(clean("current/../x.toml"), Path::new("current/../x.toml"));
        assert_eq!(clean("nowhere/../x.toml"), Path::new("nowhere/../x.toml"));
        assert_eq!(absolute(Path::new("/../a")), Path::new("/a"));
        let place = ConfigPaths::of(&root.join("current/rotad.toml"));
        assert_eq!(
            (place.given, place.base),
            (root.join("current/rotad.toml"), root.join("current"))
        );
        assert_eq!(place.real, root.join("releases/1/rotad.toml"));
    }

    #[test]
    fn a_name_comes_from_the_stem_or_the_directory() {
        assert_eq!(name_of("/etc/shop.toml"), "shop");
        assert_eq!(name_of("/srv/shop/rotad.toml"), "shop");
        assert_eq!(name_of("/srv/shop/config/rotad.toml"), "shop");
        assert_eq!(name_of("/srv/my shop/rotad.toml"), "my-shop");
        assert_eq!(name_of("/rotad.toml"), "rotad");
        assert_eq!(name_of("/config/rotad.toml"), "rotad");
    }

    #[test]
    fn paths_are_relative_to_the_root_of_the_project() {
        assert_eq!(
            base(Path::new("/srv/shop/config/rotad.toml")),
            Path::new("/srv/shop")
        );
        assert_eq!(
            base(Path::new("/srv/shop/rotad.toml")),
            Path::new("/srv/shop")
        );
        assert_eq!(under(Path::new("/srv"), Path::new(".")), Path::new("/srv"));
        assert_eq!(
            under(Path::new("/srv"), Path::new("./a/../b")),
            Path::new("/srv/a/../b")
        );
        assert_eq!(under(Path::new("/srv"), Path::new("/x")), Path::new("/x"));
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "ü"] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_name("web-1.b_C"));
    }
}
