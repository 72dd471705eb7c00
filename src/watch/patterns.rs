//! Path patterns, split by directory, so that a walk enters only directories in which something can match.
//!
//! `*`, `?` and `[…]` match characters of one name, `**` any number of directories. As in a shell, none of them matches a
//! name that begins with a dot: hidden files are matched where the pattern contains the dot. A `**` at the end matches
//! all files below. A pattern that begins with `!` excludes what it matches.

use glob::{MatchOptions, Pattern};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

const MATCH_OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Maximum number of parts of all patterns of one [`PatternSet`]: the number of bits of a [`MatchState`].
const MAX_PARTS: usize = 128;

#[derive(Debug)]
enum Part {
    /// `**`
    Deep,
    Name(Pattern),
    /// The end of a pattern.
    End,
}

/// The set of pattern parts that the next name below a directory is compared with, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MatchState(u128);

impl MatchState {
    /// Nothing matches here or below.
    pub(super) fn is_dead(self) -> bool {
        self.0 == 0
    }
}

/// Patterns with one root, walked together.
#[derive(Debug)]
pub(super) struct PatternSet {
    /// The directory in which all of them begin: absolute, without wildcards.
    pub(super) root: PathBuf,
    parts: Vec<Part>,
    start: MatchState,
    exclusions: Rc<Exclusions>,
}

/// The patterns that begin with `!`, in any position of the list: they exclude files, and directories with their content,
/// which are not entered. Their wildcards match hidden names too.
#[derive(Debug, Default)]
struct Exclusions(Vec<Pattern>);

impl Exclusions {
    fn add(&mut self, base: &Path, pattern: &str) -> Result<(), String> {
        let pattern = pattern
            .strip_prefix("./")
            .unwrap_or(pattern)
            .trim_end_matches('/');
        if pattern.is_empty() {
            return Err("it names no file".to_owned());
        }
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
        // The whole content of a directory is excluded: then the directory need not be entered.
        if let Some(folder) = whole
            .strip_suffix("/**")
            .or_else(|| whole.strip_suffix("/**/*"))
        {
            add(folder)?;
        }
        add(&whole)
    }

    fn has(&self, path: &Path) -> bool {
        let how = MatchOptions {
            require_literal_leading_dot: false,
            ..MATCH_OPTIONS
        };
        self.0
            .iter()
            .any(|pattern| pattern.matches_path_with(path, how))
    }
}

impl PatternSet {
    /// Groups patterns by their roots. A relative pattern is relative to `base`. The errors are texts for the user.
    pub(super) fn sort(base: &Path, patterns: &[String]) -> (Vec<Self>, Vec<String>) {
        let mut sorted: Vec<Self> = Vec::new();
        let mut errors = Vec::new();
        let mut exclusions = Exclusions::default();
        for pattern in patterns {
            if let Some(out) = pattern.strip_prefix('!')
                && let Err(why) = exclusions.add(base, out)
            {
                errors.push(format!(
                    "the pattern \"{pattern}\" cannot be watched: {why}"
                ));
            }
        }
        let exclusions = Rc::new(exclusions);
        for pattern in patterns.iter().filter(|pattern| !pattern.starts_with('!')) {
            match parse(base, pattern) {
                Ok((root, parts)) => {
                    let fits = |globs: &&mut Self| {
                        globs.root == root && globs.parts.len() + parts.len() <= MAX_PARTS
                    };
                    match sorted.iter_mut().find(fits) {
                        Some(globs) => globs.add(parts),
                        None => {
                            let exclusions = Rc::clone(&exclusions);
                            let mut globs = Self {
                                root,
                                parts: Vec::new(),
                                start: MatchState(0),
                                exclusions,
                            };
                            globs.add(parts);
                            sorted.push(globs);
                        }
                    }
                }
                Err(why) => errors.push(format!(
                    "the pattern \"{pattern}\" cannot be watched: {why}"
                )),
            }
        }
        (sorted, errors)
    }

    fn add(&mut self, parts: Vec<Part>) {
        let first = self.parts.len();
        self.parts.extend(parts);
        self.start.0 |= self.from(first);
    }

    /// Whether this file, or directory with its content, is excluded. `path`: as the walk reached it.
    pub(super) fn excludes(&self, path: &Path) -> bool {
        self.exclusions.has(path)
    }

    /// The match state at the root, where a walk begins.
    pub(super) fn start(&self) -> MatchState {
        self.start
    }

    /// The match state below `name` in a directory with this state.
    pub(super) fn step(&self, state: MatchState, name: &OsStr) -> MatchState {
        self.next(state, name, true)
    }

    /// The same for a symlink to a directory, which `**` does not follow.
    pub(super) fn step_by_name(&self, state: MatchState, name: &OsStr) -> MatchState {
        self.next(state, name, false)
    }

    fn next(&self, state: MatchState, name: &OsStr, deep: bool) -> MatchState {
        let name = name.to_string_lossy();
        let deep = deep && !name.starts_with('.');
        let mut next = 0;
        for (at, part) in self
            .parts
            .iter()
            .enumerate()
            .filter(|(at, _)| state.0 & (1 << at) != 0)
        {
            match part {
                Part::Deep if deep => next |= self.from(at),
                Part::Name(pattern) if pattern.matches_with(&name, MATCH_OPTIONS) => {
                    next |= self.from(at + 1)
                }
                _ => {}
            }
        }
        MatchState(next)
    }

    /// Whether a file with this state matches.
    pub(super) fn matches(&self, state: MatchState) -> bool {
        self.parts
            .iter()
            .enumerate()
            .any(|(at, part)| state.0 & (1 << at) != 0 && matches!(part, Part::End))
    }

    /// Whether something below a directory with this state may match.
    pub(super) fn descends(&self, state: MatchState) -> bool {
        self.parts
            .iter()
            .enumerate()
            .any(|(at, part)| state.0 & (1 << at) != 0 && !matches!(part, Part::End))
    }

    /// A part, and the following ones that also apply because `**` may match nothing.
    fn from(&self, first: usize) -> u128 {
        let mut set = 0;
        for (at, part) in self.parts.iter().enumerate().skip(first) {
            set |= 1 << at;
            if !matches!(part, Part::Deep) {
                break;
            }
        }
        set
    }
}

fn parse(base: &Path, pattern: &str) -> Result<(PathBuf, Vec<Part>), String> {
    let mut root = base.to_owned();
    let mut parts = Vec::new();
    let components: Vec<Component<'_>> = Path::new(pattern).components().collect();
    for (at, component) in components.iter().enumerate() {
        let last = at + 1 == components.len();
        match component {
            Component::RootDir | Component::Prefix(_) => root = PathBuf::from("/"),
            Component::CurDir => {}
            Component::ParentDir if parts.is_empty() && !last => root.push(".."),
            Component::ParentDir => return Err("`..` may stand at its beginning only".to_owned()),
            Component::Normal(name) => {
                let name = name.to_string_lossy();
                match literal(&name) {
                    Some(name) if parts.is_empty() && !last => root.push(name),
                    _ if name == "**" => parts.push(Part::Deep),
                    _ => parts.push(Part::Name(
                        Pattern::new(&name).map_err(|error| error.msg.to_owned())?,
                    )),
                }
            }
        }
    }
    if parts.is_empty() {
        return Err("it names no file".to_owned());
    }
    if parts.len() >= MAX_PARTS {
        return Err(format!("it has more than {MAX_PARTS} parts"));
    }
    parts.push(Part::End);
    Ok((root, parts))
}

/// The name that a pattern without wildcards matches; `[*]` is a star, as [`Pattern::escape`] writes it.
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
        let (all, errors) = PatternSet::sort(Path::new("/b"), &patterns);
        assert!(errors.is_empty(), "{errors:?}");
        all.iter().any(|globs| {
            let Ok(below) = Path::new(path).strip_prefix(&globs.root) else {
                return false;
            };
            let mut state = globs.start();
            let names: Vec<_> = below.iter().collect();
            for (at, name) in names.iter().enumerate() {
                state = globs.step(state, name);
                if at + 1 < names.len() && !globs.descends(state) {
                    return false;
                }
            }
            globs.matches(state)
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
        let (all, errors) = PatternSet::sort(Path::new("/b"), &patterns);
        assert!(errors.is_empty(), "{errors:?}");
        let roots: Vec<_> = all
            .iter()
            .map(|globs| globs.root.display().to_string())
            .collect();
        assert_eq!(roots, ["/b/src/a", "/b/../lib/x", "/etc/*/?"]);
    }

    #[test]
    fn invalid_patterns_are_errors_and_the_others_are_kept() {
        let patterns = ["a[", "*/../x", ".", "src/..", "ok/*"].map(str::to_owned);
        let (all, errors) = PatternSet::sort(Path::new("/b"), &patterns);
        assert_eq!((all.len(), errors.len()), (1, 4), "{errors:?}");
        let many = "a*/".repeat(200) + "b";
        assert_eq!(PatternSet::sort(Path::new("/b"), &[many]).1.len(), 1);
        let all: Vec<String> = (0..100).map(|n| format!("*/{n}/*")).collect();
        assert_eq!(
            PatternSet::sort(Path::new("/b"), &all).0.len(),
            4,
            "more patterns than one set holds"
        );
    }
}
