//! What a configuration's place in the file system decides: the base of relative paths, the name, and the defaults
//! made from the name.

use super::people;
use nix::unistd::Uid;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// Where a configuration lies and what follows from that.
pub(super) struct Whereabouts {
    /// The real path of the file; of a file that is gone, the nearest thing to it.
    pub(super) real: PathBuf,
    /// What relative paths are relative to.
    pub(super) base: PathBuf,
    /// The master's name unless the file has one.
    pub(super) name: String,
}

impl Whereabouts {
    pub(super) fn of(path: &Path) -> Self {
        let real = real(path);
        let base = base(&real);
        let name = default_name(&real, &base);
        Self { real, base, name }
    }
}

/// The real path, also of a file that does not exist (any more).
fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(folder)), Some(file)) => folder.join(file),
        _ => absolute,
    }
}

/// The file's folder, or, if that is named `config`, the one above it.
fn base(real: &Path) -> PathBuf {
    let folder = real.parent().unwrap_or(Path::new("/"));
    match (folder.file_name(), folder.parent()) {
        (Some(name), Some(above)) if name == "config" => above.to_owned(),
        _ => folder.to_owned(),
    }
}

/// The file's stem; if that is `rotad`, the name of its folder (above `config`).
fn default_name(real: &Path, base: &Path) -> String {
    let stem = real.file_stem().unwrap_or(OsStr::new("rotad"));
    let name = if stem == "rotad" { base.file_name().unwrap_or(stem) } else { stem };
    let fit = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
    let name: String = name.to_string_lossy().chars().map(fit).take(64).collect();
    if is_name(&name) { name } else { "rotad".to_owned() }
}

/// Whether a name may become part of paths, of `POOL/SLOT` and of LISTEN_FDNAMES.
pub(super) fn is_name(name: &str) -> bool {
    let fit = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
    (1..=64).contains(&name.len()) && name.bytes().all(fit) && !name.bytes().all(|c| c == b'.')
}

/// `path` made absolute by `base`, without `.` components; links and `..` stay as they are.
pub(super) fn under(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().filter(|component| *component != Component::CurDir).collect()
}

/// The default of `runtime_dir`: /run/rotad/NAME for root, else in the user's state folder.
pub(super) fn runtime_dir(name: &str) -> PathBuf {
    if Uid::effective().is_root() { Path::new("/run/rotad").join(name) } else { state().join(name) }
}

/// The log file of a daemonized master whose configuration names none.
pub(super) fn log_file(name: &str) -> PathBuf {
    let file = format!("{name}.log");
    if Uid::effective().is_root() { Path::new("/var/log/rotad").join(file) } else { state().join(file) }
}

/// $XDG_STATE_HOME/rotad, or ~/.local/state/rotad.
fn state() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let me = || people::user_of(Uid::effective().as_raw()).ok().flatten();
    let home = || me().map_or_else(|| PathBuf::from("/"), |user| user.home);
    absolute("XDG_STATE_HOME")
        .unwrap_or_else(|| absolute("HOME").unwrap_or_else(home).join(".local/state"))
        .join("rotad")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(path: &str) -> String {
        let real = Path::new(path);
        default_name(real, &base(real))
    }

    #[test]
    fn a_name_comes_from_the_stem_or_the_folder() {
        assert_eq!(name_of("/etc/shop.toml"), "shop");
        assert_eq!(name_of("/srv/shop/rotad.toml"), "shop");
        assert_eq!(name_of("/srv/shop/config/rotad.toml"), "shop");
        assert_eq!(name_of("/srv/my shop/rotad.toml"), "my-shop");
        assert_eq!(name_of("/rotad.toml"), "rotad");
        assert_eq!(name_of("/config/rotad.toml"), "rotad");
    }

    #[test]
    fn paths_are_relative_to_the_root_of_the_project() {
        assert_eq!(base(Path::new("/srv/shop/config/rotad.toml")), Path::new("/srv/shop"));
        assert_eq!(base(Path::new("/srv/shop/rotad.toml")), Path::new("/srv/shop"));
        assert_eq!(under(Path::new("/srv"), Path::new(".")), Path::new("/srv"));
        assert_eq!(under(Path::new("/srv"), Path::new("./a/../b")), Path::new("/srv/a/../b"));
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
