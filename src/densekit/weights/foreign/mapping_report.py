"""Every tensor of a file and every one of the network: matched, converted, made, set aside, or an error."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from densekit.errors import BadWeights, NotFinite
from densekit.formatting import listed

# What common tools leave in state dicts, and no network computes with.
_NO_WEIGHTS = {
    "op_threshs": "operating points of torchxrayvision; logits come before them",
    "n_averaged": "a counter of torch's AveragedModel",
    "*.pos_weight": "of the training loss, BCEWithLogitsLoss",
    "*.total_ops": "a counter of thop",
    "*.total_params": "a counter of thop",
}
# Ours that others may lack, with the value that stands for their absence.
_ABSENT = {
    "num_batches_tracked": (0.0, "0: older files do not count batches"),
    "classifier.bias": (0.0, "0: their classifier has no bias"),
    "weight": (1.0, "1: their batch norms have no scale"),
    "bias": (0.0, "0: their batch norms have no shift"),
}


@dataclass
class MappingReport:
    """What became of each tensor."""

    matched: list[str] = field(default_factory=list)
    """Theirs, taken bit for bit."""
    converted: dict[str, str] = field(default_factory=dict)
    """Theirs, and what was done to it."""
    aside: dict[str, str] = field(default_factory=dict)
    """Theirs that are not taken, and why."""
    made: dict[str, str] = field(default_factory=dict)
    """Ours that the file has not, and what they are instead."""

    def take(self, theirs: str, done: Iterable[str]) -> None:
        """One of theirs is ours now."""
        steps = [step for step in done if step]
        if steps:
            self.converted[theirs] = ", ".join(steps)
        else:
            self.matched.append(theirs)

    def set_aside(self, names: Iterable[str], ignore: Sequence[str], file: str) -> None:
        """What has no place. Raises BadWeights for what neither is known to be no weight nor is named in `ignore`."""
        unmatched = []
        for name in names:
            known = next((why for pattern, why in _NO_WEIGHTS.items() if fnmatchcase(name, pattern)), None)
            asked = next((pattern for pattern in ignore if fnmatchcase(name, pattern)), None)
            if asked or known:
                self.aside[name] = f"--ignore {asked}" if asked else str(known)
            else:
                unmatched.append(name)
        taking_part = within(unmatched, [*self.matched, *self.converted])
        if taking_part:
            raise BadWeights(
                f"{file}: {len(taking_part)} of its tensors are of layers within the network that densekit's does not "
                f"have, {listed(taking_part)}; no densekit network has these weights"
            )
        if unmatched:
            raise BadWeights(
                f"{file}: {len(unmatched)} of its tensors have no place in the network, {listed(unmatched)}; if it "
                f"computes without them, leave them out: --ignore '{unmatched[0]}'"
            )

    def make(self, own: Mapping[str, Tensor], state: dict[str, Tensor], file: str) -> None:
        """Adds to `state` what the file lacks. Raises BadWeights for what nothing can stand for."""
        norms = {name.rpartition(".")[0] for name in own if name.endswith(".running_mean")}
        # A scale or shift is absent from all batch norms, or missing from a file that is not whole.
        scaled = {name.rpartition(".")[2] for name in state if name.rpartition(".")[0] in norms}
        missing = []
        for name, tensor in own.items():
            if name in state:
                continue
            module, _, parameter = name.rpartition(".")
            value, why = _ABSENT.get(name) or _ABSENT.get(parameter) or (None, "")
            whole = (
                parameter == "num_batches_tracked" or name in _ABSENT or (module in norms and parameter not in scaled)
            )
            if value is None or not whole:
                missing.append(name)
                continue
            state[name] = torch.full(tensor.shape, value, dtype=tensor.dtype)
            self.made[name] = why
        if missing and scaled and "running_mean" not in scaled:
            raise BadWeights(
                f"{file}: its norms have no running statistics, as group and instance norms have none; no densekit "
                "network has these weights"
            )
        if missing:
            raise BadWeights(f"{file} lacks {len(missing)} tensors of the network, {listed(missing)}; fetch it again")


def within(names: Iterable[str], taken: Sequence[str]) -> list[str]:
    """Those of `names` in modules that have some of the tensors `taken`, and not all, as what wraps a network has."""
    sizes = Counter(module for name in taken for module in _modules(name))
    return [name for name in names if any(0 < sizes[module] < len(taken) for module in _modules(name))]


def _modules(name: str) -> list[tuple[str, ...]]:
    """All that a tensor is in, outermost first."""
    *parts, _ = re.split("[./]", name)
    return [tuple(parts[:depth]) for depth in range(1, len(parts) + 1)]


def sound(tensor: Tensor, theirs: str, ours: str, file: str) -> str:
    """What is done to its type, "" if nothing. Raises BadWeights for what no network can compute with."""
    if ours.endswith("num_batches_tracked"):
        return "" if tensor.dtype == torch.int64 else f"from {_name(tensor)}"
    if not tensor.is_floating_point():
        raise BadWeights(f"{file}: {theirs} is {_name(tensor)}, and weights are float32 or the like; save it so")
    if not bool(torch.isfinite(tensor).all()):
        raise NotFinite(
            f"{file}: {theirs} has values that are no finite numbers; the training that made it diverged, or the "
            "file is damaged: take an earlier one"
        )
    if not bool(torch.isfinite(tensor.float()).all()):
        raise NotFinite(
            f"{file}: {theirs} has values beyond float32, up to {tensor.double().abs().max():.3g}, and densekit "
            "computes in float32; the training that made it diverged: take an earlier one"
        )
    if ours.endswith("running_var") and bool((tensor < 0).any()):
        raise BadWeights(f"{file}: {theirs} has negative variances; the file is damaged, fetch it again")
    return "" if tensor.dtype == torch.float32 else f"from {_name(tensor)}"


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
