"""Weights stored in another form than the network computes with: pruned, weight-normed, float8 -> plain floats.

What is exact is computed. Quantised networks and other reparametrisations are refused: they compute other numbers.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from densekit.errors import BadWeights
from densekit.weights.foreign.raw_checkpoint import RawCheckpoint

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
# Last parts of names that quantised networks have: torch.ao, bitsandbytes, GPTQ, and float8 with scales.
_QUANTISED = frozenset(
    {
        *("zero_point", "_packed_params", "fake_quant_enabled", "observer_enabled"),
        *("SCB", "absmax", "quant_map", "qweight", "qzeros"),
        *("weight_scale", "weight_scale_inv", "scale_weight", "input_scale"),
    }
)
_PARAMETRISED = ".parametrizations.weight."
# Parts of a weight norm, before torch 2.0 and since: magnitude and direction.
_NORMED = {"weight_g": "weight_v", f"{_PARAMETRISED[1:]}original0": f"{_PARAMETRISED[1:]}original1"}


def plain_weights(found: RawCheckpoint, file: str) -> RawCheckpoint:
    """With the tensors that the network computes with, and what was done. Raises BadWeights for other forms."""
    _refuse_quantised(found, file)
    plain, done = dict[str, Tensor](), dict[str, str]()
    for stored in found.tensors:
        name, tensor, steps = _undone(stored, found.tensors, file)
        if tensor is None:
            continue
        if tensor.dtype in _FLOAT8:
            steps += (f"from {str(tensor.dtype).removeprefix('torch.')}",)
            tensor = tensor.float()
        plain[name] = tensor
        if steps:
            done[name] = ", ".join(steps)
    return replace(found, tensors=plain, done=done)


def _undone(stored: str, tensors: Mapping[str, Tensor], file: str) -> tuple[str, Tensor | None, tuple[str, ...]]:
    """The plain name; the value, None for a part that another one takes in; and what was done."""
    name, _, form = stored.rpartition("_")
    if form == "mask" and f"{name}_orig" in tensors:
        return name, None, ()
    if form == "orig" and f"{name}_mask" in tensors:
        return name, _masked(tensors[stored], tensors[f"{name}_mask"], stored, file), ("pruned by its mask",)
    for magnitude, direction in _NORMED.items():
        module = stored.removesuffix(magnitude).removesuffix(direction)
        if stored != module and {f"{module}{magnitude}", f"{module}{direction}"} <= tensors.keys():
            if stored.endswith(direction):
                return f"{module}weight", None, ()
            value = _normed(tensors[stored], tensors[f"{module}{direction}"], stored, file)
            return f"{module}weight", value, ("product of its weight norm",)
    if form == "orig" or ".parametrizations." in stored:
        raise BadWeights(
            f"{file}: {stored} is a part of a reparametrised weight, such as of a spectral norm; where you trust the "
            "file, undo it (torch.nn.utils.parametrize.remove_parametrizations, remove_spectral_norm), and save the "
            "state_dict again"
        )
    return stored, tensors[stored], ()


def _masked(weight: Tensor, mask: Tensor, name: str, file: str) -> Tensor:
    if weight.shape != mask.shape:
        raise _unlike(name, file)
    return weight * mask.to(weight.dtype)


def _normed(magnitude: Tensor, direction: Tensor, name: str, file: str) -> Tensor:
    """G * v / |v| (Salimans and Kingma 2016), in float64; the norm is over the dimensions in which g has one entry."""
    sizes = magnitude.shape if magnitude.dim() else (1,) * direction.dim()
    if len(sizes) != direction.dim() or any(g not in (1, v) for g, v in zip(sizes, direction.shape, strict=True)):
        raise _unlike(name, file)
    over = [dimension for dimension, size in enumerate(sizes) if size == 1]
    v = direction.double()
    return (magnitude.double() * v / v.square().sum(over, keepdim=True).sqrt()).to(direction.dtype)


def _unlike(name: str, file: str) -> BadWeights:
    return BadWeights(f"{file}: the shapes of {name} and of the tensor that goes with it differ; fetch it again")


def _refuse_quantised(found: RawCheckpoint, file: str) -> None:
    for name in (*found.tensors, *found.left):
        if _QUANTISED & set(name.split(".")):
            raise BadWeights(
                f"{file} is quantised, or float8 with scales, as {name} shows, and computes other numbers than float "
                "weights; import the float network that it was made from"
            )
