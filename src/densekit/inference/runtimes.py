"""Exported files in their runtimes: arrays in, logits out. Only what opens a .pt2 imports torch."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densekit.errors import BadWeights, DensekitError, NotFinite
from densekit.formatting import listed
from densekit.inference.metadata import Metadata
from densekit.inference.onnx_weights import float_weights
from densekit.optional_packages import require_package

Run = Callable[[NDArray[Any]], NDArray[np.float32]]
CARD = "passport.json"
"""Of a .pt2's extra files."""


@dataclass(frozen=True)
class InferenceSession:
    """A file in its runtime."""

    run: Run
    """(N, C, H, W) float32, or (N, H, W, C) uint8 with preprocessing inside -> (N, classes) float32."""
    strings: dict[str, str]
    """The file's metadata."""
    runtime: str
    """Its name and version."""

    def passport(self, source: object) -> Metadata:
        """Raises BadWeights where the metadata are not densekit's."""
        return Metadata.read(self.strings, source)


def open_file(path: Path, threads: int | None = None) -> InferenceSession:
    """An exported file by its suffix; `threads`, none: as many as the runtime takes.

    Raises InvalidInput where its runtime is not installed, BadWeights for a missing or damaged file, NotFinite for
    weights that are not finite.
    """
    opener = OPENERS[path.suffix.lower()]
    if not path.is_file():
        raise BadWeights(f"no {path}")
    try:
        return opener(path, threads)
    except (DensekitError, ImportError, MemoryError):
        raise
    except Exception as error:  # runtimes have many types for a damaged file, some of them their own
        reason = " ".join(str(error).split())[:200]
        raise BadWeights(f"{path} cannot be opened ({reason}); export it again") from error


def _require_finite(path: Path, weights: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Raises NotFinite, which names weights. Some runtimes compute finite answers with NaN: a maximum may drop it."""
    # A single number may be a constant of the graph, such as what a maximum is padded with.
    if bad := [name for name, values in weights if values.size > 1 and not np.isfinite(values).all()]:
        raise NotFinite(
            f"{path} holds weights that are not finite, in {len(bad)} tensors ({listed(bad)}); export it again, from "
            "weights that are finite"
        )


def onnxruntime(path: Path, threads: int | None = None) -> InferenceSession:
    """All optimisations, on the CPU."""
    require_package(path.name, "onnxruntime")
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads would go on spinning on the cores of whose turn is next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    _require_finite(path, float_weights(path))
    return InferenceSession(
        lambda images: session.run(None, {name: np.ascontiguousarray(images)})[0],
        dict(session.get_modelmeta().custom_metadata_map),
        f"onnxruntime {runtime.__version__}",
    )


@cache
def openvino_core() -> Any:
    """The one of this process, kept to its end.

    OpenVINO's plugin for CPUs gives the thread that loads it a stack for signal handlers, and puts the one before back
    when it is unloaded. Of two cores the first to go would leave the second a stack that is gone to put back, and the
    next signal would end the process.
    """
    import openvino

    return openvino.Core()


def openvino(path: Path, threads: int | None = None) -> InferenceSession:
    """With the latency hint, on the CPU; an IR or an ONNX file."""
    require_package(path.name, "openvino")
    import openvino as runtime

    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # as the others; by default it may choose less where a processor has it
    }
    if threads:
        properties["INFERENCE_NUM_THREADS"] = threads
    core = openvino_core()
    model = core.read_model(os.fspath(path))
    strings = {
        key: str(model.get_rt_info(["model_info", key]).value)
        for key in ("classes", "preprocessing", "densekit")
        if model.has_rt_info(["model_info", key])
    }
    constants = (op for op in model.get_ordered_ops() if op.get_type_name() == "Constant")
    _require_finite(path, ((op.get_friendly_name(), op.data) for op in constants if op.data.dtype.kind == "f"))
    compiled = core.compile_model(model, "CPU", properties)
    version = runtime.__version__.partition("-")[0]
    return InferenceSession(
        # A copy: the next call's answer would be written over it.
        lambda images: np.array(compiled(np.ascontiguousarray(images))[0]),
        strings,
        f"openvino {version}",
    )


def torch_program(path: Path, threads: int | None = None) -> InferenceSession:
    """A .pt2, by torch itself, on torch's threads. It reads such files with pickle: open none but your own."""
    import json

    import torch

    import densekit.ops.fork  # noqa: F401 - whose import registers what forks need

    extra: dict[str, Any] = {CARD: ""}
    program = torch.export.load(os.fspath(path), extra_files=extra)
    _require_finite(path, ((name, x.detach().numpy()) for name, x in program.state_dict.items()))
    module = program.module()

    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: NDArray[np.float32] = module(torch.from_numpy(np.ascontiguousarray(images))).numpy()
        return logits

    strings = json.loads(extra[CARD]) if extra[CARD] else {}
    return InferenceSession(run, strings, f"torch {torch.__version__}")


OPENERS: dict[str, Callable[[Path, int | None], InferenceSession]] = {
    ".onnx": onnxruntime,
    ".xml": openvino,
    ".pt2": torch_program,
}
