"""The worker answers each image as `predict` does, whatever else is in its batch."""

import io
import json
import queue
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from densekit import load
from densekit.data.decoding.decode import decode
from densekit.data.resize_crop import _middle, framed
from densekit.errors import BadImage
from densekit.serve import ipc
from densekit.serve.worker import Bench
from densekit.weights.folder import CONFIG
from tests.export.nets import write_net
from tests.serve.benches import answers
from tests.serve.servers import picture


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_net(tmp_path_factory.mktemp("net"), "densenet_bc_10_8", image_size=20, in_channels=1, num_classes=6)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net for several labels an image, with thresholds."""
    folder = write_net(tmp_path_factory.mktemp("several"), "densenet_bc_10_4", image_size=20, num_classes=5)
    card = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(card | {"task": "multi-label", "thresholds": [0.5, 0.1, 0.9, 0.2, 0.7]}))
    return folder


@pytest.mark.parametrize("kind", ["net", "several"])
def test_one_image_is_answered_to_the_last_digit_as_predict_does(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    classifier = load(folder)
    images = [picture(i, (20 + i, 31 - i)) for i in range(4)]
    found, _ = answers(classifier, images, together=False)
    for answer, image in zip(found, images, strict=True):
        assert json.dumps(answer["top"]) == json.dumps(load(folder).predict(image).top(3))


@pytest.mark.parametrize("kind", ["net", "several"])
def test_company_changes_no_answer(kind: str, request: pytest.FixtureRequest) -> None:
    classifier = load(request.getfixturevalue(kind))
    images = [picture(i, (20 + i, 31 - i)) for i in range(20)]
    alone, _ = answers(classifier, images, top=6, together=False)
    crowd, sizes = answers(classifier, images, top=6)
    assert sizes[:2] == [8, 8]
    for one, other in zip(alone, crowd, strict=True):
        assert [row["class"] for row in one["top"]] == [row["class"] for row in other["top"]]
        expected, actual = ([row["probability"] for row in each["top"]] for each in (one, other))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_an_image_can_be_asked_for_as_the_network_sees_it(net: Path) -> None:
    classifier = load(net)
    found, sizes = answers(classifier, [picture(0), picture(1), b"no image"], top=0)
    assert sizes == [0] * len(sizes)  # nothing was computed
    for number in range(2):
        seen = classifier.pixels([Image.open(io.BytesIO(picture(number))).convert("L")])
        assert torch.equal(ipc.pixels_of(found[number]["pixels"]), seen)
    assert found[2]["error"]["code"] == "not_an_image"


def test_bad_images_are_answered_with_the_decoders_words(net: Path) -> None:
    classifier = load(net)
    images = [picture(0), b"no image", picture(1)[:60], picture(2, (400, 400)), b"", picture(3)]
    found, sizes = answers(classifier, images)
    for answer, outcome in zip(found, classifier.predict_each(images, max_pixels=100_000), strict=True):
        if isinstance(outcome, BadImage):
            assert answer["error"] == {"code": outcome.code, "message": str(outcome)}
        else:
            assert len(answer["top"]) == 3
    assert sum(sizes) == 2


def test_a_slow_image_does_not_keep_the_others(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are answered while it is still being decoded."""
    gate, ordinary = threading.Event(), decode

    def slow(source: bytes, **options: Any) -> Any:
        if source.startswith(b"slow"):
            assert gate.wait(60)
            source = source[4:]
        return ordinary(source, **options)

    monkeypatch.setattr("densekit.inference.classifier.decode", slow)
    ours, theirs = socket.socketpair()
    arrived: queue.SimpleQueue[ipc.Message | None] = queue.SimpleQueue()
    thread = threading.Thread(target=Bench(load(net), theirs, arrived, 2, 8, 100_000).run)
    thread.start()
    with ours, theirs, ours.makefile("rb") as stream:
        for number, content in enumerate([b"slow" + picture(0), picture(1), picture(2)]):
            arrived.put(({"id": number, "top": 1, "invert": False}, content))
        order: list[int] = []
        while len(order) < 3:
            document = ipc.read(stream)
            assert document is not None
            order += [answer["id"] for answer in document[0]["answers"]]
            if len(order) == 2:
                gate.set()
        arrived.put(None)
        thread.join(60)
    assert sorted(order[:2]) == [1, 2]
    assert order[2] == 0


def test_signals_are_the_servers_before_torch_is_there() -> None:
    """Which takes seconds, in which a terminal's Ctrl-C would end the worker."""
    code = "import sys, densekit.serve.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_strips_are_not_scaled_to_gigabytes(net: Path) -> None:
    """One pixel high and 50,000 wide would be 20 high and a million wide."""
    preprocessing = load(net).card.preprocessing
    strip = Image.new("L", (50_000, 1))
    for image in (strip, strip.transpose(Image.Transpose.ROTATE_90)):
        assert framed(image, preprocessing).size == (20, 20)
    assert _middle(strip).size == (100, 1)
    assert _middle(Image.new("L", (99, 1))).size == (99, 1)


def test_messages_come_back_whole_or_not_at_all(tmp_path: Path) -> None:
    packed = ipc.packed({"id": 7, "name": "é"}, b"\0\n\xff")
    path = tmp_path / "messages"
    path.write_bytes(packed * 2)
    with path.open("rb") as stream:
        for _ in range(2):
            assert ipc.read(stream) == ({"id": 7, "name": "é"}, b"\0\n\xff")
        assert ipc.read(stream) is None
    for length in range(len(packed)):
        path.write_bytes(packed[:length])
        with path.open("rb") as stream:
            assert ipc.read(stream) is None


def test_a_killed_server_is_the_end_of_what_arrives() -> None:
    """Its answers were not all read, so the system resets the connection; the worker would wait for ever."""
    server, worker = socket.socketpair()
    with worker, worker.makefile("rb") as stream:
        worker.sendall(b"an answer that nobody reads")
        server.close()
        assert ipc.read(stream) is None
