"""`densekit`: verbs, and the one table from error to exit status."""

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import FrameType
from typing import Any, NoReturn

import typer

from densekit.errors import BadData, DensekitError, Diverged, Interrupted, InvalidInput, ProofFailed
from densekit.formatting import printable
from densekit.version import __version__

EXIT_STATUS: dict[type[DensekitError], int] = {
    InvalidInput: 2,
    BadData: 3,
    Diverged: 4,
    ProofFailed: 5,
}

_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Of an error without a file's name: standard output was not written."""
_STOPPED = "stopped; what had been saved is whole"

app = typer.Typer(
    name="densekit",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="DenseNet for PyTorch: train, evaluate, predict, export, serve. Start with: densekit demo",
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if debug:
        os.environ["DENSEKIT_DEBUG"] = "1"


@cache
def assemble() -> typer.Typer:
    """The command line with all its verbs."""
    from densekit.cli import (
        analyse,
        bench,
        data,
        demo,
        doctor,
        evaluate,
        export,
        import_model,
        lr,
        models,
        predict,
        push,
        reproduce,
        resume,
        serve,
        show_model,
        study,
        train,
    )

    verbs: dict[str, Callable[..., Any]] = {
        "demo": demo.demo,
        "models": models.models,
        "show": show_model.show_,
        "train": train.train,
        "lr": lr.lr,
        "resume": resume.resume,
        "evaluate": evaluate.evaluate,
        "predict": predict.predict,
        "analyse": analyse.analyse,
        "study": study.study,
        "reproduce": reproduce.reproduce,
        "import": import_model.import_,
        "export": export.export,
        "push": push.push,
        "serve": serve.serve,
        "doctor": doctor.doctor,
        "bench": bench.bench,
    }
    for name, verb in verbs.items():
        app.command(name)(verb)
    app.add_typer(data.app, name="data")
    return app


def main() -> NoReturn:
    """Runs the command line and exits with its status."""
    stopped = _watch_interrupts()
    # The base of typer's usage errors; its own name for it depends on typer's version.
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if len(arguments) < len(sys.argv) - 1:  # accepted anywhere, as people append it to a failed command
        os.environ["DENSEKIT_DEBUG"] = "1"
    _escape_output()
    _refuse_empty(arguments)
    try:
        assemble()
        status = app(arguments, prog_name="densekit", standalone_mode=False)
    except DensekitError as error:
        if os.environ.get("DENSEKIT_DEBUG"):
            raise
        _fail(str(error), status_of(error))
    except usage_error as error:
        _fail_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        _fail(_STOPPED, 130)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # no traceback unless one is asked for, whatever happens
        if os.environ.get("DENSEKIT_DEBUG"):
            raise
        if stopped:  # an import that is interrupted may fail in any way
            _fail(_STOPPED, 130)
        _fail(_unexpected(error), 1)
    sys.exit(status if isinstance(status, int) else 0)


def _watch_interrupts() -> list[int]:
    """Where the SIGINT signals that this process gets from now on are noted; each raises KeyboardInterrupt as usual."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    return received


def _escape_output() -> None:
    """Characters that the terminal cannot show are written as escapes; else a class's name could end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")


def _refuse_empty(arguments: list[str]) -> None:
    """Exits with 2: the system takes an empty path for the current folder, where a shell's variable was not set."""
    for before, argument in zip(["densekit", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=")
        if argument == "" or (option.startswith("--") and equals and not value):
            name = before if argument == "" and before.startswith("--") else option or f"the argument after {before}"
            _fail(f"{name} is empty; give it a value, or leave it out (. is the current folder)", 2)


def status_of(error: DensekitError) -> int:
    """The exit status of an error's type, or of the nearest base that has one."""
    if isinstance(error, Interrupted):
        return 128 + error.signal_number
    return next((EXIT_STATUS[kind] for kind in type(error).__mro__ if kind in EXIT_STATUS), 1)


def _unexpected(error: Exception) -> str:
    """Of the operating system its reason, of other errors the type, too."""
    if not isinstance(error, OSError) or error.strerror is None:
        return f"{type(error).__name__}: {error}; to see where, and to report it, add --debug"
    reason = error.strerror[:1].lower() + error.strerror[1:]
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {reason}; to see where this happened, add --debug"
    if error.errno in _UNWRITTEN:
        with suppress(OSError, ValueError):  # what is left would fail at the end of the process, too
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return f"the output cannot be written: {reason}; make room, or write it elsewhere"
    return f"{reason}; to see where this happened, add --debug"


def _fail_usage(error: Any) -> NoReturn:
    message = error.format_message()
    if message:
        command = error.ctx.command_path if error.ctx else "densekit"
        _fail(f"{message if message.endswith(('?', '.')) else f'{message}.'} See: {command} --help", 2)
    sys.exit(2)  # no verb at all: typer has printed the help


def _fail(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"densekit: {printable(' '.join(message.split()))}\n")
    sys.exit(status)
