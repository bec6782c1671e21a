"""Bytes that come with a body and are not part of it are bounded, whoever sends them."""

import http.client
import io
import os
import socket
import sys
import time
from collections.abc import Iterator
from itertools import repeat

import pytest
from PIL import Image

from tests.serve.servers import MODEL, QUICK, Served, picture, resident, served

pytestmark = pytest.mark.slow
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
FLOODS = {
    "trailers": (b"1\r\nx\r\n0\r\n", repeat(b"a: b\r\n" * 10_000)),
    "one trailer": (b"1\r\nx\r\n0\r\na: ", repeat(b"b" * 60_000)),
    "a chunk extension": (b"1;a=", repeat(b"b" * 60_000)),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that wants a token, which the floods do not have."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("secret")
    token.chmod(0o600)
    with served(MODEL, *QUICK, "--token-file", str(token)) as running:
        yield running


@linux
@pytest.mark.parametrize("name", FLOODS)
def test_endless_framing_is_cut_off_without_growing_the_server(guarded: Served, name: str) -> None:
    start, flood = FLOODS[name]
    before = resident(guarded.process.pid)
    sent = 0
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=30) as connection:
        connection.sendall(HEAD + start)
        try:
            for part in flood:
                connection.sendall(part)
                sent += len(part)
                assert sent < 50e6, "the server still reads"
        except ConnectionError:
            pass
    assert resident(guarded.process.pid) < before + 20e6
    began = time.monotonic()
    with guarded.client as client:
        assert client.get("/healthz").status_code == 200
    assert time.monotonic() - began < 5


def test_small_chunks_and_a_trailer_are_read(server: Served) -> None:
    """As many chunks as a client may plausibly make of a picture."""
    content = picture(0)
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (content[i : i + 8] for i in range(0, len(content), 8))
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(HEAD + chunks + b"0\r\nx-checksum: abc\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_the_body_of_an_earlier_request_is_not_counted_as_framing(server: Served) -> None:
    noise = io.BytesIO()
    Image.frombytes("L", (400, 400), os.urandom(160_000)).save(noise, "PNG")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for _ in range(2):
        connection.putrequest("POST", "/v1/predict")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", str(len(noise.getvalue())))
        connection.endheaders()
        time.sleep(0.2)  # many clients send the body apart from the head
        connection.send(noise.getvalue())
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
    connection.close()
