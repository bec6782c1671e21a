"""Where torchvision's weights come from, and what is said when they do not come."""

import contextlib
import io
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models as peers

from densekit.errors import BadWeights, UnknownName
from densekit.weights.torchvision_files import load_torchvision, weights_file
from tests.training.made_weights import torchvision_file

FILE = "squeezenet1_1-b8a52dc0.pth"  # small


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder of downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (made := tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return made


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)


def test_the_file_of_a_network_is_torchvisions_own(folder: Path) -> None:
    file = weights_file("densenet121")
    assert file.url == "https://download.pytorch.org/models/densenet121-a639ec97.pth"
    assert file.path == folder / "densenet121-a639ec97.pth"
    with pytest.raises(UnknownName, match="did you mean densenet121"):
        weights_file("densnet121")


def test_a_cached_file_needs_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    assert not weights_file("squeezenet1_1").reachable()
    _, theirs = torchvision_file(monkeypatch, folder, "squeezenet1_1")
    assert weights_file("squeezenet1_1").reachable()
    loaded = load_torchvision("squeezenet1_1")
    assert all(torch.equal(loaded[key], value) for key, value in theirs.items())


def test_a_proxy_that_answers_no_http_counts_as_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        file = replace(weights_file("squeezenet1_1"), url=f"http://download.pytorch.org/models/{FILE}")

        def answer() -> None:
            connection, _ = proxy.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        server = threading.Thread(target=answer)
        server.start()
        assert not file.reachable()
        server.join(60)


def test_without_network_file_address_and_place_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(BadWeights) as error:
        load_torchvision("squeezenet1_1")
    assert f"download https://download.pytorch.org/models/{FILE} and put it at {folder / FILE}" in str(error.value)
    assert "no route to host" in str(error.value)
    assert not out.getvalue(), "standard output is for results"


def test_a_damaged_cached_file_is_named(folder: Path) -> None:
    (folder / FILE).write_bytes(b"<html>not found</html>")
    with pytest.raises(BadWeights, match=rf"{FILE} does not hold torchvision's weights of squeezenet1_1.*remove it"):
        load_torchvision("squeezenet1_1")


def test_another_file_by_that_name_is_refused(folder: Path) -> None:
    """Whole and of the right network, but not what the name says: torch.hub would take it."""
    torch.save(peers.squeezenet1_1().state_dict(), folder / FILE)
    with pytest.raises(BadWeights, match=rf"{FILE} does not hold .*its SHA-256 begins with \w{{8}}, not with b8a52dc0"):
        load_torchvision("squeezenet1_1")


def test_a_download_with_another_hash_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's own check, which is on."""
    content = io.BytesIO()
    torch.save(peers.squeezenet1_1().state_dict(), content)

    class Answer(io.BytesIO):
        def info(self) -> Any:
            return type("Headers", (), {"get_all": staticmethod(lambda _: None)})()

    monkeypatch.setattr("torch.hub.urlopen", lambda *_: Answer(content.getvalue()))
    with pytest.raises(BadWeights, match="invalid hash value"):
        load_torchvision("squeezenet1_1")
    assert not (folder / FILE).exists()
