//! The injector: one action after the other, drawn from a seed.

use super::Mode;
use super::observer::Truth;
use super::support::Random;
use super::support::{Run, Site, number, pids, pool, proc, site, spaced, until_some};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Exit codes of what may be superseded, cancelled or aborted by what came before.
const ANY_END: [i32; 3] = [0, 1, 10];

type Act = fn(&mut Injector<'_>);

const ACTIONS: [(&str, Act); 24] = [
    ("roll", |it| it.roll()),
    ("roll-no-wait", |it| it.roll_no_wait()),
    ("signals", |it| it.signals()),
    ("deploy", |it| it.deploy()),
    ("broken-deploy", |it| it.broken_deploy()),
    ("configure", |it| it.configure()),
    ("bad-configuration", |it| it.bad_configuration()),
    ("unbindable", |it| it.unbindable()),
    ("scale", |it| it.scale()),
    ("stop-start", |it| it.stop_start()),
    ("full-disk", |it| it.full_disk()),
    ("paused-master", |it| it.paused_master()),
    ("slow-clients", |it| it.slow_clients()),
    ("hostile-clients", |it| it.hostile_clients()),
    ("datagrams", |it| it.datagrams()),
    ("nofile", |it| it.nofile()),
    ("moved-logs", |it| it.moved_logs()),
    ("renew", |it| it.renew()),
    ("cancel", |it| it.cancel()),
    ("rollback", |it| it.rollback()),
    ("verbs", |it| it.verbs()),
    ("watched-files", |it| it.watched_files()),
    ("many-at-once", |it| it.many_at_once()),
    ("deaf-follower", |it| it.deaf_follower()),
];

/// Only where workers are killed.
const DEADLY: [(&str, Act); 4] = [
    ("kill", |it| it.kill_workers()),
    ("kill-many", |it| it.kill_many()),
    ("stop-continue", |it| it.stop_continue()),
    ("late-death", |it| it.late_death()),
];

pub(crate) struct Injector<'a> {
    site: &'a Site,
    mode: Mode,
    random: Random,
    truth: Arc<Truth>,
    counts: BTreeMap<&'static str, u64>,
    /// The pools, with `@ENV@` for what changes.
    pools: String,
    env: String,
    version: u64,
}

impl<'a> Injector<'a> {
    pub(crate) fn new(
        site: &'a Site,
        mode: Mode,
        random: Random,
        truth: Arc<Truth>,
        pools: String,
    ) -> Injector<'a> {
        Injector {
            site,
            mode,
            random,
            truth,
            counts: BTreeMap::new(),
            pools,
            env: "first".to_owned(),
            version: 1,
        }
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.clone()
    }

    pub(crate) fn act(&mut self) {
        let deadly = self.mode == Mode::B && self.random.below(3) == 0;
        let (name, act) = if deadly {
            *self.random.pick(&DEADLY)
        } else {
            *self.random.pick(&ACTIONS)
        };
        self.truth.doing(name);
        *self.counts.entry(name).or_default() += 1;
        act(self);
        spaced(Duration::from_millis(self.random.below(120) as u64));
    }

    /// Good code, the last good configuration, everything started.
    pub(crate) fn restore(&mut self) {
        self.truth.doing("restore");
        self.site.write("code", "ok\nlast");
        self.write_configuration();
        self.rotad(&["start", "jobs", "--no-wait"], &[0]);
        self.rotad(&["scale", "web", "4"], &[0]);
        self.rotad(&["reload", "--timeout", "40s"], &ANY_END);
    }

    fn rotad(&self, arguments: &[&str], codes: &[i32]) -> Run {
        let run = site::verb(&self.site.config, arguments, 60);
        if !codes.contains(&run.code) {
            self.truth
                .violation(format!("rotad {}: {run:?}", arguments.join(" ")));
        }
        run
    }

    fn master(&self) -> i32 {
        self.site.pid()
    }

    fn signal(&self, signal: i32) {
        // The numbers that nix has no name for go by kill(1).
        match Signal::try_from(signal) {
            Ok(known) => self.site.signal(known),
            Err(_) => {
                let number = format!("-{signal}");
                Command::new("kill")
                    .args([&number, &self.master().to_string()])
                    .status()
                    .ok();
            }
        }
    }

    fn write_configuration(&self) {
        self.site.configure(&format!(
            "{}\n{}",
            site::MASTER,
            self.pools.replace("@ENV@", &self.env)
        ));
    }

    fn await_web(&self, wanted: u32) {
        let there =
            |status: &serde_json::Value| number(&pool(status, "web")["ready"]) as u32 >= wanted;
        if until_some(20, || self.site.status().filter(there)).is_none() {
            self.truth
                .violation(format!("web does not come to {wanted} ready workers"));
        }
    }

    fn any_pool(&mut self) -> &'static str {
        let pools = ["web", "jobs", "lines", "noisy", "api"];
        pools[self.random.below(pools.len())]
    }

    fn roll(&mut self) {
        let pool = self.any_pool();
        self.rotad(&["roll", pool, "--timeout", "40s"], &ANY_END);
    }

    fn roll_no_wait(&mut self) {
        self.rotad(&["roll", "--no-wait"], &[0]);
    }

    fn signals(&mut self) {
        let rtmin = nix::libc::SIGRTMIN();
        let kinds = [
            nix::libc::SIGUSR1,
            nix::libc::SIGUSR2,
            nix::libc::SIGHUP,
            rtmin,
            nix::libc::SIGWINCH,
            nix::libc::SIGCHLD,
            nix::libc::SIGPIPE,
            nix::libc::SIGCONT,
        ];
        for _ in 0..=self.random.below(60) {
            let signal = *self.random.pick(&kinds);
            self.signal(signal);
            if self.random.once_in(4) {
                spaced(Duration::from_micros(self.random.below(3000) as u64));
            }
        }
    }

    fn deploy(&mut self) {
        self.version += 1;
        self.site.write("code", &format!("ok\nv{}", self.version));
        self.rotad(&["reload", "--timeout", "40s"], &ANY_END);
    }

    fn broken_deploy(&mut self) {
        let code = *self.random.pick(&["exit 3\nbroken", "hang\nbroken"]);
        // What runs already reads good code to its end: half a deploy is another fault.
        self.rest();
        self.site.write("code", code);
        let run = self.rotad(&["roll", "web", "--timeout", "40s"], &[10, 1]);
        self.site.write("code", "ok\nmended");
        // The files were changed in place: with its old workers killed meanwhile, the pool has nobody.
        if run.code == 1 && !(self.mode == Mode::B && run.err.contains("nobody serves (0 of")) {
            self.truth.violation(format!("a broken deploy: {run:?}"));
        }
        if run.code == 0 {
            self.truth
                .violation("broken code is said to serve".to_owned());
        }
    }

    /// Waits until no rolling restart runs.
    fn rest(&self) {
        let still = |status: &serde_json::Value| {
            let pools = status["pools"].as_array().expect("pools");
            pools
                .iter()
                .all(|pool| pool["reload"]["state"] != "running" && pool["state"] != "rolling-back")
        };
        if until_some(40, || self.site.status().filter(still)).is_none() {
            self.truth
                .violation("a rolling restart does not end within 40 s".to_owned());
        }
    }

    fn configure(&mut self) {
        self.env = format!("env{}", self.random.below(1000));
        self.write_configuration();
        if self.random.once_in(2) {
            self.signal(nix::libc::SIGHUP);
        } else {
            self.rotad(&["reload", "--config", "--timeout", "40s"], &ANY_END);
        }
    }

    fn bad_configuration(&mut self) {
        let good = self.site.read("rotad.toml");
        let bad = *self.random.pick(&[
            "[pool.web\n",
            "[pool.web]\ncomand = \"x\"\n",
            "[pool.x]\ncount = -1\n",
            "\u{0}",
        ]);
        self.site.configure(&format!("{}\n{bad}", site::MASTER));
        self.signal(nix::libc::SIGHUP);
        self.rotad(&["check"], &[78]);
        self.rotad(&["reload"], &[78]);
        self.site.write("rotad.toml", &good);
    }

    fn unbindable(&mut self) {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        let good = self.site.read("rotad.toml");
        let more = format!(
            "{good}\n[listen.other]\naddress = \"{address}\"\n[pool.other]\ncommand = \"sleep 1000\"\nlisten = [\"other\"]\n"
        );
        self.site.write("rotad.toml", &more);
        self.rotad(&["reload", "--config"], &[1, 78]);
        self.site.write("rotad.toml", &good);
    }

    fn scale(&mut self) {
        let to = 3 + self.random.below(4) as u32;
        self.truth.set_floor(to.min(4));
        self.rotad(&["scale", "web", &to.to_string()], &[0]);
        self.await_web(to);
        self.rotad(&["scale", "web", "4"], &[0]);
        self.await_web(4);
        self.truth.set_floor(4);
    }

    fn stop_start(&mut self) {
        let pool = *self.random.pick(&["jobs", "noisy", "api"]);
        self.rotad(&["stop", pool], &[0]);
        self.rotad(&["start", pool, "--timeout", "40s"], &ANY_END);
    }

    fn full_disk(&mut self) {
        let filler = format!(
            "/proc/{}/root{}",
            self.master(),
            self.site.path("small/filler").display()
        );
        let Ok(mut file) = std::fs::File::create(&filler) else {
            return;
        };
        while file.write_all(&[0; 4096]).is_ok() {}
        spaced(Duration::from_millis(200 + self.random.below(400) as u64));
        self.rotad(&["roll", "noisy", "--timeout", "40s"], &ANY_END);
        std::fs::remove_file(&filler).ok();
    }

    fn paused_master(&mut self) {
        self.truth.excused.store(true, Ordering::SeqCst);
        self.site.signal(Signal::SIGSTOP);
        spaced(Duration::from_millis(self.random.below(2500) as u64));
        self.site.signal(Signal::SIGCONT);
        self.rotad(&["status"], &[0]);
        self.truth.excused.store(false, Ordering::SeqCst);
    }

    fn socket(&self) -> std::path::PathBuf {
        self.site.path("run/control.sock")
    }

    fn slow_clients(&mut self) {
        let clients: Vec<UnixStream> = (0..=self.random.below(40))
            .filter_map(|_| UnixStream::connect(self.socket()).ok())
            .collect();
        for mut client in &clients {
            client.write_all(b"{\"version\":2,").ok();
        }
        spaced(Duration::from_millis(300));
        self.rotad(&["status"], &[0]);
    }

    fn hostile_clients(&mut self) {
        for _ in 0..=self.random.below(12) {
            let Ok(mut client) = UnixStream::connect(self.socket()) else {
                continue;
            };
            client.set_read_timeout(Some(Duration::from_secs(3))).ok();
            client.set_write_timeout(Some(Duration::from_secs(3))).ok();
            let words: Vec<u8> = match self.random.below(4) {
                0 => (0..2000).map(|_| self.random.next() as u8).collect(),
                1 => vec![b'['; 300_000],
                2 => b"{\"version\":2,\"config\":\"/\",\"ask\":\"status\"}\n".repeat(20),
                _ => b"{\"version\":99999999999999999999,\"config\":{},\"ask\":{\"stop\":{\"pools\":7}}}\n".to_vec(),
            };
            client.write_all(&words).ok();
            client.take(64).read_to_end(&mut Vec::new()).ok();
        }
    }

    fn datagrams(&mut self) {
        let entries = std::fs::read_dir(self.site.path("run/notify"))
            .into_iter()
            .flatten()
            .flatten();
        let sockets: Vec<_> = entries.map(|entry| entry.path()).collect();
        let Ok(sender) = UnixDatagram::unbound() else {
            return;
        };
        sender.set_nonblocking(true).ok();
        for socket in sockets {
            for _ in 0..self.random.below(30) {
                let word: Vec<u8> = match self.random.below(4) {
                    0 => (0..500).map(|_| self.random.next() as u8 | 0x80).collect(),
                    1 => vec![b'x'; 100_000],
                    2 => b"STATUS=\x1b[31mred\nMAINPID=1\nFDSTORE=1\n".to_vec(),
                    _ => b"WATCHDOG=1\n=\n==\n\n".to_vec(),
                };
                sender.send_to(&word, &socket).ok();
            }
        }
    }

    fn nofile(&mut self) {
        let master = self.master().to_string();
        let prlimit = |limit: &str| {
            let arguments = ["--pid", &master, &format!("--nofile={limit}:")];
            Command::new("prlimit")
                .args(arguments)
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        let text = std::fs::read_to_string(format!("/proc/{master}/limits")).unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap_or_default()
            .to_owned();
        let Some(before) = line.split_whitespace().nth(3) else {
            return;
        };
        self.truth.excused.store(true, Ordering::SeqCst);
        let limit = 3 + self.random.below(58);
        if prlimit(&limit.to_string()) {
            self.signal(nix::libc::SIGUSR1);
            spaced(Duration::from_millis(300));
            if !prlimit(before) {
                self.truth
                    .violation(format!("the limit of {before} cannot be given back"));
            }
        }
        self.rotad(&["status"], &[0]);
        self.truth.excused.store(false, Ordering::SeqCst);
    }

    fn moved_logs(&mut self) {
        self.version += 1;
        let to = self.site.path(&format!("lines.log.moved{}", self.version));
        std::fs::rename(self.site.path("lines.log"), to).ok();
        self.signal(nix::libc::SIGRTMIN());
    }

    fn renew(&mut self) {
        let slot = self.random.below(4);
        self.rotad(
            &["roll", &format!("web/{slot}"), "--timeout", "40s"],
            &ANY_END,
        );
    }

    fn cancel(&mut self) {
        self.rotad(&["roll", "--no-wait"], &[0]);
        spaced(Duration::from_micros(self.random.below(60_000) as u64));
        self.rotad(&["cancel"], &ANY_END);
    }

    fn rollback(&mut self) {
        self.rotad(&["rollback", "web", "--timeout", "40s"], &ANY_END);
    }

    fn verbs(&mut self) {
        for arguments in [
            &["status"][..],
            &["status", "web", "--json"],
            &["logs", "-n", "5"],
            &["events"],
            &["check"],
            &["reload", "--dry-run"],
            &["signal", "web", "CONT"],
        ] {
            self.rotad(arguments, &[0]);
        }
        self.rotad(&["status", "nobody"], &[4]);
        self.rotad(&["start"], &[75]);
    }

    fn watched_files(&mut self) {
        self.version += 1;
        self.site
            .write("jobs/code", &format!("ok\nv{}", self.version));
    }

    fn many_at_once(&mut self) {
        let verb = |arguments: &[&str]| {
            let mut command = Command::new(super::support::rotad());
            command
                .arg(arguments[0])
                .arg("-c")
                .arg(&self.site.config)
                .args(&arguments[1..]);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("a verb")
        };
        let verbs = [
            &["roll", "web"][..],
            &["roll"],
            &["status"],
            &["reload", "--config"],
            &["cancel"],
            &["roll", "jobs"],
        ];
        let mut running: Vec<_> = verbs.iter().map(|arguments| verb(arguments)).collect();
        for child in &mut running {
            if until_some(60, || child.try_wait().expect("a child")).is_none() {
                self.truth
                    .violation("a verb has no answer within 60 s".to_owned());
                child.kill().ok();
            }
            child.wait().ok();
        }
    }

    fn deaf_follower(&mut self) {
        let mut command = Command::new(super::support::rotad());
        command.args(["logs", "-f", "-c"]).arg(&self.site.config);
        let Ok(mut child) = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() else {
            return;
        };
        spaced(Duration::from_millis(300));
        child.kill().ok();
        child.wait().ok();
    }

    fn workers(&self) -> Vec<i32> {
        let Some(status) = self.site.status() else {
            return Vec::new();
        };
        ["web", "jobs", "lines", "noisy", "api"]
            .iter()
            .flat_map(|name| pids(&status, name))
            .collect()
    }

    fn hurt(&self, pid: i32, signal: Signal) {
        // A pid of the status a moment ago, and a child of the master still.
        if proc::parent(pid) == Some(self.master()) {
            self.truth.kills.fetch_add(1, Ordering::SeqCst);
            kill(Pid::from_raw(pid), signal).ok();
        }
    }

    fn kill_workers(&mut self) {
        let workers = self.workers();
        if workers.is_empty() {
            return;
        }
        let pid = *self.random.pick(&workers);
        let signal = *self.random.pick(&[
            Signal::SIGKILL,
            Signal::SIGSEGV,
            Signal::SIGABRT,
            Signal::SIGTERM,
        ]);
        self.hurt(pid, signal);
    }

    fn kill_many(&mut self) {
        for pid in self.workers() {
            if self.random.once_in(2) {
                self.hurt(pid, Signal::SIGKILL);
            }
        }
    }

    fn stop_continue(&mut self) {
        let workers = self.workers();
        let stopped: Vec<i32> = workers
            .into_iter()
            .filter(|_| self.random.once_in(3))
            .collect();
        for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
            for pid in &stopped {
                if proc::parent(*pid) == Some(self.master()) {
                    kill(Pid::from_raw(*pid), signal).ok();
                }
            }
            spaced(Duration::from_millis(200));
        }
    }

    fn late_death(&mut self) {
        self.rest();
        self.site.write(
            "code",
            &format!("die {}\nlate", 200 + self.random.below(800)),
        );
        self.rotad(&["roll", "web", "--timeout", "40s"], &ANY_END);
        // Each of them dies with what it has accepted.
        self.truth.kills.fetch_add(10, Ordering::SeqCst);
        self.site.write("code", "ok\nmended");
    }
}
