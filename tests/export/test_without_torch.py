"""An exported .onnx predicts in a process that never loads torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from densekit import export_model, load
from densekit.models import model_names
from tests.export.nets import write_net

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
# A process that would fail on the first import of torch, and of what else is named.
FORBID = """
import sys
for name in {names!r}:
    sys.modules[name] = None
"""


def run(code: str, *arguments: object, without: tuple[str, ...] = ("torch", "torchvision")) -> str:
    """Standard output of Python in a process of its own."""
    command = [sys.executable, "-c", FORBID.format(names=without) + code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


_QUICK = ("densenet_bc_100_12", "densenet121", "resnet_20")
"""One of each kind; the others are a marathon."""


@pytest.mark.parametrize("inside", [False, True])
def test_the_runtime_predicts_as_densekit_does(tiny_run: Path, tmp_path: Path, inside: bool) -> None:
    export_model(tiny_run, tmp_path / "out", preprocess=inside)
    Image.effect_noise((41, 30), 90).save(tmp_path / "a.png")
    code = """
import json
from densekit.export.runtime import OnnxClassifier
answer = OnnxClassifier(sys.argv[1]).predict(sys.argv[2])
print(json.dumps(answer.top(10)))
assert sys.modules["torch"] is None
"""
    # A PIL image and its array give what the file gives.
    code += """
import numpy as np
from PIL import Image
image = Image.open(sys.argv[2])
for source in (image, np.asarray(image)):
    assert OnnxClassifier(sys.argv[1]).predict(source).top(10) == answer.top(10)
"""
    theirs = json.loads(run(code, tmp_path / "out/model.onnx", tmp_path / "a.png"))
    for mine, other in zip(load(tiny_run).predict(tmp_path / "a.png").top(10), theirs, strict=True):
        assert other["class"] == mine["class"]
        assert other["probability"] == pytest.approx(mine["probability"], rel=1e-4, abs=1e-6)


def test_the_documented_snippet_needs_neither_torch_nor_densekit(tiny_run: Path, tmp_path: Path) -> None:
    export_model(tiny_run, tmp_path / "exported-pixels", preprocess=True)
    Image.effect_noise((41, 30), 90).save(tmp_path / "photo.jpg")
    snippets = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (snippet,) = [text for text in snippets if "import onnxruntime" in text]
    code = f"import os\nos.chdir({str(tmp_path)!r})\n{snippet}"
    out = run(code, without=("torch", "torchvision", "densekit"))
    best = load(tiny_run).predict(tmp_path / "photo.jpg").top(1)[0]
    assert out.split()[0] == best["class"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in _QUICK else pytest.mark.marathon) for name in model_names()]
)
def test_every_named_model_has_the_same_top1_on_256_images_without_torch(name: str, tmp_path: Path) -> None:
    """On smaller pictures than it is made for: the graph is the same, and the time a tenth."""
    import numpy as np
    import torch
    from torch import nn

    from densekit.bench.workload import settle
    from densekit.export.parity import Reference, scaled
    from densekit.weights import load_model, save_model

    folder = write_net(tmp_path / "net", name, image_size=64 if name[8:11].isdigit() else 16)
    net, card = load_model(folder)
    # Coarse patterns of every contrast: of noise alone all images look alike to a deep network. Its statistics are
    # theirs, or the rarest would have logits a hundred times the others'.
    coarse = torch.rand(256, card.preprocessing.channels, 3, 3) * torch.rand(256, 1, 1, 1)
    pixels = nn.functional.interpolate(coarse, size=card.preprocessing.size, mode="bilinear").mul(255).byte()
    some = scaled(pixels[:64], card.preprocessing, torch.float32)
    settle(net, some)
    with torch.no_grad():  # what a deep network answers to any image may be most of each logit, and would name it alone
        net.get_parameter("classifier.bias").sub_(net.eval()(some).mean(0))
    save_model(folder, net.state_dict(), card)
    export_model(folder, tmp_path / "out", preprocess=True)
    np.save(tmp_path / "pixels.npy", pixels.permute(0, 2, 3, 1).contiguous().numpy())
    code = """
import numpy as np
from densekit.export.runtime import OnnxClassifier
model = OnnxClassifier(sys.argv[1])
pixels = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([model.logits(part) for part in np.split(pixels, 16)]))
assert sys.modules["torch"] is None
"""
    run(code, tmp_path / "out/model.onnx", tmp_path / "pixels.npy", tmp_path / "logits.npy")
    expected = Reference(net, pixels, card.preprocessing)
    actual = np.load(tmp_path / "logits.npy").argmax(1)
    assert len(set(expected.truth.argmax(1).tolist())) > 1, "a network that names every image alike shows nothing"
    best = np.sort(expected.truth, 1)
    # Where float32 decides between the two best, torch itself is not sure of its class.
    clear = best[:, -1] - best[:, -2] > 4 * np.abs(expected.torch - expected.truth).max(1)
    # Through a thousand layers that nobody trained it errs by a thousandth of the largest logit.
    assert clear.sum() >= (200 if name == "preact_resnet_1001" else 250)
    assert (actual == expected.truth.argmax(1))[clear].all()
