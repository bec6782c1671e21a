"""A comparison from settings to evidence on disk: a process for each measurement, a file for each kind and model."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from densekit import atomic, strict_json
from densekit.bench.backends import bench_backends
from densekit.bench.job import Job
from densekit.bench.summary import summarise
from densekit.bench.workload import MODELS, Kind, batches_for, network, threads_of, write_data
from densekit.child_process import thread_counts
from densekit.config import DenseNetConfig
from densekit.errors import BadData, DensekitError, InvalidInput, UnknownName
from densekit.models.cost import as_published, cost_of
from densekit.ops import PLANS
from densekit.ops.backends.cpu.library import load as library
from densekit.runs.run_folder import environment
from densekit.threads import cores

ROUNDS: dict[Kind, int] = {"train": 5, "infer": 20, "memory": 1}
FOLDER = Path("results", "bench")
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy")


@dataclass(frozen=True)
class BenchSettings:
    """What to compare, and how long."""

    kinds: tuple[Kind, ...]
    models: tuple[str, ...] = MODELS
    batch: int | None = None
    """Images; none: those that suit the kind of work and the model."""
    threads: tuple[int, ...] = ()
    """Numbers of threads; none: one, and all."""
    rounds: int | None = None
    """In which every contender has a turn; none: as the kind of work needs."""
    plans: tuple[str, ...] = ()
    """Ours; none: all in training, auto in evaluation."""
    compiled: bool = False
    """Whether torch.compile takes part: minutes of compiling."""
    out: Path = FOLDER


def benchmark(settings: BenchSettings, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """A report for each kind of work and model, when it is measured and written. `say` hears what comes next.

    Raises InvalidInput for settings that cannot be, BadData where the results cannot be written; both before measuring.
    """
    configs = [network(name) for name in settings.models]
    for plan in settings.plans:
        if plan not in PLANS:
            raise UnknownName("plan", plan, PLANS)
    available = cores()
    threads = settings.threads or ((1, available) if available > 1 else (1,))
    for name, value in (("--batch", settings.batch), ("--repeats", settings.rounds), ("--threads", min(threads))):
        if value is not None and value < 1:
            raise InvalidInput(f"{name} {value} is not a positive number; pass 1 or more")
    if max(threads) > available:
        raise InvalidInput(f"--threads {max(threads)} is more than this process has cores; pass {available} or less")
    if settings.batch == 1 and set(settings.kinds) - {"infer"}:
        raise InvalidInput("--batch 1 cannot be trained on, as batch norm needs statistics; pass 2 or more")
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadData(
            f"cannot write results to {settings.out}: {error.strerror}; name a folder you may write to with --out"
        ) from error
    for kind in settings.kinds:
        for config in configs:
            # Memory does not depend on threads, but for their stacks.
            yield _report(kind, config, settings, threads[:1] if kind == "memory" else threads, say)


def _report(
    kind: Kind, config: DenseNetConfig, settings: BenchSettings, threads: Sequence[int], say: Callable[[str], None]
) -> dict[str, Any]:
    published = cost_of(as_published(config))
    found = library()
    report: dict[str, Any] = {
        "what": kind,
        "model": config.name,
        "image": [config.in_channels, *config.image_size],
        "parameters": published.parameters,
        "macs": published.macs,
        "environment": {key: value for key, value in environment().items() if key != "threads"},
        "versions": {package: _version(package) for package in PACKAGES},
        "kernels": found[0] if found else None,
        "runs": [],
    }
    # A multiplication and an addition; backward is two products of the forward's size, for weights and for maps.
    flops = published.macs * 2 * (3 if kind == "train" else 1)
    for batch in batches_for(kind, config, settings.batch):
        with TemporaryDirectory(prefix="densekit-bench-") as folder:
            say(f"{kind} {config.name}, batch {batch}: drawing weights and images")
            write_data(Path(folder), kind, config, batch)
            for count in threads:
                rounds = settings.rounds or ROUNDS[kind]
                job = Job(
                    kind, config.name, count, rounds, settings.plans, settings.compiled, folder, parent=os.getpid()
                )
                answer = _all_memory(job, say) if kind == "memory" else _timed(job, batch, say)
                participants = bench_backends(kind, settings.plans, compiled=settings.compiled)
                rows = summarise(answer, participants, flops=flops, batch=batch)
                own = {key: value for key, value in answer.items() if key != "variants"}
                report["runs"].append({"batch": batch, "threads": count, "rounds": rounds, **own, "contenders": rows})
                atomic.write(settings.out / f"{kind}-{config.name}.json", strict_json.dumps(report, indent=1) + "\n")
    return report


def _timed(job: Job, batch: int, say: Callable[[str], None]) -> dict[str, Any]:
    say(f"{job.kind} {job.model}, batch {batch}, {threads_of(job.threads)}: {job.rounds} rounds")
    return _in_a_process(job)


def _all_memory(job: Job, say: Callable[[str], None]) -> dict[str, Any]:
    """Contender by contender, each in a process that has done nothing before."""
    variants = []
    for contender in bench_backends(job.kind, job.plans, compiled=job.compiled):
        for layout in contender.layouts:
            say(f"memory {job.model}: {contender.name}, {layout}")
            variants += _in_a_process(replace(job, only=(contender.name, layout)))["variants"]
    return {"variants": variants}


def _in_a_process(job: Job) -> dict[str, Any]:
    path = Path(job.folder, "job.json")
    answer = job.write(path)
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "densekit.bench.worker", str(path)]
    # What libraries print belongs to people, not into the JSON on standard output.
    done = subprocess.run(command, env=os.environ | thread_counts(job.threads), stdout=sys.stderr, check=False)
    if done.returncode or not answer.exists():
        raise DensekitError(
            f"the measurement of {job.kind} {job.model} ended with status {done.returncode}; "
            "if it was out of memory, pass a smaller --batch"
        )
    return json.loads(answer.read_text())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
