import os
import socket
import time

from celery import Celery
from celery.signals import worker_ready

app = Celery("tasks", broker=os.environ["REDIS"])
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_hijack_root_logger = False


def tell(text):
    if path := os.environ.get("NOTIFY_SOCKET"):
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(text.encode(), path)


@worker_ready.connect
def ready(**_):
    tell("READY=1")


@app.task
def resize(name):
    tell(f"STATUS=resize {name}")
    note(f"begins {name}")
    time.sleep(0.1)                               # the work
    note(f"done {name}")


def note(line):
    with open("jobs.txt", "a") as file:
        file.write(f"{line} {os.environ['ROTAD_GENERATION']}\n")
