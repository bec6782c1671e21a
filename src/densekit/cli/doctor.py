"""densekit doctor."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DataDir, Json


def doctor(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run folder, to verify that it resumes exactly here.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check this installation; with RUN, verify that a killed run resumes bit-identically."""
    from densekit.cli.output import console, print_examination
    from densekit.training.doctor import examine
    from densekit.training.resume_test import run_resume_test

    if run is not None:
        progress = console()
        proof = run_resume_test(
            run, data_dir=data_dir, say=lambda line: progress.print(line, markup=False, style="dim")
        )
        if as_json:
            typer.echo(strict_json.dumps({"run": str(run), "exact": True, **asdict(proof)}))
        else:
            typer.echo(
                f"{run} resumes exactly on this machine: {proof.steps} steps from step {proof.first_step}, killed "
                f"after step {proof.killed_at} and resumed, gave the same weights and optimizer state to the last bit"
            )
        return
    found = examine(data_dir)
    if as_json:
        typer.echo(strict_json.dumps(found))
    else:
        print_examination(found)
    if not all(check["passed"] for check in found["checks"]):
        raise typer.Exit(1)
