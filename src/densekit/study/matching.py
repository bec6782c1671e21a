"""Networks of equal size, found by counting."""

import re

from densekit.config import DenseNetConfig, ModelConfig
from densekit.errors import InvalidInput
from densekit.models.cost import parameters_of
from densekit.models.names import config_for

_NAME = re.compile(r"(?P<variant>densenet(?:_(?:b|c|bc))?)_(?P<depth>\d+)_(?P<growth>\d+)")
_SLACK = 6  # layers; what one more layer in each block adds, where layers are bottlenecked


def of_size(name: str, parameters: int) -> str:
    """The name of `name`'s kind of CIFAR DenseNet (plain, B, C, BC) that has nearest to so many parameters.

    Both the growth rate and the depth are looked for, the depth within 6 of `name`'s. Counts are of three channels and
    ten classes. Raises InvalidInput for any other kind of network.
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
    depth = int(match["depth"])
    depths = [d for d in range(depth - _SLACK, depth + _SLACK + 1) if (d - 4) % unit == 0 and d >= unit + 4]
    candidates = [near for d in depths for near in _nearest(f"{match['variant']}_{d}", parameters)]
    # Of equals the one whose depth was asked for.
    best = min(candidates, key=lambda near: (abs(near[1] - parameters), abs(near[2] - depth)))
    return best[0]


def _nearest(stem: str, parameters: int) -> list[tuple[str, int, int]]:
    """(name, parameters, depth) of the two growth rates between which `parameters` lies."""
    low, high = 1, 2
    while parameters_of(config_for(f"{stem}_{high}")) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if parameters_of(config_for(f"{stem}_{middle}")) < parameters:
            low = middle
        else:
            high = middle
    depth = int(stem.rsplit("_", 1)[1])
    return [(f"{stem}_{k}", parameters_of(config_for(f"{stem}_{k}")), depth) for k in (low, high)]


def nearest(parameters: int, others: dict[str, ModelConfig]) -> str:
    """The name of the one of `others` whose number of parameters is nearest, as a ratio."""
    counts = {name: parameters_of(config) for name, config in others.items()}
    return min(counts, key=lambda name: max(counts[name] / parameters, parameters / counts[name]))
