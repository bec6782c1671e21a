"""densekit models."""

import json
from typing import Any

import typer

from densekit.cli.options import Json


def models(as_json: Json = False) -> None:
    """Lists every named model: parameters, MACs, depth, input size."""
    from densekit.models import config_for, model_names
    from densekit.models.cost import as_published, cost_of

    rows: list[dict[str, Any]] = []
    for name in model_names():
        config = config_for(name)
        published = cost_of(as_published(config))
        row: dict[str, Any] = {
            "name": name,
            "parameters": published.parameters,
            "macs": published.macs,
            # Transitions that pool before their convolution need fewer; what runs here by default.
            "macs_pool_first": cost_of(config).macs if config.family == "densenet" else published.macs,
            "depth": published.depth,
            "input": [config.in_channels, *config.image_size],
            "classes": config.num_classes,
        }
        rows.append(row)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    typer.echo(f"{'name':<30}{'parameters':>12}{'MACs':>12}{'depth':>7}  {'input':<12}classes")
    for row in rows:
        size = "x".join(str(n) for n in row["input"])
        macs = f"{row['macs'] / 1e6:,.1f} M"
        typer.echo(f"{row['name']:<30}{row['parameters']:>12,}{macs:>12}{row['depth']:>7}  {size:<12}{row['classes']}")
    typer.echo("also any densenet[_b|_c|_bc]_L_k, resnet_L, torchvision:NAME and timm:NAME")
