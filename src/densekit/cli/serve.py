"""densekit serve."""

import os
from pathlib import Path
from typing import Annotated

import typer

from densekit.cli.options import parse
from densekit.errors import BadData, InvalidInput, UnknownName
from densekit.optional_packages import require_package

_TOKEN = "DENSEKIT_TOKEN"
_PACKAGES = ("fastapi", "fastapi_offline", "httptools", "prometheus_client", "python_multipart", "uvicorn", "uvloop")


def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run, a model folder, an exported file, or a shipped model.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 8000,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="torch, onnxruntime or openvino. Default: the fastest that passes the parity check."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of computing threads. Default: the fastest number.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the token that clients must send. Alternatively set {_TOKEN}."),
    ] = None,
    style: Annotated[
        str,
        typer.Option("--log", metavar="auto|text|json", help="Format of the log. auto: text in a terminal, else JSON."),
    ] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a limit, e.g. pixels=20000000; docs/serve.md lists them."
        ),
    ] = None,
) -> None:
    """Serve a model over HTTP and on a web page."""
    require_package("serve", *_PACKAGES, extra="serve")
    from pydantic import ValidationError

    from densekit.config import describe
    from densekit.serve import address, log
    from densekit.serve.limits import Limits

    if style not in log.STYLES:
        raise UnknownName("--log", style, log.STYLES)
    try:
        limits = Limits.model_validate(parse(settings))
    except ValidationError as error:
        raise InvalidInput(f"--set: {describe(error)}") from error
    token = _token(token_file)
    with address.bound(host, port) as listener:
        log.begin(style)
        log.say("starting", model=model)  # torch, which is imported now, takes seconds

        from densekit.serve.server import ServerSettings
        from densekit.serve.server import serve as run

        run(ServerSettings(model, host, engine, threads, token, limits), listener)


def _token(file: Path | None) -> str | None:
    """From the file, else from the environment: arguments are seen by all in the list of processes."""
    token = os.environ.pop(_TOKEN, None)  # the worker need not have it
    if file is not None:
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadData(f"--token-file {file} cannot be read ({error}); check its path and permissions") from error
    if token is not None and not (token.isascii() and token.isprintable() and token.split() == [token]):
        raise InvalidInput(f"the token is to be one word of letters, digits and signs; see --token-file and {_TOKEN}")
    return token
