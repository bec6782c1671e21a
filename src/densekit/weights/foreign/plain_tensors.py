"""Tensors as a reader takes them out of a file, and safetensors, which are nothing else."""

from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from densekit.errors import BadWeights
from densekit.weights.foreign.raw_checkpoint import RawCheckpoint

# Scales alone, and two numbers in one byte: no weights, and safetensors does not write them.
_NO_NUMBERS = (torch.float8_e8m0fnu, torch.float4_e2m1fn_x2)


def begins(path: Path) -> bool:
    """Whether these are safetensors: the length of a header, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(1) == b"{" and length < path.stat().st_size


def read(path: Path, room: int) -> RawCheckpoint:
    """A file of safetensors, which keeps no order of its names. Raises BadWeights."""
    try:
        tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise BadWeights(f"{path} is damaged ({error}); fetch it again") from error
    if not any(tensor.dim() > 2 for tensor in tensors.values()):
        raise BadWeights(f"{path} holds no network: no convolution's weights are in it; name the file that has them")
    return RawCheckpoint(checked(tensors, room, path), "safetensors", "none")


def checked(tensors: dict[str, Tensor], room: int, path: Path) -> dict[str, Tensor]:
    """On the CPU, contiguous, sharing nothing. Raises BadWeights for what is no plain tensor, or too much of it."""
    for name, tensor in tensors.items():
        if tensor.is_quantized:
            raise BadWeights(
                f"{path} is quantised, as {name} is {described(tensor)}, and computes other numbers; "
                "import the float network that it was made from"
            )
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_complex() or tensor.dtype in _NO_NUMBERS:
            raise BadWeights(
                f"{path}: {name} is {described(tensor)}, and weights are plain numbers; save the network's state_dict "
                "in float32"
            )
        # A view of one number can claim any size: what counts is what a copy would take.
        room -= tensor.numel() * tensor.element_size()
        if room < 0:
            raise BadWeights(
                f"{path}: {name} of shape {'x'.join(map(str, tensor.shape))} makes more of the file than its size can "
                "hold; fetch it again, from a source you trust"
            )
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def described(tensor: Tensor) -> str:
    """In the words of an error."""
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout is not torch.strided:
        return f"sparse ({tensor.layout})"
    return "without values" if tensor.is_meta else str(tensor.dtype).removeprefix("torch.")
