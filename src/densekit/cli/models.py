"""densekit models."""

from typing import Any

import typer

from densekit import strict_json
from densekit.cli.options import Json


def models(as_json: Json = False) -> None:
    """List every named model: parameters, MACs, depth, input size."""
    from densekit.models import model_names

    if as_json:
        typer.echo(strict_json.dumps([_row(name) for name in model_names()]))
        return
    typer.echo(f"{'name':<28}{'parameters':>11}{'MACs':>12}{'depth':>7}  {'input':<12}classes")
    for name in model_names():
        row = _row(name)
        size = "x".join(str(n) for n in row["input"])
        macs = f"{row['macs'] / 1e6:,.1f} M"
        typer.echo(f"{name:<28}{row['parameters']:>11,}{macs:>12}{row['depth']:>7}  {size:<12}{row['classes']}")
    typer.echo("also any densenet[_b|_c|_bc]_L_k, resnet_L, torchvision:NAME and timm:NAME")


def _row(name: str) -> dict[str, Any]:
    from densekit.config import ExternalConfig
    from densekit.models import config_for
    from densekit.models.counts import as_published, counted

    config = config_for(name)
    assert not isinstance(config, ExternalConfig)  # networks of other libraries are not listed
    published = counted(as_published(config))
    return {
        "name": name,
        "parameters": published.parameters,
        "macs": published.macs,
        # Transitions that pool before their convolution need fewer; what runs here by default.
        "macs_pool_first": counted(config).macs,
        "depth": published.depth,
        "input": [config.in_channels, *config.image_size],
        "classes": config.num_classes,
    }
