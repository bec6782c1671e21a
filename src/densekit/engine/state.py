"""The state of training, and its checkpoint: a model folder plus all that an exact continuation needs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from densekit.errors import BadWeights
from densekit.weights import ModelCard, atomic, save_model
from densekit.weights.folder import load_state, plain, read_tensors

STATE_JSON, STATE_TENSORS = "state.json", "state.safetensors"


@dataclass
class Totals:
    """Sums over samples; means are taken once, from them."""

    loss: float = 0.0
    correct: int = 0
    count: int = 0

    def add(self, loss: float, correct: int, count: int) -> None:
        """`loss` is the batch's mean, `correct` and `count` are numbers of samples."""
        self.loss += loss * count
        self.correct += correct
        self.count += count


@dataclass
class Progress:
    """Where training stands; every number in it is in the checkpoint."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    totals: Totals = field(default_factory=Totals)
    seconds: float = 0.0
    """Trained so far, over all sessions."""
    best_top1: float = -1.0


@dataclass
class TrainState:
    """Everything that training changes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    progress: Progress

    @property
    def result_model(self) -> nn.Module:
        """The network that is evaluated and kept: the average where there is one."""
        return self.average.module if self.average is not None else self.model


def save_checkpoint(folder: Path, state: TrainState, card: ModelCard) -> None:
    """Writes `folder` anew; a crash leaves the old or the new one."""
    tensors: dict[str, Tensor] = {"rng.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"rng.cuda.{i}": rng for i, rng in enumerate(torch.cuda.get_rng_state_all())}
    tensors |= {f"model.{name}": value for name, value in state.model.state_dict().items()}
    optimizer = state.optimizer.state_dict()
    tensors |= {
        f"optimizer.{index}.{key}": value
        for index, values in optimizer["state"].items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
    document = {
        "format": 1,
        "progress": asdict(state.progress),
        "averaged": int(state.average.n_averaged) if state.average is not None else None,
    }
    with atomic.new_folder(folder) as fresh:
        save_model(fresh, state.result_model.state_dict(), card)
        atomic.write(fresh / STATE_TENSORS, save(plain(tensors)))
        atomic.write(fresh / STATE_JSON, json.dumps(document, indent=2) + "\n")


def restore_checkpoint(folder: Path, state: TrainState) -> None:
    """Puts `state`, and torch's random numbers, where they were. Raises BadWeights."""
    atomic.recover(folder)
    try:
        document: dict[str, Any] = json.loads((folder / STATE_JSON).read_text())
    except (OSError, ValueError) as error:
        raise BadWeights(f"no usable checkpoint in {folder} ({error}); train again") from error
    tensors = read_tensors(folder / STATE_TENSORS)
    load_state(state.model, _below(tensors, "model."), folder)
    if state.average is not None:
        load_state(state.average.module, read_tensors(folder / "model.safetensors"), folder)
        state.average.n_averaged.fill_(document["averaged"])
    optimizer = state.optimizer.state_dict()
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        values.setdefault(int(index), {})[key] = tensor
    state.optimizer.load_state_dict({"state": values, "param_groups": optimizer["param_groups"]})
    progress = document["progress"]
    state.progress = Progress(**(progress | {"totals": Totals(**progress["totals"])}))
    torch.set_rng_state(tensors["rng.torch"])
    cuda = _below(tensors, "rng.cuda.")
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([cuda[str(i)] for i in range(len(cuda))])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
