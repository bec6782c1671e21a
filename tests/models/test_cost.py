"""Costs are the field's: torchvision publishes MACs with its weights, papers say how deep their networks are."""

import pytest
import torchvision.models as peers

from densekit.models import config_for
from densekit.models.cost import cost_of


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
