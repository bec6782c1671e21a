"""Base classes of the modules that a plan may execute by other means than calling them.

`densekit.ops` knows a network's blocks and transitions by these alone, and not by the classes of `densekit.models`.
"""

from collections.abc import Mapping
from types import FunctionType
from typing import Any, ClassVar

from torch import Tensor, nn


class Fusable:
    """Notes the methods of the classes that inherit from it directly, so that `is_unpatched` sees when one changed."""

    _methods: ClassVar[Mapping[str, FunctionType]] = {}

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if cls.__module__ != __name__ and not cls._methods:
            own = {name: member for name, member in vars(cls).items() if isinstance(member, FunctionType)}
            cls._methods = {name: method for name, method in own.items() if not name.startswith("__")}


class FusableBlock(Fusable):
    """A dense block: a sequence of `shared.Layer` whose outputs are concatenated."""

    plan = "auto"
    """How it is executed; `plans.NAMES` has the names."""
    kernels = "auto"
    """The backend of the `shared` plan; `backends.names()` has the names."""

    def layers(self) -> tuple[Any, ...]:
        """In order, each a `Fusable`."""
        raise NotImplementedError


class FusableTransition(Fusable):
    """Modules `norm`, `relu` and `pool`, and what else follows them: a 1x1 convolution before or behind the pool."""

    def pools_first(self) -> bool:
        """Whether the pool directly follows the ReLU now."""
        raise NotImplementedError

    def reduce(self, x: Tensor) -> Tensor:
        """What follows norm and ReLU, and the pool if it comes first."""
        raise NotImplementedError


def is_unpatched(module: nn.Module) -> bool:
    """Whether it is a module of ours that still does what its class wrote.

    A subclass that overrides a method, a patched class and a patched instance do something else; a wrapper has none.
    """
    kind = type(module)
    methods: Mapping[str, FunctionType] = getattr(kind, "_methods", {})
    return bool(methods) and all(
        getattr(kind, name) is method and name not in module.__dict__ for name, method in methods.items()
    )
