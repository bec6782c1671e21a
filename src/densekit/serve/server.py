"""From a MODEL to an open port, and to the end of it."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

import torch
import uvicorn
import uvloop

from densekit.errors import Interrupted
from densekit.formatting import counted
from densekit.inference.classifier import Classifier
from densekit.inference.load import load
from densekit.serve import address
from densekit.serve.app import create_app
from densekit.serve.limits import Limits
from densekit.serve.log import say
from densekit.serve.prometheus import Metrics
from densekit.serve.protocol import protocol_with
from densekit.serve.tempdir import copied, temporary_folder
from densekit.serve.worker_pool import WorkerPool

_LOOPBACK = ("127.", "localhost", "::1")


@dataclass(frozen=True)
class ServerSettings:
    """Of one server."""

    model: str
    host: str
    engine: str | None = None
    """None: the fastest."""
    threads: int | None = None
    """None: as many as are fastest."""
    token: str | None = None
    limits: Limits = field(default_factory=Limits)


def serve(settings: ServerSettings, listener: socket.socket) -> None:
    """Answer on a bound socket until SIGTERM or SIGINT, then finish open requests; a second signal ends it at once.

    Raises Interrupted where requests had to be cut off, BadData for a port that another process has taken since it was
    bound, and what keeps MODEL from being loaded, proved or run.
    """
    torch.set_num_threads(1)  # the worker has the cores
    given = settings.model
    classifier = load(given)  # which says by its own name what is wrong with it
    with temporary_folder() as folder:
        if (place := copied(settings.model, folder)) != settings.model:
            settings = replace(settings, model=place)
            classifier = load(place)
        address.listen(listener)
        if settings.token is None and not settings.host.startswith(_LOOPBACK):
            say("warning", message=f"anybody who reaches {settings.host} may use this server; give it a --token-file")
        number, cut = uvloop.run(_serve(settings, classifier, listener, given))
    if cut:
        raise Interrupted(f"stopped with {counted(cut, 'request')} unanswered; see --set drain_seconds", number)


async def _serve(
    settings: ServerSettings, classifier: Classifier, listener: socket.socket, given: str
) -> tuple[int, int]:
    """The signal that ended it, and how many requests it cut off. `given` is what the user calls the model."""
    limits, metrics = settings.limits, Metrics()
    crew = WorkerPool(settings.model, limits, metrics, engine=settings.engine, threads=settings.threads)
    app = create_app(crew, classifier, limits, name=classifier.card.model.name, token=settings.token)
    config = uvicorn.Config(
        app,
        http=protocol_with(limits, metrics),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=limits.drain_seconds,  # type: ignore[arg-type]  # it goes to wait_for
    )
    server = _Server(config)
    host, port = listener.getsockname()[:2]
    crew.start()
    say("listening", url=address.url(host, port), pid=os.getpid())
    guard = asyncio.create_task(_announce(crew, server, model=given, url=address.to_open(host, port)))
    try:
        await server.serve(sockets=[listener])
    finally:
        guard.cancel()
        await crew.stop()
    if crew.failure is not None:
        raise crew.failure
    front = getattr(app.state, "front", None)  # made with the first request
    say("stopped", signal=signal.Signals(server.signal_number).name if server.signal_number else None)
    return server.signal_number, front.cut if front else 0


async def _announce(crew: WorkerPool, server: uvicorn.Server, **facts: str) -> None:
    """Says where to go as soon as images are answered there; ends the server if that will never be."""
    try:
        await crew.settled()
    except Exception:  # it is raised again where all has been closed
        server.should_exit = True
        return
    while not server.started:
        await asyncio.sleep(0.01)
    say("serving", **facts)


class _Server(uvicorn.Server):
    """uvicorn's raises a signal again when it is done, and so would always end by it."""

    signal_number = 0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first one drains; the second acts as usual."""
        previous = {number: signal.signal(number, self._told) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _told(self, number: int, _: FrameType | None) -> None:
        if self.signal_number:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal_number = number
        self.should_exit = True
        say("draining", signal=signal.Signals(number).name)
