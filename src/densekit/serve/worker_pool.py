"""The worker from the server's side: a bounded queue, a process that computes, and its replacement when it dies."""

import asyncio
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densekit.child_process import with_this_package
from densekit.errors import BadImage, DensekitError
from densekit.serve import ipc, worker
from densekit.serve.http_errors import Refusal
from densekit.serve.limits import Limits
from densekit.serve.log import say
from densekit.serve.prometheus import Metrics
from densekit.serve.tempdir import temporary_folder

_FIRST_STARTS = 3  # that may fail before the first has been ready: then something is wrong that does not pass
_LONGEST_PAUSE = 30.0  # seconds between two attempts
_STEADY = 10.0  # seconds that a worker must have lived for the next pause to be none

Answer = dict[str, Any] | Refusal
"""{"top", "notices"}, or {"pixels", "size", "notices"} of a `top` of 0; or why there is none."""


@dataclass
class _Job:
    number: int
    content: bytes
    top: int
    invert: bool
    answer: "asyncio.Future[Answer]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class WorkerPool:
    """Answers to images, by one worker process after the other."""

    def __init__(
        self,
        model: str,
        limits: Limits,
        metrics: Metrics,
        *,
        engine: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.limits = limits
        self.metrics = metrics
        self.engine: dict[str, Any] | None = None
        """What was chosen; stays, so that a worker's successor starts at once."""
        self.ready = False
        self.stopping = False
        self.failure: Exception | None = None
        """Why no worker could be started at all."""
        self.pid: int | None = None
        self._order = {
            "model": model,
            "batch": limits.batch,
            "pixels": limits.pixels,
            "wanted": engine,
            "threads": threads,
        }
        self._window = 2 * limits.batch  # what computes now, and what comes next
        self._waiting: deque[_Job] = deque()
        self._given: dict[int, _Job] = {}
        self._numbers = 0
        self._pace = 0.05  # seconds an image, of late
        self._heard = 0.0
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to keep a worker, in the running loop."""
        self._task = asyncio.create_task(self._keep())

    async def settled(self) -> None:
        """Waits for the first worker to be ready. Raises what keeps it from that."""
        while not self.ready and self.failure is None:
            self._changed.clear()
            await self._changed.wait()
        if self.failure is not None:
            raise self.failure

    async def stop(self) -> None:
        """Ends the worker; what is not answered is refused."""
        self.stopping = True
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._refuse([*self._given.values(), *self._waiting], "stopping", "the server stops")
        self._given.clear()
        self._waiting.clear()

    @property
    def load(self) -> int:
        """Images that wait or are worked on."""
        return len(self._waiting) + len(self._given)

    async def ask(self, images: Sequence[bytes], top: int, invert: bool = False) -> list[Answer]:
        """An answer to each, in order; with a `top` of 0 no classes, but the image as the network sees it.

        Raises Refusal where they do not fit into the queue.
        """
        if self.stopping:
            raise Refusal(503, "stopping", "the server stops; ask another one", retry_after=5)
        if self.load + len(images) > self.limits.queue:
            raise Refusal(
                429,
                "queue_full",
                f"{self.load} images wait already, the limit is {self.limits.queue}; try again later",
                retry_after=self.load * self._pace,
            )
        jobs = [self._job(content, top, invert) for content in images]
        self._waiting += jobs
        self._push()
        done, late = await asyncio.wait([job.answer for job in jobs], timeout=self.limits.seconds)
        for job in jobs:
            if job.answer in late:
                job.answer.cancel()
                with suppress(ValueError):
                    self._waiting.remove(job)
        self.metrics.queue.set(self.load)
        return [job.answer.result() if job.answer in done else self._too_late() for job in jobs]

    def _job(self, content: bytes, top: int, invert: bool) -> _Job:
        self._numbers += 1
        return _Job(self._numbers, content, top, invert)

    def _too_late(self) -> Refusal:
        seconds = self.limits.seconds
        return Refusal(503, "timeout", f"no answer within {seconds:g} s; try again", retry_after=self.load * self._pace)

    def _push(self) -> None:
        """Gives the worker what waits, as far as it should have it."""
        while self.ready and self._writer is not None and self._waiting and len(self._given) < self._window:
            job = self._waiting.popleft()
            if not self._given:
                self._heard = time.monotonic()  # its silence counts from now on
            self._given[job.number] = job
            self._writer.write(ipc.packed({"id": job.number, "top": job.top, "invert": job.invert}, job.content))
            job.content = b""
        self.metrics.queue.set(self.load)

    async def _keep(self) -> None:
        """One worker after the other, until cancelled."""
        pause, failed = 0.0, 0
        with temporary_folder() as folder:
            while True:
                began = time.monotonic()
                try:
                    await self._one(folder)
                except DensekitError as error:
                    self.failure = error
                    say("worker_failed", reason=str(error))
                except OSError as error:  # no memory for a process, no file descriptor: both may pass
                    say("worker_failed", reason=str(error))
                lived = time.monotonic() - began
                failed += self.engine is None
                if self.engine is None and (self.failure is not None or failed >= _FIRST_STARTS):
                    self.failure = self.failure or RuntimeError("the worker ends while it starts; see the lines above")
                    self._changed.set()
                    return
                self.failure = None
                pause = 0.0 if lived > _STEADY else min(max(2 * pause, 0.25), _LONGEST_PAUSE)
                await asyncio.sleep(pause)

    async def _one(self, folder: Path) -> None:
        """The life of one worker. Raises the error that it could not start with."""
        ours, theirs = socket.socketpair()
        watch: asyncio.Task[None] | None = None
        try:
            # -P: a file called torch.py in the current folder is not to be imported.
            command = [sys.executable, "-P", "-m", worker.__name__, str(theirs.fileno())]
            process = self._process = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=with_this_package()
            )
            theirs.close()
            self.pid = process.pid
            self.metrics.starts.inc()
            say("worker_start", pid=process.pid)
            reader, writer = await asyncio.open_connection(sock=ours)
            self._writer = writer
            writer.write(ipc.packed(self._order | {"folder": str(folder), "engine": self.engine}))
            watch = asyncio.create_task(self._watch(process))
            while (message := await ipc.receive(reader)) is not None:
                self._heard = time.monotonic()
                self._take(message[0])
        finally:
            self.ready = False
            ours.close()
            theirs.close()
            if watch is not None:
                watch.cancel()
            await self._bury()

    async def _bury(self) -> None:
        """Makes sure that a worker is gone, and refuses what it had."""
        process, self._process = self._process, None
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        lost = list(self._given.values())
        self._given.clear()
        self._refuse(lost, "worker_lost", "the process that computes ended; it is started again")
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            status = await process.wait()
            if not self.stopping:
                say("worker_end", pid=process.pid, status=status, lost=len(lost))

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Ends a worker that has images and says nothing for as long as a request may take."""
        while True:
            await asyncio.sleep(min(1.0, self.limits.seconds / 4))
            silence = time.monotonic() - self._heard
            if self.ready and self._given and silence > self.limits.seconds:
                say("worker_hangs", pid=process.pid, seconds=round(silence, 1))
                process.kill()
                return

    def _take(self, document: dict[str, Any]) -> None:
        """One message of the worker."""
        if "event" in document:
            say(document["event"], **document["facts"])
        elif "failed" in document:
            failed = document["failed"]
            raise ipc.ERRORS[failed["kind"]](failed["message"])
        elif "ready" in document:
            self.engine = document["ready"]
            self.ready = True
            self.metrics.engine.info({key: str(value) for key, value in self.engine.items() if value is not None})
            say("ready", pid=self.pid, **self.engine)
            self._changed.set()
        else:
            self._answer(document)
        self._push()

    def _answer(self, document: dict[str, Any]) -> None:
        if document["batch"]:
            self._pace += 0.2 * (document["seconds"] / document["batch"] - self._pace)
            self.metrics.batch.observe(document["batch"])
            self.metrics.computing.observe(document["seconds"])
        for answer in document["answers"]:
            job = self._given.pop(answer.pop("id"))
            error = answer.get("error")
            self.metrics.images.labels(error["code"] if error else "answered").inc()
            if not job.answer.done():  # else who asked has gone
                refused = Refusal.of(BadImage(error["code"], error["message"])) if error else None
                job.answer.set_result(refused or answer)

    def _refuse(self, jobs: Sequence[_Job], code: str, message: str) -> None:
        for job in jobs:
            if not job.answer.done():
                self.metrics.images.labels(code).inc()
                job.answer.set_result(Refusal(503, code, message, retry_after=1))
