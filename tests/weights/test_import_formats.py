"""What is no checkpoint is named, each kind with its own advice."""

import gzip
import io
import json
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from densekit import import_model
from densekit.errors import BadWeights
from densekit.weights.foreign.sandboxed_reader import read
from tests.weights.peers import torchvisions


def refused(path: Path) -> str:
    with pytest.raises(BadWeights) as error:
        read(path, path.parent, None)
    message = str(error.value)
    assert message.startswith(f"{path} ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "content", "kind", "advice"),
    [
        (
            "w.pth",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "Git LFS pointer",
            "git lfs pull",
        ),
        ("w.pth", b"/annex/objects/SHA256E-s10--00.pth\n", "git-annex pointer", "git annex get"),
        ("w.pth", b"\n<!DOCTYPE html><html><body>Log in</body></html>", "web page", "the file itself"),
        ("w.pth", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML", "the weights themselves"),
        ("w.index.json", b'{"metadata": {}, "weight_map": {"a": "b"}}', "an index of shards", "join their tensors"),
        ("net.onnx", b"\x08\x09\x12\x07pytorch\x1a\x062.14.1:", "ONNX", "that it was exported from"),
        ("saved_model.pb", b"\x08\x01\x12\x03ab:", "a graph of TensorFlow", "weights.keras"),
        ("frozen.pb", b"\n\x10\n\x05input", "TensorFlow", "weights.keras"),
        ("model.ckpt.index", b"\0\0\x01", "TensorFlow", "weights.keras"),
        ("net.tflite", b"\x1c\0\0\0TFL3", "TensorFlow Lite", "that it was converted from"),
        ("w.msgpack", b"\x81\xa6params\x81", "Flax", "names and layout of torch"),
        ("w.npy", b"\x93NUMPY\x01\0", "NumPy", "torch.save(tensors"),
        ("w.t7", b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1", "Torch7", "torchfile"),
        ("net.caffemodel", b"\n\x08DenseNet", "Caffe", "BGR"),
        ("w.params", b"\x12\x01\0\0\0\0\0\0\0\0\0\0", "MXNet", "convert it"),
        ("w.mat", b"MATLAB 5.0 MAT-file", "MATLAB", "torch.save(tensors"),
        ("w.gguf", b"GGUF\x03\0\0\0", "GGUF", "that it was converted from"),
        ("w.pth.bz2", b"BZh91AY", "compressed", "bunzip2"),
        ("w.pth.xz", b"\xfd7zXZ\0", "compressed", "unxz"),
        ("w.pth.zst", b"\x28\xb5\x2f\xfd", "compressed", "unzstd"),
    ],
)
def test_other_kinds_of_file_are_named(name: str, content: bytes, kind: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert kind in message
    assert advice in message.partition("; ")[2]


def test_weights_in_an_archive_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    (tmp_path / "w.pth.gz").write_bytes(gzip.compress((tmp_path / "w.pth").read_bytes()))
    assert "gunzip -k" in refused(tmp_path / "w.pth.gz")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.write(tmp_path / "w.pth", "best/w.pth")
    assert "a zip archive with best/w.pth in it; unpack it first" in refused(tmp_path / "w.zip")
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        tar.add(tmp_path / "w.pth", "w.pth")
    assert "tar xf" in refused(tmp_path / "w.tar")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "text")
    assert "a zip archive without weights" in refused(tmp_path / "other.zip")
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    assert "torch.from_numpy" in refused(tmp_path / "w.npz")


def test_programs_of_torch_are_named(tmp_path: Path) -> None:
    net = torch.nn.Conv2d(1, 1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net), tmp_path / "script.pt")
        torch.export.save(torch.export.export(net, (torch.zeros(1, 1, 4, 4),)), tmp_path / "net.pt2")
    assert "torch.jit.load(FILE).state_dict()" in refused(tmp_path / "script.pt")
    assert "torch.export.load(FILE).state_dict," in refused(tmp_path / "net.pt2")


def test_one_of_several_shards_is_named(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(bytes(100))
    assert "is one of 2 shards; join" in refused(tmp_path / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"state": {0: {"exp_avg": torch.zeros(1, 1, 3, 3)}}, "param_groups": []}, "the state of an optimizer"),
        ({"optimizer": {"state": {}, "param_groups": []}, "epoch": 3}, "the state of an optimizer"),
        ({"decay": 0.9, "shadow_params": [torch.zeros(1, 1, 3, 3)]}, "averaged parameters"),
    ],
)
def test_checkpoints_without_a_network_say_what_they_hold(tree: object, words: str, tmp_path: Path) -> None:
    torch.save(tree, tmp_path / "w.pth")
    assert words in refused(tmp_path / "w.pth")


def test_a_link_to_what_was_never_fetched_says_so(tmp_path: Path) -> None:
    """As git-annex leaves them."""
    (tmp_path / "w.pth").symlink_to(".git/annex/objects/SHA256E-s10--00.pth")
    with pytest.raises(BadWeights, match=r"is a link to \.git/annex/.*, which is not there; .* git annex get w\.pth"):
        import_model(tmp_path / "w.pth", tmp_path / "model")


def test_a_header_that_looks_like_another_kind_is_still_safetensors(tmp_path: Path) -> None:
    """Eight bytes of length, here those of an MXNet file."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [1, 1, 1, 1], "data_offsets": [0, 4]}}).ljust(0x112)
    (tmp_path / "w.safetensors").write_bytes((0x112).to_bytes(8, "little") + text.encode() + bytes(4))
    assert list(read(tmp_path / "w.safetensors", tmp_path, None).tensors) == ["a"]


def test_a_count_of_averaged_networks_is_no_weight(tmp_path: Path) -> None:
    """torch.optim.swa_utils.AveragedModel keeps one beside the network."""
    state = torch.optim.swa_utils.AveragedModel(torchvisions()).state_dict()
    torch.save(state, tmp_path / "w.pth")
    done = import_model(tmp_path / "w.pth", tmp_path / "model")
    assert set(done.account.aside) == {"n_averaged"}


def test_a_legacy_tar_of_torch_is_not_taken_for_a_pickle(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    (tmp_path / "w.pth.tar").write_bytes(buffer.getvalue())
    assert "a tar archive" in refused(tmp_path / "w.pth.tar")
