"""What every request passes before its route: the token, the account of memory, the log, the metrics."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from densekit.serve.http_errors import Refusal
from densekit.serve.limits import Limits
from densekit.serve.log import say
from densekit.serve.prometheus import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_GUARDED = ("/v1/", "/metrics")
_QUIET = ("/healthz", "/readyz", "/metrics")  # asked every few seconds: not worth a line


class RequestGuard:
    """An ASGI app around another one."""

    def __init__(self, app: Any, limits: Limits, metrics: Metrics, token: str | None) -> None:
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.token = None if token is None else token.encode()
        self.bytes = 0
        """Of all bodies that are in memory."""
        self.cut = 0
        """Requests that were ended without their answer, as the server had to stop."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Of anything but HTTP requests nothing is kept."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Visit(self, scope, receive, send).run()

    def allows(self, scope: Message) -> bool:
        """Whether a request brings the token, or needs none. Takes the same time for every wrong one."""
        if self.token is None or not scope["path"].startswith(_GUARDED):
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        return hmac.compare_digest(token.strip(), self.token) and scheme.lower() == b"bearer"


class _Visit:
    """One request."""

    def __init__(self, front: RequestGuard, scope: Message, receive: Receive, send: Send) -> None:
        self.front, self.method = front, scope["method"]
        # HEAD is GET without its body, which uvicorn leaves out. A slash at the end is no other path: a redirect from
        # it would leave HTTPS where a proxy has ended that.
        answered_as = "GET" if self.method == "HEAD" else self.method
        self.scope = {**scope, "method": answered_as, "path": scope["path"].rstrip("/") or "/"}
        self._receive, self._send = receive, send
        self.bytes = 0
        self.status = 0
        self.began = time.perf_counter()

    async def run(self) -> None:
        front = self.front
        try:
            if front.allows(self.scope):
                await front.app(self.scope, self.receive, self.send)
            else:
                refusal = Refusal(401, "unauthorized", "this server wants a token; send Authorization: Bearer TOKEN")
                await refusal.response()(self.scope, self._receive, self.send)
        except asyncio.CancelledError:  # the time to drain is over
            front.cut += 1
            if not self.status:
                refusal = Refusal(503, "stopping", "the server stops; ask another one", retry_after=5)
                await refusal.response()(self.scope, self._receive, self.send)
        except Exception:
            self.status = self.status or 500
            raise
        finally:
            front.bytes -= self.bytes
            self._note()

    async def receive(self) -> Message:
        """The next part of the body, if there is memory for it."""
        message = await self._receive()
        size = len(message.get("body", b""))
        self.bytes += size
        self.front.bytes += size
        self.front.metrics.memory.set(self.front.bytes)
        if self.front.bytes > self.front.limits.memory_bytes:
            raise Refusal(503, "memory_full", "too many bytes wait already; try again later", retry_after=2)
        return message

    async def send(self, message: Message) -> None:
        """Notes the status."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    def _note(self) -> None:
        seconds = time.perf_counter() - self.began
        route = self.scope.get("route")
        path = getattr(route, "path", "other")  # not what was asked for, of which there is no end
        self.front.metrics.memory.set(self.front.bytes)
        self.front.metrics.requests.labels(path, self.status).inc()
        self.front.metrics.seconds.labels(path).observe(seconds)
        if self.scope["path"] not in _QUIET:
            client = self.scope.get("client") or ("",)
            say(
                "request",
                client=client[0],
                method=self.method,
                path=self.scope["path"][:200],
                status=self.status,
                bytes=self.bytes,
                milliseconds=round(1e3 * seconds, 2),
                **self.scope.get("state", {}).get("facts", {}),
            )
