"""A checkpoint on disk is the old one or the new one, whole, wherever the process that wrote it died."""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from densekit.config import Preprocessing
from densekit.errors import BadWeights
from densekit.models import config_for
from densekit.training.checkpoint import read_checkpoint, restore_checkpoint, save_checkpoint
from densekit.weights import ModelCard
from tests.faults.train_state import state

CARD = ModelCard(
    model=config_for("densenet_bc_10_4").model_copy(update={"num_classes": 2}),
    classes=("a", "b"),
    preprocessing=Preprocessing(channels=3, size=(8, 8), resize=8, mean=(0, 0, 0), std=(1, 1, 1)),
)


def traced(folder: Path, before: Callable[[str, Any], None]) -> None:
    """Writes checkpoint 2; `before` hears of all that is about to happen to a file below `folder`."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(f"{folder.parent}/"):
            before(event, arguments[0])

    real = os.fsync

    def fsync(descriptor: int) -> None:
        before("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    pytest.MonkeyPatch().setattr(os, "fsync", fsync)  # for the rest of this process, which is short
    sys.addaudithook(hook)
    save_checkpoint(folder, state(2), CARD, {})


# Of Python's own audit events, those of changes to files.
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def in_a_child(work: Callable[[], None]) -> int:
    """The wait status of a forked process that does `work`: hooks cannot be taken away again."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


@pytest.mark.slow
def test_a_death_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    states = {step: state(step).model.state_dict() for step in (1, 2)}
    survivors = []
    for moment in range(1000):
        save_checkpoint(folder, state(1), CARD, {})
        count = 0

        def die(event: str, path: object, moment: int = moment) -> None:
            nonlocal count
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        status = in_a_child(partial(traced, folder, die))
        checkpoint = read_checkpoint(folder)
        step = checkpoint.document["progress"]["step"]
        survivors.append(step)
        restored = state(3)
        restore_checkpoint(checkpoint, restored, folder)
        assert all(torch.equal(value, states[step][name]) for name, value in restored.model.state_dict().items())
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert survivors[0] == 1
    assert survivors[-1] == 2
    assert survivors == sorted(survivors)  # once the new one can be read, it stays
    assert moment > 20


def test_a_power_cut_finds_nothing_in_place_that_was_not_on_disk(tmp_path: Path) -> None:
    """Files and folders are synced before they get their names, and the folder of a name after it."""
    folder, log = tmp_path / "last", tmp_path.with_suffix(".log")
    save_checkpoint(folder, state(1), CARD, {})

    def note(event: str, path: object) -> None:
        with log.open("a") as file:
            file.write(f"{event} {path}\n")

    assert in_a_child(lambda: traced(folder, note)) == 0
    events = [line.split(" ") for line in log.read_text().splitlines()]
    renamed = [i for i, (event, path) in enumerate(events) if event == "os.rename" and path != str(folder)]
    assert len(renamed) == 5  # four files, and the folder of them
    for i in renamed:
        assert ["fsync", events[i][1]] in events[:i]
        assert ["fsync", str(Path(events[i][1]).parent)] in events[i:]


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_is_noticed(name: str, damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "last"
    save_checkpoint(folder, state(1), CARD, {})
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "flip":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:-1])
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
    with pytest.raises(BadWeights, match="last"):
        read_checkpoint(folder)


def test_a_state_with_a_number_that_is_not_finite_is_no_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last", state(1), CARD, {})
    path = tmp_path / "last" / "state.json"
    path.write_text(path.read_text().replace('"seconds": 0.0', '"seconds": NaN'))
    with pytest.raises(BadWeights, match="no usable checkpoint"):
        read_checkpoint(tmp_path / "last")
