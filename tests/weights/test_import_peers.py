"""Peers' weights give peers' logits; docs/weights.md has the table that these tests measure.

DENSEKIT_WRITE_DOCS=1 writes what was measured into the table.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from densekit import import_model, load
from tests.weights.keras_files import EPS, config_of, keras_layers, write_h5, write_keras, write_keras3_weights
from tests.weights.peers import PEERS, monais, perturb, torchvisions
from tests.weights.real_peers import FILES

pytestmark = pytest.mark.usefixtures("read_in_process")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "weights.md"
HEADER = "| source | file | inferred model | matched | converted | created | difference, float32 | float64 |"
RULE = "|---|---|---|---|---|---|---|---|"
# What is not in the tests' own process, and written by hand there where it is not installed.
REAL = [name for name in FILES if find_spec(name)]


class Row(NamedTuple):
    """What one import gave."""

    peer: str
    file: str
    found: str
    matched: int
    converted: int
    made: int
    single: float
    """Largest difference of logits, and of the same weights in double precision."""
    double: float | None

    def __str__(self) -> str:
        double = "-" if self.double is None else f"{self.double:.0e}"
        cells = (*self[:3], *map(str, self[3:6]), f"{self.single:.0e}", double)
        return f"| {' | '.join(cells)} |"


def compared(peer: str, path: Path, images: Tensor, logits: Callable[[Tensor], Tensor], *, double: bool) -> Row:
    done = import_model(path, path.with_name(f"{path.name}.model"))
    model = load(done.folder, device="cpu").model
    account = done.account
    with torch.inference_mode():
        single = (model(images) - logits(images)).abs().max().item()
        twice = (model.double()(images.double()) - logits(images.double())).abs().max().item() if double else None
    counts = (len(account.matched), len(account.converted), len(account.made))
    return Row(peer, "".join(path.suffixes), done.card.model.name, *counts, single, twice)


@cache
def row_of(name: str) -> Row:
    """A network of torch in this process."""
    peer = PEERS[name]
    torch.manual_seed(0)
    net = perturb(peer.build())
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(peer.wrap(peer.names(net.state_dict())), path)
        return compared(name, path, peer.images(), lambda x: net.to(x.dtype)(x), double=True)


@cache
def keras_rows() -> tuple[Row, ...]:
    """Files in Keras's layouts; the logits are those of the network that they were written from."""
    torch.manual_seed(0)
    net = perturb(torchvisions(eps=EPS))
    layers, old = keras_layers(net.state_dict()), keras_layers(net.state_dict(), "/")
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with TemporaryDirectory() as folder:
        at = Path(folder)
        files = {
            "Keras 2's layout, weights": write_h5(at / "old.h5", old, keras2=True),
            "Keras 3's layout, network": write_h5(at / "new.h5", layers, config=config_of(layers)),
            "Keras 3's archive": write_keras(at / "archive.keras", layers, config_of(layers)),
            "Keras 3's layout, weights": write_keras3_weights(at / "numbered.weights.h5", layers),
        }
        return tuple(
            compared(name, path, images, lambda x: net.to(x.dtype)(x), double=True) for name, path in files.items()
        )


@cache
def real_rows(name: str) -> tuple[Row, ...]:
    """Their own code, in their own process."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "tests.weights.real_peers", name, folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        known = load_file(Path(folder) / "logits.safetensors")
        return tuple(
            compared(
                f"{name} {version(name)}", Path(folder) / file, known["images"], lambda _: known["logits"], double=False
            )
            for file in FILES[name]
        )


@pytest.mark.parametrize("name", PEERS)
def test_logits_of_an_import_are_the_peers(name: str) -> None:
    row = row_of(name)
    assert row.single < 1e-5
    assert row.double is not None
    assert row.double < 1e-10


def test_logits_of_keras_files_are_those_of_the_network_they_are_of() -> None:
    rows = keras_rows()
    assert rows
    for row in rows:
        assert row.single < 1e-5, row
        assert row.double is not None
        assert row.double < 1e-10, row


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_logits_of_an_import_are_those_of_the_peers_own_code(name: str) -> None:
    rows = real_rows(name)
    assert len(rows) == len(FILES[name])
    for row in rows:
        assert row.single < 1e-5, row
    agree_with_docs(real_rows(name))


def test_every_tensor_of_a_peer_is_accounted_for(tmp_path: Path) -> None:
    net = perturb(torchvisions())
    state = net.state_dict()
    torch.save(monais(state) | {"class_layers.total_ops": torch.zeros(1)}, tmp_path / "weights.pth")
    account = import_model(tmp_path / "weights.pth", tmp_path / "model").account
    assert sorted([*account.matched, *account.aside]) == sorted([*monais(state), "class_layers.total_ops"])
    assert (account.converted, account.made) == ({}, {})


def test_the_table_in_the_docs_is_what_was_measured() -> None:
    agree_with_docs([*map(row_of, PEERS), *keras_rows()])


def test_the_table_in_the_docs_has_no_other_rows() -> None:
    here = {key(str(row)) for row in (*map(row_of, PEERS), *keras_rows())}
    elsewhere = {(name, f".{file.partition('.')[2]}") for name, files in FILES.items() for file in files}
    assert {key(line) for line in table_of(DOCS.read_text(encoding="utf-8"))[1]} == here | elsewhere


def table_of(text: str) -> tuple[str, list[str], str]:
    """What stands before the rows, the rows, and what stands behind them."""
    before, after = text.split(f"{HEADER}\n{RULE}\n")
    rows, _, rest = after.partition("\n\n")
    return f"{before}{HEADER}\n{RULE}\n", rows.splitlines(), f"\n\n{rest}"


def agree_with_docs(rows: Iterable[Row]) -> None:
    """All but the last digits, which are the machine's; or writes them, if asked to."""
    before, lines, rest = table_of(DOCS.read_text(encoding="utf-8"))
    written = {key(line): line for line in lines}
    if os.environ.get("DENSEKIT_WRITE_DOCS"):
        written |= {key(str(row)): str(row) for row in rows}
        DOCS.write_text(before + "\n".join(written.values()) + rest, encoding="utf-8")
    for row in rows:
        cells = written[key(str(row))].strip("| ").split(" | ")
        assert cells[1:6] == [row.file, row.found, *map(str, row[3:6])], row
        assert float(cells[6]) < 1e-5
        assert cells[7] == "-" or float(cells[7]) < 1e-10


def key(line: str) -> tuple[str, str]:
    """Peer and file of a row; a package's version is no part of it."""
    peer, file = line.strip("| ").split(" | ")[:2]
    name = peer.partition(" ")[0]
    return (name if name in FILES else peer), file


def test_the_doubles_are_not_all_alike() -> None:
    """Or a test with one of them would prove what another does."""
    ways: set[tuple[str, ...]] = set()
    for name in ("andreasveit, BC", "bamos", "gpleiss", "kuangliu", "weiaicunzai"):
        net: nn.Module = PEERS[name].build()
        ways.add(tuple(net.state_dict()))
    assert len(ways) == 5
