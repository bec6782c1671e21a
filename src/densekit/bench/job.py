"""What one process is asked to measure."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from densekit import strict_json
from densekit.bench.workload import Kind

Key = tuple[str, str]
"""(contender, layout)"""


@dataclass(frozen=True)
class Job:
    """What a worker is to measure."""

    kind: Kind
    model: str
    threads: int
    rounds: int
    plans: tuple[str, ...]
    compiled: bool
    folder: str
    """Of weights, batch and graphs."""
    parent: int = 0
    """Process that waits for the answer; without it, none is needed."""
    only: Key | None = None
    """For memory, which is measured one by one."""

    def write(self, path: Path) -> Path:
        """For a worker to read; returns where its answer will be."""
        path.write_text(strict_json.dumps(asdict(self)))
        return path.with_suffix(".answer.json")

    @classmethod
    def read(cls, path: Path) -> "Job":
        """What `write` wrote."""
        fields = json.loads(path.read_text())
        only = fields.pop("only")
        return cls(**fields | {"plans": tuple(fields["plans"]), "only": tuple(only) if only else None})
