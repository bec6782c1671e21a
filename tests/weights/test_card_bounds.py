"""A model folder from anywhere: what its config.json asks for is compared with its weights before it takes memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from densekit import create_model
from densekit.config import Preprocessing
from densekit.models import config_for
from densekit.weights import ModelCard, load_model, save_model

HUGE = 10**9
EXTRA_BYTES = 2**30
ABSURD: dict[str, dict[str, Any]] = {
    "growth_rate": {"model.growth_rate": HUGE},
    "growth rate beyond 64 bits": {"model.growth_rate": 10**30},
    "stem": {"model.stem_channels": HUGE},
    "bottleneck": {"model.bottleneck_width": HUGE},
    "layers": {"model.blocks": [HUGE, 1, 1]},
    "blocks": {"model.blocks": [1] * 500_000},
    "classes": {"model.num_classes": HUGE},
    "channels": {"model.in_channels": HUGE, "preprocessing.channels": HUGE},
    "input": {"preprocessing.size": [HUGE, HUGE]},
    "resize": {"preprocessing.resize": HUGE},
    "one class more": {"model.num_classes": 3},
    "mean": {"preprocessing.mean": [0.5]},
    "thresholds": {"thresholds": [0.5]},
    "wrong class names": {"classes": list(range(500_000))},
    "unknown keys": {f"k{i}": 1 for i in range(100_000)},
    "another network": {
        "model": {
            "family": "torchvision",
            "name": "vit_h_14",
            "num_classes": 2,
            "in_channels": 3,
            "image_size": [224, 224],
        }
    },
    "a deep ResNet": {
        "model": {"family": "resnet", "name": "r", "depth": 6 * HUGE + 2, "num_classes": 2, "in_channels": 3}
    },
}
# Loads each folder with at most so much more memory than before, and prints what became of it.
PROGRAM = """
import json, resource, sys
from pathlib import Path
from densekit.errors import BadWeights
from densekit.weights import load_model
import densekit.models.external, torchvision.models
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + int(sys.argv[2]), -1))
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        load_model(folder)
        said = "loaded"
    except BadWeights as error:
        said = f"BadWeights: {error}"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([folder.name, said]))
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    config = config_for("densenet_bc_10_4").model_copy(update={"num_classes": 2})
    preprocessing = Preprocessing(channels=3, size=(8, 8), resize=8, mean=(0, 0, 0), std=(1, 1, 1))
    torch.manual_seed(0)
    model = create_model("densenet_bc_10_4", num_classes=2)
    save_model(folder, model.state_dict(), ModelCard(model=config, classes=("a", "b"), preprocessing=preprocessing))
    return folder


def changed(card: dict[str, Any], changes: dict[str, Any]) -> str:
    for key, value in changes.items():
        *path, last = key.split(".")
        node = card
        for part in path:
            node = node[part]
        node[last] = value
    return json.dumps(card)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_absurd_sizes_are_refused_within_a_gigabyte(sound: Path, tmp_path: Path) -> None:
    weights = (sound / "model.safetensors").read_bytes()
    for name, changes in ABSURD.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(changed(json.loads((sound / "config.json").read_text()), changes))
        (folder / "model.safetensors").write_bytes(weights)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(EXTRA_BYTES)], capture_output=True, text=True, check=True
    )
    said = dict(map(json.loads, done.stdout.splitlines()))
    assert said.keys() == ABSURD.keys()
    assert {name: answer[:300] for name, answer in said.items() if not answer.startswith("BadWeights: ")} == {}
    assert max(map(len, said.values())) < 2000


def test_loading_leaves_the_random_numbers_alone(sound: Path) -> None:
    """So the new head of a network that starts from loaded weights depends on the seed, not on the weights."""
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    load_model(sound)
    assert torch.equal(torch.rand(1), expected)
