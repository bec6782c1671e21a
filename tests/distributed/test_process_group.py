"""Processes know which launch they are of: what torchrun starts again goes on with its own run, and with no other."""

import itertools
import os
import uuid

import pytest
import torch.distributed as dist

from densekit.distributed import process_group

_stores: list[object] = []
"""A store is gone with its object."""


def launched(monkeypatch: pytest.MonkeyPatch) -> int:
    """As by a torchrun of one process: its environment and a store, whose port identifies the launch."""
    store = dist.TCPStore(  # type: ignore[attr-defined]  # torch does not list it among its exports
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    environment = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_RUN_ID": uuid.uuid4().hex,
        "TORCHELASTIC_USE_AGENT_STORE": str(True),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    _stores.append(store)
    return int(store.port)


def launch_of_next_call() -> str:
    with process_group.init_distributed() as world:
        assert (world.size, world.is_main) == (1, True)
        return world.launch


def test_a_single_process_is_of_its_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same after a restart; other runs of one program, and other launches, are others."""
    monkeypatch.setattr(process_group, "_calls", itertools.count())
    first = launched(monkeypatch)
    before = [launch_of_next_call(), launch_of_next_call()]
    monkeypatch.setattr(process_group, "_calls", itertools.count())
    assert [launch_of_next_call(), launch_of_next_call()] == before
    second = launched(monkeypatch)
    monkeypatch.setattr(process_group, "_calls", itertools.count())
    other = launch_of_next_call()
    assert first != second
    assert len({*before, other, ""}) == 4


def test_a_process_that_nobody_launched_is_of_none() -> None:
    assert "TORCHELASTIC_RUN_ID" not in os.environ
    assert launch_of_next_call() == ""
