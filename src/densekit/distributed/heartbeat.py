"""Signs of life between processes, so that a host that is cut off is noticed while collectives wait in vain.

A process that dies closes its connections, and the others fail at once. A host that loses its network closes nothing.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from types import TracebackType

import torch.distributed as dist

_EVERY = 2.0  # seconds
_SILENCE = 20.0  # seconds after which a process counts as lost


class Heartbeat:
    """While it lasts, ends this process when another one has not been heard of for 20 seconds."""

    def __init__(self, rank: int, hosts: list[str], start: int) -> None:
        self._rank = rank
        self._hosts = hosts
        self._heard = [time.monotonic()] * len(hosts)
        self._over = threading.Event()
        # A connection of its own: a thread that waits in a call on it must not keep the others.
        self._store = dist.TCPStore(  # type: ignore[attr-defined]  # torch does not list it among its exports
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=_SILENCE),
        )
        self._prefix = f"densekit/heartbeat/{start}"
        self._threads = [threading.Thread(target=task, daemon=True) for task in (self._beat, self._watch)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(_EVERY)
        if kind is None:
            with suppress(RuntimeError):  # the store may have gone with its host, who was done before us
                self._store.set(self._key(self._rank), "done")  # nobody has to miss us

    def _key(self, rank: int) -> str:
        return f"{self._prefix}/{rank}"

    def _beat(self) -> None:
        beats = 0
        last = [b""] * len(self._hosts)
        while not self._over.wait(_EVERY):
            beats += 1
            try:
                self._store.set(self._key(self._rank), str(beats))
                for rank in range(len(self._hosts)):
                    # add(0) would create it; check keeps a slow starter from blocking us.
                    value = self._store.get(self._key(rank)) if self._store.check([self._key(rank)]) else b""
                    if value != last[rank] or value == b"done":
                        last[rank], self._heard[rank] = value, time.monotonic()
            except (RuntimeError, OSError):
                continue  # no store: then nobody is heard of

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._over.wait(1.0):
            now = time.monotonic()
            if now - looked > _SILENCE / 2:  # it was this process that slept: nobody could be heard
                self._heard = [now] * len(self._hosts)
            looked = now
            lost = [rank for rank, heard in enumerate(self._heard) if now - heard > _SILENCE]
            if lost:
                # The main thread may be deep in a collective that will never end.
                who = ", ".join(f"{rank} ({self._hosts[rank]})" for rank in lost if rank != self._rank)
                sys.stderr.write(
                    f"[rank {self._rank}] densekit: for {_SILENCE:.0f} s nothing was heard of rank {who}: the host or "
                    "its network is gone. This process ends; the last checkpoint is whole, go on with resume RUN\n"
                )
                sys.stderr.flush()
                _end_launcher()
                os._exit(1)


def _end_launcher() -> None:
    """Once its restarts are used up, torchrun would wait minutes for a rendezvous that is out of reach."""
    count, most = (os.environ.get(f"TORCHELASTIC_{name}") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    launcher = os.getppid()
    if count is None or count != most or launcher == 1:  # 1: it went before us
        return
    with suppress(OSError):
        os.kill(launcher, signal.SIGTERM)
        # Python hears of a signal between two instructions, and torchrun may be in one that waits for the store.
        subprocess.Popen(["/bin/sh", "-c", f"sleep 5; kill -9 {launcher} 2>/dev/null"], start_new_session=True)
