//! Path patterns as in a shell, for `include`, `reload.watch` and `master.watch_config`.
//!
//! `*`, `?` and `[…]` stand for letters of one name, `**` for any number of directories. None of them matches a name
//! that begins with a dot: hidden files are matched where the pattern says the dot. A `**` at the end stands for all
//! files below. `..` may stand at the beginning only. Symlinks to directories are followed where the pattern names them
//! or matches their name, never by `**`, so a walk cannot run in a circle.
//!
//! `config` parses each pattern and looks for matches once ([`PathPattern::find`]); the watch thread puts the same
//! patterns into [`PatternSet`]s and walks those with a watch on each directory. Both parse with [`PathPattern::new`] and
//! match with [`PatternSet::step`], so what `rotad check` accepts can be watched.

use glob::{MatchOptions, Pattern};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// A pattern whose walk meets more names than this is a mistake, such as `/**`.
const MAX_NAMES: usize = 100_000;

/// Parts of all patterns of one [`PatternSet`]: as many as a [`MatchState`] has bits.
const MAX_PARTS: usize = 128;

const AS_A_SHELL: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// One component of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `**`
    Directories,
    Literal(String),
    Wildcard(Pattern),
    /// The pattern is complete.
    End,
}

/// One pattern that matches files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "WrittenPattern", try_from = "WrittenPattern")]
pub struct PathPattern {
    /// As written.
    pub text: String,
    /// The directory that a relative pattern starts from.
    pub base: PathBuf,
    /// The components before the first with a wildcard; never the last component.
    root: PathBuf,
    parts: Vec<Part>,
}

/// A pattern as it is saved: what it is made from.
#[derive(Serialize, Deserialize)]
struct WrittenPattern {
    text: String,
    base: PathBuf,
}

impl From<PathPattern> for WrittenPattern {
    fn from(PathPattern { text, base, .. }: PathPattern) -> Self {
        Self { text, base }
    }
}

impl TryFrom<WrittenPattern> for PathPattern {
    type Error = String;

    fn try_from(written: WrittenPattern) -> Result<Self, String> {
        Self::new(&written.text, &written.base)
    }
}

/// Why the search for matches failed.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A directory cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Of opendir(3) or readdir(3).
        source: io::Error,
    },
    /// The pattern leads through a whole file system, most likely by mistake.
    #[error("more than {MAX_NAMES} names to look at")]
    TooManyNames,
}

impl PathPattern {
    /// Parses a pattern; a relative one starts from `base`.
    ///
    /// # Errors
    /// What is wrong with it, as a text for the user.
    pub fn new(text: &str, base: &Path) -> Result<Self, String> {
        let mut root = base.to_owned();
        let mut parts = Vec::new();
        let components: Vec<Component<'_>> = Path::new(text).components().collect();
        for (at, component) in components.iter().enumerate() {
            let last = at + 1 == components.len();
            match component {
                Component::RootDir | Component::Prefix(_) => root = PathBuf::from("/"),
                Component::CurDir => {}
                Component::ParentDir if parts.is_empty() && !last => root.push(".."),
                Component::ParentDir if last => return Err("it names no file".to_owned()),
                Component::ParentDir => {
                    return Err("`..` may stand at its beginning only".to_owned());
                }
                Component::Normal(name) => match parse_part(&name.to_string_lossy())? {
                    Part::Literal(name) if parts.is_empty() && !last => root.push(name),
                    part => parts.push(part),
                },
            }
        }
        if parts.is_empty() {
            return Err("it names no file".to_owned());
        }
        if parts.len() >= MAX_PARTS {
            return Err(format!("it has more than {MAX_PARTS} parts"));
        }
        parts.push(Part::End);
        Ok(Self {
            text: text.to_owned(),
            base: base.to_owned(),
            root,
            parts,
        })
    }

    /// The directory above the first component that is not a plain name: new matches appear in or below it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every path that matches now, sorted. A directory that does not exist has no matches.
    ///
    /// # Errors
    /// A directory that cannot be read, or too many names to look at.
    pub fn find(&self) -> Result<Vec<PathBuf>, WalkError> {
        let mut found = Vec::new();
        self.walk(&mut |path| {
            found.push(path);
            true
        })?;
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Whether any file matches now; a directory is none.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn finds_file(&self) -> Result<bool, WalkError> {
        let mut any = false;
        self.walk(&mut |path| {
            any = path.is_file();
            !any
        })?;
        Ok(any)
    }

    /// Passes each match to `take` until it returns false.
    fn walk(&self, take: &mut dyn FnMut(PathBuf) -> bool) -> Result<(), WalkError> {
        let set = PatternSet::of(self.clone());
        let mut names = 0;
        let mut ahead = vec![(set.root.clone(), set.start())];
        while let Some((directory, state)) = ahead.pop() {
            for name in set.candidates(&directory, state)? {
                names += 1;
                if names > MAX_NAMES {
                    return Err(WalkError::TooManyNames);
                }
                let below = set.step(state, &name);
                if below.is_dead() {
                    continue;
                }
                let path = directory.join(&name);
                let Ok(metadata) = fs::symlink_metadata(&path) else {
                    continue;
                };
                let inner = match metadata.is_symlink() {
                    true => set.step_by_name(state, &name),
                    false => below,
                };
                if set.descends(inner) && path.is_dir() {
                    ahead.push((path.clone(), inner));
                }
                if set.matches(below) && !take(path) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn parse_part(name: &str) -> Result<Part, String> {
    if name == "**" {
        return Ok(Part::Directories);
    }
    if name.contains("**") {
        return Err(
            "`**` stands between slashes, for any number of directories: src/**/*.py".to_owned(),
        );
    }
    if let Some(name) = literal(name) {
        return Ok(Part::Literal(name));
    }
    Pattern::new(name)
        .map(Part::Wildcard)
        .map_err(|error| error.msg.to_owned())
}

/// Which parts of the patterns of a [`PatternSet`] come next below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatchState(u128);

impl MatchState {
    /// Nothing matches here or below.
    pub fn is_dead(self) -> bool {
        self.0 == 0
    }

    fn has(self, at: usize) -> bool {
        self.0 & (1 << at) != 0
    }
}

/// Patterns with one root, walked together.
#[derive(Debug)]
pub struct PatternSet {
    root: PathBuf,
    parts: Vec<Part>,
    start: MatchState,
    exclusions: Rc<Exclusions>,
}

/// What patterns that begin with `!` exclude, wherever they stand in a list: files, and directories with all that is in
/// them, which are not entered. Here wildcards match hidden names as well.
#[derive(Debug, Default)]
pub struct Exclusions(Vec<Pattern>);

impl Exclusions {
    /// Adds a pattern, written without its `!`; a relative one starts from `base`.
    ///
    /// # Errors
    /// What is wrong with it, as a text for the user.
    pub fn add(&mut self, base: &Path, pattern: &str) -> Result<(), String> {
        PathPattern::new(pattern, base)?;
        let pattern = pattern
            .strip_prefix("./")
            .unwrap_or(pattern)
            .trim_end_matches('/');
        let whole = match pattern.starts_with('/') {
            true => pattern.to_owned(),
            false => format!(
                "{}/{pattern}",
                Pattern::escape(base.to_string_lossy().trim_end_matches('/'))
            ),
        };
        let mut add = |text: &str| {
            Pattern::new(text)
                .map(|one| self.0.push(one))
                .map_err(|error| error.msg.to_owned())
        };
        // All that is in a directory: the directory need not be entered.
        if let Some(directory) = whole
            .strip_suffix("/**")
            .or_else(|| whole.strip_suffix("/**/*"))
        {
            add(directory)?;
        }
        add(&whole)
    }

    fn has(&self, path: &Path) -> bool {
        let options = MatchOptions {
            require_literal_leading_dot: false,
            ..AS_A_SHELL
        };
        self.0
            .iter()
            .any(|pattern| pattern.matches_path_with(path, options))
    }
}

impl PatternSet {
    /// Groups patterns by their roots; those that begin with `!` exclude. Relative ones start from `base`. Also returns
    /// what is wrong with patterns that are left out, as texts for the user.
    pub fn group(base: &Path, patterns: &[String]) -> (Vec<Self>, Vec<String>) {
        let mut sets: Vec<Self> = Vec::new();
        let mut errors = Vec::new();
        let mut exclusions = Exclusions::default();
        let refused =
            |pattern: &str, why| format!("the pattern \"{pattern}\" cannot be watched: {why}");
        for pattern in patterns {
            if let Some(excluded) = pattern.strip_prefix('!')
                && let Err(why) = exclusions.add(base, excluded)
            {
                errors.push(refused(pattern, why));
            }
        }
        let exclusions = Rc::new(exclusions);
        for text in patterns.iter().filter(|pattern| !pattern.starts_with('!')) {
            match PathPattern::new(text, base) {
                Ok(pattern) => {
                    let fits = |set: &&mut Self| {
                        set.root == pattern.root
                            && set.parts.len() + pattern.parts.len() <= MAX_PARTS
                    };
                    match sets.iter_mut().find(fits) {
                        Some(set) => set.add(pattern.parts),
                        None => sets.push(Self {
                            exclusions: Rc::clone(&exclusions),
                            ..Self::of(pattern)
                        }),
                    }
                }
                Err(why) => errors.push(refused(text, why)),
            }
        }
        (sets, errors)
    }

    fn of(pattern: PathPattern) -> Self {
        let mut set = Self {
            root: pattern.root,
            parts: Vec::new(),
            start: MatchState(0),
            exclusions: Rc::default(),
        };
        set.add(pattern.parts);
        set
    }

    fn add(&mut self, parts: Vec<Part>) {
        let first = self.parts.len();
        self.parts.extend(parts);
        self.start.0 |= self.from(first);
    }

    /// The directory that all of them begin in: absolute if their base is, without wildcards.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this file, or directory with all that is in it, is excluded. `path`: as the walk came there.
    pub fn excludes(&self, path: &Path) -> bool {
        self.exclusions.has(path)
    }

    /// The match state at the root, where a walk begins.
    pub fn start(&self) -> MatchState {
        self.start
    }

    /// The match state of `name` in a directory with this state.
    pub fn step(&self, state: MatchState, name: &OsStr) -> MatchState {
        self.next(state, name, true)
    }

    /// The same for a symlink to a directory, which `**` does not follow.
    pub fn step_by_name(&self, state: MatchState, name: &OsStr) -> MatchState {
        self.next(state, name, false)
    }

    fn next(&self, state: MatchState, name: &OsStr, deep: bool) -> MatchState {
        // A name that is not UTF-8 cannot be written in a configuration; `*` matches its lossy form.
        let name = name.to_string_lossy();
        let deep = deep && !name.starts_with('.');
        let mut next = 0;
        for (at, part) in self.parts_of(state) {
            match part {
                Part::Directories if deep => next |= self.from(at),
                Part::Literal(literal) if *literal == name => next |= self.from(at + 1),
                Part::Wildcard(pattern) if pattern.matches_with(&name, AS_A_SHELL) => {
                    next |= self.from(at + 1);
                }
                Part::Directories | Part::Literal(_) | Part::Wildcard(_) | Part::End => {}
            }
        }
        MatchState(next)
    }

    /// Whether a file with this state matches.
    pub fn matches(&self, state: MatchState) -> bool {
        self.parts_of(state)
            .any(|(_, part)| matches!(part, Part::End))
    }

    /// Whether something below a directory with this state may match.
    pub fn descends(&self, state: MatchState) -> bool {
        self.parts_of(state)
            .any(|(_, part)| !matches!(part, Part::End))
    }

    fn parts_of(&self, state: MatchState) -> impl Iterator<Item = (usize, &Part)> {
        let parts = self.parts.iter().enumerate();
        parts.filter(move |(at, _)| state.has(*at))
    }

    /// A part, and what follows it where it may stand for nothing.
    fn from(&self, first: usize) -> u128 {
        let mut set = 0;
        for (at, part) in self.parts.iter().enumerate().skip(first) {
            set |= 1 << at;
            if !matches!(part, Part::Directories) {
                break;
            }
        }
        set
    }

    /// The names in a directory that can match next: all of them, or just those that the patterns spell out, for which
    /// the directory need not be readable. None if it is not a directory or no longer exists.
    fn candidates(&self, directory: &Path, state: MatchState) -> Result<Vec<OsString>, WalkError> {
        let spelled_out = |part: &Part| match part {
            Part::Literal(name) => Some(OsString::from(name)),
            Part::Directories | Part::Wildcard(_) | Part::End => None,
        };
        let next = self.parts_of(state).map(|(_, part)| part);
        let next = next.filter(|part| !matches!(part, Part::End));
        if let Some(names) = next.map(spelled_out).collect() {
            return Ok(names);
        }
        let entries = fs::read_dir(directory).and_then(|entries| {
            let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
            names.take(MAX_NAMES + 1).collect()
        });
        match entries {
            Ok(names) => Ok(names),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(Vec::new())
            }
            Err(source) => Err(WalkError::Unreadable {
                path: directory.to_owned(),
                source,
            }),
        }
    }
}

/// The name that a pattern without wildcards stands for; `[*]` is a star, as [`Pattern::escape`] writes it.
fn literal(pattern: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = pattern.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '*' | '?' => return None,
            '[' => {
                let one = rest.next().filter(|one| *one != '!')?;
                rest.next().filter(|end| *end == ']')?;
                name.push(one);
            }
            letter => name.push(letter),
        }
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a walk through `base`/`path` finds it.
    fn finds(patterns: &[&str], path: &str) -> bool {
        let patterns: Vec<String> = patterns
            .iter()
            .map(|pattern| (*pattern).to_owned())
            .collect();
        let (all, errors) = PatternSet::group(Path::new("/b"), &patterns);
        assert!(errors.is_empty(), "{errors:?}");
        all.iter().any(|set| {
            let Ok(below) = Path::new(path).strip_prefix(&set.root) else {
                return false;
            };
            let mut state = set.start();
            let names: Vec<_> = below.iter().collect();
            for (at, name) in names.iter().enumerate() {
                state = set.step(state, name);
                if at + 1 < names.len() && !set.descends(state) {
                    return false;
                }
            }
            set.matches(state)
        })
    }

    #[test]
    fn patterns_match() {
        for (pattern, path) in [
            ("src/**/*.py", "/b/src/app.py"),
            ("src/**/*.py", "/b/src/a/b/c/app.py"),
            ("./src/*.py", "/b/src/app.py"),
            ("**/*.py", "/b/app.py"),
            ("**", "/b/a/b"),
            ("src/**", "/b/src/x"),
            ("a/**/b/**/c", "/b/a/b/c"),
            ("a/**/b/**/c", "/b/a/x/b/y/z/c"),
            ("*/app.?s", "/b/web/app.js"),
            (".env", "/b/.env"),
            ("conf/.*", "/b/conf/.env"),
            ("/etc/x[*]y/*.toml", "/etc/x*y/a.toml"),
            ("[a-c]*.rs", "/b/cat.rs"),
            ("grün/**/*.ü", "/b/grün/a.ü"),
        ] {
            assert!(finds(&[pattern], path), "{pattern} {path}");
        }
        assert!(finds(&["src/*.py", "src/**/*.html"], "/b/src/t/x.html"));
    }

    #[test]
    fn patterns_do_not_match() {
        for (pattern, path) in [
            ("src/**/*.py", "/b/src/app.pyc"),
            ("src/*.py", "/b/src/a/app.py"),
            ("src/**/*.py", "/b/srcs/app.py"),
            ("**/*.py", "/b/.git/x.py"),
            ("**/*", "/b/a/.app.py.swp"),
            ("*", "/b/a/b"),
            ("src", "/b/src/app.py"),
            ("a/**/b/**/c", "/b/a/b"),
        ] {
            assert!(!finds(&[pattern], path), "{pattern} {path}");
        }
        assert!(!finds(&["src/*.py", "lib/**/*.html"], "/b/src/t/x.html"));
    }

    #[test]
    fn roots_hold_no_wildcards_and_equal_ones_are_walked_once() {
        let patterns = [
            "src/a/*.py",
            "src/a/**/*.html",
            "../lib/x/y",
            "/etc/[*]/[?]/z*/b",
        ]
        .map(str::to_owned);
        let (all, errors) = PatternSet::group(Path::new("/b"), &patterns);
        assert!(errors.is_empty(), "{errors:?}");
        let roots: Vec<_> = all
            .iter()
            .map(|set| set.root.display().to_string())
            .collect();
        assert_eq!(roots, ["/b/src/a", "/b/../lib/x", "/etc/*/?"]);
    }

    #[test]
    fn invalid_patterns_are_errors_and_the_others_are_kept() {
        let patterns = ["a[", "*/../x", ".", "src/..", "ok/*"].map(str::to_owned);
        let (all, errors) = PatternSet::group(Path::new("/b"), &patterns);
        assert_eq!((all.len(), errors.len()), (1, 4), "{errors:?}");
        let many = "a*/".repeat(200) + "b";
        assert_eq!(PatternSet::group(Path::new("/b"), &[many]).1.len(), 1);
        let all: Vec<String> = (0..100).map(|n| format!("*/{n}/*")).collect();
        assert_eq!(
            PatternSet::group(Path::new("/b"), &all).0.len(),
            4,
            "more patterns than one set holds"
        );
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "a.toml",
            "b.txt",
            ".c.toml",
            "d/e.toml",
            "d/f/g.toml",
            "d/.h/i.toml",
            "[x]/j.toml",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink("..", dir.path().join("d/up")).unwrap();
        dir
    }

    fn found(text: &str) -> Vec<String> {
        let dir = tree();
        let found = PathPattern::new(text, dir.path()).unwrap().find().unwrap();
        let short = |path: &PathBuf| path.strip_prefix(dir.path()).unwrap().display().to_string();
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
        let dir = |text| {
            let pattern = PathPattern::new(text, Path::new("/srv")).unwrap();
            pattern.root().to_owned()
        };
        assert_eq!(dir("conf.d/*.toml"), Path::new("/srv/conf.d"));
        assert_eq!(dir("/etc/x/**/*.toml"), Path::new("/etc/x"));
        assert_eq!(dir("more.toml"), Path::new("/srv"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["a**/b", "***", "[a", ""] {
            assert!(PathPattern::new(bad, Path::new("/")).is_err(), "{bad}");
        }
    }
}
