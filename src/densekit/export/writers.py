"""A network -> a file of each format. All begin with one program of torch.export, so that all hold the same graph."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from densekit import strict_json
from densekit.errors import InvalidInput
from densekit.inference.metadata import INPUTS, OUTPUT, Metadata
from densekit.inference.runtimes import CARD, openvino_core

_ONNX_LIMIT = 2**31 - 2**20  # bytes that a protobuf message may have, but for the graph itself


def program_of(network: nn.Module, example: Tensor, *, any_batch: bool = True) -> ExportedProgram:
    """The network's graph, for the example's batch (2 or more) or, with `any_batch`, for any.

    Raises InvalidInput for a network that torch cannot export.
    """
    shapes = ({0: Dim("batch", min=1)},) if any_batch else None
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(network.eval(), (example,), dynamic_shapes=shapes)
    except Exception as error:  # torch says it in many types
        reason = " ".join(str(error).split())[:300]
        raise InvalidInput(f"torch cannot export this network: {type(error).__name__}: {reason}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the machine it was made on
    return program


def write_torch(program: ExportedProgram, passport: Metadata, path: Path) -> None:
    """A .pt2 that torch.export.load reads; without the example, which it would keep as a pickle."""
    program._example_inputs = None
    with quiet():
        torch.export.save(program, os.fspath(path), extra_files={CARD: strict_json.dumps(passport.strings())})


def write_onnx(program: ExportedProgram, passport: Metadata | None, path: Path) -> None:
    """One .onnx file, with the passport among its metadata_props. Raises InvalidInput past ONNX's 2 GB."""
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > _ONNX_LIMIT:
        raise InvalidInput(f"weights of {size / 1e9:.1f} GB do not fit into an ONNX file, 2 GB; use --format torch")
    name = INPUTS[passport.inside if passport else False]
    with quiet():
        written = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[name], output_names=[OUTPUT])
        assert written is not None
        model: Any = written.model
        values = [*model.graph.inputs, *model.graph.initializers.values()]
        for node in model.graph.all_nodes():
            node.metadata_props.clear()  # the exporter's own notes, longer than the graph
            values += node.outputs
        batch = model.graph.inputs[0].shape[0]
        for value in values:
            value.metadata_props.clear()
            if value.shape is not None and len(value.shape) and value.shape[0] == batch and not isinstance(batch, int):
                value.shape[0] = "batch"  # what torch calls by a number of its own
        model.graph.metadata_props.clear()
        model.metadata_props.clear()
        model.metadata_props.update(passport.strings() if passport else {})
        written.save(os.fspath(path), external_data=False)


def write_metadata(onnx_file: Path, passport: Metadata) -> None:
    """Gives a finished .onnx another passport."""
    import onnx

    model = onnx.load(os.fspath(onnx_file))
    onnx.helper.set_model_props(model, passport.strings())
    onnx.save(model, os.fspath(onnx_file))


def write_openvino(onnx_file: Path, passport: Metadata, path: Path) -> None:
    """An IR, .xml and .bin, of an ONNX file; weights stay as they are, the passport is rt_info's model_info."""
    import openvino

    model = openvino_core().read_model(os.fspath(onnx_file))
    for key, value in passport.strings().items():
        model.set_rt_info(value, ["model_info", key])
    openvino.save_model(model, os.fspath(path), compress_to_fp16=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn about themselves, in words and lines that are nothing to the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
