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
        Path, typer.Argument(metavar="FILE", help="A checkpoint: .pth, .safetensors, .h5, .keras; or a folder of timm.")
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the model.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The network it is of. Default: what its shapes tell.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The classes in order, a name a line or a JSON list.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="M,M,M", help="Of each channel of its training images, a pixel being 0 to 1.")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="S,S,S", help="Deviation of each channel, likewise.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Of its images, in pixels square.")] = None,
    key: Annotated[str | None, typer.Option(help="Which network, where a file holds several.")] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Tensors that the network computes without, e.g. 'aux.*'.")
    ] = None,
    no_head: Annotated[bool, typer.Option("--no-head", help="Without a classifier, for `train --init`.")] = False,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="An image may be of any number of classes: each has a sigmoid.")
    ] = False,
    single_label: Annotated[
        bool, typer.Option("--single-label", help="An image is of exactly one class: a softmax over all.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turns another library's checkpoint into a model folder."""
    from densekit import api
    from densekit.cli.show import print_import

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
