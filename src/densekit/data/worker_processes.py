"""The processes that decode images for a loader: how they start, how they end, and whether one was lost."""

import multiprocessing
import os
import re
import select
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from densekit.errors import WorkerLost

_STARTS, _START = 3, 30.0
"""How often decoding processes are forked until all work, and the seconds that this may take each time."""


_WORKER_FAULT = re.compile(
    r"DataLoader worker \(pid\S* [\d, ]+\)[^.;]*|unable to \w+ shared memory[^:;]*|No space left on device|"
    r"unable to (?:mmap|write|resize|open)[^:;]*|Too many open files"
)


def worker_lost(error: RuntimeError) -> WorkerLost | None:
    """What torch's error says of decoding processes, if it is about them."""
    found = _WORKER_FAULT.search(str(error))
    return found and WorkerLost(
        f"decoding failed: {found[0].strip()}. A process that decodes images was killed, or /dev/shm is full; "
        "enlarge it, such as with docker run --shm-size=2g, or decode in this process: --set data.workers=0"
    )


def started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Its iterator, whose processes have all begun to work.

    A process that is forked while another thread of its parent holds a lock may wait for that lock without end, in
    CPython 3.11 even before `os.fork` returns there. Such ones are killed, and all are started again.
    """
    forks = loader.num_workers > 0 and torch.multiprocessing.get_start_method() == "fork"
    for _ in range(_STARTS if forks else 0):
        before = set(multiprocessing.active_children())
        read, write = os.pipe()
        try:
            loader.worker_init_fn = partial(_prepare_worker, os.getpid(), write)
            decoded = iter(loader)
            if _said(read, loader.num_workers):
                return decoded
            started = set(multiprocessing.active_children()) - before
            del decoded  # ends those that work; torch would raise when one that it watches is killed
            for process in started:
                process.kill()
                process.join()
        finally:
            os.close(read)
            os.close(write)
    loader.worker_init_fn = partial(_prepare_worker, os.getpid(), None)
    return iter(loader)


def _said(read: int, count: int) -> bool:
    """Whether so many bytes come within the time that a process may take to start."""
    until = time.monotonic() + _START
    while count and select.select([read], [], [], max(0.0, until - time.monotonic()))[0]:
        count -= len(os.read(read, count))
    return not count


def _prepare_worker(parent: int, write: int | None, _: int) -> None:
    """Settles when a decoding process ends: with the training process, and no earlier.

    A signal to a whole process group must not end it before the training process has saved. But one that asks it to
    end does, if it is still there a minute later: a program that leaves an epoch in the middle waits for it at exit.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if write is not None:
        os.write(write, b".")
        os.close(write)


def _end_with(parent: int) -> None:
    """Ends this process when its parent has gone: a worker that waits for anything else would stay for ever.

    It holds copies of the parent's sockets and pipes, so that others would take the parent for alive.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
