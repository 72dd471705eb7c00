//! A page of docs/: its blocks of code, written down and run in a directory of the test's own.
//!
//! A block whose first line is a comment that names a file (`# rotad.toml`, `// server.js`), or above which there is
//! "`package.json`:", is that file. A block in
//! `toml` is a whole configuration, and passes `rotad check`. A block in `sh` is run, in the order of the page; so is
//! each line of a block in `console` that begins with `$ `, and the lines below it are what it prints, `…` in place of
//! what differs. A comment `<!-- not run: REASON -->` above a block says that it is not run; `<!-- run before: COMMAND -->`
//! is what a reader has done already.

use super::example::{node_modules, venv};
use super::jobs::Server;
use super::site::{Run, Site, finish, verb};
use super::{free_port, rotad};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a page says before a configuration, all of it or one pool, that `rotad init` writes in that directory.
const BY_INIT: &str = "`rotad init` writes ";
/// Where the pages have their applications; a test puts its own directory in.
const SRV: &str = "/srv/";
/// The ports of the pages at which their own workers listen.
const PORTS: &[&str] = &["8000", "8001", "8080", "3000", "9000"];
/// Where the master of a pool keeps its files; a page may set some of these keys itself.
const MASTER: &[(&str, &str)] = &[
    ("runtime_dir", "run"),
    ("pid_file", "master.pid"),
    ("log_file", "master.log"),
];
/// How long one block may take.
const SECONDS: u64 = 120;

/// A block of code.
#[derive(Debug)]
pub struct Block {
    /// The line above its text.
    pub line: usize,
    pub language: String,
    pub text: String,
    /// The paragraph above it.
    above: String,
}

impl Block {
    /// The file that its first line names, or the text above it.
    pub fn file(&self) -> Option<&str> {
        let first = self.text.lines().next()?;
        let comment = ["# ", "// ", "; ", "<?php // "]
            .iter()
            .find_map(|comment| first.strip_prefix(comment));
        let above = || self.above.strip_suffix("`:")?.rsplit('`').next();
        comment
            .filter(|name| is_path(name))
            .or_else(|| above().filter(|name| is_path(name)))
    }

    /// Why it is not run, if it is not.
    pub fn not_run(&self) -> Option<&str> {
        let (_, mark) = self.above.rsplit_once("<!-- not run: ")?;
        mark.strip_suffix(" -->")
    }

    /// What is run before it.
    fn before(&self) -> impl Iterator<Item = &str> {
        let lines = self.above.lines();
        lines.filter_map(|line| line.strip_prefix("<!-- run before: ")?.strip_suffix(" -->"))
    }

    /// It holds commands.
    pub fn is_commands(&self) -> bool {
        self.file().is_none() && (self.language == "sh" || self.language == "console")
    }
}

/// A page with its blocks.
pub struct Page {
    /// Its path below docs/, without `.md`.
    pub name: String,
    pub text: String,
    pub blocks: Vec<Block>,
}

impl Page {
    pub fn read(name: &str) -> Self {
        let path = docs().join(name).with_extension("md");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self::of(name, &text)
    }

    /// A text as the page of this name.
    pub fn of(name: &str, text: &str) -> Self {
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            blocks: blocks(text),
        }
    }

    /// Every block with commands is run.
    pub fn is_run(&self) -> bool {
        let mut commands = self.blocks.iter().filter(|block| block.is_commands());
        commands.all(|block| block.not_run().is_none())
    }

    /// Writes down and runs every block; nothing that they started is left at the end.
    pub fn run(&self) {
        let mut place = Place::of(self);
        for block in &self.blocks {
            place.block(block);
        }
        place.site.assert_empty();
    }
}

fn is_path(name: &str) -> bool {
    (name.contains(['.', '/']) || name.ends_with("file")) && !name.contains(' ')
}

/// The directory docs/.
pub fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut above = String::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let inside = lines.by_ref().map(|(_, line)| line);
            let inside: Vec<&str> = inside.take_while(|line| *line != "```").collect();
            found.push(Block {
                line: number + 1,
                language: language.to_owned(),
                text: inside.join("\n") + "\n",
                above: std::mem::take(&mut above).trim_end().to_owned(),
            });
        } else if line.is_empty() && above.ends_with('\n') {
            // The paragraph above a block may have an empty line below it.
            above.push(' ');
        } else {
            if above.ends_with(' ') {
                above.clear();
            }
            above.push_str(line);
            above.push('\n');
        }
    }
    found
}

/// Every part of `…`-separated text is in a line, in this order.
pub fn line_has(line: &str, pattern: &str) -> bool {
    let mut rest = Some(line);
    for part in pattern.split('…').map(str::trim) {
        rest = rest
            .and_then(|rest| rest.split_once(part))
            .map(|(_, after)| after);
    }
    rest.is_some()
}

/// Where the blocks of a page are run.
struct Place {
    page: String,
    site: Site,
    /// What stands in the page, and what is put there.
    words: Vec<(String, String)>,
    /// Job servers that the page expects to run.
    _servers: Vec<Server>,
}

impl Place {
    fn of(page: &Page) -> Self {
        let site = Site::new("");
        fs::remove_file(site.path("rotad.toml")).expect("the site's own configuration");
        let bin = site.path("bin");
        fs::create_dir(&bin).expect("a directory");
        symlink(rotad(), bin.join("rotad")).expect("a link");
        // Debian's has its version in its name.
        if let Some(fpm) = php_fpm() {
            symlink(fpm, bin.join("php-fpm")).expect("a link");
        }
        let given = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/pages")
            .join(&page.name);
        if given.is_dir() {
            copy(&given, &site.path(""));
        }
        if page.text.contains("package.json") || given.join("package.json").exists() {
            symlink(node_modules(), site.path("node_modules")).expect("a link");
        }
        let srv = format!("{}/", site.path("srv").display());
        let mut words = vec![(SRV.to_owned(), srv)];
        for port in PORTS {
            words.push(((*port).to_owned(), free_port().to_string()));
        }
        let mut servers = Vec::new();
        for (port, start) in [
            ("6379", Server::redis as fn() -> Option<Server>),
            ("4730", Server::gearmand),
        ] {
            if page.text.contains(port) {
                let server = start().expect("a job server");
                words.push((port.to_owned(), server.port.to_string()));
                servers.push(server);
            }
        }
        Self {
            page: page.name.clone(),
            site,
            words,
            _servers: servers,
        }
    }

    fn block(&mut self, block: &Block) {
        let place = format!("docs/{}.md:{}", self.page, block.line);
        if let Some(file) = block.file() {
            if let Some((_, what)) = block.above.split_once(BY_INIT) {
                self.assert_init_writes(what, &block.text, &place);
            }
            let path = self.in_page(file);
            let text = self.in_page(&block.text);
            let text = match block.language.as_str() {
                "toml" => with_master(&text, &self.site.path("masters")),
                _ => text,
            };
            let path = self.site.path(&path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(&path, text).expect("a file");
            if block.language == "toml" {
                assert_valid(&path, &place);
            }
        } else if block.language == "toml" {
            let path = self.site.path("block.toml");
            fs::write(&path, self.in_page(&block.text)).expect("a file");
            assert_valid(&path, &place);
        } else if block.is_commands() && block.not_run().is_none() {
            self.commands(block, &place);
        }
    }

    /// Runs its commands; what a block in `console` shows is what they print.
    fn commands(&self, block: &Block, place: &str) {
        for command in block.before() {
            let run = self.shell(&self.in_page(command));
            assert_eq!(run.code, 0, "{place}: {command}: {run:?}");
        }
        let text = self.in_page(&block.text);
        if block.language == "sh" {
            let run = self.shell(&format!("set -e\n{text}"));
            assert_eq!(run.code, 0, "{place}: {run:?}");
            return;
        }
        let mut output: Vec<String> = Vec::new();
        for line in text.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                // In the order in which a terminal shows it.
                let run = self.shell(&format!("exec 2>&1\n{command}"));
                output = run.out.lines().map(str::to_owned).collect();
            } else {
                let found = output.iter().position(|printed| line_has(printed, line));
                let found =
                    found.unwrap_or_else(|| panic!("{place}: {line:?} is not in {output:#?}"));
                output.drain(..=found);
            }
        }
    }

    /// Runs a script to its end as an operator would, in the directory.
    fn shell(&self, script: &str) -> Run {
        self.keep_master();
        let node = node_modules().with_file_name("bin");
        let paths = [self.site.path("bin"), venv().join("bin"), node];
        let paths: Vec<String> = paths.iter().map(|dir| dir.display().to_string()).collect();
        let rest = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .current_dir(self.site.path(""))
            .env("PATH", format!("{}:{rest}", paths.join(":")))
            .env("HOME", self.site.path(""))
            .env("XDG_STATE_HOME", self.site.path("state"))
            // Two versions of a file may have one time.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("GIT_CONFIG_COUNT", "2")
            .envs([
                ("GIT_CONFIG_KEY_0", "user.name"),
                ("GIT_CONFIG_VALUE_0", "Test"),
            ])
            .envs([
                ("GIT_CONFIG_KEY_1", "user.email"),
                ("GIT_CONFIG_VALUE_1", "test@example.com"),
            ])
            .env_remove("ROTAD_CONFIG");
        finish(command, SECONDS)
    }

    /// Gives a configuration that a command has written a `[master]` with its files in the directory.
    fn keep_master(&self) {
        let written = self.site.read("rotad.toml");
        if !written.is_empty() && !written.contains("runtime_dir = ") {
            let kept = with_master(&written, &self.site.path("masters"));
            self.site.write("rotad.toml", &kept);
        }
    }

    /// What `rotad init` makes of the directory has the same values as this configuration ("this file"), or as this pool
    /// of it ("`[pool.web]`") but for `after`. Other files that it writes stay.
    fn assert_init_writes(&self, what: &str, text: &str, place: &str) {
        let run = self.shell("rotad init");
        assert_eq!(run.code, 0, "{place}: {run:?}");
        let mut written = self.site.read("rotad.toml");
        for bin in [venv().join("bin"), self.site.path("bin")] {
            written = written.replace(&format!("\"{}/", bin.display()), "\"");
        }
        let pool = what
            .strip_prefix("`[pool.")
            .and_then(|rest| rest.split(']').next());
        let values = |text: &str| {
            let mut table: toml::Table = text
                .parse()
                .unwrap_or_else(|error| panic!("{place}: {error}"));
            table.remove("master");
            match pool {
                Some(name) => {
                    let mut pool = table["pool"][name].as_table().cloned().expect("a pool");
                    pool.remove("after");
                    pool
                }
                None => table,
            }
        };
        // Where a number of the application names a port, init has it from there.
        let [written, text] = [self.in_page(&written), self.in_page(text)];
        assert_eq!(values(&written), values(&text), "{place}: {written}");
        fs::remove_file(self.site.path("rotad.toml")).expect("what init wrote");
        let fpm = self.site.read("php-fpm.conf");
        if !fpm.is_empty() {
            self.site.write("php-fpm.conf", &self.in_page(&fpm));
        }
    }

    /// A text of the page, with what this test has in place of it.
    fn in_page(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.words {
            text = replace_word(&text, from, to);
        }
        text
    }
}

/// Replaces a text where no digit stands beside it.
fn replace_word(text: &str, from: &str, to: &str) -> String {
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(from) {
        done.push_str(before);
        let alone = !digit(done.chars().last()) && !digit(after.chars().next());
        done.push_str(if alone { to } else { from });
        rest = after;
    }
    done + rest
}

/// The configuration, with the master's files in this directory, in a subdirectory named as its last pool.
fn with_master(text: &str, dir: &Path) -> String {
    let Some((_, name)) = text.rsplit_once("\n[pool.") else {
        return text.to_owned();
    };
    let own = dir.join(name.split(['.', ']']).next().expect("a name"));
    let missing = MASTER
        .iter()
        .filter(|(key, _)| !text.contains(&format!("\n{key} = ")));
    let keys: String = missing
        .map(|(key, file)| format!("{key} = \"{}\"\n", own.join(file).display()))
        .collect();
    if text.contains("[master]\n") {
        text.replacen("[master]\n", &format!("[master]\n{keys}"), 1)
    } else {
        format!("{text}\n[master]\n{keys}")
    }
}

fn assert_valid(path: &Path, place: &str) {
    let run = verb(path, &["check"], 60);
    assert_eq!(run.code, 0, "{place}: {}", run.text());
}

/// Debian's php-fpm, whose name has its version.
pub fn php_fpm() -> Option<PathBuf> {
    let entries = fs::read_dir("/usr/sbin").ok()?;
    let mut programs = entries.flatten().map(|entry| entry.path());
    programs.find(|path| path.to_string_lossy().contains("/php-fpm"))
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).expect("a directory");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
