"""The trackers by name. Each package is imported when it is used, and told where to send to as its users are used to.

That is by WANDB_MODE, WANDB_PROJECT, ... for Weights & Biases, by MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME for
MLflow.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from densekit.config import Recipe, flatten
from densekit.metrics.task import Result

_PROJECT = "densekit"


class Tracker(Protocol):
    """Shows one run. Any of its methods may raise anything."""

    def start(self, run: Path, recipe: Recipe, known: str | None, epochs: int) -> str:
        """Opens the run `known`, which has so many epochs, or a new one; its id."""

    def row(self, row: Mapping[str, Any]) -> None:
        """An epoch's metrics, as in metrics.jsonl."""

    def result(self, result: Result, report: Path) -> None:
        """What was measured at the end, and the page about it."""

    def close(self, *, finished: bool) -> None:
        """No more will come, for now or for ever."""


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def start(self, run: Path, recipe: Recipe, known: str | None, epochs: int) -> str:
        from torch.utils.tensorboard import SummaryWriter

        # What was written after the checkpoint is written again.
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=epochs + 1 if known else None)
        if not known:
            rows = "\n".join(f"|{key}|{value}|" for key, value in flatten(recipe.model_dump(mode="json")).items())
            self._writer.add_text("recipe", f"|setting|value|\n|-|-|\n{rows}")
        return "tensorboard"

    def row(self, row: Mapping[str, Any]) -> None:
        for key, value in row.items():
            split, _, metric = key.partition("_")
            # Training and validation of one metric in one group of charts.
            name = f"{metric}/{split}" if split in ("train", "val") else f"run/{key}"
            if key != "epoch":
                self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()

    def result(self, result: Result, report: Path) -> None:
        for key, value in _numbers(result).items():
            self._writer.add_scalar(f"result/{key}", value)
        self._writer.add_text("report", str(report))

    def close(self, *, finished: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb; with WANDB_MODE=offline in RUN/wandb, to be sent later by `wandb sync`."""

    def start(self, run: Path, recipe: Recipe, known: str | None, epochs: int) -> str:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=run.name,
            id=known,
            resume="allow",
            dir=run,
            config=recipe.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),  # standard output and error are ours
        )
        self._run.define_metric("*", step_metric="epoch")  # an epoch that is sent again is no step back
        return str(self._run.id)

    def row(self, row: Mapping[str, Any]) -> None:
        self._run.log(dict(row))

    def result(self, result: Result, report: Path) -> None:
        self._run.summary.update(_numbers(result))
        shutil.copy(report, self._run.dir)
        self._run.save(str(Path(self._run.dir, report.name)), base_path=self._run.dir, policy="now")

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of an MLflow experiment, by its client: what belongs to a thread or a process stays the user's."""

    def start(self, run: Path, recipe: Recipe, known: str | None, epochs: int) -> str:
        import mlflow
        from mlflow.entities import Param

        for noisy in ("mlflow", "alembic"):  # how they set up a database
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._client = mlflow.MlflowClient()
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self._id = known
            return known
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        self._id = self._client.create_run(place, run_name=run.name).info.run_id
        params = [Param(key, str(value)) for key, value in flatten(recipe.model_dump(mode="json")).items()]
        for first in range(0, len(params), 100):  # as many as it takes at once
            self._client.log_batch(self._id, params=params[first : first + 100])
        return str(self._id)

    def row(self, row: Mapping[str, Any]) -> None:
        self._metrics({key: value for key, value in row.items() if key != "epoch"}, row["epoch"])

    def result(self, result: Result, report: Path) -> None:
        self._metrics(_numbers(result), 0)
        self._client.set_tag(self._id, "densekit.report", str(report))
        self._client.log_artifact(self._id, str(report))

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id, metrics=[Metric(key, float(value), now, step) for key, value in values.items()]
        )


def _numbers(result: Result) -> dict[str, float]:
    """Without what is not defined for these images."""
    return {f"{result.split}_{key}": value for key, value in result.headline().items() if value is not None}


TRACKERS: dict[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}
