"""What the server says: one line of JSON an event, on standard error."""

import logging
import sys
import time
from typing import Any

from densekit import strict_json

_LOGGER = logging.getLogger("densekit.serve")


def say(event: str, **facts: Any) -> None:
    """One line, in the order given."""
    _LOGGER.info(event, extra={"facts": facts})


def begin() -> None:
    """Sends this and what uvicorn has to say to standard error, and nothing twice."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    for name, level in (("densekit.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
    # Its warnings are of what is wrong with a form, which is answered to whoever sent it.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        line: dict[str, Any] = {"time": now, "event": record.getMessage()}
        if record.name != _LOGGER.name:
            line |= {"event": "uvicorn", "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            line["trace"] = self.formatException(record.exc_info)
        return strict_json.dumps(line | getattr(record, "facts", {}), default=str)
