"""Base class and types of settings."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


# Of a network's input; beyond them one image alone would take gigabytes.
_MOST_PIXELS = 1 << 26


_LONGEST_SIDE = 1 << 14


def _bounded(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] * size[1] > _MOST_PIXELS:
        raise ValueError(f"an input has at most {_MOST_PIXELS:,} pixels")
    return size


Size = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_bounded)]
"""(height, width) in pixels."""


ImageSize = Annotated[
    Size,
    # One number means a square, as everybody writes it.
    BeforeValidator(lambda size: (size, size) if isinstance(size, int | str) else size),
]


Window = tuple[float, PositiveFloat]


class Frozen(BaseModel):
    """Immutable; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
