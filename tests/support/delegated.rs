//! A cgroup of the test's own, to be given to a master. It is removed with the test, and with it every process in it.

use super::{need, until_some};
use rotad::sys::xattr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Delegated {
    dir: PathBuf,
    /// Where the test itself lived before.
    home: PathBuf,
}

/// Where version 2 is mounted, alone or beside version 1.
fn mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(2) == Some(&"cgroup2")).then(|| PathBuf::from(words[1]))
    })
}

/// The cgroup that a process lives in.
pub fn of(pid: i32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount()?.join(own))
}

impl Delegated {
    /// Not marked yet. None: the machine lacks it, and that was allowed.
    pub fn make() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "rotad-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::SeqCst)
        );
        let home = of(std::process::id() as i32);
        let made = home.map(|home| Self {
            dir: home.join(name),
            home,
        });
        let made = made.filter(|made| fs::create_dir(&made.dir).is_ok());
        let works = made.as_ref().is_some_and(|made| {
            made.dir.join("cgroup.procs").exists()
                && xattr::set(&made.dir, "user.rotad", b"1").is_ok()
        });
        need(
            "a cgroup of version 2 that can be written and marked",
            works,
        )
        .then_some(made)?
    }

    /// Marks it as systemd would: `delegate`, `invocation_id`.
    pub fn mark(&self, name: &str, value: &str) {
        xattr::set(&self.dir, &format!("user.{name}"), value.as_bytes()).expect("a mark");
    }

    /// One below.
    pub fn below(&self, name: &str) -> Self {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).expect("a cgroup");
        Self {
            dir,
            home: self.home.clone(),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts the test itself there, until this is dropped.
    pub fn enter(&self) {
        fs::write(self.dir.join("cgroup.procs"), "0").expect("the way in");
    }

    /// The same command, begun in there.
    pub fn begin(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside
            .args(["-c", "echo 0 > \"$0\"/cgroup.procs && exec \"$@\""])
            .arg(&self.dir);
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }

    /// The cgroups below, of any depth.
    pub fn all_below(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.dir.clone()];
        while let Some(dir) = open.pop() {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            for path in below.map(|entry| entry.path()) {
                open.push(path.clone());
                found.push(path);
            }
        }
        found
    }

    /// Nothing is left of what a master made here.
    pub fn assert_bare(&self) {
        assert_eq!(self.all_below(), Vec::<PathBuf>::new());
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        if of(std::process::id() as i32).is_some_and(|own| own == self.dir) {
            fs::write(self.home.join("cgroup.procs"), "0").expect("the way back");
        }
        fs::write(self.dir.join("cgroup.kill"), "1").ok();
        // rmdir(2) says EBUSY until the last of them has ended.
        until_some(5, || {
            let mut all = self.all_below();
            all.sort();
            for path in all.iter().rev() {
                fs::remove_dir(path).ok();
            }
            (fs::remove_dir(&self.dir).is_ok() || !self.dir.exists()).then_some(())
        });
    }
}
