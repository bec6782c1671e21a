"""The worker of a server in a thread of this process."""

import queue
import socket
import threading
from typing import Any

from densekit.inference.classifier import Classifier
from densekit.serve import ipc
from densekit.serve.worker import Bench


def answers(classifier: Classifier, images: list[bytes], *, top: int = 3, batch: int = 8, together: bool = True) -> Any:
    """What the worker says to each, and the sizes of its batches."""
    ours, theirs = socket.socketpair()
    arrived: queue.SimpleQueue[ipc.Message | None] = queue.SimpleQueue()
    bench = Bench(classifier, theirs, arrived, threads=2, batch=batch, pixels=100_000)
    thread = threading.Thread(target=bench.run)
    messages = [({"id": i, "top": top, "invert": False}, content) for i, content in enumerate(images)]
    found: dict[int, Any] = {}
    sizes = []
    with ours, theirs, ours.makefile("rb") as stream:
        if together:
            for message in messages:
                arrived.put(message)
        thread.start()
        for message in messages:
            if not together:
                arrived.put(message)
            while len(found) < (message[0]["id"] + 1 if not together else len(messages)):
                document = ipc.read(stream)
                assert document is not None
                sizes.append(document[0]["batch"])
                found |= {answer["id"]: answer for answer in document[0]["answers"]}
        arrived.put(None)
        thread.join(60)
        assert not thread.is_alive()
    return [found[i] for i in range(len(images))], sizes
