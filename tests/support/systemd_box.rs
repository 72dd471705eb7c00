//! A real systemd as PID 1 of namespaces of its own, on an overlay of this machine: `tests/systemd/box.sh` says how it
//! is shielded. One a test; it ends with the test, and with the test's process.

use super::site::{Run, finish};
use super::{LOOK_EVERY, need, rotad, testworker, until, until_some};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/box.sh");
/// Where the project's `systemd/` is in the box.
const SHIPPED: &str = "/opt/rotad/systemd";
/// Where the units of packages lie.
const UNITS: &str = "/usr/lib/systemd/system";
/// Where configurations lie.
pub const CONFIG: &str = "/etc/rotad/rotad.toml";

pub struct SystemdBox {
    script: Child,
    dir: tempfile::TempDir,
    /// Its PID 1, as this machine counts.
    pid: i32,
}

impl SystemdBox {
    /// Boots it, with `/usr/bin/rotad`, `/usr/bin/testworker` and the units installed as a package would. The calling
    /// thread, and those that it starts from now on, see the network of the box. None: the machine lacks something,
    /// and that was allowed.
    pub fn boot() -> Option<Self> {
        Self::boot_with(&[])
    }

    /// With more of this machine shown inside, read-only: (here, there).
    pub fn boot_with(binds: &[(PathBuf, &str)]) -> Option<Self> {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
        let own = [
            (rotad(), "/usr/bin/rotad"),
            (testworker(), "/usr/bin/testworker"),
            (shipped, SHIPPED),
        ];
        let made = Self::boot_bare(&[&own, binds].concat())?;
        made.shell(&format!(
            "set -e; cp {SHIPPED}/*.service {SHIPPED}/*.socket {UNITS}/; cp {SHIPPED}/rotad.conf /usr/lib/tmpfiles.d/;
             mkdir -p /etc/rotad; chmod 755 /etc/rotad; systemd-tmpfiles --create rotad.conf; systemctl daemon-reload"
        ));
        Some(made)
    }

    /// Boots it with nothing of rotad's but these files, shown inside read-only: (here, there).
    pub fn boot_bare(binds: &[(PathBuf, &str)]) -> Option<Self> {
        if !is_possible() {
            return None;
        }
        let binds: Vec<String> = binds
            .iter()
            .map(|(from, to)| format!("{}:{to}", from.display()))
            .collect();
        let (script, dir) = start("up", &binds.join(" "));
        let mut made = Self {
            script,
            dir,
            pid: 0,
        };
        let file = made.dir.path().join("pid");
        let pid = until_some(60, || {
            let ended = made.script.try_wait().expect("a child").is_some();
            assert!(!ended, "the box did not come up: {}", made.console());
            fs::read_to_string(&file).ok()?.trim().parse().ok()
        });
        made.pid = pid.unwrap_or_else(|| panic!("no box: {}", made.console()));
        let net = File::open(format!("/proc/{}/ns/net", made.pid)).expect("the network of the box");
        setns(net, CloneFlags::CLONE_NEWNET).expect("this thread in the network of the box");
        let up = || {
            (made.run(&["systemctl", "is-system-running"]).out.trim() == "running").then_some(())
        };
        until_some(60, up).unwrap_or_else(|| panic!("systemd is not up: {}", made.console()));
        Some(made)
    }

    fn console(&self) -> String {
        let read = |name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        format!("{}{}", read("script.txt"), read("console"))
    }

    /// A command in the box, not started yet.
    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.pid.to_string(),
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
        ]);
        command.args([
            "--root",
            "--wd",
            "--",
            "env",
            "-i",
            "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]);
        command
            .args(["TERM=dumb", "LANG=C.UTF-8", "HOME=/root", "SYSTEMD_PAGER="])
            .args(line);
        command
    }

    /// Runs a command in the box to its end, at most 120 s.
    pub fn run(&self, line: &[&str]) -> Run {
        finish(self.command(line), 120)
    }

    /// Runs a command in the box that has to end with 0; its stdout.
    pub fn ok(&self, line: &[&str]) -> String {
        let run = self.run(line);
        assert_eq!(
            run.code,
            0,
            "{line:?}: {}\n{}",
            run.text(),
            self.journal(&["-n", "40"])
        );
        run.out
    }

    /// The same for a line of the shell.
    pub fn shell(&self, line: &str) -> String {
        self.ok(&["sh", "-c", line])
    }

    /// Writes a file in the box, its directories too.
    pub fn write(&self, path: &str, text: &str) {
        // Not by /proc/PID/root: there an absolute link leads out of the box.
        let draft = self.dir.path().join("draft");
        fs::write(&draft, text).expect("a file");
        let mut command = self.command(&["sh", "-c", "mkdir -p \"${0%/*}\" && cat > \"$0\"", path]);
        command
            .stdin(File::open(&draft).expect("a file"))
            .stdout(Stdio::null());
        assert!(command.status().expect("nsenter").success(), "{path}");
    }

    /// Reads a file of the box; empty when there is none.
    pub fn read(&self, path: &str) -> String {
        self.run(&["cat", path]).out
    }

    /// `systemctl VERB rotad.service`, whatever comes of it.
    pub fn systemctl(&self, verb: &str, unit: &str) -> Run {
        self.run(&["systemctl", verb, unit])
    }

    /// `systemctl start`, which has to succeed.
    pub fn start(&self, unit: &str) {
        self.ok(&["systemctl", "start", unit]);
    }

    /// A property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.run(&["systemctl", "show", "--property", property, "--value", unit])
            .out
            .trim()
            .to_string()
    }

    /// The main process of a unit, as the box counts.
    pub fn main_pid(&self, unit: &str) -> String {
        self.show(unit, "MainPID")
    }

    /// What the status of the master of [`CONFIG`] says of itself.
    pub fn master(&self) -> Value {
        let status = until("a master", 20, || self.status(CONFIG));
        status["master"].clone()
    }

    /// `kill -9` of the master of [`CONFIG`], and waits for the one that replaces it.
    pub fn kill_master(&self) {
        let dead = self.master();
        self.ok(&["kill", "-KILL", &dead["pid"].to_string()]);
        until("the next master", 20, || {
            let next = self.status(CONFIG)?;
            (next["master"]["pid"] != dead["pid"]).then_some(())
        });
    }

    /// Waits for a property of a unit.
    pub fn await_shown(
        &self,
        unit: &str,
        property: &str,
        seconds: u64,
        is: impl Fn(&str) -> bool,
    ) -> String {
        let mut last = String::new();
        let found = until_some(seconds, || {
            last = self.show(unit, property);
            is(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| {
            panic!(
                "{property} of {unit} is {last:?}: {}",
                self.journal(&["-n", "40"])
            )
        })
    }

    /// What journalctl(1) prints for these arguments.
    pub fn journal(&self, arguments: &[&str]) -> String {
        self.run(
            &[
                "sh",
                "-c",
                "journalctl --sync; exec journalctl --no-pager \"$@\"",
                "journalctl",
            ]
            .iter()
            .chain(arguments)
            .copied()
            .collect::<Vec<_>>(),
        )
        .text()
    }

    /// Waits for a text in what journalctl(1) prints for these arguments.
    pub fn await_journal(&self, arguments: &[&str], text: &str, seconds: u64) {
        let found = until_some(seconds, || {
            self.journal(arguments).contains(text).then_some(())
        });
        found.unwrap_or_else(|| {
            panic!(
                "{text:?} is not in the journal: {}",
                self.journal(&["-n", "60"])
            )
        });
    }

    /// A drop-in of a unit, from the project's `systemd/drop-ins/`, and what else it is to say.
    pub fn drop_in(&self, unit: &str, name: &str) {
        self.shell(&format!(
            "mkdir -p /etc/systemd/system/{unit}.d && cp {SHIPPED}/drop-ins/{name}.conf /etc/systemd/system/{unit}.d/"
        ));
        self.ok(&["systemctl", "daemon-reload"]);
    }

    /// A drop-in of the test's own, read after all others.
    pub fn adjust(&self, unit: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{unit}.d/zz-test.conf"), text);
        self.ok(&["systemctl", "daemon-reload"]);
    }

    /// The master's status.
    pub fn status(&self, config: &str) -> Option<Value> {
        let run = self.run(&["rotad", "status", "--json", "-c", config]);
        (run.code == 0).then(|| serde_json::from_str(&run.out).expect("a status"))
    }

    /// The address of a unix socket of the box. No link may be on its path.
    pub fn unix(&self, path: &str) -> String {
        format!("unix:/proc/{}/root{path}", self.pid)
    }

    /// The version of systemd in the box.
    pub fn version(&self) -> u32 {
        let text = self.ok(&["systemctl", "--version"]);
        let word = text.split_whitespace().nth(1).expect("a version");
        word.chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .expect("a number")
    }

    /// The processes of the box that have this in their command line, as the box counts.
    pub fn pids_of(&self, pattern: &str) -> Vec<i32> {
        let run = self.run(&["pgrep", "-f", pattern]);
        run.out
            .lines()
            .map(|line| line.trim().parse().expect("a pid"))
            .collect()
    }
}

impl Drop for SystemdBox {
    fn drop(&mut self) {
        if std::thread::panicking() && self.pid != 0 {
            eprintln!(
                "--- the journal's last lines ---\n{}",
                self.journal(&["-n", "60"])
            );
        }
        let _ = kill(Pid::from_raw(self.script.id() as i32), Signal::SIGTERM);
        if until_some(20, || self.script.try_wait().ok().flatten()).is_none() {
            let _ = self.script.kill();
            let _ = self.script.wait();
        }
    }
}

/// What the box needs.
fn is_possible() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let cgroups = mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("cgroup2"));
    need::root()
        && [
            "bash",
            "unshare",
            "nsenter",
            "setpriv",
            "ip",
            "pgrep",
            "systemctl",
        ]
        .iter()
        .all(|name| need::program(name))
        && need(
            "/lib/systemd/systemd",
            Path::new("/lib/systemd/systemd").exists(),
        )
        && need("a mount of cgroups of version 2", cgroups)
}

/// The script, which ends when the test's thread does.
fn start(verb: &str, binds: &str) -> (Child, tempfile::TempDir) {
    let dir = tempfile::Builder::new()
        .prefix("box.")
        .tempdir_in("/tmp")
        .expect("a directory");
    let said = File::create(dir.path().join("script.txt")).expect("a file");
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", SCRIPT, verb])
        .arg(dir.path())
        .env("BOX_BIND", binds);
    command
        .stdin(Stdio::null())
        .stdout(said.try_clone().expect("a file"))
        .stderr(said);
    (command.spawn().expect("setpriv"), dir)
}

/// Proves the shield, and boots nothing. None: the machine lacks something, and that was allowed.
pub fn guard() -> Option<String> {
    if !is_possible() {
        return None;
    }
    let (mut script, dir) = start("guard", "");
    let status = until("the guard's end", 60, || {
        script.try_wait().expect("a child")
    });
    let text = fs::read_to_string(dir.path().join("script.txt")).expect("a text");
    assert!(status.success(), "{text}");
    Some(text)
}

/// Two web workers on [`ADDRESS`], whose code is in /srv/code.
pub const WEB: &str = r#"
[listen.http]
address = "127.0.0.1:8080"

[pool.web]
command = ["testworker", "http", "--code", "/srv/code"]
count = 2
listen = ["http"]
stop = "5s"

[pool.web.reload]
soak = "100ms"
"#;
pub const ADDRESS: &str = "127.0.0.1:8080";
pub const SERVICE: &str = "rotad.service";

/// The version of the code that a worker of [`WEB`] answers with.
pub fn version(address: &str) -> String {
    let answer = super::load::get(address, "/").expect("an answer");
    answer
        .split_whitespace()
        .nth(2)
        .expect("a version")
        .to_string()
}

impl SystemdBox {
    /// Boots, with [`WEB`] as the configuration; `more` comes before it.
    pub fn with_web(more: &str) -> Option<Self> {
        let made = Self::boot()?;
        made.write(CONFIG, &format!("{more}{WEB}"));
        made.code("ok", "one");
        Some(made)
    }

    /// What the workers of [`WEB`] are to do, and their version.
    pub fn code(&self, what: &str, version: &str) {
        self.write("/srv/code", &format!("{what}\n{version}\n"));
    }
}
