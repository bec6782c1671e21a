"""One measurement in a process of its own: the number of threads is set before a library starts any.

`python -m densekit.bench.worker JOB` reads a job and writes the answer beside it.
"""

import logging
import os
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densekit import strict_json
from densekit.bench.backends import BenchBackend, NotApplicable, bench_backends
from densekit.bench.job import Job, Key
from densekit.bench.memory import peak_bytes, saved_bytes
from densekit.bench.rounds import Peak, play
from densekit.bench.runners import Runner, Training, runner_for
from densekit.bench.workload import Data, network, read_data
from densekit.training import allocator

# Of what comes out, relative to the largest: far above rounding in float32, far below a wrong weight. The gradient is
# that of the first convolution, where densenet121 in channels_last is 0.026 off in any library.
TOLERANCE = {"logits": 1e-3, "gradient": 0.1}


def measure(job: Job) -> dict[str, Any]:
    """{"variants": a row for each contender and layout, ...}: what was measured, or why not."""
    torch.set_num_threads(job.threads)
    return _memory(job) if job.kind == "memory" else _time(job)


def _time(job: Job) -> dict[str, Any]:
    data = read_data(Path(job.folder))
    runners: dict[Key, Runner] = {}
    rows: dict[Key, dict[str, Any]] = {}
    for contender in bench_backends(job.kind, job.plans, compiled=job.compiled):
        for layout in contender.layouts:
            key = contender.name, layout
            _say(f"preparing {contender.name}, {layout}")
            rows[key], runner = _prepared(job, contender, layout, data)
            if runner is not None:
                runners[key] = runner
    load = _load()
    peak = Peak()

    def after(number: int, key: Key | None) -> None:
        if key is None:
            peak.measure()
        else:
            _say(f"round {number} of {job.rounds}: {', '.join(key)}")
        if job.parent and os.getppid() != job.parent:
            sys.exit("nobody waits for this measurement any more")

    # As training has it, for everybody: who needs most memory gains most.
    with allocator.retain_freed_memory() if job.kind == "train" else nullcontext():
        times, calls = play(runners, job.rounds, lambda key: key[0], after)
    for key in runners:
        rows[key] |= {"calls_per_turn": calls[key], "times": times[key]}
    _say("")
    return {"variants": list(rows.values()), "peak_flops": peak.best, "peak_rates": peak.rates, "load": load}


def _prepared(job: Job, contender: BenchBackend, layout: str, data: Data) -> tuple[dict[str, Any], Runner | None]:
    row: dict[str, Any] = {"name": contender.name, "layout": layout, "status": "measured"}
    start = time.perf_counter()
    try:
        runner = _runner(job, contender, layout, data)
        outputs = runner.outputs()
        row["preparation_seconds"] = time.perf_counter() - start
        row["difference"] = {name: _difference(outputs[name], expected) for name, expected in data.expected.items()}
    except Exception as error:  # one library's failure is a row of the table, not the end of the comparison
        return row | _failure(error), None
    wrong = [name for name, difference in row["difference"].items() if not difference <= TOLERANCE[name]]
    if wrong:
        reason = f"{wrong[0]} differ from float64 by {row['difference'][wrong[0]]:.1e}"
        return row | {"status": "wrong", "reason": reason}, None
    return row, runner


def _memory(job: Job) -> dict[str, Any]:
    assert job.only is not None
    name, layout = job.only
    contender = next(c for c in bench_backends(job.kind, job.plans, compiled=job.compiled) if c.name == name)
    row: dict[str, Any] = {"name": name, "layout": layout, "status": "measured"}
    try:
        runner = _runner(job, contender, layout, read_data(Path(job.folder)))
        assert isinstance(runner, Training)
        compiled = contender.runtime == "compile"
        row["peak_bytes"] = peak_bytes(runner, whole=compiled)
        # A compiled graph hides from the hooks what it keeps.
        row["saved_bytes"] = None if compiled else saved_bytes(runner)
    except Exception as error:
        row |= _failure(error)
    return {"variants": [row]}


def _runner(job: Job, contender: BenchBackend, layout: str, data: Data) -> Runner:
    return runner_for(
        contender,
        network(job.model),
        data,
        layout,
        training=job.kind != "infer",
        threads=job.threads,
        graphs=Path(job.folder),
    )


def _difference(actual: Tensor, expected: Tensor) -> float:
    """The largest, relative to the largest value."""
    return float((actual.double() - expected).abs().max() / expected.abs().max())


def _failure(error: Exception) -> dict[str, str]:
    if isinstance(error, NotApplicable):
        return {"status": error.status, "reason": str(error)}
    return {"status": "failed", "reason": " ".join(f"{type(error).__name__}: {error}".split())[:300]}


def _load() -> float | None:
    """Processes that wanted a core in the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _say(text: str) -> None:
    """One line that is overwritten, and no thread that draws it: the cores are being measured."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()


def main() -> None:
    """The worker's process."""
    warnings.simplefilter("ignore")  # of other libraries, about themselves
    logging.disable(logging.WARNING)
    path = Path(sys.argv[1])
    answer = measure(Job.read(path))
    path.with_suffix(".answer.json").write_text(strict_json.dumps(answer))


if __name__ == "__main__":
    main()
