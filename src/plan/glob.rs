//! Path patterns as in a shell: `*` and `?` match within one name and skip a leading dot, `[ab]` matches one of
//! several characters, `**` matches any number of directories. Links to files are followed. Links to directories are
//! followed only where the pattern names them or matches their name, never by `**`, so a walk cannot run in a circle.

use glob::{MatchOptions, Pattern};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A pattern whose walk meets more names than this is a mistake, such as `/**`.
const MOST_NAMES: usize = 100_000;

const AS_A_SHELL: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    /// As written.
    pub text: String,
    /// The directory that a relative pattern starts from.
    pub base: PathBuf,
}

/// Why the search for matches failed.
#[derive(Debug, thiserror::Error)]
pub enum Missed {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("more than {MOST_NAMES} names to look at")]
    TooMany,
}

/// One component of a pattern.
enum Part {
    Name(String),
    Pattern(Pattern),
    /// `**`
    Folders,
}

impl Glob {
    /// Parses a pattern; the error says what is wrong with it.
    pub fn new(text: &str, base: &Path) -> Result<Self, String> {
        let glob = Self {
            text: text.to_owned(),
            base: base.to_owned(),
        };
        let braces = text
            .split_once('{')
            .is_some_and(|(_, rest)| rest.contains([',', '}']));
        if braces {
            return Err("`{…}` is no part of a pattern: write a list of two patterns".to_owned());
        }
        for component in text.split('/') {
            part(component)?;
        }
        Ok(glob)
    }

    /// Every path that matches now, sorted. A directory that does not exist has no matches.
    ///
    /// # Errors
    ///
    /// A directory that cannot be read, or a walk of too many names.
    pub fn find(&self) -> Result<Vec<PathBuf>, Missed> {
        let mut found = Vec::new();
        self.walk(&mut |path| {
            found.push(path);
            true
        })?;
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Whether anything matches now.
    pub fn finds_any(&self) -> Result<bool, Missed> {
        let mut any = false;
        self.walk(&mut |_| {
            any = true;
            false
        })?;
        Ok(any)
    }

    /// The directory above the first component that is not a plain name: it must be watched for new matches.
    pub fn folder(&self) -> PathBuf {
        let (mut folder, parts) = self.parts();
        for part in parts.iter().take(parts.len().saturating_sub(1)) {
            match part {
                Part::Name(name) => folder.push(name),
                Part::Pattern(_) | Part::Folders => break,
            }
        }
        folder
    }

    fn parts(&self) -> (PathBuf, Vec<Part>) {
        let start = if self.text.starts_with('/') {
            PathBuf::from("/")
        } else {
            self.base.clone()
        };
        let names = self
            .text
            .split('/')
            .filter(|name| !name.is_empty() && *name != ".");
        // Patterns are checked when they are parsed.
        let mut parts: Vec<Part> = names.filter_map(|name| part(name).ok()).collect();
        if let Some(Part::Folders) = parts.last() {
            parts.extend(part("*"));
        }
        (start, parts)
    }

    /// Passes each match to `take` until it returns false.
    fn walk(&self, take: &mut dyn FnMut(PathBuf) -> bool) -> Result<(), Missed> {
        let (start, parts) = self.parts();
        let mut names = 0;
        let mut ahead = vec![(start, 0)];
        while let Some((path, at)) = ahead.pop() {
            let Some(part) = parts.get(at) else {
                if fs::symlink_metadata(&path).is_ok() && !take(path) {
                    return Ok(());
                }
                continue;
            };
            if let Part::Name(name) = part {
                ahead.push((path.join(name), at + 1));
                continue;
            }
            if let Part::Folders = part {
                ahead.push((path.clone(), at + 1));
            }
            for entry in entries(&path)? {
                names += 1;
                if names > MOST_NAMES {
                    return Err(Missed::TooMany);
                }
                match part {
                    Part::Pattern(pattern) if matches(pattern, &entry.file_name()) => {
                        ahead.push((entry.path(), at + 1));
                    }
                    Part::Folders if is_folder(&entry) => ahead.push((entry.path(), at)),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn part(name: &str) -> Result<Part, String> {
    if name == "**" {
        return Ok(Part::Folders);
    }
    if name.contains("**") {
        return Err(
            "`**` stands between slashes, for any number of folders: src/**/*.py".to_owned(),
        );
    }
    if !name.contains(['*', '?', '[']) {
        return Ok(Part::Name(name.to_owned()));
    }
    Pattern::new(name)
        .map(Part::Pattern)
        .map_err(|error| error.msg.to_owned())
}

fn matches(pattern: &Pattern, name: &OsStr) -> bool {
    // A name that is not UTF-8 cannot be written in a configuration; `*` matches its lossy form.
    pattern.matches_with(&name.to_string_lossy(), AS_A_SHELL)
}

/// A real directory that is not hidden.
fn is_folder(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
        && !entry.file_name().to_string_lossy().starts_with('.')
}

/// The entries of a directory; none if it is not one or no longer exists.
fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, Missed> {
    let read = fs::read_dir(folder).and_then(|entries| entries.take(MOST_NAMES + 1).collect());
    match read {
        Ok(entries) => Ok(entries),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        Err(source) => Err(Missed::Unreadable {
            path: folder.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for path in [
            "a.toml",
            "b.txt",
            ".c.toml",
            "d/e.toml",
            "d/f/g.toml",
            "d/.h/i.toml",
            "[x]/j.toml",
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink("..", folder.path().join("d/up")).unwrap();
        folder
    }

    fn found(text: &str) -> Vec<String> {
        let folder = tree();
        let found = Glob::new(text, folder.path()).unwrap().find().unwrap();
        let short = |path: &PathBuf| {
            path.strip_prefix(folder.path())
                .unwrap()
                .display()
                .to_string()
        };
        found.iter().map(short).collect()
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        assert_eq!(found("*.toml"), ["a.toml"]);
        assert_eq!(found("a.toml"), ["a.toml"]);
        assert_eq!(found("./d//*.toml"), ["d/e.toml"]);
        assert_eq!(
            found("**/*.toml"),
            ["[x]/j.toml", "a.toml", "d/e.toml", "d/f/g.toml"]
        );
        assert_eq!(found("d/**"), ["d/e.toml", "d/f", "d/f/g.toml", "d/up"]);
        assert_eq!(found("d/**/g.toml"), ["d/f/g.toml"]);
        assert_eq!(found("*/up/a.toml"), ["d/up/a.toml"]);
        assert_eq!(found("[[]x]/*"), ["[x]/j.toml"]);
        assert_eq!(found("none/*.toml"), [""; 0]);
        assert_eq!(found("a.toml/*"), [""; 0]);
        assert_eq!(found(".*"), [".c.toml"]);
    }

    #[test]
    fn a_pattern_knows_where_new_matches_appear() {
        let folder = |text| Glob::new(text, Path::new("/srv")).unwrap().folder();
        assert_eq!(folder("conf.d/*.toml"), Path::new("/srv/conf.d"));
        assert_eq!(folder("/etc/x/**/*.toml"), Path::new("/etc/x"));
        assert_eq!(folder("more.toml"), Path::new("/srv"));
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for bad in ["a**/b", "***", "[a", "src/*.{py,html}"] {
            assert!(Glob::new(bad, Path::new("/")).is_err(), "{bad}");
        }
    }
}
