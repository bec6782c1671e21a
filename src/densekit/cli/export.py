"""densekit export."""

from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DataDir, Json


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model folder, a shipped model, or hf:NAME.")],
    out: Annotated[Path, typer.Option(help="A new folder for the files.")],
    formats: Annotated[
        str, typer.Option("--format", metavar="NAMES", help="Of onnx, openvino, torch and triton, with commas.")
    ] = "onnx",
    preprocess: Annotated[
        bool, typer.Option("--preprocess/--no-preprocess", help="Take bytes: scaling and normalising in the graph.")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Compute in 8 bits; calibrated on training images.")] = False,
    max_drop: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="--int8: top-1 accuracy that it may cost, as a fraction; of several labels, AUROC."
        ),
    ] = 0.01,
    calibration: Annotated[
        int, typer.Option(min=1, metavar="N", help="--int8: training images to calibrate on.")
    ] = 256,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Images to compare by. Default: what it was trained on.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Writes a model for other runtimes, each file proved against the network before it is kept."""
    from densekit import api
    from densekit.cli.show import console, print_export

    progress = console()
    done = api.export_model(
        model,
        out,
        formats=[name.strip() for name in formats.split(",") if name.strip()],
        preprocess=preprocess,
        int8=int8,
        max_drop=max_drop,
        calibration=calibration,
        data=data,
        data_dir=data_dir,
        say=lambda line: progress.print(line, markup=False, style="dim"),
    )
    if as_json:
        typer.echo(strict_json.dumps(done.report | {"out": str(done.folder)}))
    else:
        print_export(done)
