"""mixup and CutMix, torchvision's: a batch's images, and their labels with them, are mixed in pairs."""

from collections.abc import Callable

from torch import Tensor
from torchvision.transforms import v2

from densekit.config import AugmentConfig


def mixing_for(config: AugmentConfig, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """(N, C, H, W), (N,) labels -> (N, C, H, W), (N, classes) shares; None where the recipe mixes nothing.

    Labels that are (N, classes) already are averaged; what is not known (NaN) of one is not known of the pair.
    Draws from torch's own generator.
    """
    kinds = (v2.MixUp, config.mixup), (v2.CutMix, config.cutmix)
    chosen = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]
    return v2.RandomChoice(chosen) if chosen else None
