"""The folder of a model as NVIDIA's Triton serves it: config.pbtxt and a folder a version."""

from pathlib import Path

from densekit.errors import BadWeights

CONFIG = "config.pbtxt"


def model_file(folder: Path) -> Path:
    """The ONNX file that Triton would serve: of the highest version. Raises BadWeights where there is none."""
    versions = sorted(
        (int(path.parent.name), path) for path in folder.glob("*/model.onnx") if path.parent.name.isdigit()
    )
    if not versions:
        raise BadWeights(f"{folder} has a {CONFIG} but no 1/model.onnx; export it again")
    return versions[-1][1]
