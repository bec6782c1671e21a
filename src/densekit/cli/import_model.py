"""densekit import."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import Json
from densekit.errors import InvalidInput


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A checkpoint (.pth, .safetensors, .h5, .keras) or a folder of timm.")
    ],
    out: Annotated[Path, typer.Option(help="New folder for the model.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the model. Default: inferred from the shapes.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class names in order: one per line, or a JSON list.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="M,M,M", help="Mean of each channel of the training images, for pixels from 0 to 1."),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="S,S,S", help="Standard deviation of each channel, likewise.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Size of its square input images, in pixels.")] = None,
    key: Annotated[str | None, typer.Option(help="Which model to import if the file contains several.")] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Tensors that the model does not need, e.g. 'aux.*'; can be repeated."),
    ] = None,
    no_head: Annotated[
        bool, typer.Option("--no-head", help="Import without the classifier, for `train --init`.")
    ] = False,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="An image may have any number of classes (sigmoids).")
    ] = False,
    single_label: Annotated[
        bool, typer.Option("--single-label", help="An image has exactly one class (softmax).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint of another library into a model folder."""
    from densekit import api
    from densekit.cli.output import print_import

    done = api.import_model(
        file,
        out,
        model=model,
        classes=classes,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        image_size=image_size,
        key=key,
        ignore=ignore or (),
        head=not no_head,
        multi_label=multi_label,
        single_label=single_label,
    )
    if as_json:
        facts = {"out": str(done.folder), "names": done.layout, **asdict(done.account), "notes": done.notes}
        typer.echo(
            strict_json.dumps(
                {"model": done.card.model.name, "classes": len(done.card.classes), "task": done.card.task, **facts}
            )
        )
    else:
        print_import(done, file)


def _numbers(option: str, given: str | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        return tuple(float(number) for number in given.replace(",", " ").split())
    except ValueError:
        raise InvalidInput(
            f"{option} {given} is no list of numbers; write it like {option} 0.485,0.456,0.406"
        ) from None
