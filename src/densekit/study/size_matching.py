"""Networks of equal size, found by counting."""

import re
from functools import cache

from densekit.config import DenseNetConfig, ModelConfig
from densekit.errors import InvalidInput
from densekit.models.cost import parameters_of
from densekit.models.names import config_for

_NAME = re.compile(r"(?P<variant>densenet(?:_(?:b|c|bc))?)_(?P<depth>\d+)_(?P<growth>\d+)")
_SLACK = 2  # layers more or less in each block


@cache
def of_size(name: str, parameters: int) -> str:
    """The name of `name`'s kind of CIFAR DenseNet (plain, B, C, BC) that has nearest to so many parameters.

    Both the growth rate and the depth are looked for, the depth within two layers a block of `name`'s. Counts are of
    three channels and ten classes. Raises InvalidInput for any other kind of network.
    """
    match = _NAME.fullmatch(name.lower().replace("-", "_"))
    if match is None:
        raise InvalidInput(
            f"the size of {name} cannot be chosen: only CIFAR DenseNets, densenet[_b|_c|_bc]_L_k, have a growth rate "
            "to change; leave out same_parameters_as"
        )
    config = config_for(name)
    assert isinstance(config, DenseNetConfig)
    unit = 6 if config.bottleneck else 3
    depth, growth = int(match["depth"]), int(match["growth"])
    # The depth that was asked for comes first, and of equals the first is taken.
    depths = sorted(range(depth - _SLACK * unit, depth + _SLACK * unit + 1, unit), key=lambda d: abs(d - depth))
    stems = [f"{match['variant']}_{d}" for d in depths if d >= unit + 4]
    candidates = [near for stem in stems for near in _nearest(stem, growth, parameters)]
    return min(candidates, key=lambda near: abs(_count(near) - parameters))


def _nearest(stem: str, growth: int, parameters: int) -> list[str]:
    """The names with the two growth rates between which `parameters` lies; with 1 alone, where that is too much."""
    # Parameters grow about as the square of the growth rate: a guess that is off by little, and steps from there.
    k = max(1, round(growth * (parameters / _count(f"{stem}_{growth}")) ** 0.5))
    while k > 1 and _count(f"{stem}_{k}") > parameters:
        k -= 1
    while _count(f"{stem}_{k + 1}") <= parameters:
        k += 1
    return [f"{stem}_{k}", f"{stem}_{k + 1}"]


@cache
def _count(name: str) -> int:
    return parameters_of(config_for(name))


def nearest(parameters: int, others: dict[str, ModelConfig]) -> str:
    """The name of the one of `others` whose number of parameters is nearest, as a ratio."""
    counts = {name: parameters_of(config) for name, config in others.items()}
    return min(counts, key=lambda name: max(counts[name] / parameters, parameters / counts[name]))
