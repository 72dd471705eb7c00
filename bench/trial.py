"""One trial: a master in a directory of its own, its records, and its end with all that it has started."""
import ctypes
import os
import shutil
import signal
import struct
import subprocess
import time

RECORD = struct.Struct("=Qicxxx")  # record.h
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Failed(Exception):
    """What a master did not do; the message is the reason."""


def now():
    """Nanoseconds of the clock that the records have."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def become_subreaper():
    """Orphans of the masters become children of the driver, which ends and reaps them."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def read(path):
    """What a file of /proc says; empty if its process is gone."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def children(pid):
    return [int(child) for task in tasks(pid) for child in read(f"/proc/{pid}/task/{task}/children").split()]


def tasks(pid):
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def end_all():
    """Kills and reaps whatever is left below the driver. Only its own children, which no other process can reap: what they
    leave becomes its child, until there is none."""
    deadline = time.monotonic() + 60
    while True:
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes that cannot be ended: {children(os.getpid())[:20]}")
        time.sleep(0.001)


class Records:
    """What launcher and workers have written into their file."""

    def __init__(self, path):
        open(path, "wb").close()
        self.file, self.rest, self.all = open(path, "rb"), b"", []

    def read(self):
        data = self.rest + self.file.read()
        whole = len(data) - len(data) % RECORD.size
        self.rest = data[whole:]
        self.all += RECORD.iter_unpack(data[:whole])
        return self.all

    def of(self, kind, since=0):
        """Times and pids of the records of a kind, in the order of their times."""
        return sorted((ns, pid) for ns, pid, is_kind in self.read() if is_kind == kind and ns >= since)

    def ready(self):
        """The pids of the workers that are ready and have not been told to stop, the oldest first."""
        found = {}
        for _, pid, kind in self.read():
            if kind == b"R":
                found[pid] = True
            elif kind == b"T":
                found.pop(pid, None)
        return list(found)

    def fewest_ready(self, since):
        """The smallest number of workers that were ready at any time from `since` on."""
        ready = sum(ns < since and {b"R": 1, b"T": -1}.get(kind, 0) for ns, _, kind in self.read())
        fewest = ready
        for ns, _, kind in sorted(self.all):
            if ns >= since:
                ready += {b"R": 1, b"T": -1}.get(kind, 0)
                fewest = min(fewest, ready)
        return fewest


class Trial:
    """A master that runs `count` workers. As a context manager: on leaving, nothing of it is left."""

    def __init__(self, master, tools, work, count, options=(), captured=False, patience=60):
        self.master, self.tools, self.count, self.patience = master, tools, count, patience + count / 50
        self.options, self.captured = list(options), captured
        self.dir = work / "trial"
        self.output = self.dir / "output"

    def worker(self, ready_fd=None):
        """The command line of a worker."""
        more = ["-r", str(ready_fd)] if ready_fd else []
        return [str(self.tools / "worker"), str(self.dir / "records"), *more, *self.options]

    def __enter__(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(mode=0o700)
        self.records = Records(self.dir / "records")
        # A child of the driver gets the alarm's exception in waits only, so a trial that hangs ends.
        signal.alarm(int(10 * self.patience))
        command = [str(part) for part in self.master.configure(self)]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.dir), "LANG": "C.UTF-8"}
        with open(self.dir / "messages", "wb") as messages:
            self.process = subprocess.Popen(
                [str(self.tools / "launch"), str(self.dir / "records"), *command], cwd=self.dir, env=environment,
                stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, start_new_session=True)
        return self

    def __exit__(self, *_):
        signal.alarm(0)
        end_all()
        self.process.poll()  # reaped already: Popen is not to try it later, when the number is another process's
        shutil.rmtree(self.dir, ignore_errors=True)

    def until(self, what, look, pause=0.002):
        deadline = time.monotonic() + self.patience
        while not (found := look()):
            if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                raise Failed(f"{what}: the master has ended")
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within {self.patience:.0f} s")
            time.sleep(pause)
        return found

    def until_ready(self):
        """Waits until all workers are ready; milliseconds from exec of the master to the first instruction of the last."""
        self.until("all workers ready", lambda: len(self.records.of(b"R")) >= self.count, 0.005)
        launched = self.records.of(b"L")[0][0]
        return (self.records.of(b"S")[self.count - 1][0] - launched) / 1e6

    def until_rolled(self, since, old):
        """Waits until each worker is a new one and the old ones have ended; when that was."""
        old = set(old)

        def look():
            new = self.records.of(b"R", since)
            gone = [ns for ns, pid in self.records.of(b"X", since) if pid in old]
            return len(new) >= self.count and len(gone) == len(old) and max(new[self.count - 1][0], max(gone))
        return self.until("all workers rolled", look)

    def until_gone(self):
        """Waits until nothing below the driver is left."""
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            pass

    def supervisors(self):
        """All processes below the driver but the workers."""
        workers, found, todo = {pid for _, pid, kind in self.records.read() if kind == b"S"}, [], children(os.getpid())
        while todo:
            pid = todo.pop()
            if pid not in workers:
                found.append(pid)
                todo += children(pid)
        return found

    def memory(self):
        """Pss of the supervisors in KiB (proc_pid_smaps(5))."""
        pages = [read(f"/proc/{pid}/smaps_rollup").split() for pid in self.supervisors()]
        return sum(int(words[words.index("Pss:") + 1]) for words in pages if "Pss:" in words)

    def spent(self):
        """Processor time in ms, and context switches, of all threads of the supervisors."""
        ns = switches = 0
        for pid in self.supervisors():
            for task in tasks(pid):
                ns += int((read(f"/proc/{pid}/task/{task}/schedstat").split() or [0])[0])
                for line in read(f"/proc/{pid}/task/{task}/status").splitlines():
                    switches += int(line.split()[1]) if "ctxt_switches" in line else 0
        return ns / 1e6, switches
