"""A study's runs as shell commands: one a line, for any queue, or as an array of Slurm."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from densekit import atomic
from densekit.errors import BadData
from densekit.folders import expanded
from densekit.study.definition import Study, StudyRun

_SLURM = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={threads}
#SBATCH --requeue --signal=B:TERM@120
#SBATCH --output={logs}/slurm-%a.log
# Limits of time and memory, partitions and devices are your cluster's: sbatch --time=2:00:00 --gpus=1 ...
# Slurm sends SIGTERM before it kills; the run saves, and the job goes back into the queue and on from there.
RUNS=(
{runs}
)
trap 'kill -TERM $RUN; wait $RUN; scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"; exit 0' TERM
{command} --only "${{RUNS[$SLURM_ARRAY_TASK_ID]}}" &
RUN=$!
wait $RUN
"""


def commands(folder: Path, tasks: Sequence[StudyRun], data_dir: Path | None) -> str:
    """A line for each run, which can be given to any machine that sees `folder`."""
    return "".join(f"{_command(folder, data_dir)} --only {shlex.quote(task.name)}\n" for task in tasks)


def slurm(study: Study, folder: Path, tasks: Sequence[StudyRun], data_dir: Path | None) -> str:
    """A script for sbatch, with an element of its array for each run."""
    return _SLURM.format(
        name=shlex.quote(f"densekit-{study.name}"),
        last=len(tasks) - 1,
        threads=study.threads,
        logs=folder.resolve() / "logs",
        runs="\n".join(f"  {shlex.quote(task.name)}" for task in tasks),
        command=_command(folder, data_dir),
    )


def _command(folder: Path, data_dir: Path | None) -> str:
    words = ["densekit", "study", str(folder.resolve())]
    if data_dir is not None:
        words += ["--data-dir", str(expanded(data_dir).resolve())]
    return shlex.join(words)


def write(path: Path, text: str) -> None:
    """Raises BadData where it cannot be written."""
    try:
        atomic.write(path, text)
    except OSError as error:
        raise BadData(f"cannot write {path}: {error.strerror}; name another file") from error
