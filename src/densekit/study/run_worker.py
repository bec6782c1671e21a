"""One run of a study in a process of its own: `python -m densekit.study.run_worker`, told on standard input what to do.

Standard input stays open as long as somebody waits for the run; when it closes, the run is saved and stops.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from densekit import strict_json
from densekit.config import recipe_from
from densekit.errors import DensekitError, Interrupted
from densekit.terminal import Log
from densekit.training.resume import resume
from densekit.training.train import train_recipe


def carry_out(job: dict[str, Any]) -> None:
    """Trains `job["recipe"]` into `job["run"]`, or goes on with what is there."""
    run = Path(job["run"])
    if (run / "config.yaml").exists():
        resume(run, data_dir=job["data_dir"], console=Log())
    else:
        train_recipe(recipe_from(job["recipe"]), out=run, data_dir=job["data_dir"], console=Log())


def _stop_with_parent() -> None:
    # Not sys.stdin: at the interpreter's end a thread must not hold its lock.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """The worker's process; answers with one line of JSON, empty where all went well."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints belongs into the log
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        carry_out(job)
    except DensekitError as error:
        number = error.signal_number if isinstance(error, Interrupted) else 0
        answers.write(strict_json.dumps({"type": type(error).__name__, "message": str(error), "signal": number}))
        answers.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
