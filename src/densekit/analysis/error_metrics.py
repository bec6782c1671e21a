"""How good a network's answers are: which one class an image is of, or which of several labels it has.

Targets are (N,) of one class an image; of several labels (N, classes), 1, 0, or NaN where not known.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.analysis.image_sample import Sample
from densekit.errors import NotFinite
from densekit.metrics.multi_label import mean_auroc
from densekit.metrics.task import finite_rows

Metric = Literal["accuracy", "AUROC"]
"""Of several labels the mean AUROC. A label's share of wrong answers would say little: where one image in twenty has
it, a network that never sees it is right in nineteen. AUROC is 1/2 then, and needs no threshold."""


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """(N, classes) -> (N,): an image's cross entropy, in nats; of several labels the mean of those that are known."""
    if targets.dim() == 1:
        return F.cross_entropy(logits, targets, reduction="none")
    known = ~targets.isnan()
    each = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num().to(logits.dtype), reduction="none")
    return (each * known).sum(1) / known.sum(1)


@torch.no_grad()
def error_of(model: nn.Module, sample: Sample) -> float:
    """Share of wrong answers; of several labels one minus their mean AUROC, NaN where none has one.

    Raises NotFinite for outputs that are not finite.
    """
    scores = torch.cat([model(images) for images, _ in sample.chunks()])
    finite = finite_rows(scores)
    if not finite.all():
        raise NotFinite(
            f"the network's outputs are not finite for {int((~finite).sum()):,} of {len(sample):,} images; there is "
            "nothing to analyse: train it again with a lower learning rate, or take other weights"
        )
    if not sample.multi_label:
        return int((scores.argmax(1) != sample.targets).sum()) / len(sample)
    scores = scores.double()
    area = mean_auroc(sample.targets.cpu().numpy(), scores.cpu().numpy())
    return float("nan") if area is None else 1 - area


def guessing(metric: Metric, classes: int) -> float:
    """The error of whoever does not look at the image."""
    return 0.5 if metric == "AUROC" else 1 - 1 / classes
