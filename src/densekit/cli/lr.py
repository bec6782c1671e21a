"""densekit lr."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from densekit import strict_json
from densekit.cli.options import (
    DATA,
    ConfigFile,
    DataDir,
    ImageSize,
    Init,
    Json,
    Model,
    RecipeName,
    Seed,
    Settings,
    parse,
)

if TYPE_CHECKING:
    from densekit.training.lr_range_test import RateCurve

_ROWS = 14
_BAR = 30


def lr(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA)],
    model: Model = None,
    recipe: RecipeName = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the planned run.")] = None,
    min_lr: Annotated[float, typer.Option(help="First learning rate.")] = 1e-5,
    max_lr: Annotated[float, typer.Option(help="Last learning rate; the test ends earlier if the loss rises.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Number of training steps from the first rate to the last.")] = 200,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a figure: FILE.svg or FILE.png.")] = None,
    seed: Seed = None,
    data_dir: DataDir = None,
    init: Init = None,
    image_size: ImageSize = None,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Suggest a learning rate: train some steps at rising rates (Smith 2017). No run is written.

    Options that you leave out are chosen as by `densekit train`.
    """
    from densekit.cli.output import console, is_main
    from densekit.training.find_lr import find_lr

    pairs = parse(settings, image_size)
    curve = find_lr(
        data,
        model=model,
        recipe=recipe,
        epochs=epochs,
        seed=seed,
        data_dir=data_dir,
        init=init,
        config=config,
        settings=pairs,
        min_lr=min_lr,
        max_lr=max_lr,
        steps=steps,
        out=out,
        console=console(),
    )
    if not is_main():
        return
    if as_json:
        typer.echo(strict_json.dumps(asdict(curve)))
        return
    for line in lines(curve):
        typer.echo(line)
    if out is not None:
        typer.echo(f"figure: {out}")


def lines(curve: "RateCurve") -> list[str]:
    """A small table of the smoothed loss by rate, and what it says."""
    last = len(curve.rates) - 1
    marks = {curve.rates.index(curve.lowest): "lowest"}
    if curve.steepest is not None:
        at = curve.rates.index(curve.steepest)
        marks[at] = ", ".join([*([marks[at]] if at in marks else []), "steepest fall"])
    chosen = sorted({round(last * i / (_ROWS - 1)) for i in range(_ROWS)} | set(marks))
    top = max(curve.smoothed[i] for i in chosen)
    told = [f"{curve.model} on {curve.data}, batch {curve.batch_size}, seed {curve.seed}: {last + 1} steps"]
    told.append(f"{'rate':>9}  {'loss':>8}")
    for i in chosen:
        bar = "#" * max(1, round(_BAR * curve.smoothed[i] / top))
        told.append(f"{curve.rates[i]:>9.2g}  {curve.smoothed[i]:>8.4g}  {bar:<{_BAR}}  {marks.get(i, '')}".rstrip())
    told.append({
        "loss rose": "ended: the loss rose to four times its minimum",
        "loss not finite": "ended: the loss was not finite",
        "highest rate": "ended: the highest rate; the loss did not rise to four times its minimum",
    }[curve.ended])  # fmt: skip
    if curve.suggestion is None:
        told.append("no suggestion: the loss did not fall by 5 %; try more --steps, or check the data and the recipe")
    else:
        told.append(f"suggestion: --set optimizer.lr={curve.suggestion:g}   (the recipe has {curve.current:g})")
        told.append("rule: a tenth of the rate at which the smoothed loss is lowest")
    return told
