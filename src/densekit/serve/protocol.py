"""uvicorn's HTTP, with what it lacks: clocks for slow clients, bounds on heads, trailers, connections; JSON errors."""

import asyncio
import sys
from typing import ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from densekit import strict_json
from densekit.serve.limits import Limits
from densekit.serve.prometheus import Metrics

_UPGRADE_HEADERS = (b"upgrade", b"http2-settings")
_HEAD_BYTES = 65_536
_FRAMING_BYTES = 131_072
_FRAMING_SHARE = 8
"""Chunk sizes, their extensions and trailers may take so many bytes, and one more for each so many of the body."""
_GRACE = 5.0
"""Seconds past `body_seconds`, in which a route may say itself that the body was too slow."""
_LINGER = 1.0
"""Seconds that a refused connection stays open: closed at once, its client might not see why."""


def protocol_with(limits: Limits, metrics: Metrics) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn's configuration."""
    return type("Bounded", (Protocol,), {"limits": limits, "metrics": metrics})


class Protocol(HttpToolsProtocol):
    """One connection."""

    limits: ClassVar[Limits]
    metrics: ClassVar[Metrics]

    _clock: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    """Runs while the client leaves an answer lying in this process."""
    _in_head = _in_body = False
    _head = _body = _framing = 0
    """Bytes so far: of the head; of the body; of what is received with the body and is not part of it."""
    _bodies = 0
    """Bytes of all bodies of the connection."""
    _refused = False
    _received = b""
    _offers_upgrade = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP, as uvicorn has it
        """Where there are too many already, the last one is told so."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # what cannot be sent at once pauses, however little it is
        self.metrics.connections.set(len(self.connections))
        if len(self.connections) > 2 * self.limits.connections:
            transport.abort()
        elif len(self.connections) > self.limits.connections:
            self._refused = True
            message = f"more than {self.limits.connections} connections; try again later"
            self._say(503, "Service Unavailable", "too_many_connections", message, "retry-after: 2\r\n")
            self._wind(_LINGER)
        else:
            self._wind(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Also stops its clocks."""
        self._wind(None)
        self.resume_writing()
        super().connection_lost(exc)
        self.metrics.connections.set(len(self.connections))

    def data_received(self, data: bytes) -> None:
        """Of a refused connection nothing is read any more."""
        if self._refused or self.transport.is_closing():
            return
        self._received = data
        within = self._in_body  # then what begins in these bytes does not begin with them
        bodies = self._bodies
        super().data_received(data)
        if self._in_body:
            self._framing += len(data) - (self._bodies - bodies)
            if self._framing > _FRAMING_BYTES + self._body // _FRAMING_SHARE and not self.transport.is_closing():
                self.send_400_response("chunk extensions or trailers of too many bytes")
        if self._in_head and not within:
            self._head += len(data)
            if self._head > _HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"a head of more than {_HEAD_BYTES:,} bytes")
        answered = self.cycle is None or self.cycle.response_complete
        waits = self._clock is not None or self.timeout_keep_alive_task is not None
        if answered and not waits and not self.transport.is_closing():
            # uvicorn took any bytes for a new request: but these were an empty line, or a body that was refused before.
            self._wind(self.limits.header_seconds)

    def pause_writing(self) -> None:
        """Whoever asks and does not read is not waited for; closing alone would wait for ever."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """All has been sent."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def on_message_begin(self) -> None:
        """From the first byte on."""
        super().on_message_begin()
        self._in_head, self._head, self._body, self._framing = True, 0, 0, 0
        self._wind(self.limits.header_seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers are dropped: no route reads them, and uvicorn would keep them with the headers."""
        if not self._in_body:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Counts it."""
        self._body += len(body)
        self._bodies += len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Now the body's clock runs."""
        # CONNECT asks for a tunnel by its method: it stays what it is, and is refused as a method.
        self._offers_upgrade = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._offers_upgrade:
            return
        self._in_head, self._in_body = False, True
        self._wind(self.limits.body_seconds + _GRACE)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The rest is up to the route."""
        if self._offers_upgrade:
            return
        self._in_body = False
        self._wind(None)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """In the form of all errors. Ends the connection."""
        self._say(400, "Bad Request", "bad_request", msg)
        self.transport.close()

    def _say(self, status: int, phrase: str, code: str, message: str, headers: str = "") -> None:
        text = strict_json.dumps({"error": {"code": code, "message": message}})
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n"
        self.transport.write(f"{head}{headers}connection: close\r\n\r\n{text}".encode("ascii"))
        self.metrics.requests.labels("other", status).inc()

    def _wind(self, seconds: float | None) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock = None if seconds is None else self.loop.call_later(seconds, self._expired)

    def _expired(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Reads a request that offers an upgrade as if it did not (RFC 9110, 7.8).

        httptools stops behind its head and takes the body for the other protocol; Java's HTTP client offers h2c with
        every request.
        """
        offer = sys.exception()
        if not (self._offers_upgrade and isinstance(offer, httptools.HttpParserUpgrade)):
            return
        body = self._received[offer.args[0] :]
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name == b"connection":
                tokens = (token.strip() for token in value.split(b","))
                value = b", ".join(token for token in tokens if token.lower() not in _UPGRADE_HEADERS)
            if name not in _UPGRADE_HEADERS:
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        super().data_received(b"".join(head) + b"\r\n" + body)
