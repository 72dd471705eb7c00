"""uvicorn's own protocol, but TERM does not cut a connection on which a request may be on its way.

When uvicorn has stopped accepting, it calls `shutdown` of every connection, which closes idle ones immediately."""

from uvicorn.protocols.http.auto import AutoHTTPProtocol

GRACE = 2.0  # seconds for a request that a client is sending at that moment
CLOSE = (b"connection", b"close")


class Protocol(AutoHTTPProtocol):
    def shutdown(self):
        server = self.server_state
        if CLOSE not in server.default_headers:
            server.default_headers = [*server.default_headers, CLOSE]  # for every answer from now on ...
        if self.cycle:
            self.cycle.default_headers = server.default_headers  # ... and for the one that is being made
        self.loop.call_later(GRACE, self.end)

    def end(self):
        if not self.transport.is_closing():
            super().shutdown()
