"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

from densekit.errors import InvalidInput

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting by its dotted key, e.g. optimizer.lr=0.05; can be repeated.",
    ),
]
DataSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a data setting, e.g. data.max_bad=20; can be repeated."),
]
Model = Annotated[str | None, typer.Option(help="Name of a model; `densekit models` lists them.")]
RecipeName = Annotated[
    str | None, typer.Option(help="quick, finetune, modern, paper, c10, c10+, c100, c100+, svhn, imagenet.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of all random numbers. Default: 0.")]
Init = Annotated[
    str | None,
    typer.Option(metavar="SOURCE", help="Initial weights: a MODEL, torchvision:NAME, timm:NAME, or none."),
]
ImageSize = Annotated[int | None, typer.Option(help="Resize images to a square of this many pixels.")]
ConfigFile = Annotated[Path | None, typer.Option(help="YAML file with settings.")]
DATA = (
    "Name of a data set, synthetic:HxWxC:CLASSES, a folder, csv:FILE, wds:PATTERN (tar shards), or hf:NAME (Hugging "
    "Face data sets)."
)
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of data sets. Default: $DENSEKIT_DATA, else the user's cache folder."),
]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]


def parse(settings: list[str] | None, image_size: int | None = None) -> dict[str, str]:
    """KEY=VALUE strings -> a dictionary, in which `image_size` is data.image_size unless a string says otherwise.

    Quotes around a whole value are dropped, as in YAML. Raises InvalidInput.
    """
    pairs = {} if image_size is None else {"data.image_size": str(image_size)}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise InvalidInput(f"--set {setting} is not KEY=VALUE; write it like --set optimizer.lr=0.05")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and value[0] not in value[1:-1]
        pairs[key] = value[1:-1] if quoted else value
    return pairs
