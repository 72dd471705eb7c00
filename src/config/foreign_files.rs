//! Recognizes configurations of other tools and programs that are given in the place of ours: by their first lines, since
//! no name is reliable. Called for each text of a configuration, for words of the command line, and by the search for a
//! configuration.

use super::report::shown;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// No more of a file is looked at, in bytes.
const LOOKED_AT: usize = 64 << 10;

/// A kind of file that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForeignFile {
    /// With its article, as in "this looks like …".
    pub(crate) what: &'static str,
    instead: Instead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instead {
    /// `rotad import` reads it.
    Import,
    /// A program reads it: this command, the file following.
    Program(&'static str),
    /// A text of its own.
    Say(&'static str),
}

impl ForeignFile {
    /// Whether `rotad import` reads it.
    pub(crate) fn is_imported(self) -> bool {
        self.instead == Instead::Import
    }

    /// What to do with it.
    pub(crate) fn instead(self, path: &Path) -> String {
        let path = path.to_string_lossy();
        let path = shell_words::quote(&path);
        let path = shown(&path);
        match self.instead {
            Instead::Import => format!("`rotad import {path}` makes a rotad.toml of it"),
            Instead::Program(program) => {
                let file = if program.is_empty() && !path.contains('/') {
                    format!("./{path}")
                } else {
                    path
                };
                let command = format!("{program} {file}");
                format!(
                    "`rotad init -- {}` writes a rotad.toml for it",
                    command.trim_start()
                )
            }
            Instead::Say(text) => text.to_owned(),
        }
    }
}

const fn import(what: &'static str) -> ForeignFile {
    ForeignFile {
        what,
        instead: Instead::Import,
    }
}

const fn program(what: &'static str, program: &'static str) -> ForeignFile {
    ForeignFile {
        what,
        instead: Instead::Program(program),
    }
}

const fn say(what: &'static str, text: &'static str) -> ForeignFile {
    ForeignFile {
        what,
        instead: Instead::Say(text),
    }
}

const COMPOSE: &str = "rotad runs programs, not images: docs/coming-from.md has its keys, docs/containers.md says how both go together";
const TOML: &str =
    "rotad.toml is TOML: `key = \"value\"` below [pool.NAME]; `rotad init` writes a first one";

/// Beginnings of a line that only one kind of file has, without spaces in them.
const LINES: &[(&str, ForeignFile)] = &[
    ("[program:", import("a supervisord configuration")),
    ("[supervisord]", import("a supervisord configuration")),
    ("[supervisorctl]", import("a supervisord configuration")),
    ("[unix_http_server]", import("a supervisord configuration")),
    ("[fcgi-program:", import("a supervisord configuration")),
    ("[eventlistener:", import("a supervisord configuration")),
    ("[watcher:", import("a circus configuration")),
    ("[circus]", import("a circus configuration")),
    ("[Unit]", import("a systemd unit")),
    ("[Service]", import("a systemd unit")),
    ("[Install]", import("a systemd unit")),
    ("[uwsgi]", program("a uwsgi configuration", "uwsgi --ini")),
    (
        "pm.max_children",
        program("a php-fpm configuration", "php-fpm -F -y"),
    ),
    ("pm=", program("a php-fpm configuration", "php-fpm -F -y")),
    (
        "module.exports=",
        import("a pm2 ecosystem file, in JavaScript"),
    ),
    (
        "exportdefault{",
        import("a pm2 ecosystem file, in JavaScript"),
    ),
    ("services:", say("a docker compose file, in YAML", COMPOSE)),
    ("processes:", import("a process-compose file, in YAML")),
    ("apps:", import("a pm2 ecosystem file, in YAML")),
    ("\"apps\":", import("a pm2 ecosystem file, in JSON")),
    ("{\"apps\":", import("a pm2 ecosystem file, in JSON")),
    ("<?php", program("a PHP program", "php")),
    (
        "worker_processes",
        say(
            "an nginx configuration",
            "nginx runs below rotad with its own file: docs/programs/nginx.md",
        ),
    ),
];

/// Files of other tools by their names, in the order in which they are offered.
const NAMES: [&str; 9] = [
    "supervisord.conf",
    "supervisor.conf",
    "Procfile",
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.json",
    "pm2.json",
    "circus.ini",
    "process-compose.yaml",
];

/// The file's kind, if it is known. Files that cannot be read, or that look like ours, are not.
pub(crate) fn recognize(path: &Path) -> Option<ForeignFile> {
    let content = crate::plan::read(path).ok()?;
    recognize_text(path, &String::from_utf8_lossy(&content)).map(|(kind, _)| kind)
}

/// The kind of a text, and the bytes that tell it.
pub(super) fn recognize_text(path: &Path, text: &str) -> Option<(ForeignFile, Range<usize>)> {
    let lines: Vec<(usize, &str)> = lines(text).collect();
    let ours = |(_, line): &(usize, &str)| {
        ["[pool.", "[pool]", "[master]", "[defaults]", "[[pool"]
            .iter()
            .any(|start| line.starts_with(start))
    };
    if lines.iter().any(ours) {
        return None;
    }
    let span = |(at, line): (usize, &str)| at..at + line.len();
    for (at, line) in &lines {
        let bare: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        if let Some((_, kind)) = LINES.iter().find(|(start, _)| bare.starts_with(start)) {
            return Some((*kind, span((*at, line))));
        }
    }
    let first = *lines.first()?;
    let name = path
        .file_name()
        .map_or_else(Default::default, |name| name.to_string_lossy());
    if let Some(interpreter) = first.1.strip_prefix("#!") {
        return Some((script(interpreter), span(first)));
    }
    let ending = path
        .extension()
        .and_then(|ending| ending.to_str())
        .unwrap_or_default();
    let kind = match ending {
        "js" | "cjs" | "mjs" | "ts" => program("a JavaScript program", "node"),
        "py" => program("a Python program", "python3"),
        "rb" => program("a Ruby program", "ruby"),
        _ => by_shape(&name, &lines)?,
    };
    Some((kind, span(first)))
}

fn script(interpreter: &str) -> ForeignFile {
    let name = interpreter
        .trim()
        .rsplit(['/', ' '])
        .next()
        .unwrap_or_default();
    match name {
        name if name.ends_with("sh") => program("a shell script", ""),
        name if name.starts_with("python") => program("a Python program", ""),
        name if name.starts_with("node") => program("a JavaScript program", ""),
        _ => program("a program", ""),
    }
}

/// By the way in which all lines are written.
fn by_shape(name: &str, lines: &[(usize, &str)]) -> Option<ForeignFile> {
    let first = lines.first()?.1;
    let is_word = |text: &str| {
        let fit = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        !text.is_empty() && text.chars().all(fit)
    };
    let process = |line: &str| {
        line.split_once(':')
            .is_some_and(|(name, command)| is_word(name) && command.starts_with([' ', '\t']))
    };
    let code = lines.iter().take(30).any(|(_, line)| {
        [
            "const ",
            "import ",
            "require(",
            "export default",
            "'use strict'",
            "\"use strict\"",
        ]
        .iter()
        .any(|start| line.starts_with(start))
    });
    if name.starts_with("Procfile")
        || lines
            .iter()
            .all(|(_, line)| process(line) && line.matches(' ').count() > 0)
    {
        let nested = lines.iter().any(|(_, line)| line.ends_with(':'));
        if !nested {
            return Some(import("a Procfile"));
        }
    }
    if code {
        return Some(say(
            "a program, not a configuration",
            "`rotad init -- COMMAND` writes a rotad.toml for the command that starts it",
        ));
    }
    if first.starts_with('{') || first.starts_with("[{") || first == "[" {
        return Some(say("JSON", TOML));
    }
    let yaml = |line: &str| process(line) || line.strip_suffix(':').is_some_and(is_word);
    if first == "---" || yaml(first) {
        return Some(say("YAML", TOML));
    }
    let header =
        |line: &str| line.starts_with('[') && line.ends_with(']') && !line.contains(['"', ',']);
    let ini = lines
        .iter()
        .any(|(_, line)| header(line) && line.contains([':', ' ']));
    let comment = lines.iter().any(|(_, line)| line.starts_with(';'));
    (ini || comment).then(|| say("an INI file", TOML))
}

/// The lines that say something, each with its place.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut end = text.len().min(LOOKED_AT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut at = 0;
    text[..end]
        .split_inclusive('\n')
        .map(move |line| {
            let start = at + (line.len() - line.trim_start().len());
            at += line.len();
            (start, line.trim())
        })
        .filter(|(at, line)| {
            let comment = (line.starts_with('#') && !(*at == 0 && line.starts_with("#!")))
                || line.starts_with("//");
            !line.is_empty() && !comment
        })
}

/// The files of other tools in a directory that `rotad import` reads.
pub(super) fn importable_in(directory: &Path) -> Vec<PathBuf> {
    NAMES
        .iter()
        .map(|name| directory.join(name))
        .filter(|path| path.is_file())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, text: &str) -> Option<&'static str> {
        recognize_text(Path::new(name), text).map(|(kind, span)| {
            assert!(
                text.get(span.clone()).is_some_and(|line| !line.is_empty()),
                "{name}: {span:?}"
            );
            kind.what
        })
    }

    #[test]
    fn files_of_other_tools_are_recognized() {
        for (name, text, what) in [
            (
                "x.conf",
                "; comment\n[supervisord]\nnodaemon=true\n",
                "a supervisord configuration",
            ),
            (
                "x.toml",
                "[program:web]\ncommand=python app.py\n",
                "a supervisord configuration",
            ),
            (
                "x.ini",
                "[watcher:web]\ncmd = python\n",
                "a circus configuration",
            ),
            (
                "x.service",
                "[Unit]\nDescription=x\n[Service]\nExecStart=/bin/x\n",
                "a systemd unit",
            ),
            (
                "uwsgi.ini",
                "[uwsgi]\nmodule = app\n",
                "a uwsgi configuration",
            ),
            (
                "www.conf",
                "[www]\npm = dynamic\n",
                "a php-fpm configuration",
            ),
            (
                "a.js",
                "// x\nmodule.exports = {\n apps: [] }\n",
                "a pm2 ecosystem file, in JavaScript",
            ),
            (
                "a.json",
                "{\n  \"apps\": []\n}\n",
                "a pm2 ecosystem file, in JSON",
            ),
            (
                "a.yml",
                "version: '3'\nservices:\n  web:\n",
                "a docker compose file, in YAML",
            ),
            (
                "a.yaml",
                "version: '0.5'\nprocesses:\n  web:\n",
                "a process-compose file, in YAML",
            ),
            ("a.yaml", "---\nkey: value\n", "YAML"),
            ("a.yaml", "web:\n  command: x\n", "YAML"),
            ("a.json", "{\"name\": \"shop\"}\n", "JSON"),
            (
                "Procfile",
                "web: gunicorn app:app\nworker: celery -A app worker\n",
                "a Procfile",
            ),
            (
                "x",
                "web: gunicorn app:app\nworker: python run.py\n",
                "a Procfile",
            ),
            ("run.sh", "#!/bin/sh\nexec x\n", "a shell script"),
            (
                "x",
                "#!/usr/bin/env python3\nimport os\n",
                "a Python program",
            ),
            (
                "app.js",
                "const http = require('http')\n",
                "a JavaScript program",
            ),
            (
                "x",
                "import http from 'node:http'\n",
                "a program, not a configuration",
            ),
            (
                "gunicorn.conf.py",
                "bind = \"0.0.0.0:8000\"\n",
                "a Python program",
            ),
            ("index.php", "<?php\necho 1;\n", "a PHP program"),
            ("x.ini", "[my section]\nkey=value\n", "an INI file"),
            (
                "nginx.conf",
                "worker_processes 4;\n",
                "an nginx configuration",
            ),
        ] {
            assert_eq!(kind(name, text), Some(what), "{name}: {text}");
        }
    }

    #[test]
    fn broken_configurations_of_ours_are_ours() {
        for text in [
            "[pool.web\ncommand = \"x\"\n",
            "[pool.web]\ncommand = x\n",
            "[master]\nname = shop\n[pool.web]\n",
            "include = [\"a.toml\"\n",
            "command = \"a\nb = 1\n",
            "[listen.http\naddress = \"x\"\n",
            "",
            "# nothing\n",
        ] {
            assert_eq!(kind("rotad.toml", text), None, "{text:?}");
        }
    }
}
