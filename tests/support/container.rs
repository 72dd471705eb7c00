//! A container made of namespaces, as a container engine would make one: rotad is PID 1 of its own PID namespace, in a
//! root file system with nothing in it but the static binaries and busybox. It shares the network of the machine.

use super::fixed::{static_rotad, static_testworker};
use super::site::{Run, finish};
use super::{all_ready, free_port, need, proc, until, until_some};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

const BUSYBOX: &str = "/bin/busybox";
const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n\
                     www-data:x:33:33:www-data:/var/www:/bin/false\n";
const GROUPS: &str = "root:x:0:\nwww-data:x:33:\nlogs:x:44:www-data,nobody\nnogroup:x:65534:\n";

/// Where the configuration lies in every container.
const CONFIG: &str = "/etc/rotad/rotad.toml";

/// The container and how it is to begin.
pub struct Container {
    dir: tempfile::TempDir,
    pub port: u16,
    options: BTreeMap<&'static str, String>,
    config: &'static str,
    entrypoint: Vec<String>,
    cgroup: Option<PathBuf>,
    unshare: Option<Child>,
    init: i32,
}

impl Container {
    /// An image with this configuration (`@PORT@` is a free port); none where the machine cannot make one and that was
    /// allowed.
    pub fn new(config: &str) -> Option<Self> {
        let busybox = need(BUSYBOX, Path::new(BUSYBOX).exists());
        if !need::root()
            || !busybox
            || !["unshare", "nsenter", "setpriv"]
                .iter()
                .all(|name| need::program(name))
        {
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("rt.")
            .tempdir_in("/tmp")
            .expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))
            .expect("a directory for all users");
        let (options, init) = (BTreeMap::new(), 0);
        let (port, place, entrypoint) = (free_port(), CONFIG, Vec::new());
        let mut container = Self {
            dir,
            port,
            options,
            config: place,
            entrypoint,
            cgroup: None,
            unshare: None,
            init,
        };
        for name in [
            "bin",
            "dev",
            "proc",
            "sys",
            "etc/rotad",
            "run",
            "tmp",
            "var",
        ] {
            fs::create_dir_all(container.root().join(name)).expect("a directory");
        }
        for (from, to) in [
            (static_rotad(), "bin/rotad"),
            (static_testworker(), "bin/testworker"),
            (BUSYBOX.into(), "bin/busybox"),
        ] {
            fs::copy(&from, container.root().join(to))
                .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
        std::os::unix::fs::symlink("busybox", container.root().join("bin/sh")).expect("a shell");
        container.write("etc/passwd", USERS);
        container.write("etc/group", GROUPS);
        container.write("etc/rotad/rotad.toml", config);
        container.set("TMPFS", "/run /tmp:1777");
        Some(container)
    }

    /// The root file system is this tree and nothing else, as an engine unpacks an image; the configuration is `config`
    /// in it.
    pub fn of_image(tree: &Path, config: &'static str) -> Option<Self> {
        let mut container = Self::new("")?;
        fs::remove_dir_all(container.root()).expect("the root that was made");
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(tree).arg(container.root());
        assert_eq!(finish(copy, 60).code, 0);
        // What an engine makes to mount on it.
        for name in ["dev", "proc", "sys"] {
            fs::create_dir_all(container.root().join(name)).expect("a directory");
        }
        container.set("TMPFS", "");
        container.configured_at(config);
        Some(container)
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A directory beside the root, for a volume.
    pub fn outside(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    /// Writes a file of the image.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(
            self.root().join(name),
            text.replace("@PORT@", &self.port.to_string()),
        )
        .expect("a file");
    }

    /// What tests/container/begin.sh takes.
    pub fn set(&mut self, option: &'static str, value: &str) {
        self.options.insert(option, value.to_owned());
    }

    /// The configuration lies elsewhere.
    pub fn configured_at(&mut self, config: &'static str) {
        self.config = config;
    }

    /// What is run, if not `rotad run CONFIG` by itself.
    pub fn entrypoint(&mut self, command: &[&str]) {
        self.entrypoint = command.iter().map(|word| (*word).to_owned()).collect();
    }

    /// The root has all that the machine has under /usr, target/venv, and the Python that this is made of.
    pub fn with_programs_of_the_machine(&mut self) {
        let venv = super::example::venv().canonicalize().expect("target/venv");
        let mut python = Command::new(venv.join("bin/python"));
        python.args(["-c", "import sys; print(sys.base_prefix, end='')"]);
        let python = finish(python, 20).out;
        for (to, from) in [
            ("usr/lib", "lib"),
            ("usr/lib64", "lib64"),
            ("/usr/bin/python3", "bin/python3"),
        ] {
            std::os::unix::fs::symlink(to, self.root().join(from)).expect("a link");
        }
        self.set(
            "VOLUMES",
            &format!(
                "/usr:/usr:ro {python}:{python}:ro {0}:{0}:ro",
                venv.display()
            ),
        );
        self.set(
            "ENVIRONMENT",
            &format!("PATH={}:/bin:/usr/bin", venv.join("bin").display()),
        );
    }

    /// Begins in this cgroup.
    pub fn in_cgroup(&mut self, dir: PathBuf) {
        self.cgroup = Some(dir);
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `docker run`: returns once the first process of the container is rotad.
    pub fn start(&mut self) {
        self.launch();
        let is_rotad = |pid: i32| proc::command_line(pid).contains("/bin/rotad");
        until("rotad is the first process", 20, || {
            assert!(
                !self.has_ended(),
                "the container did not begin: {}",
                self.log()
            );
            is_rotad(self.init).then_some(())
        });
    }

    /// `docker run` with a configuration that lets nothing begin: its end.
    pub fn start_in_vain(&mut self) -> i32 {
        self.launch();
        self.await_exit(20).code().expect("an exit code")
    }

    /// Begins; what runs then is still the mounting shell.
    pub fn launch(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/container/begin.sh");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .expect("a log");
        let mut command = match &self.cgroup {
            Some(dir) => {
                let mut command = Command::new("sh");
                command
                    .args(["-c", "echo 0 > \"$0\" && exec \"$@\""])
                    .arg(dir.join("cgroup.procs"))
                    .arg("unshare");
                command
            }
            None => Command::new("unshare"),
        };
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--uts",
            "--ipc",
            "--propagation",
            "private",
        ]);
        command.arg(script).arg(self.root());
        match self.entrypoint.is_empty() {
            true => command.args(["/bin/rotad", "run", self.config]),
            false => command.args(&self.entrypoint),
        };
        command.envs(&self.options).process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("stdout"))
            .stderr(log);
        let child = command.spawn().expect("unshare");
        let unshare = child.id() as i32;
        self.unshare = Some(child);
        self.init = until("the container's first process", 10, || {
            self.has_ended()
                .then_some(0)
                .or_else(|| proc::children(unshare).first().copied())
        });
    }

    fn has_ended(&mut self) -> bool {
        self.unshare
            .as_mut()
            .is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// The number of the container's first process, seen from outside.
    pub fn pid(&self) -> i32 {
        self.init
    }

    /// The number of the master, which is the first process itself where there is no guardian.
    pub fn master(&self) -> i32 {
        let masters = proc::masters_of(self.init);
        masters.first().copied().unwrap_or(self.init)
    }

    /// `docker kill --signal`.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.init), signal).expect("a container to signal");
    }

    /// How the container ended: the exit code is that of its first process.
    pub fn await_exit(&mut self, seconds: u64) -> ExitStatus {
        let child = self.unshare.as_mut().expect("a container");
        let status = until_some(seconds, || child.try_wait().expect("a child"));
        status.unwrap_or_else(|| {
            panic!(
                "the container has not ended within {seconds} s:\n{}",
                self.log()
            )
        })
    }

    /// `docker exec`, as the container's user.
    pub fn exec(&self, command: &[&str]) -> Run {
        finish(self.exec_command(command), 60)
    }

    pub fn exec_command(&self, command: &[&str]) -> Command {
        let mut enter = Command::new("nsenter");
        enter.args([
            "--target",
            &self.init.to_string(),
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--root",
            "--wd=/",
        ]);
        if let Some((user, group)) = self
            .options
            .get("USER_GROUP")
            .and_then(|both| both.split_once(':'))
        {
            enter
                .arg(format!("--setuid={user}"))
                .arg(format!("--setgid={group}"));
        }
        enter
            .arg("--")
            .args(command)
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        enter
    }

    /// `docker exec CONTAINER rotad VERB -c …`
    pub fn rotad(&self, arguments: &[&str]) -> Run {
        let config = ["/bin/rotad", arguments[0], "-c", self.config];
        self.exec(&[&config[..], &arguments[1..]].concat())
    }

    pub fn status(&self) -> Option<Value> {
        let run = self.rotad(&["status", "--json"]);
        (run.code == 0).then(|| {
            serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error}: {}", run.out))
        })
    }

    pub fn await_status(&mut self, what: &str, seconds: u64, is: impl Fn(&Value) -> bool) -> Value {
        until(what, seconds, || {
            assert!(
                !self.has_ended(),
                "the container has ended; in vain: {what}\n{}",
                self.log()
            );
            self.status().filter(|status| is(status))
        })
    }

    pub fn await_ready(&mut self) -> Value {
        self.await_status("every worker is ready", 20, all_ready)
    }

    /// What the container has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The living and the dead in the container, without its first process and the master: numbers from outside.
    pub fn processes(&self) -> Vec<i32> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(self.init);
        let master = self.master();
        let inside = |pid: &i32| {
            ![self.init, master].contains(pid) && ours.is_some() && namespace(*pid) == ours
        };
        proc::all().into_iter().filter(inside).collect()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the container printed ---\n{}", self.log());
        }
        if let Some(child) = &mut self.unshare
            && matches!(child.try_wait(), Ok(None))
        {
            // `--kill-child`: its first process goes with it, and the namespace with that.
            child.kill().ok();
            child.wait().ok();
            until_some(5, || proc::gone(self.init).then_some(()));
        }
    }
}
