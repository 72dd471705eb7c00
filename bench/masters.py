"""How each master is configured, rolled and stopped. Settings that favour it are taken where a user could take them."""
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import xmlrpc.client

from trial import Failed


class Master:
    """One program. `configure` writes what it needs into the trial's directory and returns its command line."""
    slow = False  # measured in fewer rounds, once if that takes long, and not rolled with a thousand workers
    stop_signal = signal.SIGTERM
    note = ""

    def missing(self):
        """Why it cannot be measured here; empty if it can."""
        return "" if shutil.which(self.program) else f"no {self.program} in $PATH"

    def pid(self, trial):
        return trial.process.pid

    def stop(self, trial):
        os.kill(self.pid(trial), self.stop_signal)

    def roll(self, trial):
        os.kill(self.pid(trial), signal.SIGUSR1)

    def log(self, trial):
        """The file that has what the worker has printed."""
        return trial.output


class Floor(Master):
    name = "floor"

    def missing(self):
        return ""

    def configure(self, trial):
        output = ["-o", trial.output] if trial.captured else []
        surge = -(-trial.count // 4)
        return [trial.tools / "floor", "-n", trial.count, "-s", surge, *output, "--", *trial.worker()]


class Rotad(Master):
    def __init__(self, program, name="rotad"):
        self.program, self.name = os.path.abspath(program), name

    def missing(self):
        return "" if os.access(self.program, os.X_OK) else f"no {self.program}: cargo build --release, or --rotad PATH"

    def configure(self, trial):
        text = json.dumps  # a string of JSON is one of TOML
        lines = ["[master]", f"runtime_dir = {text(str(trial.dir / 'run'))}", f"pid_file = {text(str(trial.dir / 'pid'))}",
                 f"log_file = {text(str(trial.dir / 'log'))}",
                 "[pool.web]", f"command = {text(trial.worker())}", f"count = {trial.count}", 'ready = "notify"',
                 'ready_timeout = "5s"' if "-c" in trial.options else 'ready_timeout = "60s"',
                 "[pool.web.reload]", 'surge = "25%"', 'soak = "0s"', f"max_draining = {trial.count}",
                 # Workers are killed when they are a second old: a shorter life is a failure to others, too.
                 "[pool.web.restart]", 'stable_after = "500ms"']
        if trial.captured:
            lines += ["[pool.web.log]", f"stdout = {text(str(trial.output))}", 'max_size = "1GiB"']
        (trial.dir / "rotad.toml").write_text("\n".join(lines) + "\n")
        return [self.program, "run", "-c", trial.dir / "rotad.toml"]

    def pid(self, trial):
        return int((trial.dir / "pid").read_text())

    def command(self, trial, *arguments):
        return [self.program, *arguments, "-c", str(trial.dir / "rotad.toml")]


class Directories(Master):
    """A supervisor for each worker, each with a directory, below a scanner."""
    slow = True

    def directories(self, trial):
        return [trial.dir / "services" / f"{number:05d}" for number in range(trial.count)]

    def script(self, path, command):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\nexec {shlex.join(str(word) for word in command)}\n")
        path.chmod(0o755)

    def roll(self, trial):
        for directory in self.directories(trial):
            done = subprocess.run([*self.restart, directory], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                raise Failed(f"{' '.join(self.restart)} {directory.name}: {done.stderr.strip() or done.returncode}")


class Runit(Directories):
    name, program, restart = "runit", "runsvdir", ["sv", "-w", "30", "restart"]
    stop_signal = signal.SIGHUP
    note = "rolled by `sv restart`, one after another"

    def configure(self, trial):
        for directory in self.directories(trial):
            self.script(directory / "run", trial.worker())
            if trial.captured:
                (trial.dir / "logs").mkdir()
                (trial.dir / "logs/config").write_text("s0\n")
                self.script(directory / "log/run", ["svlogd", trial.dir / "logs"])
        os.utime(trial.dir / "services", (1, 1))  # runsvdir waits for a second before it reads one that is this young
        return ["runsvdir", trial.dir / "services"]

    def log(self, trial):
        return trial.dir / "logs/current"


class S6(Directories):
    name, program, restart = "s6", "s6-svscan", ["s6-svc", "-wR", "-T", "10000", "-r"]
    note = "ready by notification-fd; rolled by `s6-svc -wR -r`, one after another"

    def configure(self, trial):
        for directory in self.directories(trial):
            self.script(directory / "run", trial.worker(ready_fd=5))
            (directory / "notification-fd").write_text("5\n")
            if trial.captured:
                (trial.dir / "logs").mkdir()
                self.script(directory / "log/run", ["s6-log", "s268435455", trial.dir / "logs"])
        return ["s6-svscan", "-c", str(2 * trial.count + 100), trial.dir / "services"]

    def log(self, trial):
        return trial.dir / "logs/current"


class Supervisord(Master):
    name, program, slow = "supervisord", "supervisord", True
    note = "startsecs = 0; rolled by its XML-RPC over one connection, one after another"

    def configure(self, trial):
        (trial.dir / "s.ini").write_text(f"""[supervisord]
nodaemon = true
user = {os.geteuid()}
logfile = {trial.dir}/s.log
logfile_maxbytes = 0
pidfile = {trial.dir}/s.pid
childlogdir = {trial.dir}
[unix_http_server]
file = {trial.dir}/s.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[program:web]
command = {shlex.join(trial.worker())}
process_name = %(process_num)05d
numprocs = {trial.count}
startsecs = 0
stopwaitsecs = 30
stdout_logfile = {trial.output if trial.captured else 'NONE'}
stdout_logfile_maxbytes = 0
stderr_logfile = NONE
""")
        return ["supervisord", "-c", trial.dir / "s.ini"]

    def roll(self, trial):
        class Connection(http.client.HTTPConnection):
            def connect(self):
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.connect(str(trial.dir / "s.sock"))

        class Transport(xmlrpc.client.Transport):
            def make_connection(self, host):
                return Connection("localhost")

        with xmlrpc.client.ServerProxy("http://localhost", transport=Transport()) as server:
            for number in range(trial.count):
                server.supervisor.stopProcess(f"web:{number:05d}")
                server.supervisor.startProcess(f"web:{number:05d}")


PEERS = {peer.name: peer for peer in (Runit, S6, Supervisord)}
