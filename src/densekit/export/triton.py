"""A model repository for NVIDIA's Triton: REPOSITORY/NAME with config.pbtxt, labels.txt and 1/model.onnx."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from densekit import strict_json
from densekit.inference.metadata import INPUTS, OUTPUT, Metadata
from densekit.inference.triton_folder import CONFIG

LABELS = "labels.txt"
MAX_BATCH = 64
DELAY = 2_000
"""Microseconds that a request may wait for others to share its batch: far less than a prediction takes."""


def write_repository(onnx_file: Path, passport: Metadata, name: str, repository: Path) -> Path:
    """Returns the model's folder."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    shutil.copyfile(onnx_file, folder / "1" / "model.onnx")
    (folder / LABELS).write_text(
        "".join(f"{' '.join(label.split())}\n" for label in passport.classes), encoding="utf-8"
    )
    (folder / CONFIG).write_text(config(passport, name), encoding="utf-8")
    return folder


def config(passport: Metadata, name: str) -> str:
    """Its config.pbtxt: one input and output, and batches made of requests that come together."""
    preprocessing = passport.preprocessing
    height, width = preprocessing.size
    kind, shape = ("TYPE_UINT8", (height, width, preprocessing.channels)) if passport.inside else (
        "TYPE_FP32", (preprocessing.channels, height, width)
    )  # fmt: skip
    return f"""name: {_text(name)}
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
input [
  {{
    name: "{INPUTS[passport.inside]}"
    data_type: {kind}
    dims: {_dims(shape)}
  }}
]
output [
  {{
    name: "{OUTPUT}"
    data_type: TYPE_FP32
    dims: {_dims([len(passport.classes)])}
    label_filename: "{LABELS}"
  }}
]
dynamic_batching {{
  max_queue_delay_microseconds: {DELAY}
}}
parameters [
  {{
    key: "preprocessing"
    value: {{ string_value: {_text(strict_json.dumps(passport.card["preprocessing"]))} }}
  }}
]
"""


def model_name(name: str) -> str:
    """A name that a folder and a URL can have."""
    return re.sub(r"[^\w.-]+", "_", name)


def _dims(shape: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, shape))} ]"


def _text(value: str) -> str:
    """A quoted string of protobuf's text format: JSON's escapes are among its own, but for those past ASCII."""
    return strict_json.dumps(value, ensure_ascii=False)
