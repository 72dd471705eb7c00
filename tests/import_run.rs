//! The same program under supervisord, honcho and pm2, and under what `rotad import` makes of their files: it sees the same
//! environment, directory, user, umask and stop, and its output is in the same place.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::site::finish;
use support::{free_port, need, rotad, until};

/// Writes what it sees to $SEEN, prints on both streams, and says which signal ended it. It is up when its child has left
/// the process group: honcho signals the group, and a shell prints "Terminated" for a child that a signal ended.
const SEEN_SH: &str = r#"
report() { echo "$1" >> "$SEEN"; }
report "arguments=$*"
report "directory=$(pwd)"
report "user=$(id -un) $(id -gn)"
report "umask=$(umask)"
report "A=$A"
report "B=$B"
report "PORT=$PORT"
report "OUTER=$OUTER"
stop() { report "signal=$1"; kill $! 2>/dev/null; echo "good bye"; report "end"; exit 0; }
trap 'stop TERM' TERM
trap 'stop INT' INT
echo "on stdout"
echo "on stderr" >&2
setsid sh -c 'echo up >> "$SEEN"; exec sleep 1000' &
wait $!
"#;

const SEEN_JS: &str = r#"
const fs = require("fs");
const report = (line) => fs.appendFileSync(process.env.SEEN, line + "\n");
report("arguments=" + process.argv.slice(2).join(" "));
report("directory=" + process.cwd());
for (const name of ["A", "B", "PORT", "OUTER", "NODE_ENV"]) report(name + "=" + process.env[name]);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => {
  report("signal=" + signal);
  console.log("good bye");
  report("end");
  process.exit(0);
});
console.log("on stdout");
report("up");
setInterval(() => {}, 1000);
"#;

/// A directory that every user may write to.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("import.")
            .tempdir_in("/tmp")
            .expect("a directory");
        let place = Self { dir };
        for (path, mode) in [(place.path(""), 0o755), (place.path("work"), 0o777)] {
            fs::create_dir_all(&path).expect("a directory");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        }
        for (name, text) in files {
            fs::write(place.path(name), text).expect("a file");
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command(&self, program: &Path, who: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir.path())
            .env("SEEN", self.path(&format!("work/{who}")))
            .env("OUTER", "from outside")
            .env_remove("ROTAD_CONFIG")
            .env("PM2_HOME", self.path("pm2"))
            .env_remove("PORT")
            .env_remove("A")
            .env_remove("B");
        command
    }

    /// Runs a master in the foreground until its program is up and it has said so, asks it to stop, and returns what the
    /// program saw. `says_up`: what the master prints once it knows its program; honcho ignores a TERM before that.
    fn observe(&self, mut command: Command, who: &str, says_up: &str) -> String {
        let log = File::create(self.path(&format!("{who}.master"))).expect("a log");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .process_group(0);
        let mut master = command
            .spawn()
            .unwrap_or_else(|error| panic!("{who}: {error}"));
        let pid = Pid::from_raw(i32::try_from(master.id()).expect("a pid"));
        let seen = || self.read(&format!("work/{who}"));
        until(&format!("the program is up under {who}"), 20, || {
            if let Ok(Some(status)) = master.try_wait() {
                panic!(
                    "{who} has left: {status}: {}",
                    self.read(&format!("{who}.master"))
                );
            }
            let up = seen().contains("\nup\n");
            (up && self.read(&format!("{who}.master")).contains(says_up)).then_some(())
        });
        kill(pid, Signal::SIGTERM).expect("a master to signal");
        until(&format!("{who} has left"), 20, || {
            master.try_wait().expect("a child")
        });
        let seen = seen();
        assert!(seen.ends_with("end\n"), "{who}: {seen}");
        seen
    }

    /// Imports a file and lets the master keep its own things in this directory.
    fn import(&self, arguments: &[&str]) {
        let mut command = self.command(&rotad(), "import");
        command.arg("import").args(arguments);
        let run = finish(command, 60);
        assert_eq!(run.code, 0, "{run:?}");
        let text = self.read("rotad.toml");
        let own = format!(
            "[master]\nruntime_dir = \"{}\"\n",
            self.path("run").display()
        );
        let text = match text.contains("[master]\n") {
            true => text.replace("[master]\n", &own),
            false => format!("{text}\n{own}"),
        };
        fs::write(self.path("rotad.toml"), text).expect("a configuration");
    }

    fn observe_rotad(&self) -> String {
        let mut command = self.command(&rotad(), "rotad");
        command.arg("run");
        self.observe(command, "rotad", "")
    }
}

/// One request; what the program answers.
fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
}

fn tool(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target")
        .join(path);
    need(&path.display().to_string(), path.exists()).then_some(path)
}

#[test]
fn a_program_of_supervisord_sees_the_same() {
    let Some(supervisord) = tool("venv/bin/supervisord") else {
        return;
    };
    let user = match nix::unistd::geteuid().is_root() {
        true => "user=nobody\n",
        false => "",
    };
    let conf = format!(
        "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile=%(here)s/supervisord.pid\n\n\
         [program:seen]\ncommand=/bin/sh %(here)s/seen.sh \"a b\" --name=%(program_name)s-%(process_num)s 100%%\n\
         directory=%(here)s/work\nenvironment=A=\"x, y; z\",B=\"<%(ENV_OUTER)s>\"\n{user}umask=027\nautorestart=true\n\
         stopsignal=INT\nstopwaitsecs=5\nredirect_stderr=true\nstdout_logfile=%(here)s/out.log\n"
    );
    let place = Place::new(&[("supervisord.conf", &conf), ("seen.sh", SEEN_SH)]);
    let mut command = place.command(&supervisord, "supervisord");
    command.arg("-c").arg(place.path("supervisord.conf"));
    let theirs = place.observe(command, "supervisord", "");
    let log = place.read("out.log");
    assert_eq!(log, "on stdout\non stderr\ngood bye\n");
    assert!(
        theirs.contains("signal=INT") && theirs.contains("umask=0027"),
        "{theirs}"
    );
    fs::remove_file(place.path("out.log")).expect("a log");
    place.import(&["supervisord.conf"]);
    assert_eq!(place.observe_rotad(), theirs);
    assert_eq!(place.read("out.log"), log);
}

#[test]
fn a_process_of_a_procfile_sees_the_same() {
    let Some(honcho) = tool("venv/bin/honcho") else {
        return;
    };
    let place = Place::new(&[
        (
            "Procfile",
            "web: cd work && A='1 2' exec sh ../seen.sh \"$B\" ${PORT} >> ../out.log 2>&1\n",
        ),
        (".env", "B=\"two words\"\n"),
        ("seen.sh", SEEN_SH),
    ]);
    let mut command = place.command(&honcho, "honcho");
    command.arg("start");
    let theirs = place.observe(command, "honcho", "started (pid=");
    let log = place.read("out.log");
    assert_eq!(log, "on stdout\non stderr\ngood bye\n");
    assert!(theirs.contains("arguments=two words 5000\n"), "{theirs}");
    fs::remove_file(place.path("out.log")).expect("a log");
    place.import(&["Procfile"]);
    assert_eq!(place.observe_rotad(), theirs);
    assert_eq!(place.read("out.log"), log);
}

#[test]
fn an_app_of_pm2_sees_the_same() {
    let Some(pm2) = tool("node/node_modules/.bin/pm2-runtime") else {
        return;
    };
    let ecosystem = "module.exports = { apps: [{ name: 'seen', script: '../seen.js', cwd: __dirname + '/work',\n\
         args: ['--to', `<${process.env.OUTER}>`], env: { A: 1, B: process.env.OUTER, PORT: 4000 },\n\
         env_production: { NODE_ENV: 'production' }, out_file: __dirname + '/out.log', error_file: '/dev/null',\n\
         kill_timeout: 3000 }] };\n";
    let place = Place::new(&[("ecosystem.config.js", ecosystem), ("seen.js", SEEN_JS)]);
    let mut command = place.command(&pm2, "pm2");
    command.args(["start", "ecosystem.config.js", "--env", "production"]);
    let theirs = place.observe(command, "pm2", "");
    let log = place.read("out.log");
    assert_eq!(log, "on stdout\ngood bye\n");
    assert!(
        theirs.contains("signal=SIGINT") && theirs.contains("NODE_ENV=production"),
        "{theirs}"
    );
    fs::remove_file(place.path("out.log")).expect("a log");
    place.import(&["ecosystem.config.js", "--env", "production"]);
    assert_eq!(place.observe_rotad(), theirs);
    assert_eq!(place.read("out.log"), log);
}

/// Two workers of one port, `process.send("ready")`, and a stop by SIGINT: all without a change of the program.
#[test]
fn a_cluster_of_pm2_shares_its_port_as_it_did() {
    if !need::program("node") {
        return;
    }
    let port = free_port();
    let server = r#"
const http = require("http");
const server = http.createServer((request, answer) => answer.end("slot " + process.env.NODE_APP_INSTANCE));
server.listen(process.env.PORT, () => process.send("ready"));
process.on("SIGINT", () => { require("fs").appendFileSync("work/ended", "end\n"); process.exit(0); });
"#;
    let ecosystem = format!(
        "module.exports = {{ apps: [{{ name: 'web', script: 'server.js', instances: 2, exec_mode: 'cluster',\n\
         wait_ready: true, env: {{ PORT: process.env.NO_SUCH_PORT || {port} }} }}] }};\n"
    );
    let place = Place::new(&[("ecosystem.config.js", &ecosystem), ("server.js", server)]);
    place.import(&["ecosystem.config.js"]);
    let mut command = place.command(&rotad(), "rotad");
    let log = File::create(place.path("rotad.log")).expect("a log");
    command
        .arg("run")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0);
    let mut master = command.spawn().expect("rotad run");
    let pid = Pid::from_raw(i32::try_from(master.id()).expect("a pid"));
    until("both workers are ready", 20, || {
        let log = place.read("rotad.log");
        log.contains("every worker is ready").then_some(())
    });
    until("an answer", 10, || {
        get(port).filter(|body| body.starts_with("slot "))
    });
    kill(pid, Signal::SIGTERM).expect("a master to signal");
    until("the master has left", 20, || {
        master.try_wait().expect("a child")
    });
    assert_eq!(
        place.read("work/ended"),
        "end\nend\n",
        "{}",
        place.read("rotad.log")
    );
}
