"""Bad input: one clear line on standard error, and the right exit status."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from densekit.weights import model_folder
from tests.conftest import Command, densekit

__all__ = ["Command", "densekit"]


def errors_in(err: str) -> int:
    """Lines of standard error that do not say what takes a while."""
    return sum(not line.endswith(" ...") for line in err.splitlines())


def empty_class(photos: Path) -> Path:
    (photos / "emu").mkdir()
    return photos


def one_class(photos: Path) -> Path:
    (photos / "cat").rename(photos / "dog" / "more")
    return photos


def text_named_jpg(photos: Path) -> Path:
    (photos / "dog" / "letter.jpg").write_text("dear reader")
    return photos


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["train", "/no/such/folder"], 3, "no folder /no/such/folder"),
        (["train", "fashon-mnist"], 2, "did you mean fashion-mnist"),
        (["train", "digits", "--model", "densenet_bc_22_13_5"], 2, "unknown model"),
        (["train", "digits", "--model", "densnet121"], 2, "did you mean densenet121"),
        (["train", "digits", "--model", "densenet_bc_23_12"], 2, "use 22 or 28"),
        (["train", "digits", "--model", "densenet121"], 2, "8x8 is too small for densenet121"),
        (["train", "digits", "--set", "optimizer.learning_rate=1"], 2, "did you mean optimizer"),
        (["train", "digits", "--set", "optimizer.lr=-1"], 2, "optimizer.lr=-1"),
        (["train", "digits", "--set", "optimizer.lr"], 2, "KEY=VALUE"),
        (["train", "digits", "--recipe", "qick"], 2, "did you mean quick"),
        (["train", "digits", "--config", "none.yaml"], 2, "cannot read"),
        (["train", "digits", "--set", "select=best", "--set", "data.protocol=final"], 2, "select=best needs"),
        (["train", "digits", "--set", "data.channels=3"], 2, "images of 1"),
        (["train", "digits", "--init", "nowhere"], 2, "unknown model"),
        (["train", "digits", "--epochs", "many"], 2, "epochs"),
        (["train", "synthetic:8x8:3"], 2, "synthetic:HxWxC"),
        (["train", "csv:labels.csv"], 3, "cannot read labels.csv: No such file"),
        (["train", "digits", "--set", "data.label_columns=a,b"], 2, "data.label_columns is for csv:FILE"),
        (["train", "wds:part-{0..9}.tar"], 3, "part-0.tar, which does not exist"),
        (["train", "wds:none-*.tar"], 3, "none-*.tar matches no .tar file"),
        (["train", "wds:https://host/part.tar"], 3, "not on this machine"),
        (["train", "digits", "--set", "device=tpu"], 2, "device 'tpu' cannot be used"),
        (["train", "digits", "--model", "torchvision:alexnet"], 2, "alexnet does not take images of 8x8"),
        (["train", "digits", "--init", "torchvision:resnt18"], 2, "did you mean resnet18"),
        (["evaluate", "no-model"], 2, "unknown model"),
        (["evaluate", "hf:owner"], 2, "is not hf:OWNER/NAME"),
        (["push", "fashion-mnist", "owner/name"], 2, "is not hf:OWNER/NAME"),
        (["push", "no-such-run", "hf:owner/name"], 2, "unknown model"),
        (["evaluate", "torchvision:resnet18"], 2, "not a trained model"),
        (["evaluate", "fashion-mnist", "wds:test.tar"], 3, "test.tar, which does not exist"),
        (["evaluate", "fashion-mnist", "digits", "--set", "data.max_bad=x"], 2, "max_bad=x"),
        (["resume", "/no/such/run"], 3, "is not a run"),
        (["data", "check", "/no/such/folder"], 3, "no folder /no/such/folder"),
        (["data", "check", "digits", "--set", "model.stem=cifar"], 2, "setting of data"),
        (["data", "check", "digits", "--out", "none/check.html"], 2, "a folder that exists"),
        (["data", "check", "digits", "--group", "(.)"], 2, "digits has none"),
        (["data", "check", "wds:part-{0..9}.tar"], 3, "does not exist"),
        (["data", "shard", "digits", "--out", "."], 2, "exists; name a new folder"),
        (["train", "digits", "--set", "trackers=tensorbord"], 2, "trackers.0=tensorbord"),
        (["predict"], 2, "Missing argument 'MODEL'. See: densekit predict --help"),
        (["nonsense"], 2, "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_its_status(
    densekit: Command, arguments: list[str], status: int, words: str
) -> None:
    got, out, err = densekit(*arguments)
    assert (got, out) == (status, "")
    assert words in err
    assert errors_in(err) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(empty_class, "emu"), (one_class, "only one class"), (text_named_jpg, "letter.jpg")],
    ids=["empty class", "one class", "text named .jpg"],
)
def test_unusable_folders_are_one_line_and_3(
    densekit: Command, photos: Path, spoil: Callable[[Path], Path], words: str
) -> None:
    status, out, err = densekit("train", spoil(photos), "--model", "densenet_bc_10_4")
    assert (status, out, errors_in(err)) == (3, "", 1)
    assert words in err


def test_seven_channels_are_refused_where_images_have_three(densekit: Command, photos: Path) -> None:
    status, _, err = densekit("train", photos, "--set", "data.channels=7")
    assert status == 2
    assert "data.channels=7" in err


def test_a_folder_without_write_permission_is_named(densekit: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")  # root may write anywhere, but nobody below a file
    status, _, err = densekit("train", "digits", "--out", tmp_path / "file" / "run", "--epochs", 1)
    assert (status, errors_in(err)) == (3, 1)
    assert "cannot write the run" in err


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_run_folder_is_never_overwritten(densekit: Command, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    status, _, err = densekit("train", "digits", "--out", tmp_path / "run")
    assert status == 2
    assert "holds a run already" in err


@pytest.mark.slow
def test_a_debugger_gets_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "densekit", "train", "/no/such/folder", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "Traceback" in done.stderr
    assert "BadData" in done.stderr


def test_no_verb_is_the_help_and_2(densekit: Command) -> None:
    status, out, err = densekit()
    assert (status, err) == (2, "")
    assert "Commands" in out


def test_an_unforeseen_error_is_one_line_too(densekit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr("densekit.api.train", fail)
    status, out, err = densekit("train", "digits")
    assert (status, out) == (1, "")
    assert err == "densekit: ZeroDivisionError: a b; to see where, and to report it, add --debug\n"


def test_a_damaged_run_is_named(densekit: Command, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("name: [")
    status, _, err = densekit("resume", "run")
    assert (status, errors_in(err)) == (3, 1)
    assert "run/config.yaml is damaged" in err


def test_a_network_that_does_not_suit_leaves_no_run(densekit: Command, tmp_path: Path) -> None:
    densekit("train", "digits", "--model", "torchvision:alexnet", "--out", "run")
    assert not (tmp_path / "run").exists()


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, densekit.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_is_loaded_without_what_measures_and_draws() -> None:
    """They take longer to import than many pictures to be named."""
    code = (
        "import sys; from densekit import load; import densekit.serve.explanation;"
        "sys.exit(', '.join({'matplotlib', 'pandas', 'scipy', 'sklearn'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_prediction_goes_on_after_a_bad_picture(densekit: Command, tmp_path: Path, tiny_run: Path) -> None:
    Image.new("L", (20, 20), 10).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no")
    status, out, err = densekit("predict", tiny_run, tmp_path / "bad.png", tmp_path / "good.png", tmp_path / "gone.png")
    assert status == 3
    assert "good.png" in out
    assert "bad.png" in err
    assert "gone.png" in err


INTERRUPTED_START = """
import os, signal, sys, time
import densekit.cli.main as main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
def assemble():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        if sys.argv[1] == "other":
            raise RecursionError("an import made this of it")
        raise
main.assemble = assemble
main.main()
"""


@pytest.mark.parametrize("how", ["plain", "other"])
def test_an_interrupt_while_starting_is_one_line_and_130(how: str) -> None:
    """Modules that are interrupted while they are imported fail with errors of their own."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_START, how], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, "densekit: stopped; what had been saved is whole\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", ""], "the argument after train is empty"),
        (["train", "digits", "--out", ""], "--out is empty"),
        (["train", "digits", "--out="], "--out is empty"),
        (["train", "digits", "--init", ""], "--init is empty"),
        (["train", "digits", "--model", ""], "--model is empty"),
        (["predict", "fashion-mnist", ""], "the argument after fashion-mnist is empty"),
        (["evaluate", ""], "the argument after evaluate is empty"),
        (["train", "csv:"], "names nothing"),
        (["train", "wds:"], "names nothing"),
        (["train", "hf:"], "names nothing"),
    ],
)
def test_an_empty_name_is_not_the_current_folder(
    densekit: Command, tmp_path: Path, arguments: list[str], words: str
) -> None:
    """As of a shell's variable that was never set: without a check it trains on, or writes to, whatever is here."""
    status, out, err = densekit(*arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert not list(tmp_path.iterdir())


def test_an_empty_value_of_a_setting_is_allowed(densekit: Command) -> None:
    status, _, err = densekit("train", "/no/such/folder", "--set", "data.window=", "--set=init=")
    assert (status, "no folder /no/such/folder" in err) == (3, True)


def test_a_closed_standard_input_is_an_empty_image(densekit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    status, _, err = densekit("predict", "fashion-mnist", "-")
    assert status == 3
    assert "standard input: the image is empty" in err


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("latin-1", b"\\u732b"), ("ascii", "\u732b".encode())],  # typer takes ascii for a terminal that was not set up
)
def test_a_class_that_the_terminal_cannot_show_ends_nothing(tmp_path: Path, encoding: str, shown: bytes) -> None:
    """And config.json is UTF-8, whatever the locale is."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder("fashion-mnist"), folder)
    card = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    card["classes"][0] = "\u732b"
    (folder / "config.json").write_text(json.dumps(card, ensure_ascii=False), encoding="utf-8")
    Image.new("L", (28, 28)).save(tmp_path / "black.png")
    done = subprocess.run(
        [sys.executable, "-m", "densekit", "predict", str(folder), str(tmp_path / "black.png"), "--top", "10"],
        capture_output=True,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["models", "--json"], ["--help"]])
def test_output_that_cannot_be_written_is_a_plain_sentence(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        words = [sys.executable, "-m", "densekit", *arguments]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "densekit: the output cannot be written: no space left on device; make room, or write it elsewhere\n"
    )


def test_an_error_of_the_system_names_the_file_and_no_class(densekit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise PermissionError(13, "Permission denied", "models.json")

    monkeypatch.setattr("densekit.models.model_names", fail)
    monkeypatch.delenv("DENSEKIT_DEBUG", raising=False)
    status, _, err = densekit("models")
    assert (status, err) == (1, "densekit: models.json: permission denied; to see where this happened, add --debug\n")


@pytest.mark.parametrize("place", ["/dev/null", "photos/cat/0.png/run"])
def test_a_run_in_a_file_is_refused_before_any_work(place: str, densekit: Command, photos: Path) -> None:
    status, _, err = densekit("train", "photos", "--model", "densenet_bc_10_4", "--out", place)
    assert status == 3
    assert f"cannot write the run to {place}, a file or below one; name a folder with --out" in err
    assert "measuring" not in err


def test_a_page_never_replaces_a_device(densekit: Command, photos: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    status, _, err = densekit("data", "check", photos, "--out", tmp_path / "pipe")
    assert status == 3
    assert f"cannot write {tmp_path}/pipe: it is not a regular file; name another file with --out" in err
    assert (tmp_path / "pipe").is_fifo()
