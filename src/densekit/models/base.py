"""The interface every network has, whoever wrote it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, fx, nn

from densekit.config import Architecture
from densekit.errors import InvalidInput


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
        """`forward_features` and the outputs of the stages in `indices` (all by default), at falling resolution.

        Negative indices count from the end. Raises InvalidInput for one out of range.
        """

    @abstractmethod
    def reset_classifier(self, num_classes: int) -> None:
        """A new, freshly initialised head; 0 classes leaves the pooled features."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        return self.forward_head(self.forward_features(x))

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script compiles in place of a network: the graph of its forward, on the same parameters.

        The names of parameters stay. torch puts it into a module that holds the network, too, if that is scripted.
        """
        return fx.GraphModule(self, _Tracer().trace(self))


def chosen_stages(count: int, indices: Sequence[int] | None) -> set[int]:
    """Which of `count` stages are meant; negative from the end. Raises InvalidInput for an index out of range."""
    chosen = set()
    for index in range(count) if indices is None else indices:
        if not -count <= index < count:
            raise InvalidInput(f"index {index} is out of range: there are {count} stages; give {-count} to {count - 1}")
        chosen.add(index % count)
    return chosen


class _Tracer(fx.Tracer):
    """Looks into our own modules alone: those of torch and of users are compiled as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not (isinstance(m, nn.Sequential) or type(m).__module__.startswith("densekit.models."))
