"""`densekit serve` as its users start it, and pictures to send."""

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
from PIL import Image

MODEL = "fashion-mnist"
QUICK = ("--engine", "torch", "--threads", "1")
PATIENCE = 240.0  # seconds; a busy machine imports torch slowly


class Served:
    """A server that runs, and what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.other: list[str] = []
        """Lines that are no JSON, such as a worker's traceback."""
        assert process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.other.append(line)

    def said(self, event: str, number: int = 1) -> dict[str, Any]:
        """The event of that name, waited for; `number` counts from one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = [line for line in list(self.lines) if line["event"] == event]
            if len(found) >= number:
                return found[number - 1]
            if self.process.poll() is not None:
                self._reader.join(5)
                found = [line for line in self.lines if line["event"] == event]
                assert len(found) >= number, (self.process.returncode, self.lines, self.other)
            time.sleep(0.01)
        raise AssertionError((event, self.lines, self.other))

    def count(self, event: str) -> int:
        return sum(line["event"] == event for line in list(self.lines))

    @property
    def url(self) -> str:
        found: str = self.said("listening")["url"]
        return found

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def worker(self) -> int:
        """The pid of the present worker, when it is ready."""
        found: int = self.said("ready", self.count("worker_start"))["pid"]
        return found

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self._reader.join(5)
        return status


@contextmanager
def served(model: str | Path, *words: str, **environment: str) -> Iterator[Served]:
    """On a free port, ready."""
    command = [sys.executable, "-m", "densekit", "serve", str(model), "--port", "0", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    try:
        running = Served(process)
        running.said("ready")
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr is not None
        running._reader.join(5)
        process.stderr.close()


def resident(pid: int) -> int:
    """Bytes of memory that a process has, on Linux."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def picture(seed: int, size: tuple[int, int] = (28, 28), kind: str = "PNG", mode: str = "L") -> bytes:
    """Noise under a shape, another for each seed."""
    random = np.random.default_rng(seed)
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    pixels = random.integers(0, 60, shape, dtype=np.uint8)
    top, left = (int(random.integers(0, max(1, side // 2))) for side in size[::-1])
    pixels[top : top + size[1] // 2, left : left + size[0] // 2] += np.uint8(random.integers(60, 190))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def blank(width: int, height: int) -> bytes:
    """A PNG of far more pixels than bytes."""
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def parsed(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """An HTTP answer as it came -> status, headers, body."""

    class _Socket:
        def makefile(self, *_: object) -> IO[bytes]:
            return io.BytesIO(raw)

    response = http.client.HTTPResponse(_Socket())  # type: ignore[arg-type]  # it asks for makefile alone
    response.begin()
    return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
