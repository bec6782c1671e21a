"""A small grid, its runs made in this process: a process for each takes seconds to load torch."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from densekit.api import Studied, study
from densekit.errors import DensekitError
from densekit.study import run_worker
from densekit.study import study as studying
from densekit.study.scheduler import Job, Outcome

GRID = """
question: Does the larger network err less?
data: digits
epochs: 2
seeds: 2
settings: {data: {limit: 200}, batch_size: 50, model.dropout_rate: 0.1}
arms:
  small: {model: densenet_bc_10_4, series: DenseNet-BC}
  large: {model: densenet_bc_10_8, series: DenseNet-BC}
  residual: {model: resnet_8, series: ResNet, settings: {}}
compare: [[large, small], [large, residual]]
costs: true
""".replace(", model.dropout_rate: 0.1", "")


def here(jobs: Sequence[Job], *, places: Sequence[str], threads: int, done: Callable[[Outcome], None]) -> list[Outcome]:
    """Carries out jobs as their processes would, one after the other."""
    outcomes = []
    for job in jobs:
        error = None
        try:
            run_worker.carry_out(job.document())
        except DensekitError as raised:
            error = raised
        outcomes.append(Outcome(job, 1.0, error))
        done(outcomes[-1])
    return outcomes


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studying, "carry_out", here)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "sizes.yaml"
    path.write_text(GRID)
    return path


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studied]:
    """The grid with all its runs; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "sizes.yaml").write_text(GRID)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studying, "carry_out", here)
        yield study(folder / "sizes.yaml", out=folder / "sizes")
