"""densekit show."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from densekit import strict_json
from densekit.cli.options import Json

if TYPE_CHECKING:
    from densekit.models.structure import Module, Structure

_NAME, _KIND, _OUTPUT, _PARAMETERS, _MACS = 30, 17, 13, 11, 9
"""Columns of a line, in characters: 80."""
_WORDLESS = ("ReLU", "SiLU", "GELU", "Dropout", "Identity")  # left out of the table: neither shape nor cost


def show_(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name of a model, a run, a model folder, or a shipped model.")
    ],
    image_size: Annotated[
        int | None, typer.Option(help="Size of the square input, in pixels. Default: the model's.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Number of module levels in the table. Default: all.", min=1)
    ] = None,
    draw: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Write a drawing of the model.")] = None,
    as_json: Json = False,
) -> None:
    """Show a model layer by layer: output shapes, parameters, MACs."""
    from densekit.report.network_drawing import write_drawing
    from densekit.weights.model_structure import show

    found = show(model, image_size=image_size)
    if draw is not None:
        write_drawing(found, draw)
    if as_json:
        typer.echo(strict_json.dumps(found.as_dict()))
        return
    for line in lines(found, depth):
        typer.echo(line)
    if draw is not None:
        typer.echo(f"drawing: {draw}")


def lines(found: "Structure", depth: int | None = None) -> list[str]:
    """The table, 80 characters wide; a container's numbers are those of all modules in it."""
    told = [found.name, _line("layer", "kind", "output", "parameters", "MACs")]
    told.append(_line("input", "", _size(found.input), "", ""))
    for module in found.modules[1:]:
        if (depth is None or module.depth <= depth) and not module.kind.startswith(_WORDLESS):
            told.append(_row(module))
    told.append(_line("total", "", "", f"{found.parameters:,}", _amount(found.macs)))
    told.append(f"{found.parameters:,} parameters, {found.macs:,} MACs an image, depth {found.depth}")
    if found.macs_pool_first != found.macs:
        told.append(f"as densekit computes it, pooling first in transitions: {found.macs_pool_first:,} MACs")
    return told


def _row(module: "Module") -> str:
    parent, _, own = module.name.rpartition(".")
    indented = " " * (parent.count(".") + 1 if parent else 0) + own
    parameters = f"{module.parameters:,}" if module.parameters else ""
    return _line(indented, module.kind, _size(module.output), parameters, _amount(module.macs))


def _line(name: str, kind: str, output: str, parameters: str, macs: str) -> str:
    left = f"{_fitted(name, _NAME)}{_fitted(kind, _KIND)}{_fitted(output, _OUTPUT)}"
    return f"{left}{parameters:>{_PARAMETERS}}{macs:>{_MACS}}".rstrip()


def _fitted(text: str, width: int) -> str:
    return f"{text if len(text) < width else text[: width - 4] + '...':<{width}}"


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _amount(macs: int) -> str:
    from densekit.formatting import amount

    return amount(macs).strip() if macs else ""
