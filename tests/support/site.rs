//! A directory of its own with a configuration, and the master that runs there. Whatever it started ends with it.

use super::{all_ready, ask, proc, rotad, testworker, until, until_some};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A verb of rotad that has ended.
#[derive(Debug)]
pub struct Run {
    /// The exit code; 128 + signal when it was killed.
    pub code: i32,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Run {
    /// Both outputs.
    pub fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// The directory, the configuration, the master.
pub struct Site {
    dir: tempfile::TempDir,
    pub config: PathBuf,
    /// The port that `@PORT@` stands for.
    pub port: u16,
    master: Option<Child>,
    /// PATH of a master, if not the test's own.
    path: Option<OsString>,
}

/// Asks for the status from other threads.
pub struct Asker {
    /// Where the master of [`MASTER`] listens.
    socket: PathBuf,
    config: PathBuf,
}

impl Asker {
    /// The status, if a master answers.
    pub fn status(&self) -> Option<Value> {
        match UnixStream::connect(&self.socket) {
            Ok(stream) => ask::status(stream, &self.config, ask::STATUS_WITHIN),
            // It is starting, has left, or listens elsewhere: the verb knows every way to find a master.
            Err(_) => self.status_by_verb(),
        }
    }

    fn status_by_verb(&self) -> Option<Value> {
        let run = verb(&self.config, &["status", "--json"], 20);
        (run.code == 0).then(|| {
            serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error}: {}", run.out))
        })
    }
}

/// The `[master]` of every site, all in its directory.
pub const MASTER: &str = r#"[master]
name = "site"
runtime_dir = "@DIR@/run"
pid_file = "@DIR@/master.pid"
log_file = "@DIR@/master.log"
log_format = "json"
log_level = "debug"
"#;

impl Site {
    /// A directory with a configuration of these pools. `@DIR@`, `@WORKER@`, `@PORT@` stand for the directory, the worker
    /// with knobs and a free port; a `[master]` that keeps everything in the directory comes first.
    pub fn new(pools: &str) -> Site {
        Site::with_master("", pools)
    }

    /// With more keys in `[master]`.
    pub fn with_master(keys: &str, pools: &str) -> Site {
        let dir = tempfile::Builder::new()
            .prefix("rt.")
            .tempdir_in("/tmp")
            .expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))
            .expect("a directory for all users");
        let config = dir.path().join("rotad.toml");
        let site = Site {
            dir,
            config,
            port: super::free_port(),
            master: None,
            path: None,
        };
        site.configure(&format!("{MASTER}{keys}\n{pools}"));
        site
    }

    /// Writes the whole configuration.
    pub fn configure(&self, text: &str) {
        self.write("rotad.toml", &self.filled(text));
    }

    /// Puts the directory, the worker and the port in.
    pub fn filled(&self, text: &str) -> String {
        let worker = self.path("testworker");
        if text.contains("@COPY@") && !worker.exists() {
            fs::copy(testworker(), &worker).expect("a copy of the worker that every user may run");
        }
        text.replace("@DIR@", &self.dir.path().display().to_string())
            .replace("@WORKER@", &testworker().display().to_string())
            .replace("@COPY@", &worker.display().to_string())
            .replace("@PORT@", &self.port.to_string())
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of the directory, in one piece.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let draft = self.path(&format!("{name}.draft"));
        fs::write(&draft, text).expect("a file");
        fs::rename(&draft, self.path(name)).expect("a file in its place");
        self.path(name)
    }

    /// Reads a file of the directory; empty when there is none.
    pub fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).to_string()
    }

    /// The lines of a file of the directory.
    pub fn lines(&self, name: &str) -> Vec<String> {
        self.read(name).lines().map(str::to_string).collect()
    }

    /// The address that the load goes to.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The master and so its workers look for programs in this directory first.
    pub fn search_first(&mut self, dir: &Path) {
        let mut path = dir.as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        self.path = Some(path);
    }

    /// `rotad run` of this configuration, as a command that is not started yet.
    pub fn run_command(&self) -> Command {
        let mut command = Command::new(rotad());
        command.args(["run", "-c"]).arg(&self.config);
        self.search(&mut command);
        command
    }

    /// Lets a command look for programs where the master does.
    pub fn search(&self, command: &mut Command) {
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
    }

    /// Starts `rotad run` in the background.
    pub fn run(&mut self) {
        self.spawn(self.run_command());
    }

    /// Starts a master by this command: a group of its own, stderr in `stderr.txt` unless said otherwise before.
    pub fn spawn(&mut self, mut command: Command) {
        let stderr = File::create(self.path("stderr.txt")).expect("a file for stderr");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        self.spawn_as_it_is(command);
    }

    /// Starts a master by this command, its stdio as the command has it.
    pub fn spawn_as_it_is(&mut self, mut command: Command) {
        command.process_group(0).env_remove("ROTAD_CONFIG");
        self.master = Some(command.spawn().expect("rotad run"));
    }

    /// `rotad run`, and waits until every worker is ready.
    pub fn up(pools: &str) -> Site {
        let mut site = Site::new(pools);
        site.run();
        site.await_ready();
        site
    }

    /// Waits until every worker is ready.
    pub fn await_ready(&self) -> Value {
        self.await_status("every worker is ready", 20, all_ready)
    }

    /// Waits for a status.
    pub fn await_status(&self, what: &str, seconds: u64, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let found = until_some(seconds, || {
            last = self.status();
            let left = || {
                self.master
                    .as_ref()
                    .is_some_and(|child| proc::gone(child.id() as i32))
            };
            assert!(
                last.is_some() || !left(),
                "the master has left; in vain: {what}"
            );
            last.clone().filter(|status| is(status))
        });
        found.unwrap_or_else(|| {
            panic!("waited {seconds} s in vain for: {what}; the last status: {last:?}")
        })
    }

    /// The status, if a master answers.
    pub fn status(&self) -> Option<Value> {
        self.asker().status()
    }

    /// Asks for the status from another thread.
    pub fn asker(&self) -> Asker {
        Asker {
            socket: self.path("run").join("control.sock"),
            config: self.config.clone(),
        }
    }

    /// Runs a verb to its end, at most 60 s.
    pub fn rotad(&self, arguments: &[&str]) -> Run {
        verb(&self.config, arguments, 60)
    }

    /// The pid in the pid file.
    pub fn pid(&self) -> i32 {
        until("a pid in master.pid", 10, || {
            self.read("master.pid").trim().parse().ok()
        })
    }

    /// The guardian's pid.
    pub fn guardian(&self) -> i32 {
        proc::guardian_of(self.pid()).expect("a guardian")
    }

    /// `kill -SIGNAL $(cat master.pid)`.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("a master to signal");
    }

    /// The master's log.
    pub fn log(&self) -> String {
        self.read("master.log") + &self.read("stderr.txt")
    }

    /// Waits for a text in the master's log.
    pub fn await_log(&self, text: &str, seconds: u64) {
        until(&format!("{text:?} in the log"), seconds, || {
            self.log().contains(text).then_some(())
        });
    }

    /// Waits until a text is in the master's log this many times: the log is written by another thread. It must not be
    /// there more often.
    /// The events that the master keeps, the oldest first.
    pub fn events(&self) -> Vec<Value> {
        let run = self.rotad(&["events", "--json"]);
        assert_eq!(run.code, 0, "{run:?}");
        let event = |line| serde_json::from_str(line).expect("an event");
        run.out.lines().map(event).collect()
    }

    pub fn await_log_times(&self, text: &str, times: usize) {
        let found = || self.log().matches(text).count();
        until(&format!("{text:?} {times} times in the log"), 10, || {
            (found() >= times).then_some(())
        });
        assert_eq!(found(), times, "{text:?}: {}", self.log());
    }

    /// The master that this site started is still there.
    pub fn master_lives(&mut self) -> bool {
        self.master
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// This site started a master as a child of the test.
    pub fn has_child(&self) -> bool {
        self.master.is_some()
    }

    /// `kill -9` of the master that this site started and of its guardian, as far as they are still there.
    pub fn kill(&mut self) {
        let child = self.master.as_mut().expect("a master");
        proc::kill_with_guardian(child.id() as i32);
        child.wait().expect("its end");
    }

    /// Waits until the master has left.
    pub fn await_exit(&mut self, seconds: u64) -> ExitStatus {
        let child = self.master.as_mut().expect("a master");
        let status = until_some(seconds, || child.try_wait().expect("a child"));
        status.unwrap_or_else(|| panic!("the master has not left within {seconds} s"))
    }

    /// Nothing of this site runs any more.
    pub fn assert_empty(&self) {
        let left = || proc::of_directory(self.dir.path());
        until_some(3, || left().is_empty().then_some(()));
        let left: Vec<_> = left()
            .into_iter()
            .map(|pid| (pid, proc::command_line(pid)))
            .collect();
        assert!(left.is_empty(), "still running: {left:?}");
    }

    /// Connections that a pool's workers of `testworker http` have accepted.
    pub fn accepted(&self, pool: &str) -> usize {
        let workers = super::pids(&self.status().expect("a status"), pool);
        // Of a worker's sockets one is the listener and two are its own pair.
        let sockets = |pid: &i32| {
            proc::descriptors(*pid)
                .values()
                .filter(|what| what.starts_with("socket:"))
                .count()
        };
        workers
            .iter()
            .map(|pid| sockets(pid).saturating_sub(3))
            .sum()
    }

    /// What runs in this site.
    pub fn processes(&self) -> Vec<i32> {
        proc::of_directory(self.dir.path())
    }
}

/// Runs a verb with `-c` to its end.
pub fn verb(config: &Path, arguments: &[&str], seconds: u64) -> Run {
    let mut command = Command::new(rotad());
    command
        .arg(arguments[0])
        .arg("-c")
        .arg(config)
        .args(&arguments[1..]);
    finish(command, seconds)
}

/// Runs a command to its end and takes its outputs; killed (and a panic) when it takes longer. What it left in the
/// background may hold its outputs open: only its own end counts.
pub fn finish(mut command: Command, seconds: u64) -> Run {
    let started = Instant::now();
    let out = tempfile::tempfile().expect("a file for stdout");
    let err = tempfile::tempfile().expect("a file for stderr");
    command
        .stdin(Stdio::null())
        .stdout(out.try_clone().expect("stdout"))
        .stderr(err.try_clone().expect("stderr"));
    let mut child = command
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = until_some(seconds, || child.try_wait().expect("a child"));
    let took = started.elapsed();
    let (out, err) = (text(out), text(err));
    let Some(status) = status else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} did not end within {seconds} s; stdout: {out}; stderr: {err}");
    };
    use std::os::unix::process::ExitStatusExt;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Run {
        code,
        out,
        err,
        took,
    }
}

fn text(mut file: File) -> String {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(0)).expect("the beginning");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("the output");
    String::from_utf8_lossy(&bytes).to_string()
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the master's last lines ---\n{}",
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
        if let Some(child) = &mut self.master {
            let pid = Pid::from_raw(child.id() as i32);
            if matches!(child.try_wait(), Ok(None)) {
                for signal in [Signal::SIGCONT, Signal::SIGINT, Signal::SIGINT] {
                    let _ = kill(pid, signal);
                }
                if until_some(3, || child.try_wait().ok().flatten()).is_none() {
                    self.kill();
                }
            }
        }
        // Masters in the background, and processes that a dead master left.
        until_some(5, || {
            let left = self.processes();
            proc::kill_all(&left);
            left.is_empty().then_some(())
        });
    }
}
