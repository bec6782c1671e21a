"""The interface every network has, whoever wrote it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from densekit.config import Architecture


class ImageClassifier(nn.Module, ABC):
    """(N, C, H, W) images -> (N, classes) logits, in two named halves."""

    config: Architecture

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_features, h, w), after the last normalisation and ReLU, before pooling."""

    @abstractmethod
    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> (N, classes), or the pooled (N, num_features) with `pre_logits`."""

    @abstractmethod
    def forward_intermediates(self, x: Tensor, indices: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """`forward_features` and the outputs of the stages in `indices` (all by default), at falling resolution."""

    @abstractmethod
    def reset_classifier(self, num_classes: int) -> None:
        """A new, freshly initialised head; 0 classes leaves the pooled features."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        return self.forward_head(self.forward_features(x))
