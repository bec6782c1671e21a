"""Narrow the type of a value, and fail where it is another."""

from typing import TypeVar

T = TypeVar("T")


def expect_type(value: object, kind: type[T]) -> T:
    """`value`, which must be a `kind`."""
    assert isinstance(value, kind), f"{value!r} is no {kind.__name__}"
    return value


def not_none(value: T | None) -> T:
    """`value`, which must not be None."""
    assert value is not None
    return value
