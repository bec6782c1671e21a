"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

from densekit.errors import InvalidInput

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting by its dotted key, e.g. optimizer.lr=0.05."),
]
DataSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the data, e.g. data.max_bad=20."),
]
Model = Annotated[str | None, typer.Option(help="A network's name; `densekit models` lists them.")]
RecipeName = Annotated[
    str | None, typer.Option(help="quick, finetune, modern, paper, c10, c10+, c100, c100+, svhn, imagenet.")
]
Seed = Annotated[int | None, typer.Option(help="Of all random choices. Default: 0.")]
Init = Annotated[
    str | None,
    typer.Option(metavar="SOURCE", help="Weights to start from: a MODEL, torchvision:NAME, timm:NAME, or none."),
]
ImageSize = Annotated[int | None, typer.Option(help="Resize images to this many pixels square.")]
ConfigFile = Annotated[Path | None, typer.Option(help="A YAML file of settings.")]
DATA = (
    "A data set's name, synthetic:HxWxC:CLASSES, a folder, csv:FILE, wds:PATTERN of tar shards, or hf:NAME of Hugging "
    "Face's datasets."
)
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where data sets are kept. Default: $DENSEKIT_DATA, else the user's cache folder."),
]
Json = Annotated[bool, typer.Option("--json", help="Only JSON on standard output.")]


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
