"""The server's log: lines for people in a terminal, JSON elsewhere, and nothing in any other form."""

import json
import logging
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from densekit.cli.main import main
from densekit.errors import BadData
from densekit.serve import address, log
from tests.serve.servers import MODEL, PATIENCE, QUICK

FACTS: dict[str, dict[str, Any]] = {
    "starting": {"model": "runs/photos"},
    "listening": {"url": "http://127.0.0.1:8000", "pid": 1},
    "worker_start": {"pid": 2},
    "export": {"file": "model.onnx"},
    "engine": {"name": "torch", "threads": 2, "runtime": "torch 2.9", "milliseconds": {"1": 3.125, "16": 32.0}},
    "engine_refused": {"name": "openvino", "threads": 1, "reason": "it differs"},
    "engines_left_out": {"names": ["onnxruntime", "openvino"], "reason": "no onnx"},
    "ready": {"pid": 2, "name": "torch", "threads": 1, "runtime": "torch 2.9", "file": None},
    "serving": {"model": "runs/photos", "url": "http://127.0.0.1:8000/"},
    "request": {
        "client": "::1", "method": "GET", "path": "/", "status": 200, "bytes": 0, "milliseconds": 1.25,
    },
    "warning": {"message": "anybody may use it"},
    "worker_failed": {"reason": "no memory"},
    "worker_end": {"pid": 2, "status": -9, "lost": 1},
    "worker_hangs": {"pid": 2, "seconds": 30.1},
    "draining": {"signal": "SIGINT"},
    "stopped": {"signal": "SIGINT"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Loggers are the whole process's."""
    loggers = [logging.getLogger(name) for name in ("", "densekit.serve", "uvicorn", "python_multipart")]
    kept = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield
    logging.captureWarnings(False)
    for logger, handlers, level in kept:
        logger.handlers[:] = handlers
        logger.setLevel(level)


def test_a_person_reads_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    log.begin("text")
    for event, facts in FACTS.items():
        log.say(event, **facts)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(FACTS)
    said = dict(zip(FACTS, lines, strict=True))
    assert said.pop("serving") == (
        "densekit serves runs/photos: open http://127.0.0.1:8000/ in a browser; ctrl-C stops it"
    )
    assert all(re.match(r"\d\d:\d\d:\d\d [^{=]+$", line) for line in said.values())
    assert said["engine"].endswith(" torch 2.9, 2 threads: ms an image, batch 1 3.12, batch 16 2")
    assert said["request"].endswith(" ::1 GET /: 200 in 1.2 ms")
    assert max(len(line) for line in said.values()) <= 80


def test_every_event_of_the_server_has_a_sentence() -> None:
    """Without one a terminal would show names and values."""
    code = "\n".join(path.read_text() for path in log_sources())
    events = set(re.findall(r"\bsay\(\s*\"(\w+)\"", code))
    assert events == FACTS.keys()
    assert events == log._TEXTS.keys()


def log_sources() -> list[Path]:
    root = Path(log.__file__).parents[1]
    return [*(root / "serve").glob("*.py"), root / "cli" / "serve.py"]


def test_json_has_the_facts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    log.begin("json")
    for event, facts in FACTS.items():
        log.say(event, **facts)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.pop("event") for line in lines] == list(FACTS)
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert lines == list(FACTS.values())


@pytest.mark.parametrize("style", ["text", "json"])
def test_others_speak_in_the_same_form(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    """uvicorn, asyncio and Python's warnings too: one stream, one form, no level below a warning."""
    log.begin(style)
    log.begin(style)  # a second time writes nothing twice
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("of old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    lines = capsys.readouterr().err.splitlines()
    if style == "json":
        assert [json.loads(line)["event"] for line in lines] == ["uvicorn", "asyncio", "py"]
        assert json.loads(lines[0])["message"] == "Invalid HTTP request received."
    else:
        sayings = [re.match(r"\d\d:\d\d:\d\d (\w+): ", line) for line in lines]
        assert [said[1] for said in sayings if said] == ["uvicorn", "asyncio", "py"]
        assert lines[0].endswith(" uvicorn: Invalid HTTP request received.")


def test_a_path_cannot_write_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    log.begin("text")
    log.say("request", **FACTS["request"] | {"path": "/\x1b[2J\nforged"})
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "status", "lines"), [("/assets/app.js", 200, 0), ("/assets/x", 404, 1), ("/", 200, 1)]
)
def test_a_visit_is_one_line_for_people(path: str, status: int, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    log.begin("text")
    log.say("request", **FACTS["request"] | {"path": path, "status": status})
    assert capsys.readouterr().err.count("\n") == lines


def test_another_style_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["densekit", "serve", MODEL, "--log", "jsn"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "unknown --log 'jsn'; did you mean json?" in capsys.readouterr().err


def test_the_next_free_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            BadData, match=rf"port {port} of 127\.0\.0\.1 is in use; (\d+) is free: pass --port \1"
        ) as taken:
            address.bound("127.0.0.1", port)
    assert int(re.findall(r"--port (\d+)", str(taken.value))[0]) > port


def test_a_port_that_is_taken_after_it_was_bound_is_reported_too() -> None:
    """Two servers that start together: both may bind, one may listen."""
    with address.bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with address.bound("127.0.0.1", port) as second:
            address.listen(second)
            with pytest.raises(BadData, match=f"port {port} of 127.0.0.1 is in use"):
                address.listen(first)


@pytest.mark.parametrize(
    ("host", "opened"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/"),
        ("0.0.0.0", "http://127.0.0.1:8000/"),
        ("::", "http://[::1]:8000/"),
        ("10.0.0.7", "http://10.0.0.7:8000/"),
    ],
)
def test_the_address_to_open_is_one_that_a_browser_takes(host: str, opened: str) -> None:
    assert address.to_open(host, 8000) == opened


@pytest.mark.slow
def test_in_a_terminal_it_says_its_address_and_stops_by_ctrl_c() -> None:
    """As its users start it; the address answers when it is said."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "densekit", "serve", MODEL, "--port", "0", *QUICK]
    process = subprocess.Popen(command, stderr=child, start_new_session=True)
    os.close(child)
    try:
        text = read_until(parent, r"densekit serves fashion-mnist: open (\S+) in a browser; ctrl-C stops it\r\n")
        url = re.findall(r"open (\S+) in", text)[0]
        assert urllib.request.urlopen(url).status == 200
        assert json.load(urllib.request.urlopen(f"{url}readyz"))["status"] == "ready"
        process.send_signal(signal.SIGINT)
        text += read_until(parent, "stopped\r\n")
        assert process.wait(PATIENCE) == 0
        assert "{" not in text
    finally:
        process.kill()
        process.wait()
        os.close(parent)


def read_until(terminal: int, pattern: str) -> str:
    text, deadline = "", time.monotonic() + PATIENCE
    while not re.search(pattern, text):
        assert time.monotonic() < deadline, text
        text += os.read(terminal, 4096).decode()
    return text
