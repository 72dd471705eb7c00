//! A disk that hangs: a file system of its own on a loop device, frozen (fsfreeze(8)). It lies in a mount namespace of
//! the calling thread's, which the master of the test inherits; it is thawed however the test ends.

use super::need;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub struct Frozen {
    dir: PathBuf,
    /// Thaws it when its stdin is closed: also by the end of a test that was killed.
    guard: Option<Child>,
}

impl Frozen {
    /// Mounted at `directory/disk`, and not frozen yet. None where the machine cannot do it and that was allowed.
    pub fn mount(dir: &Path) -> Option<Self> {
        let programs = ["bash", "mkfs.ext4", "mount", "umount", "fsfreeze"];
        if !need::root() || !programs.iter().all(|name| need::program(name)) {
            return None;
        }
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        ran("mount", &["--make-rprivate", "/"]);
        let (image, disk) = (dir.join("image"), dir.join("disk"));
        File::create(&image)
            .and_then(|file| file.set_len(8 << 20))
            .expect("an image");
        fs::create_dir(&disk).expect("a directory");
        ran(
            "mkfs.ext4",
            &["-q", "-O", "^has_journal", image.to_str().expect("a path")],
        );
        ran(
            "mount",
            &[
                "-o",
                "loop",
                image.to_str().expect("a path"),
                disk.to_str().expect("a path"),
            ],
        );
        Some(Self {
            dir: disk,
            guard: None,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn freeze(&mut self) {
        // A group of its own, deaf to signals, and with a timeout of its own: what reads /proc of all processes
        // meanwhile hangs at the frozen one.
        let mut guard = Command::new("bash");
        guard.args([
            "-c",
            "trap '' INT TERM HUP; read -t 20 none; fsfreeze -u \"$0\" 2> /dev/null",
        ]);
        guard.arg(&self.dir).stdin(Stdio::piped()).process_group(0);
        self.guard = Some(guard.spawn().expect("a guard"));
        ran("fsfreeze", &["-f", self.dir.to_str().expect("a path")]);
    }

    pub fn thaw(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            guard.wait().expect("the guard");
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
        // Lazily: a process that is still ending may have it open.
        Command::new("umount")
            .arg("-l")
            .arg(&self.dir)
            .status()
            .ok();
    }
}

fn ran(program: &str, arguments: &[&str]) {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .status();
    assert!(
        status.expect("a program").success(),
        "{program} {arguments:?}"
    );
}
