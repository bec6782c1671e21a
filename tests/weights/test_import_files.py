"""Files from strangers: nothing in them runs, and what they can use up has limits."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from densekit import import_model
from densekit.errors import BadWeights, InvalidInput
from densekit.weights.foreign import sandbox, sandboxed_reader
from densekit.weights.foreign.sandboxed_reader import read as read_unlimited
from tests.weights.keras_files import config_of, keras_layers, write_h5, write_keras
from tests.weights.peers import perturb, torchvisions


class Attack:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def state() -> dict[str, torch.Tensor]:
    return perturb(torchvisions()).state_dict()


def refused(path: Path) -> str:
    """The message of `densekit import` in its own process with limits; it leaves no folder."""
    with pytest.raises(BadWeights) as error:
        import_model(path, path.parent / "model")
    assert not (path.parent / "model").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def read_here(path: Path) -> str:
    """The message where no limits are needed to refuse it."""
    with pytest.raises(BadWeights) as error:
        read_unlimited(path, path.parent, None)
    return str(error.value)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_a_pickle_that_runs_code_runs_nothing(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the user's environment tells torch to trust everything."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, mark = tmp_path / "weights.pth", tmp_path / "mark"
    tree = {"state_dict": state(), "epoch": Attack(mark)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(tree["epoch"], protocol=2))
    else:
        torch.save(tree, path, _use_new_zipfile_serialization=form == "zip")
    message = refused(path)
    assert not mark.exists()
    assert "mkdir, which densekit never does" in message
    assert "save its state_dict" in message


def test_a_whole_pickled_network_says_what_to_do(tmp_path: Path) -> None:
    torch.save(torchvisions(), tmp_path / "weights.pth")
    assert "torch.save(model.state_dict()" in read_here(tmp_path / "weights.pth")


def test_a_command_line_in_a_checkpoint_is_harmless(tmp_path: Path) -> None:
    """The training script of timm keeps its options in each."""
    torch.save({"state_dict": state(), "args": Namespace(lr=0.1)}, tmp_path / "weights.pth")
    done = import_model(tmp_path / "weights.pth", tmp_path / "model")
    assert "left in the file: args" in done.notes


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["pth", "legacy", "safetensors", "h5", "keras"])
def test_a_truncated_file_is_named(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{kind}"
    if kind in ("pth", "legacy"):
        torch.save(state(), path, _use_new_zipfile_serialization=kind == "pth")
    elif kind == "safetensors":
        save_file(state(), path)
    else:
        layers = keras_layers(state())
        write_h5(path, layers) if kind == "h5" else write_keras(path, layers, config_of(layers))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = refused(path) if share == 0.0 or (share, kind) == (0.3, "pth") else read_here(path)
    assert str(path) in message
    assert ("is empty" in message) == (share == 0.0)


@pytest.mark.parametrize("where", ["a tensor", "data.pkl"])
def test_a_flipped_bit_is_named(where: str, tmp_path: Path) -> None:
    """torch.load compares no checksums, and one bit of a weight is another network."""
    path = tmp_path / "weights.pth"
    torch.save(state(), path)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        entry = largest if where == "a tensor" else archive.getinfo("weights/data.pkl")
        with archive.open(entry) as part:
            start = path.read_bytes().index(part.read(200))
    content = bytearray(path.read_bytes())
    content[start + 100] ^= 1
    path.write_bytes(content)
    assert f"{entry.filename} in it is not what its checksum says" in read_here(path)


def test_an_archive_without_checksums_says_so(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state(), tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert "or was written without checksums" in read_here(tmp_path / "weights.pth")


def test_a_folder_a_missing_file_and_a_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("dear reader")
    assert "is a folder" in refused(tmp_path)
    assert "no file" in refused(tmp_path / "gone.pth")
    assert "no file of weights" in read_here(tmp_path / "text.pth")


def test_a_program_is_no_weights(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "weights.pt")
    assert "TorchScript" in read_here(tmp_path / "weights.pt")


def test_a_view_cannot_claim_more_than_the_file_has(tmp_path: Path) -> None:
    torch.save(state() | {"claim": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "weights.pth")
    assert "more of the file than its size can hold" in read_here(tmp_path / "weights.pth")


def test_memory_has_a_limit(tmp_path: Path) -> None:
    """Zeros pack well."""
    path = tmp_path / "weights.pth"
    torch.save(state() | {"bomb": torch.zeros(64)}, path)
    original = zipfile.ZipFile(path)
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for entry in original.infolist():
            content = original.read(entry)
            if len(content) == 256 and not any(content):
                content = bytes(2**30)
            archive.writestr(entry.filename, content)
    assert "more memory than weights in a file of its size need" in refused(tmp_path / "bomb.pth")


def test_the_limits_are_in_force(tmp_path: Path) -> None:
    code = f"""
from densekit.weights.foreign import sandboxed_reader
import resource, torch
sandboxed_reader.limit(1000)
print(resource.getrlimit(resource.RLIMIT_CPU)[0], resource.getrlimit(resource.RLIMIT_CORE)[0])
try:
    bytearray({sandboxed_reader.room_for(1000)} * 3 + 2**30)
except MemoryError:
    print("no memory")
try:
    with open({str(tmp_path / "large")!r}, "wb") as file:
        file.write(bytes({sandboxed_reader.room_for(1000)} * 2 + 1))
except OSError as error:
    print("no disk", error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cpu, core, *rest = done.stdout.split(maxsplit=2)
    assert (int(cpu), int(core)) == (sandboxed_reader.cpu_seconds(1000), 0)
    assert "no disk" in rest[0]
    if sys.platform == "linux":
        assert "no memory" in rest[0]


def test_time_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_PATIENCE", 0.01)
    monkeypatch.setattr(sandbox, "_BYTES_A_SECOND", 10**12)
    torch.save(state(), tmp_path / "weights.pth")
    assert "took more than 0 s and was stopped" in refused(tmp_path / "weights.pth")


def test_a_module_beside_the_weights_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would look in the current folder first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text(f"import os; os.mkdir({str(tmp_path / 'mark')!r})")
    torch.save(state(), tmp_path / "weights.pth")
    import_model("weights.pth", "model")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("how", ["external link", "soft link", "external storage", "virtual"])
def test_hdf5_cannot_read_other_files(how: str, tmp_path: Path) -> None:
    """HDF5 can name files whose bytes it then shows as its own."""
    h5py = pytest.importorskip("h5py")
    layers = keras_layers(state())
    (tmp_path / "secret").write_bytes(bytes(4 * 34))
    path = write_h5(tmp_path / "weights.h5", layers)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["data"] = np.zeros(34, np.float32)
    with h5py.File(path, "r+") as file:
        group = file["bn/bn"]
        del group["gamma"]
        if how == "external link":
            group["gamma"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/data")
        elif how == "soft link":
            group["gamma"] = h5py.SoftLink("/bn/bn/beta")
        elif how == "external storage":
            group.create_dataset("gamma", (34,), np.float32, external=[(str(tmp_path / "secret"), 0, 4 * 34)])
        else:
            layout = h5py.VirtualLayout((34,), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "data", (34,))
            group.create_virtual_dataset("gamma", layout)
    assert "which is not followed" in read_here(path)


def test_hdf5_cannot_claim_more_than_the_file_has(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = write_h5(tmp_path / "weights.h5", keras_layers(state()))
    with h5py.File(path, "r+") as file:
        del file["bn/bn"]["gamma"]
        file["bn/bn"].create_dataset("gamma", (10**6, 10**6), np.float32, chunks=(10, 10))
    assert "larger than the file can hold" in read_here(path)


def test_a_keras_archive_cannot_unpack_to_more(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "weights.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(2**28))
    assert "unpacks to more" in read_here(tmp_path / "weights.keras")


def test_a_part_longer_than_its_keras_archive_is_damage(tmp_path: Path) -> None:
    """As the guided fuzzer found it: not an error of zipfile's own kind."""
    path = tmp_path / "weights.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(100))
    sound = struct.pack("<II", 100, 100)
    path.write_bytes(path.read_bytes().replace(sound, struct.pack("<II", 10**6, 10**6)))
    assert "damaged" in read_here(path)


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_part_of_a_keras_archive_is_said_so(tmp_path: Path, packing: int) -> None:
    path = tmp_path / "weights.keras"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", np.random.default_rng(0).bytes(500))
    content = bytearray(path.read_bytes())
    start = content.index(b"model.weights.h5") + 40
    content[start : start + 200] = bytes(x ^ 0xFF for x in content[start : start + 200])
    path.write_bytes(content)
    assert "damaged" in read_here(path)


def test_keras_files_without_h5py_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_h5(tmp_path / "weights.h5", keras_layers(state()))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InvalidInput, match=r"pip install 'densekit\[keras\]'"):
        read_unlimited(path, tmp_path, None)


def test_a_safetensors_header_cannot_claim_more(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert "damaged" in read_here(tmp_path / "weights.safetensors")


def test_what_holds_no_network_says_so(tmp_path: Path) -> None:
    trees: tuple[Any, ...] = ({}, [1, 2], {"a": torch.zeros(3)}, torch.zeros(3), {"state_dict": {}})
    for tree in trees:
        torch.save(tree, tmp_path / "weights.pth")
        assert "holds no network" in read_here(tmp_path / "weights.pth")
    buffer = io.BytesIO()
    torch.save({"optimizer": {"state": {0: {"exp_avg": torch.zeros(1, 1, 1, 1)}}}}, buffer)
    (tmp_path / "weights.pth").write_bytes(buffer.getvalue())
    assert "holds no network" in read_here(tmp_path / "weights.pth")
