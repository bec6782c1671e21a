"""densekit export."""

from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DataDir, Json


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model folder, a shipped model, or hf:NAME.")],
    out: Annotated[Path, typer.Option(help="New folder for the files.")],
    formats: Annotated[
        str, typer.Option("--format", metavar="NAMES", help="onnx, openvino, torch, triton; separated by commas.")
    ] = "onnx",
    preprocess: Annotated[
        bool,
        typer.Option(
            "--preprocess/--no-preprocess", help="Include scaling and normalisation in the graph; the input is bytes."
        ),
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to 8 bits, calibrated on training images.")] = False,
    max_drop: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="--int8: maximum loss of top-1 accuracy, as a fraction; for several labels, of AUROC.",
        ),
    ] = 0.01,
    calibration: Annotated[
        int, typer.Option(min=1, metavar="N", help="--int8: number of training images for calibration.")
    ] = 256,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Images for the parity check. Default: the data set of the model."),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Export a model to other runtimes; each file is compared with the model before it is kept."""
    from densekit import api
    from densekit.cli.output import console, print_export

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
