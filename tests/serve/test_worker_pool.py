"""What a server keeps: its worker, and the model that it began with."""

import asyncio
import errno
import fcntl
import os
from pathlib import Path

import pytest

from densekit import load
from densekit.serve.limits import Limits
from densekit.serve.prometheus import Metrics
from densekit.serve.tempdir import copied, temporary_folder
from densekit.serve.worker_pool import WorkerPool
from densekit.weights.folder import CONFIG
from tests.export.nets import write_net


def test_a_process_that_cannot_be_had_now_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = WorkerPool("fashion-mnist", Limits(), Metrics())
    crew.engine = {"name": "torch"}  # of a worker before
    attempts = []

    async def life(folder: Path) -> None:
        attempts.append(folder)
        if len(attempts) == 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        crew.ready = True
        crew._changed.set()
        await asyncio.Event().wait()

    async def run() -> None:
        crew.start()
        await asyncio.wait_for(crew.settled(), 30)
        await crew.stop()

    monkeypatch.setattr(crew, "_one", life)
    asyncio.run(run())
    assert len(attempts) == 2


def test_what_is_served_stays_what_it_was(tmp_path: Path) -> None:
    net = write_net(tmp_path / "net", "densenet_bc_10_4", num_classes=3)
    with temporary_folder() as folder:
        place = copied(str(net), folder)
        card = net / CONFIG
        card.write_text(card.read_text().replace("class 0", "something else"))
        assert load(net).classes[0] == "something else"
        assert load(place).classes[0] == "class 0"
    assert not folder.exists()


def test_an_exported_file_is_served_from_where_it_is(tmp_path: Path) -> None:
    assert copied("net.onnx", tmp_path) == "net.onnx"


def test_cleaners_see_that_the_folder_is_in_use() -> None:
    with temporary_folder() as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
