//! Spawns children with a spawner of the test's own.

use crossbeam_channel::Receiver;
use rotad::event_loop::clock::Clock;
use rotad::event_loop::mailbox;
use rotad::event_loop::waker::Waker;
use rotad::process::{
    PinnedPaths, SpawnError, SpawnRequest, SpawnResult, SpawnedChild, Spawner, SpawnerConfig,
    exec_status,
};
use rotad_core::WorkerId;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// When a test gives up.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Limits of open files that no other part of a test uses.
pub const NOFILE: (u64, u64) = (345, 456);

/// A spawner and its results.
pub struct TestSpawner {
    spawner: Spawner,
    results: Receiver<SpawnResult>,
}

impl TestSpawner {
    /// The next result, if it comes within this time.
    pub fn result(&self, timeout: Duration) -> Option<SpawnResult> {
        let result = self.results.recv_timeout(timeout).ok()?;
        self.spawner.answered();
        Some(result)
    }

    pub fn has_result(&self) -> bool {
        !self.results.is_empty()
    }
}

impl Deref for TestSpawner {
    type Target = Spawner;

    fn deref(&self) -> &Spawner {
        &self.spawner
    }
}

impl DerefMut for TestSpawner {
    fn deref_mut(&mut self) -> &mut Spawner {
        &mut self.spawner
    }
}

pub fn spawner() -> TestSpawner {
    let (mailbox, results) = mailbox::channel(Waker::new().unwrap());
    let config = SpawnerConfig {
        clock: Clock::start(),
        original_nofile: NOFILE,
        shim: env!("CARGO_BIN_EXE_rotad").into(),
    };
    TestSpawner {
        spawner: Spawner::start(config, mailbox).unwrap(),
        results,
    }
}

pub fn null() -> Arc<OwnedFd> {
    Arc::new(
        File::options()
            .write(true)
            .open("/dev/null")
            .unwrap()
            .into(),
    )
}

/// A request with nothing special about it.
pub fn request(argv: &[&str], directory: &Path) -> SpawnRequest {
    let argv: Vec<OsString> = argv.iter().map(Into::into).collect();
    SpawnRequest {
        worker: WorkerId(1),
        pinned: Arc::new(PinnedPaths::new(
            argv[0].clone(),
            directory.to_owned(),
            None,
        )),
        argv,
        env: vec![("A".into(), "b".into())],
        account: None,
        umask: None,
        nice: None,
        limits: vec![],
        stdin: None,
        stdout: null(),
        stderr: null(),
        listeners: vec![],
        listen_names: String::new(),
        watchdog: None,
        cgroup: None,
        pid: Default::default(),
    }
}

/// The request's stdout, to be read to its end.
pub fn listen_to(request: &mut SpawnRequest) -> File {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    request.stdout = Arc::new(write);
    read.into()
}

pub fn next_result(spawner: &TestSpawner) -> SpawnResult {
    spawner.result(GIVE_UP).unwrap()
}

pub fn spawn(spawner: &mut TestSpawner, request: SpawnRequest) -> SpawnResult {
    spawner.request(request);
    next_result(spawner)
}

pub fn started(result: SpawnResult) -> SpawnedChild {
    match result {
        SpawnResult::Started { child, .. } => child,
        other => panic!("not started: {other:?}"),
    }
}

pub fn error(result: SpawnResult) -> String {
    match result {
        SpawnResult::Failed { error, .. } => error.to_string(),
        other => panic!("no failure: {other:?}"),
    }
}

/// Waits for the result of exec of a worker with a user of its own, which a shim starts.
pub fn exec_result(result: SpawnResult) -> (SpawnedChild, Result<(), SpawnError>) {
    let SpawnResult::ExecPending {
        child: started,
        exec_status: fd,
        ..
    } = result
    else {
        panic!("no exec pending: {result:?}")
    };
    let mut wait = [nix::poll::PollFd::new(
        fd.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    assert_eq!(
        nix::poll::poll(
            &mut wait,
            nix::poll::PollTimeout::try_from(GIVE_UP).unwrap()
        ),
        Ok(1)
    );
    (started, exec_status(&fd).unwrap().unwrap())
}

/// Waits until the child has exited by itself, and reaps it.
pub fn reap(child: &SpawnedChild) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    waitid(
        Id::Pid(nix::unistd::Pid::from_raw(child.process.pid())),
        WaitPidFlag::WEXITED,
    )
    .unwrap();
}

pub fn kill(child: &SpawnedChild) {
    child.process.signal(9).unwrap();
    reap(child);
}

/// Reads until the other end is closed.
pub fn everything(mut from: File) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

/// One line of /proc/PID/FILE, by its beginning.
pub fn fact(pid: i32, file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
        .to_owned()
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs a test in a process of its own. True: this is that process. False: it has run, and succeeded. `before`: the
/// program and arguments that start it, such as setpriv.
pub fn alone(test: &str, before: &[&str]) -> bool {
    if std::env::var_os("ALONE").is_some() {
        return true;
    }
    let this = std::env::current_exe().unwrap();
    let line: Vec<OsString> = before
        .iter()
        .map(Into::into)
        .chain([this.into_os_string()])
        .collect();
    let done = Command::new(&line[0])
        .args(&line[1..])
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("ALONE", "1")
        .output()
        .unwrap();
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(
        done.status.success() && text.contains("1 passed"),
        "{test} on its own: {text}"
    );
    false
}
