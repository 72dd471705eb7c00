import os
import socket
import time


def tell(text):
    if path := os.environ.get("NOTIFY_SOCKET"):
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(text.encode(), path)


def resize(name):
    tell(f"STATUS=resize {name}")
    note(f"begins {name}")
    time.sleep(0.1)                               # the work
    note(f"done {name}")


def note(line):
    with open("jobs.txt", "a") as file:
        file.write(f"{line} {os.environ['ROTAD_GENERATION']}\n")
