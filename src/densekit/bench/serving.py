"""Answers per second over HTTP: `densekit serve` beside plain FastAPI and LitServe with the same weights and images.

All servers are started once. One is awake at a time, the others are stopped by a signal, and they take turns: what
disturbs the machine disturbs all alike, and nobody's idle loop takes another one's cores.
"""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import numpy as np
import torch

from densekit import atomic, strict_json, threads
from densekit.bench import peer_network, peer_servers
from densekit.bench.loading import write_photographs
from densekit.bench.workload import network, settle
from densekit.config import IMAGENET_MEAN, IMAGENET_STD, DenseNetConfig, Preprocessing
from densekit.errors import BadData, DensekitError, Interrupted, InvalidInput
from densekit.models import build
from densekit.optional_packages import missing_of
from densekit.runs.run_folder import environment
from densekit.weights import ModelCard, save_model

FILE = "serve.json"
_IMAGES = 32
_PATIENCE = 300.0  # seconds that a server may take to start
_TITLES = {
    "densekit": "densekit serve",
    "fastapi": "FastAPI + torchvision",
    "fastapi-threads": "FastAPI + torchvision, in threads",
    "litserve": "LitServe + torchvision",
}


@dataclass(frozen=True)
class ServingSettings:
    """What is served to how many, and for how long."""

    model: str = "densenet121"
    clients: tuple[int, ...] = (1, 8, 64)
    seconds: float = 8.0
    """Of each turn."""
    rounds: int = 3
    out: Path = Path("results", "bench")


@dataclass
class _Server:
    """One that runs, and how to ask it."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    requests: list[bytes]
    """One for each image."""

    def wake(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def sleep(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)


def measure(course: ServingSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Requests per second and latencies of every server, written to `course.out`. `say` hears of every turn.

    Raises InvalidInput for a course that cannot be, BadData where servers disagree or the result cannot be written.
    """
    config = network(course.model)
    if min(course.rounds, *course.clients) < 1 or course.seconds <= 0:
        raise InvalidInput("--repeats and the numbers of clients are 1 or more")
    if config.in_channels != 3:
        raise InvalidInput(f"{course.model} takes {config.in_channels} channels; photographs have 3")
    names = [name for name in _TITLES if name not in missing_of(["litserve"])]
    with _ended_in_order(), TemporaryDirectory(prefix="densekit-bench-") as folder, ExitStack() as stack:
        root = Path(folder)
        (root / "photographs").mkdir()
        write_photographs(root / "photographs", _IMAGES)
        photographs = [path.read_bytes() for path in sorted((root / "photographs").rglob("*.jpg"))]
        _write_model(root / "model", config)
        servers = []
        for name in names:
            say(f"starting {_TITLES[name]}")
            server = stack.enter_context(_started(name, root, photographs))
            servers.append(server)
            server.sleep()
        _compare(servers, say)
        turns = _turns(servers, course, say)
        engine = _engine(root / "densekit.log")
    report = {
        "what": "serve",
        "model": course.model,
        "images": _IMAGES,
        "seconds": course.seconds,
        "rounds": course.rounds,
        "engine": engine,
        "environment": environment(),
        "rows": _rows(turns, course),
    }
    try:
        course.out.mkdir(parents=True, exist_ok=True)
        atomic.write(course.out / FILE, strict_json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise BadData(f"cannot write results to {course.out}: {error.strerror}; name another --out") from error
    return report


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM as an exception, like Ctrl-C: servers that are asleep would stay for ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        raise Interrupted("stopped; nothing was written", number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    lines = ["| clients | server | requests a second | p50, ms | p99, ms | failed |", "|---:|---|---:|---:|---:|---:|"]
    for row in report["rows"]:
        p50, p99 = ("-" if row[key] is None else f"{row[key]:.0f}" for key in ("p50_ms", "p99_ms"))
        numbers = f"{row['per_second']:.1f} | {p50} | {p99} | {row['failed']}"
        lines.append(f"| {row['clients']} | {row['server']} | {numbers} |")
    return "\n".join(lines)


def _write_model(folder: Path, config: DenseNetConfig) -> None:
    """Weights as after training, so that answers differ."""
    torch.manual_seed(0)
    net = build(config, "concat")
    settle(net, torch.randn(4, config.in_channels, *config.image_size))
    size = config.image_size
    preprocessing = Preprocessing(
        channels=3, size=size, resize=round(min(size) * 8 / 7), mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    classes = tuple(f"class {i}" for i in range(config.num_classes))
    save_model(folder, net.state_dict(), ModelCard(model=config, classes=classes, preprocessing=preprocessing))


@contextmanager
def _started(name: str, root: Path, photographs: Sequence[bytes]) -> Iterator[_Server]:
    """Ready, in a process group of its own."""
    port, cores = _free_port(), threads.cores()
    command = [sys.executable, "-m", peer_servers.__name__, name, str(root / "model"), str(port), str(cores)]
    if name == "densekit":
        command = [sys.executable, "-m", "densekit", "serve", str(root / "model"), "--port", str(port)]
    requests = [_request(name, content) for content in photographs]
    with (root / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            with suppress(OSError):
                if asyncio.run(_ask(port, requests[0]))[0] == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                last = " ".join((root / f"{name}.log").read_text(errors="replace").split())[-300:]
                raise BadData(f"{_TITLES[name]} does not start: {last}")
            time.sleep(0.2)
        yield _Server(name, process, port, requests)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _request(name: str, content: bytes) -> bytes:
    path, kind, body = "/predict", "image/jpeg", content
    if name == "densekit":
        path = f"/v1/predict?top={peer_network.TOP}"
    elif name == "litserve":
        kind, body = "application/json", strict_json.dumps({"image": base64.b64encode(content).decode()}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _ask(port: int, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await _answer(reader)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer; all of these servers say how long it is."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        return int(head[9:12]), await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("no answer") from error


def _compare(servers: Sequence[_Server], say: Callable[[str], None]) -> None:
    """Raises BadData where one names other classes than densekit: then it does other work."""
    found: dict[str, list[list[tuple[str, float]]]] = {}
    for server in servers:
        server.wake()
        answers = [json.loads(asyncio.run(_ask(server.port, request))[1]) for request in server.requests[:4]]
        found[server.name] = [[(row["class"], row["probability"]) for row in answer["top"]] for answer in answers]
        server.sleep()
    for name, rows in found.items():
        for mine, theirs in zip(found["densekit"], rows, strict=True):
            same = mine[0][0] == theirs[0][0] and abs(mine[0][1] - theirs[0][1]) < 1e-3
            if not same:
                raise BadData(f"{_TITLES[name]} answers {theirs[0]}, densekit {mine[0]}: not the same work")
    say("all name the same classes")


def _turns(
    servers: Sequence[_Server], course: ServingSettings, say: Callable[[str], None]
) -> dict[tuple[str, int], list[tuple[float, list[float], int]]]:
    """By server and clients, of each round: seconds, latencies, failures."""
    found: dict[tuple[str, int], list[tuple[float, list[float], int]]] = {}
    for number in range(course.rounds):
        for clients in course.clients:
            # Who was first is last in the next.
            for server in servers if number % 2 == 0 else reversed(servers):
                server.wake()
                asyncio.run(_load(server, clients, min(1.0, course.seconds)))  # warm
                seconds, latencies, failed = asyncio.run(_load(server, clients, course.seconds))
                server.sleep()
                found.setdefault((server.name, clients), []).append((seconds, latencies, failed))
                rate = len(latencies) / seconds
                say(f"round {number + 1}, {clients} clients: {_TITLES[server.name]}, {rate:.1f} a second")
    return found


async def _load(server: _Server, clients: int, seconds: float) -> tuple[float, list[float], int]:
    """Clients that ask again as soon as they are answered; what is under way at the end is waited for, and counts."""
    latencies: list[float] = []
    failed = 0
    began = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        turn = number
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            writer.write(server.requests[turn % len(server.requests)])
            status, _ = await _answer(reader)
            if status == 200:
                latencies.append(time.perf_counter() - start)
            else:
                failed += 1
            turn += 1
        writer.close()

    outcomes = await asyncio.gather(*(client(number) for number in range(clients)), return_exceptions=True)
    failed += sum(isinstance(outcome, Exception) for outcome in outcomes)
    return time.perf_counter() - began, latencies, failed


def _rows(
    turns: dict[tuple[str, int], list[tuple[float, list[float], int]]], course: ServingSettings
) -> list[dict[str, Any]]:
    rows = []
    for clients in course.clients:
        for (name, count), rounds in turns.items():
            if count != clients:
                continue
            latencies = [value for _, values, _ in rounds for value in values]
            # Undefined where no request was answered.
            p50, p99 = (float(1e3 * np.quantile(latencies, q)) if latencies else None for q in (0.5, 0.99))
            rates = [len(values) / seconds for seconds, values, _ in rounds]
            rows.append(
                {
                    "clients": clients,
                    "server": _TITLES[name],
                    "per_second": float(np.median(rates)),
                    "rounds": rates,
                    "p50_ms": p50,
                    "p99_ms": p99,
                    "requests": len(latencies),
                    "failed": sum(count for _, _, count in rounds),
                }
            )
    return rows


def _engine(log: Path) -> list[dict[str, Any]]:
    """What densekit measured at its start, and took."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    kept = [line for line in lines if line["event"] in ("engine", "ready")]
    if not kept:
        raise DensekitError("densekit serve did not say which engine it took")
    return [{key: value for key, value in line.items() if key not in ("time", "pid", "file")} for line in kept]
