//! The preload for Node (`{preload:node}`): a script by which an unmodified program takes rotad's sockets and drains at TERM.
//!
//! The script is part of the binary, so it is there however rotad was installed, and of the same version. It is written into
//! the runtime directory before the first worker that needs it is spawned: only the master's user can write there (a program
//! that could change the script could make every worker run its code), and every user can read it.

use crate::plan::{Piece, Recipe, Template};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const SCRIPT: &str = include_str!("node_preload.cjs");
/// Where the script has the path of the rotad binary, as a JavaScript string.
const ROTAD: &str = "'@ROTAD@'";
const FILE: &str = "node.cjs";

/// The file of one master.
#[derive(Debug)]
pub(crate) struct NodePreload {
    path: PathBuf,
    text: String,
    /// This master has written it: a file that was there before may be another version's.
    written: bool,
}

impl NodePreload {
    /// Writes nothing yet. `rotad`: the binary that sends READY=1 for Node.
    pub(crate) fn new(runtime_dir: &Path, rotad: &Path) -> Self {
        let rotad = serde_json::Value::from(rotad.to_string_lossy()).to_string();
        Self {
            path: runtime_dir.join(FILE),
            text: SCRIPT.replacen(ROTAD, &rotad, 1),
            written: false,
        }
    }

    /// The runtime directory is another one now.
    pub(crate) fn relocate(&mut self, runtime_dir: &Path) {
        self.path = runtime_dir.join(FILE);
        self.written = false;
    }

    /// Where the script is, or will be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Sees to it that the script is there, if a worker of this recipe needs it.
    ///
    /// # Errors
    /// ENOSPC, EROFS, EACCES.
    pub(crate) fn provide(&mut self, recipe: &Recipe) -> io::Result<()> {
        let env = recipe.env.iter().map(|(_, value)| value);
        let needs = |template: &Template| template.0.contains(&Piece::NodePreload);
        if !recipe.command.iter().chain(env).any(needs) || (self.written && self.path.is_file()) {
            return Ok(());
        }
        self.write()?;
        self.written = true;
        Ok(())
    }

    /// A worker that starts meanwhile reads the old text or the new one, never half of it.
    fn write(&self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        fs::remove_file(&new).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
        file.write_all(self.text.as_bytes())?;
        // Whatever the umask: workers may run as another user.
        file.set_permissions(Permissions::from_mode(0o644))?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests;
