"""What is measured. A measure takes a trial and gives figures by their names; a setting is a measure with its workers."""
import ctypes
import hashlib
import json
import os
import select
import signal
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Callable

from trial import Failed, now

CPUS = len(os.sched_getaffinity(0))
HEAVY_MS = 600  # processor time of a heavy boot
IN_CREATE = 0x100  # inotify(7)


@dataclass
class Setting:
    name: str
    measure: Callable
    count: int
    options: list = field(default_factory=list)
    captured: bool = False
    figures: str = ""  # how the names of its figures begin
    masters: str = "all"  # all | quick: not the slow ones | rotad
    realtime: bool = True  # False: it means something under the default scheduling alone


def life(trial, settle, idle):
    """Start, memory, rest, and stop of COUNT workers."""
    n = trial.count
    figures = {f"start.{n}": trial.until_ready()}
    time.sleep(settle)
    figures[f"memory.{n}"] = trial.memory() / 1024
    if n == 100 and idle:
        time.sleep(2)  # it comes to rest
        before = trial.spent()
        time.sleep(idle)
        after = trial.spent()
        figures["idle.cpu"] = (after[0] - before[0]) * 1000 / idle
        figures["idle.switches"] = (after[1] - before[1]) / idle
    if n == 1000 and hasattr(trial.master, "command"):
        figures["status"] = status(trial)
    began = now()
    trial.master.stop(trial)
    trial.until_gone()
    figures[f"stop.{n}"] = (now() - began) / 1e6
    return figures


def status(trial, times=10):
    """The median of some runs of `status --json`, each from its exec to its end."""
    took = []
    for _ in range(times):
        began = now()
        out = subprocess.run(trial.master.command(trial, "status", "--json"), capture_output=True, check=True).stdout
        took.append((now() - began) / 1e6)
        if len(json.loads(out)["pools"][0]["workers"]) != trial.count:
            raise Failed("the status does not have all workers")
    return sorted(took)[times // 2]


def busy(trial, kills):
    """Respawns beside programs of other sessions that keep every processor busy."""
    (trial.dir / "neighbours").touch()
    for _ in range(CPUS):
        subprocess.Popen([trial.tools / "worker", trial.dir / "neighbours", "-c", str(10 ** 9)], start_new_session=True)
    return {"respawn.busy": respawn(trial, kills)["respawn.p50"]}


def respawn(trial, kills, longest=20):
    """kill -9 of a worker to the first instruction of its replacement, one kill at a time, each of the oldest worker; for 20
    seconds at most."""
    trial.until_ready()
    time.sleep(1.2)  # runit and s6 restart a service once a second
    queue, took, end = deque(trial.records.ready()), [], time.monotonic() + longest
    while len(took) < kills and time.monotonic() < end:
        began = now()
        os.kill(queue.popleft(), signal.SIGKILL)
        found = trial.until("a replacement", lambda: trial.records.of(b"R", began), 0.001)
        took.append((trial.records.of(b"S", began)[0][0] - began) / 1e6)
        queue.append(found[0][1])
        time.sleep(max(0.0, 0.025 - (now() - began) / 1e9))
    took.sort()
    return {"respawn.p50": took[len(took) // 2], "respawn.p99": took[max(0, len(took) * 99 // 100 - 1)]}


def roll(trial, settle):
    """A rolling restart: from the request to the end of the last old worker, or the last new one's readiness."""
    trial.until_ready()
    time.sleep(settle)
    old, began, n = trial.records.ready(), now(), trial.count
    trial.master.roll(trial)
    took = (trial.until_rolled(began, old) - began) / 1e6
    return {f"roll.{n}": took, f"fewest.{n}": trial.records.fewest_ready(began)}


def answer(trial, every=0.03):
    """A signal to a master that starts COUNT workers, to its effect: RTMIN, and a log file that was renamed is there again."""
    libc, log, took = ctypes.CDLL(None, use_errno=True), trial.dir / "log", []
    trial.until("a master", lambda: (trial.dir / "pid").exists() and log.exists(), 0.0005)
    inotify = libc.inotify_init1(os.O_CLOEXEC)
    libc.inotify_add_watch(inotify, os.fsencode(trial.dir), IN_CREATE)
    try:
        while len(trial.records.of(b"S")) < trial.count:
            log.rename(trial.dir / f"log.{len(took)}")
            began = now()
            os.kill(trial.master.pid(trial), signal.SIGRTMIN)
            while not log.exists():
                if not select.select([inotify], [], [], trial.patience)[0]:
                    raise Failed("the log was not opened again")
                took_now = now() - began
                os.read(inotify, 65536)
            took.append(took_now / 1e6)
            time.sleep(every)
    finally:
        os.close(inotify)
    if len(took) < 3:
        raise Failed(f"{trial.count} workers started before three signals were sent")
    return {"signal.p50": sorted(took)[len(took) // 2], "signal.max": max(took)}


def heavy(trial):
    """Workers that compute before they are ready, more than the processors can start together within their patience: from
    exec of the master until all are ready, as a multiple of the work. Each worker that had to be started again is work, too."""
    trial.until("all workers ready", lambda: len(trial.records.of(b"R")) >= trial.count, 0.02)
    launched, ready = trial.records.of(b"L")[0][0], trial.records.of(b"R")[trial.count - 1][0]
    return {"heavy": (ready - launched) / 1e6 * CPUS / (HEAVY_MS * trial.count)}


_digests = {}


def expected(trial):
    """The digest of what the worker prints."""
    key = tuple(trial.options[:2])
    if key not in _digests:
        line = "{:010d} {}\n"
        digest = hashlib.sha256()
        for number in range(int(trial.options[1]) // 100):
            digest.update(line.format(number, chr(97 + number % 26) * 88).encode())
        _digests[key] = digest.hexdigest()
    return _digests[key]


def log(trial, name):
    """The output of one worker into a file: from its first write until the file has all; then each byte is compared."""
    want, size = expected(trial), int(trial.options[1])
    trial.until_ready()
    time.sleep(0.3)
    path, before = trial.master.log(trial), trial.spent()
    os.kill(trial.records.ready()[0], signal.SIGUSR2)
    trial.until("all output", lambda: path.exists() and path.stat().st_size >= size, 0.001)
    seconds = (now() - trial.records.of(b"B")[0][0]) / 1e9
    spent = trial.spent()[0] - before[0]
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != want:
            raise Failed("the file is not what the worker has printed")
    return {f"log.{name}": size / 1e6 / seconds, f"log.{name}.cpu": spent * 1e8 / size}


def settings(sizes, rolls, kills, megabytes, settle, idle):
    """All settings, in the order in which a round takes them."""
    out = [Setting(f"start, memory, stop of {n}", lambda trial: life(trial, settle, idle), n, figures="start memory stop idle status") for n in sizes]
    out.append(Setting("respawn of one of 64", lambda trial: respawn(trial, kills), 64, figures="respawn"))
    out.append(Setting("respawn beside busy neighbours", lambda trial: busy(trial, kills // 4), 64, figures="respawn busy",
                       masters="quick", realtime=False))
    for n in rolls:
        out.append(Setting(f"roll of {n}", lambda trial: roll(trial, settle), n, figures="roll fewest", masters="all" if n <= 100 else "quick"))
    for name, lines in (("lines", 1), ("blocks", 600)):
        out.append(Setting(f"log of {megabytes} MB in {name}", lambda trial, name=name: log(trial, name), 1,
                           ["-b", str(megabytes * 10 ** 6), "-l", str(lines)], captured=True, figures="log"))
    if 1000 in sizes:
        out.append(Setting("a signal while 1000 start", answer, 1000, figures="signal", masters="rotad"))
    out.append(Setting(f"{10 * CPUS} heavy boots", heavy, 10 * CPUS, ["-c", str(HEAVY_MS)], figures="heavy", masters="quick",
                       realtime=False))
    return out


def has(setting, wanted):
    """Whether a setting has one of the wanted figures; all have if none is named."""
    return not wanted or any(word in wanted for word in setting.figures.split())
