//! The files of a project's directory, as `init` reads them. Nothing of the project is ever run.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A larger file, in bytes, is not read: it does not describe how to start a program.
const LARGEST: u64 = 1 << 20;

/// A directory with more entries is not searched to the end.
const MOST_ENTRIES: usize = 1000;

/// The directories in which systemd looks for programs (systemd.exec(5)); programs elsewhere are written with their whole
/// path.
const SYSTEM_PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Where a project keeps its own Python.
const VENVS: [&str; 3] = [".venv", "venv", "env"];

/// Directories that hold other people's code, or code that is not the program.
const FOREIGN: [&str; 9] = [
    "venv",
    "env",
    "node_modules",
    "vendor",
    "tests",
    "test",
    "docs",
    "migrations",
    "site-packages",
];

/// A directory that describes a program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Project<'a> {
    root: &'a Path,
}

impl<'a> Project<'a> {
    /// The project in this directory.
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root }
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &'a Path {
        self.root
    }

    /// The text of a file, if it is one of a sensible size.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let path = self.root.join(path);
        path.metadata()
            .ok()
            .filter(|meta| meta.is_file() && meta.len() <= LARGEST)?;
        fs::read_to_string(path).ok()
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, path: &str) -> bool {
        self.root.join(path).is_file()
    }

    /// Whether there is such a directory.
    pub(super) fn has_directory(&self, path: &str) -> bool {
        self.root.join(path).is_dir()
    }

    /// The first of these files that is there.
    pub(super) fn first<'n>(&self, paths: &[&'n str]) -> Option<&'n str> {
        paths.iter().copied().find(|path| self.has(path))
    }

    /// The names in a directory of the project, sorted. Hidden ones and foreign code are left out.
    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(directory)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .take(MOST_ENTRIES)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.') && !FOREIGN.contains(&name.as_str()))
            .collect();
        names.sort();
        names
    }

    /// The source files with this ending at the top and one directory below it, those at the top first.
    pub(super) fn sources(&self, ending: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut below: Vec<String> = Vec::new();
        for name in self.names("") {
            if name.ends_with(ending) {
                found.push(name);
            } else if self.has_directory(&name) {
                let files = self.names(&name);
                below.extend(
                    files
                        .iter()
                        .filter(|file| file.ends_with(ending))
                        .map(|file| format!("{name}/{file}")),
                );
            }
        }
        found.append(&mut below);
        found.truncate(MOST_ENTRIES);
        found
    }

    /// The word that starts a program: in the project's own Python environment, or by its name, if it is in PATH.
    pub(super) fn program(&self, name: &str) -> Option<String> {
        VENVS
            .iter()
            .map(|venv| format!("{venv}/bin/{name}"))
            .find(|path| executable(&self.root.join(path)))
            .or_else(|| self.in_path(name).map(|_| name.to_owned()))
    }

    /// The word for a program that may not be installed: where it would be if it were.
    pub(super) fn program_or_guess(&self, name: &str) -> String {
        self.program(name).unwrap_or_else(|| {
            VENVS
                .iter()
                .find(|venv| self.has(&format!("{venv}/bin/python")))
                .map_or_else(|| name.to_owned(), |venv| format!("{venv}/bin/{name}"))
        })
    }

    /// Where PATH leads.
    pub(super) fn in_path(&self, program: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|dir| self.root.join(dir).join(program))
            .find(|path| executable(path))
    }

    /// The file that a command's first word names.
    pub(super) fn locate(&self, program: &str) -> Option<PathBuf> {
        if program.contains('/') {
            Some(self.root.join(program))
        } else {
            self.in_path(program)
        }
    }

    /// The first word of a command as systemd finds it: a program that is in the user's PATH and not in systemd's becomes a
    /// whole path.
    pub(super) fn whole_path(&self, program: &str) -> String {
        if program.contains('/') {
            return program.to_owned();
        }
        self.in_path(program)
            .filter(|path| !SYSTEM_PATH.iter().any(|dir| path.starts_with(dir)))
            .map_or_else(
                || program.to_owned(),
                |path| path.to_string_lossy().into_owned(),
            )
    }

    /// Python packages that the project says it needs, in lower case with `-`.
    pub(super) fn python_packages(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut files: Vec<String> = self
            .names("")
            .into_iter()
            .filter(|name| name.starts_with("requirements") && name.ends_with(".txt"))
            .collect();
        files.extend(
            self.names("requirements")
                .iter()
                .filter(|name| name.ends_with(".txt"))
                .map(|name| format!("requirements/{name}")),
        );
        for text in files.iter().filter_map(|file| self.read(file)) {
            names.extend(text.lines().filter_map(requirement));
        }
        if let Some(table) = self.toml("pyproject.toml") {
            let list = |value: Option<&toml::Value>, names: &mut BTreeSet<String>| {
                let words = value.and_then(toml::Value::as_array);
                for word in words.into_iter().flatten().filter_map(toml::Value::as_str) {
                    names.extend(requirement(word));
                }
            };
            let project = table.get("project");
            list(project.and_then(|it| it.get("dependencies")), &mut names);
            let groups = [
                project.and_then(|it| it.get("optional-dependencies")),
                table.get("dependency-groups"),
            ];
            for group in groups.into_iter().flatten() {
                for value in group.as_table().into_iter().flat_map(|it| it.values()) {
                    list(Some(value), &mut names);
                }
            }
            let poetry = table.get("tool").and_then(|it| it.get("poetry"));
            keys(poetry.and_then(|it| it.get("dependencies")), &mut names);
        }
        if let Some(table) = self.toml("Pipfile") {
            keys(table.get("packages"), &mut names);
        }
        names
    }

    fn toml(&self, path: &str) -> Option<toml::Table> {
        toml::from_str(&self.read(path)?).ok()
    }

    /// A file in JSON.
    pub(super) fn json(&self, path: &str) -> Option<serde_json::Value> {
        serde_json::from_str(&self.read(path)?).ok()
    }
}

fn keys(table: Option<&toml::Value>, names: &mut BTreeSet<String>) {
    let table = table.and_then(toml::Value::as_table);
    names.extend(table.into_iter().flat_map(|it| it.keys()).map(normal));
}

/// The package that a line of requirements.txt, or a dependency of pyproject.toml, names (PEP 508).
fn requirement(line: &str) -> Option<String> {
    let end = line
        .find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)))
        .unwrap_or(line.len());
    let name = &line[..end];
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        .then(|| normal(name))
}

/// Names of packages compare without regard to case, `_` and `.` (PEP 503).
fn normal(name: impl AsRef<str>) -> String {
    name.as_ref().to_ascii_lowercase().replace(['_', '.'], "-")
}

fn executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A directory with these files; those in a `bin` directory can be run.
    pub(crate) fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            if name.contains("bin/") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        directory
    }

    #[test]
    fn python_packages_are_read_from_every_kind_of_list() {
        let files = [
            (
                "requirements.txt",
                "# ours\nFlask>=3\n-r other.txt\ncelery[redis] ; python_version > '3'\n",
            ),
            ("requirements/prod.txt", "gunicorn==27.0.1\n"),
            (
                "pyproject.toml",
                "[project]\ndependencies = [\"FastAPI ~= 1\"]\n[project.optional-dependencies]\nserver = \
                 [\"uvicorn[standard]\"]\n[dependency-groups]\ndev = [\"x\", { include-group = \"y\" }]\n\
                 [tool.poetry.dependencies]\ndjango_rq = \"*\"\n",
            ),
            ("Pipfile", "[packages]\nhypercorn = \"*\"\n"),
        ];
        let directory = directory(&files);
        let names = Project::new(directory.path()).python_packages();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "celery",
                "django-rq",
                "fastapi",
                "flask",
                "gunicorn",
                "hypercorn",
                "uvicorn",
                "x"
            ]
        );
    }
}
