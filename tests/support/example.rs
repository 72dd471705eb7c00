//! The examples of `config/NAME/`, as they are: copied into a directory of the test's own, on a port of its own, run with
//! the programs of Debian and of `target/venv`, rolled under load.

use super::load::{Load, Report};
use super::site::{MASTER, Site};
use super::{pids, pool};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The address of every example; a test puts its own in.
const ADDRESS: &str = "127.0.0.1:8000";
/// How every example begins; a test puts its own directories in.
const HEAD: &str = "[master]\npid_file = \"master.pid\"\n";
/// How often each example is rolled.
const ROLLS: u64 = 5;

/// Where tests/all.sh installs `tests/install/python.txt`.
pub fn venv() -> PathBuf {
    super::rotad()
        .ancestors()
        .nth(2)
        .expect("the target directory")
        .join("venv")
}

/// Where tests/all.sh installs `tests/install/node.txt`.
pub fn node_modules() -> PathBuf {
    venv().with_file_name("node").join("node_modules")
}

/// A package of `target/node` is there; see [`super::need`] for what happens when it is not.
pub fn node_package(name: &str) -> bool {
    super::need(
        &format!("{name} (target/node)"),
        node_modules().join(name).exists(),
    )
}

/// A program of `target/node/bin`.
pub fn node_program(name: &str) -> bool {
    super::need(
        &format!("{name} (target/node)"),
        node_modules().with_file_name("bin").join(name).exists(),
    )
}

/// A program of `target/venv` is there; see [`super::need`] for what happens when it is not.
pub fn python(program: &str) -> bool {
    super::need(
        &format!("{program} (target/venv)"),
        venv().join("bin").join(program).exists(),
    )
}

/// What came of the requests on connections that were closed after each, and on kept ones.
#[derive(Debug)]
pub struct Rolled {
    pub closing: Report,
    pub keeping: Report,
}

impl Rolled {
    /// Nothing was lost on either, and each had at least that many answers.
    pub fn assert_nothing_lost(&self, at_least: u64) {
        self.closing.assert_nothing_lost(at_least);
        self.keeping.assert_nothing_lost(at_least);
    }
}

impl Site {
    /// A copy of `config/NAME/`, not started yet: 127.0.0.1:8000 is [`Site::address`], and `target/venv/bin` comes
    /// first in PATH.
    pub fn example(name: &str) -> Site {
        let mut site = Site::new("");
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("config")
            .join(name);
        copy(&from, &site.path(""), &site.address());
        let text = site.read("rotad.toml");
        assert!(
            text.starts_with(HEAD),
            "config/{name}/rotad.toml does not begin with {HEAD:?}"
        );
        site.configure(&text.replacen(HEAD, MASTER, 1));
        site.search_first(&venv().join("bin"));
        site
    }

    /// Replaces a text in a file of the directory; it has to be there.
    pub fn change(&self, file: &str, from: &str, to: &str) {
        let text = self.read(file);
        assert!(text.contains(from), "{from:?} is not in {file}:\n{text}");
        self.write(file, &text.replace(from, &self.filled(to)));
    }

    /// Load on the site's address, three clients that close and three that keep their connection, and five rolling
    /// restarts of these pools by USR1; each is waited for until the last old worker is gone.
    pub fn roll_under_load(&self, pools: &[&str]) -> Rolled {
        self.under_load(|| self.roll_by(Signal::SIGUSR1, pools))
    }

    /// The same load, and five times whatever `roll` does.
    pub fn under_load(&self, roll: impl Fn()) -> Rolled {
        let loads = [
            Load::on(&self.address(), 3, 0),
            Load::on(&self.address(), 0, 3),
        ];
        let answers = |more| loads.iter().for_each(|load| load.await_more(more));
        answers(50);
        for _ in 0..ROLLS {
            roll();
            answers(50);
        }
        let [closing, keeping] = loads.map(Load::stop);
        Rolled { closing, keeping }
    }

    /// One rolling restart by a signal, until every worker of these pools is new and the last old one is gone.
    pub fn roll_by(&self, signal: Signal, pools: &[&str]) {
        let before = self.await_ready();
        self.signal(signal);
        self.await_rolled(&before, pools);
    }

    /// One rolling restart by `rotad roll`, as long.
    pub fn roll_alone(&self, name: &str) {
        let before = self.await_ready();
        let run = self.rotad(&["roll", name]);
        assert_eq!(run.code, 0, "{run:?}");
        self.await_rolled(&before, &[name]);
    }

    fn await_rolled(&self, before: &Value, pools: &[&str]) {
        self.await_status(
            "the pools are rolled and their old workers gone",
            120,
            |status| {
                pools.iter().all(|name| {
                    let (now, old) = (pool(status, name), pids(before, name));
                    now["generation"].as_u64() > pool(before, name)["generation"].as_u64()
                        && now["reload"]["state"] == "done"
                        && now["alive"] == now["wanted"]
                        && !pids(status, name).iter().any(|pid| old.contains(pid))
                })
            },
        );
    }

    /// TERM: the master leaves with 0, and nothing of the site is left.
    pub fn stop_politely(&mut self, seconds: u64) {
        self.signal(Signal::SIGTERM);
        assert_eq!(
            self.await_exit(seconds).code(),
            Some(0),
            "the exit code after TERM"
        );
        self.assert_empty();
    }
}

fn copy(from: &Path, to: &Path, address: &str) {
    let entries = fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    for entry in entries.map(|entry| entry.expect("an entry")) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            fs::create_dir_all(&target).expect("a directory");
            copy(&source, &target, address);
            continue;
        }
        let text = fs::read_to_string(&source)
            .unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        fs::write(&target, text.replace(ADDRESS, address)).expect("a copy");
        let mode = fs::metadata(&source).expect("a file").permissions().mode();
        fs::set_permissions(&target, fs::Permissions::from_mode(mode)).expect("its mode");
    }
}
