"""Class activation maps by autograd alone (Zhou et al. 2016; Selvaraju et al. 2017, Grad-CAM): no captum, no hooks.

`maps.grad_cam` gives the same by captum, as part of an analysis that also checks whether maps follow the weights.
"""

import torch
from torch import Tensor

from densekit.attribution.grad_cam import SIDE
from densekit.errors import InvalidInput
from densekit.models import DenseNet, ImageClassifier
from densekit.models.resnet import ResNet


def class_maps(model: ImageClassifier, images: Tensor, classes: Tensor) -> tuple[str, Tensor] | None:
    """Where in each image the network sees evidence for a class.

    Args:
        model: in evaluation mode; its state is not changed.
        images: (N, C, H, W), normalised.
        classes: (N,) int64, one for each image.

    Returns:
        The layer, and (N, h, w) maps of it, weighted by their mean gradients: positive where the image speaks for the
        class. The layer is the last maps, or, where these have fewer than 7 pixels a side, the deepest block (of a
        ResNet: stage) that has more, or the first. None for a network without maps of channels, such as a transformer,
        and for one of another library whose last maps are that coarse.
    """
    with torch.enable_grad():
        x = images.detach().requires_grad_()  # so that there is a graph though no parameter needs a gradient
        try:
            final, stages = model.forward_intermediates(x)
            logits = model.forward_head(final)
        except InvalidInput:  # networks of other libraries need not have the two halves
            return None
        if final.ndim != 4:
            return None
        layer, maps = "the last feature maps", final
        if min(final.shape[2:]) < SIDE:
            if not isinstance(model, DenseNet | ResNet):  # whose stages may have their channels last
                return None
            fine = [i for i, stage in enumerate(stages) if min(stage.shape[2:]) >= SIDE]
            index = fine[-1] if fine else 0
            part = "block" if isinstance(model, DenseNet) else "stage"
            layer, maps = f"{part} {index + 1}", stages[index]
        chosen = logits.gather(1, classes[:, None]).sum()
        (gradients,) = torch.autograd.grad(chosen, maps)
    weights = gradients.mean((2, 3), keepdim=True)
    return layer, (weights * maps).sum(1).detach()
