"""Costs are the field's: torchvision publishes MACs with its weights, papers say how deep their networks are."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torchvision.models as peers
from hypothesis import given, settings
from hypothesis import strategies as st

from densekit.config import DenseNetConfig, ResNetConfig
from densekit.errors import InvalidInput
from densekit.models import build, config_for, model_names
from densekit.models.cost import cost_of, measured
from densekit.models.counts import as_published, counted


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "vit_b_16", "swin_t", "efficientnet_b0", "regnet_x_400mf"])
def test_macs_are_those_torchvision_publishes(name: str) -> None:
    """In transformers a third or more of them are attention's products, which no module makes."""
    published = peers.get_model_weights(name).DEFAULT.meta
    cost = cost_of(config_for(f"torchvision:{name}"))
    assert round(cost.macs / 1e9, 3) == published["_ops"]
    assert cost.parameters == published["num_params"]


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("torchvision:resnet18", 18),
        ("torchvision:resnet50", 50),
        ("torchvision:googlenet", 22),
        ("torchvision:inception_v3", 48),
        ("torchvision:vgg16", 16),
        ("torchvision:squeezenet1_1", 18),
        ("torchvision:densenet121", 121),
        ("timm:resnet18", 18),
        ("densenet121", 121),
        ("preact_resnet_164", 164),
    ],
)
def test_depth_is_what_the_network_is_named_for(name: str, depth: int) -> None:
    """Projections in shortcuts, and branches beside longer ones, are not on the longest way."""
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    assert cost_of(config_for(name)).depth == depth


def dense_nets() -> st.SearchStrategy[DenseNetConfig]:
    """Small DenseNets of every kind, at sizes that do not divide."""
    return st.builds(
        DenseNetConfig,
        name=st.just("drawn"),
        in_channels=st.integers(1, 4),
        num_classes=st.sampled_from([0, 1, 10]),
        image_size=st.tuples(st.integers(13, 40), st.integers(13, 40)),
        growth_rate=st.integers(1, 12),
        blocks=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
        stem=st.sampled_from(["cifar", "imagenet"]),
        stem_channels=st.integers(2, 24),
        bottleneck=st.booleans(),
        bottleneck_width=st.integers(1, 4),
        compression=st.floats(0.5, 1.0),
        dropout_rate=st.sampled_from([0.0, 0.2]),
        pool_first=st.booleans(),
        transition_relu=st.booleans(),
        stem_norm=st.sampled_from([None, True]),
    )


def residual_nets() -> st.SearchStrategy[ResNetConfig]:
    """Small ResNets of every kind, at sizes that do not divide."""
    return st.builds(
        lambda bottleneck, blocks, **settings: ResNetConfig(
            name="drawn", bottleneck=bottleneck, depth=(9 if bottleneck else 6) * blocks + 2, **settings
        ),
        bottleneck=st.booleans(),
        blocks=st.integers(1, 2),
        preactivation=st.booleans(),
        survival=st.sampled_from([0.5, 1.0]),
        in_channels=st.integers(1, 4),
        num_classes=st.sampled_from([0, 1, 10]),
        image_size=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    )


@settings(max_examples=60, deadline=None)
@given(dense_nets() | residual_nets())
def test_counting_from_a_configuration_is_measuring_the_network(config: DenseNetConfig | ResNetConfig) -> None:
    assert counted(config) == measured(config)


@pytest.mark.parametrize(
    "name", ["densenet121", "densenet161", "densenet_40_12", "densenet_bc_100_12", "resnet_110", "preact_resnet_164"]
)
def test_listed_networks_are_counted_as_they_are_built(name: str) -> None:
    config = config_for(name)
    assert isinstance(config, DenseNetConfig | ResNetConfig)
    for each in (config, as_published(config)):
        assert counted(each) == measured(each)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("densenet121", {"image_size": (28, 29)}),
        ("densenet_bc_22_12", {"image_size": (3, 32)}),
        ("densenet_bc_22_12", {"compression": 0.01}),
        ("resnet_20", {"image_size": (3, 3)}),
    ],
)
def test_what_cannot_be_built_is_not_counted(name: str, changes: dict[str, Any]) -> None:
    config = config_for(name).model_copy(update=changes)
    assert isinstance(config, DenseNetConfig | ResNetConfig)
    with pytest.raises(InvalidInput) as built:
        build(config)
    with pytest.raises(InvalidInput) as refused:
        counted(config)
    assert str(refused.value) == str(built.value)


def test_models_are_listed_without_torch() -> None:
    """`densekit models` answers at once; importing torch alone takes seconds."""
    code = (
        "import sys; from densekit.cli.models import models; models(as_json=True); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == model_names()
    assert rows[model_names().index("densenet121")] == {
        "name": "densenet121",
        "parameters": 7_978_856,
        "macs": 2_834_161_664,
        "macs_pool_first": 2_602_950_656,
        "depth": 121,
        "input": [3, 224, 224],
        "classes": 1000,
    }
