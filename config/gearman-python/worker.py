"""A Gearman worker. On TERM it finishes its job, takes no other, and exits with 0."""
import json
import os
import signal
import socket
import threading
import time

import gear

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])    # before gear starts its threads
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
leave = threading.Event()


def tell(text):
    if path := os.environ.get("NOTIFY_SOCKET"):
        manager.sendto(text.encode(), path)


def wait_for_term():
    signal.sigwait([signal.SIGTERM])
    leave.set()
    while True:                                   # repeated: it wakes only a getJob() that waits already
        worker.stopWaitingForJobs()
        time.sleep(0.1)


def note(line):
    with open("jobs.txt", "a") as file:
        file.write(f"{line} {os.environ['ROTAD_GENERATION']}\n")


with open("settings.json") as file:
    settings = json.load(file)
host, port = os.environ["GEARMAN"].split(":")
worker = gear.Worker(f"{os.environ['ROTAD_POOL']}-{os.environ['ROTAD_SLOT']}")
worker.registerFunction("resize")
worker.addServer(host, int(port))
worker.waitForServer()
threading.Thread(target=wait_for_term, daemon=True).start()
tell("READY=1")

while not leave.is_set():
    try:
        job = worker.getJob()
    except gear.InterruptedError:
        continue
    name = job.arguments.decode()
    tell(f"STATUS=resize {name}")
    note(f"begins {name}")
    time.sleep(settings["milliseconds"] / 1000)   # the work
    note(f"done {name}")
    job.sendWorkComplete(f"done {name}".encode())
    tell("STATUS=waits for a job")
