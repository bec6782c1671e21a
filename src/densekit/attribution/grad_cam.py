"""Grad-CAM (Selvaraju et al. 2017) by captum, which is an extra; at the last maps, class activation maps."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densekit.errors import InvalidInput
from densekit.models import DenseNet, ImageClassifier

SIDE = 7  # pixels; coarser maps show no place


class Viewed(nn.Module):
    """A network whose last, rectified maps pass through a module that can be watched: (N, C, H, W) -> (N, classes).

    Grad-CAM there is the class activation map of Zhou et al. 2016, over H * W.
    """

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model
        self.maps = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        return self.model.forward_head(self.maps(self.model.forward_features(x)))


def require() -> None:
    """Raises InvalidInput where captum is not installed."""
    try:
        import captum  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise InvalidInput(
            "class activation maps need captum: pip install 'densekit[analysis]', or leave them out with --only"
        ) from error


def grad_cam(model: DenseNet, images: Tensor, classes: Tensor, block: int = 0) -> NDArray[np.float64]:
    """(N, C, H, W), (N,) -> (N, h, w): the last maps, or those of a dense block, weighted by their mean gradients."""
    from captum.attr import LayerGradCam

    viewed = Viewed(model)
    layer = getattr(model.features, f"denseblock{block}") if block else viewed.maps
    found: Tensor = LayerGradCam(viewed, layer).attribute(images, target=classes)
    return found[:, 0].detach().double().cpu().numpy()


@torch.no_grad()
def layer_for(model: DenseNet, images: Tensor) -> int:
    """0 for the last maps; where these have few pixels, the deepest dense block that has more, or else the first."""
    last, blocks = model.forward_intermediates(images)
    if min(last.shape[2:]) >= SIDE:
        return 0
    fine = [i for i, maps in enumerate(blocks, start=1) if min(maps.shape[2:]) >= SIDE]
    return fine[-1] if fine else 1
