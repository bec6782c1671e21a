"""The server's log on standard error: lines for people in a terminal, else one line of JSON an event."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from densekit import strict_json
from densekit.formatting import counted, printable

STYLES = ("auto", "text", "json")
"""What `begin` takes; auto is text in a terminal and json elsewhere."""

_LOGGER = logging.getLogger("densekit.serve")


def say(event: str, **facts: Any) -> None:
    """Log one event with its facts, in the order given."""
    _LOGGER.info(event, extra={"facts": facts})


def begin(style: str = "auto") -> None:
    """Send all log records of this process to standard error in one `style` of STYLES: ours, uvicorn's, warnings."""
    if style == "auto":
        style = "text" if sys.stderr.isatty() else "json"
    handler = _Stderr()
    handler.setFormatter(_Text() if style == "text" else _Json())
    if style == "text":
        handler.addFilter(_is_worth_a_line)
    root = logging.getLogger()
    root.handlers[:] = [*(each for each in root.handlers if not isinstance(each, _Stderr)), handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    _LOGGER.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # Its warnings are of what is wrong with a form, which is answered to whoever sent it.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


class _Stderr(logging.Handler):
    """Writes whole lines to what is standard error at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        line: dict[str, Any] = {"time": now, "event": record.getMessage()}
        if record.name != _LOGGER.name:
            library = record.name.partition(".")[0]
            line |= {"event": library, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            line["trace"] = self.formatException(record.exc_info)
        return strict_json.dumps(line | getattr(record, "facts", {}), default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, Any] = getattr(record, "facts", {})
        event = record.getMessage()
        if record.name == _LOGGER.name:
            words = _TEXTS.get(event, _fallback(event))(facts)
        else:
            words = f"{record.name.partition('.')[0]}: {event}"
        words = printable(" ".join(words.split()))
        if event != "serving":
            words = time.strftime("%H:%M:%S ", time.localtime(record.created)) + words
        if record.exc_info and record.exc_info[1] is not None:
            words += "\n" + self.formatException(record.exc_info)
        return words


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """False for the files of the page that were sent as they should be: ten for each visit."""
    facts: Mapping[str, Any] = getattr(record, "facts", {})
    path, status = facts.get("path", ""), facts.get("status", 0)
    return not (record.getMessage() == "request" and path.startswith("/assets/") and status < 400)


def _fallback(event: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda facts: " ".join([event, *(f"{name}={value}" for name, value in facts.items())])


def _engine(facts: Mapping[str, Any]) -> str:
    """`milliseconds` are of a batch, by its size."""
    times = [f"batch {size} {took / int(size):.3g}" for size, took in facts["milliseconds"].items()]
    return f"{_where(facts)}: ms an image, {', '.join(times)}"


def _where(facts: Mapping[str, Any]) -> str:
    return f"{facts['runtime']}, {counted(facts['threads'], 'thread')}"


def _request(facts: Mapping[str, Any]) -> str:
    size = f", {counted(facts['bytes'], 'byte')}" if facts["bytes"] else ""
    return (
        f"{facts['client']} {facts['method']} {facts['path']}: {facts['status']} "
        f"in {facts['milliseconds']:,.1f} ms{size}"
    )


# What a person in front of a terminal reads of each event.
_TEXTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "starting": lambda f: f"loading {f['model']}",
    "listening": lambda f: f"loaded; {f['url']} answers as soon as an engine is chosen",
    "worker_start": lambda f: f"worker process {f['pid']} starts",
    "export": lambda _: "exporting the network for the other engines",
    "engine": _engine,
    "engine_refused": lambda f: f"{f['name']} on {counted(f['threads'], 'thread')} left out: {f['reason']}",
    "engines_left_out": lambda f: f"{' and '.join(f['names'])} left out: {f['reason']}",
    "ready": lambda f: f"worker process {f['pid']} is ready: {_where(f)}",
    "serving": lambda f: f"densekit serves {f['model']}: open {f['url']} in a browser; ctrl-C stops it",
    "request": _request,
    "warning": lambda f: f"warning: {f['message']}",
    "worker_failed": lambda f: f"the worker process failed: {f['reason']}",
    "worker_end": lambda f: (
        f"worker process {f['pid']} ended with status {f['status']}; {counted(f['lost'], 'image')} without an answer"
    ),
    "worker_hangs": lambda f: f"worker process {f['pid']} has been silent for {f['seconds']} s and is replaced",
    "draining": lambda f: f"{f['signal']}: finishing open requests; a second ctrl-C stops at once",
    "stopped": lambda _: "stopped",
}
