"""The process that decodes and computes: python -m densekit.serve.worker SOCKET, a file descriptor.

It is told what to serve by the first message, answers with the engine it took, and then takes images as they come. What
has come while it computed makes the next batch. It ends when the server does; signals are the server's to handle.
"""

import os
import queue
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ALL_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densekit.errors import BadImage, DensekitError
from densekit.serve import ipc

_SLICE = 0.05
"""Seconds that images wait for another one of their batch that takes long to decode."""


def main() -> None:
    """Until the other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a whole group may be told to stop; what is in flight is to be answered
    os.dup2(2, 1)  # whatever libraries print
    connection = socket.socket(fileno=int(sys.argv[1]))
    stream = connection.makefile("rb")
    first = ipc.read(stream)
    if first is None:
        return
    from densekit.serve.engines import Engine, choose

    order = first[0]

    def say(event: str, **facts: Any) -> None:
        connection.sendall(ipc.packed({"event": event, "facts": facts}))

    try:
        if order["engine"] is None:
            engine = choose(
                order["model"],
                Path(order["folder"]),
                order["batch"],
                wanted=order["wanted"],
                threads=order["threads"],
                say=say,
            )
        else:
            engine = Engine(**order["engine"])
        classifier = engine.open(order["model"])
    except DensekitError as error:
        connection.sendall(ipc.packed({"failed": ipc.failure(error)}))
        return
    connection.sendall(ipc.packed({"ready": engine.facts}))
    arrived: queue.SimpleQueue[ipc.Message | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(stream, arrived), daemon=True).start()
    Bench(classifier, connection, arrived, engine.threads, order["batch"], order["pixels"]).run()


def _read(stream: Any, arrived: "queue.SimpleQueue[ipc.Message | None]") -> None:
    while True:
        message = ipc.read(stream)
        arrived.put(message)
        if message is None:
            return


@dataclass(frozen=True)
class _Read:
    """An image at the network's size, and what asks for it."""

    request: dict[str, Any]
    pixels: Any
    """(1, C, H, W) uint8."""
    notices: tuple[str, ...]


class Bench:
    """Images in, answers out, a batch at a time."""

    def __init__(
        self,
        classifier: Any,
        connection: socket.socket,
        arrived: "queue.SimpleQueue[ipc.Message | None]",
        threads: int,
        batch: int,
        pixels: int,
    ) -> None:
        self.classifier = classifier
        self.connection = connection
        self.arrived = arrived
        self.batch = batch
        self.max_pixels = pixels
        # Decoding and computing take turns, so that no more threads are at work than there are cores for.
        self.decoders = ThreadPoolExecutor(threads, "decode")
        self.decoding: set[Future[_Read | dict[str, Any]]] = set()
        self.ended = False

    def run(self) -> None:
        """Returns at the end of what arrives."""
        while not self.ended:
            outcomes = [future.result() for future in self._decoded()]
            done = [each for each in outcomes if isinstance(each, dict)]
            good = [each for each in outcomes if isinstance(each, _Read)]
            if done:
                self.connection.sendall(ipc.packed({"answers": done, "batch": 0, "seconds": 0.0}))
            if good:
                started = time.perf_counter()
                answers = self._computed(good)
                seconds = time.perf_counter() - started
                self.connection.sendall(ipc.packed({"answers": answers, "batch": len(good), "seconds": seconds}))

    def _decoded(self) -> set[Future[_Read | dict[str, Any]]]:
        """Some images, at most a batch. One that takes long keeps the others only for a moment."""
        while not self.ended:
            self._admit()
            done, self.decoding = wait(self.decoding, _SLICE, ALL_COMPLETED)
            if done:
                return done
        return set()

    def _admit(self) -> None:
        """Starts to decode what has arrived, as far as there is room in the batch; waits where there is nothing."""
        while len(self.decoding) < self.batch:
            try:
                message = self.arrived.get(block=not self.decoding)
            except queue.Empty:
                return
            if message is None:
                self.ended = True
                return
            self.decoding.add(self.decoders.submit(self._decode, *message))

    def _decode(self, request: dict[str, Any], content: bytes) -> _Read | dict[str, Any]:
        classifier, invert = self.classifier, request["invert"]
        try:
            image = classifier.decode(content, self.max_pixels)
        except BadImage as error:
            return _error(request, error)
        pixels, notices = classifier.pixels([image.image], invert), classifier.notices(image, invert)
        if not request["top"]:
            size = list(image.image.size)
            return {"id": request["id"], "pixels": ipc.image(pixels), "size": size, "notices": list(notices)}
        return _Read(request, pixels, notices)

    def _computed(self, good: list[_Read]) -> list[dict[str, Any]]:
        import torch

        from densekit.inference.classifier import not_finite

        pixels = torch.cat([each.pixels for each in good])
        outcomes = self.classifier.predict_pixels(pixels, [each.notices for each in good])
        answers = []
        for each, outcome in zip(good, outcomes, strict=True):
            if outcome is None:
                answers.append(_error(each.request, not_finite("the image")))
                continue
            top = outcome.top(each.request["top"])
            answers.append({"id": each.request["id"], "top": top, "notices": list(each.notices)})
        return answers


def _error(request: dict[str, Any], error: BadImage) -> dict[str, Any]:
    return {"id": request["id"], "error": {"code": error.code, "message": str(error)}}


if __name__ == "__main__":
    main()
