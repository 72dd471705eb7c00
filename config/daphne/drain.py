"""Lets an ASGI server drain. At TERM it accepts no more connections, answers requests on open ones with `Connection:
close`, and stops when GRACE has passed and every request is answered. Needs asyncio's event loop (not uvloop)."""

import asyncio
import os
import signal
import socket

GRACE = 2.0  # seconds for a request that a client is sending at that moment


class Draining:
    def __init__(self, app):
        self.app = app
        self.running = 0
        self.ending = None

    def install(self):
        """Called once the server has its own handlers. It keeps that of INT, which stops it gracefully, as TERM did."""
        asyncio.get_event_loop().add_signal_handler(signal.SIGTERM, self.term)

    def term(self):
        if self.ending is None:
            for fd in listeners():
                asyncio.get_running_loop().remove_reader(fd)
            self.ending = asyncio.ensure_future(self.end())

    async def end(self):
        await asyncio.sleep(GRACE)
        while self.running:
            await asyncio.sleep(0.05)
        signal.raise_signal(signal.SIGINT)

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            self.install()
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def answer(message):
            if self.ending and message["type"] == "http.response.start" and scope["http_version"].startswith("1"):
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
            await send(message)

        self.running += 1
        try:
            await self.app(scope, receive, answer)
        finally:
            self.running -= 1


def listeners():
    """The descriptors of this process that accept connections."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(fd)) as taken:
                if taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    yield fd
        except OSError:
            pass  # no socket
