"""A contender, ready to run one piece of work."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from densekit.bench.backends import BenchBackend
from densekit.bench.workload import Data, outputs
from densekit.config import DenseNetConfig
from densekit.export import writers
from densekit.inference import runtimes
from densekit.inference.runtimes import InferenceSession

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Runner(Protocol):
    """One piece of work, again and again."""

    def __call__(self) -> None:
        """What is timed."""

    def outputs(self) -> dict[str, Tensor]:
        """What it computes, to compare."""


class Training:
    """A step as everybody writes it: forward, loss, backward, SGD with the paper's momentum and weight decay."""

    def __init__(self, net: nn.Module, data: Data, layout: str) -> None:
        self.net = net
        self.images = data.images.contiguous(memory_format=FORMATS[layout])
        self.labels = data.labels
        # A rate that leaves the weights where they are: the hundredth step is to cost what the first did.
        self.optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def __call__(self) -> None:
        self.step(self.images, self.labels)

    def step(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self.net(images), labels).backward()
        self.optimizer.step()

    def outputs(self) -> dict[str, Tensor]:
        return outputs(self.net, self.images, self.labels, training=True)


class Inference:
    """Evaluation mode, without autograd."""

    def __init__(self, net: nn.Module, data: Data, layout: str) -> None:
        self.net = net
        self.images = data.images.contiguous(memory_format=FORMATS[layout])
        self.labels = data.labels

    def __call__(self) -> None:
        with torch.inference_mode():
            self.net(self.images)

    def outputs(self) -> dict[str, Tensor]:
        return outputs(self.net, self.images, self.labels, training=False)


class Graph:
    """A compiled graph: images in, logits out, both NumPy's."""

    def __init__(self, run: Callable[[Any], Any], data: Data) -> None:
        self.run = run
        self.images = data.images.numpy()

    def __call__(self) -> None:
        self.run(self.images)

    def outputs(self) -> dict[str, Tensor]:
        return {"logits": torch.tensor(self.run(self.images))}


def runner_for(
    contender: BenchBackend,
    config: DenseNetConfig,
    data: Data,
    layout: str,
    *,
    training: bool,
    threads: int,
    graphs: Path,
) -> Runner:
    """Raises CannotTakePart. Exported graphs are kept in `graphs`, for who comes next."""
    net = contender.build(config, data.weights).train(training)
    if contender.runtime in _COMPILERS:
        path = _exported(net, data.images, graphs / f"{contender.origin}.onnx")
        return Graph(_COMPILERS[contender.runtime](path, threads).run, data)
    net = net.to(memory_format=FORMATS[layout])
    if contender.runtime == "compile":
        net = cast(nn.Module, torch.compile(net))
    return Training(net, data, layout) if training else Inference(net, data, layout)


def _exported(net: nn.Module, images: Tensor, path: Path) -> Path:
    """An ONNX file for a batch of exactly this size, as runtimes plan best what they know."""
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".onnx", delete=False) as file:
            pass
        writers.write_onnx(writers.program_of(net.eval(), images, any_batch=False), None, Path(file.name))
        os.replace(file.name, path)
    return path


_COMPILERS: dict[str, Callable[[Path, int | None], InferenceSession]] = {
    "onnxruntime": runtimes.onnxruntime,
    "openvino": runtimes.openvino,
}
