"""Questions before a run that costs more than its user may expect, and the command that costs less."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from densekit.config import Recipe
from densekit.data.native_size import NativeSize
from densekit.data.prepare import FOLDER_SIZE
from densekit.errors import InvalidInput
from densekit.formatting import amount, duration
from densekit.training.run_estimate import RunEstimate

Ask = Callable[[str], bool]
"""Shows a question of one line; whether the answer is yes."""

LONG = 2 * 3600.0
"""Seconds of a forecast from which on a run is asked about."""
_WANTED = 3600.0
_UPSCALED = 1.1  # times the pictures' own shorter side; what is less is rounding


@dataclass(frozen=True)
class Concern:
    """Something that a run costs."""

    what: str
    better: tuple[str, str]
    """An option and its value, of a command without it."""
    impossible: bool = False
    """The run would only fail later."""


def upscaling(recipe: Recipe, size: NativeSize | None) -> Concern | None:
    """Pictures scaled up: the work of more pixels, and no more to see."""
    wanted = min(recipe.data.image_size or FOLDER_SIZE)
    if size is None or wanted <= _UPSCALED * size.median:
        return None
    times = (wanted / size.median) ** 2
    what = f"pictures of {size.median} px are scaled up to {wanted}, {times:.0f} times the work for nothing new to see"
    return Concern(what, ("--image-size", str(max(8, size.median // 4 * 4))))


def memory(needed: float, recipe: Recipe, *, total: float, free: float) -> Concern | None:
    """More bytes than the machine has, which cannot do; or than are free now."""
    if needed <= min(total, free):
        return None
    batch = recipe.batch_size
    while batch > 2 and needed * batch / recipe.batch_size > min(total, free) / 2:
        batch //= 2
    what = f"it needs about {amount(needed)}B of memory, and {{}} {amount(total if needed > total else free)}B"
    if needed > total:
        return Concern(what.format("this machine has"), ("--set", f"batch_size={batch}"), impossible=True)
    return Concern(what.format("free are"), ("--set", f"batch_size={batch}"))


def hours(forecast: RunEstimate, recipe: Recipe) -> Concern | None:
    """A forecast of hours."""
    if forecast.seconds < LONG:
        return None
    what = f"it takes about {duration(forecast.seconds)}"
    epochs = int(recipe.epochs * _WANTED / forecast.seconds)
    if epochs >= 5 or min(forecast.input[1:]) <= 64:
        return Concern(what, ("--epochs", str(max(1, epochs))))
    side = max(64.0, min(forecast.input[1:]) * (_WANTED / forecast.seconds) ** 0.5)
    return Concern(what, ("--image-size", str(int(side) // 16 * 16)))


def settle(
    concerns: Sequence[Concern | None], command: Sequence[str], ask: Ask | None, warn: Callable[[str], None]
) -> None:
    """Asks about each, or warns where nobody can be asked.

    Raises InvalidInput for what is impossible, and where the answer is no.
    """
    for concern in concerns:
        if concern is None:
            continue
        better = shlex.join(changed(command, concern.better))
        if concern.impossible:
            raise InvalidInput(f"{concern.what}; try: {better}")
        if ask is None:
            warn(f"warning: {concern.what}; better: {better}")
        elif not ask(f"{concern.what}; better: {better}. Go on all the same?"):
            raise InvalidInput(f"not started; try: {better}")


def changed(command: Sequence[str], better: tuple[str, str]) -> list[str]:
    """A command of DATA and options, each with a value, where `better` stands for what sets the same."""
    option, value = better
    key = value.partition("=")[0] if option == "--set" else _KEYS[option]
    first, pairs = command[:3], zip(command[3::2], command[4::2], strict=True)
    kept = [
        word
        for name, given in pairs
        if _KEYS.get(name) != key and not (name == "--set" and given.partition("=")[0] == key)
        for word in (name, given)
    ]
    return [*first, *kept, *better]


# Of the options that set what --set can set, too.
_KEYS = {"--image-size": "data.image_size", "--epochs": "epochs"}
