"""Requests as attackers, faults and broken programs make them: deterministic, by a seed."""

import functools
import gzip
import io
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.fuzz.mutations import mutants
from tests.serve.servers import blank, picture

Random = np.random.Generator


@dataclass(frozen=True)
class Attack:
    """What is sent, and how it ends."""

    name: str
    parts: tuple[bytes | float, ...]
    """Bytes to send and seconds to wait, in turn."""
    patience: float = 60.0
    """Seconds that an answer is waited for; 0: the connection is reset at once."""


def attack(number: int) -> Attack:
    """One of each kind in turn, another for each number."""
    random = np.random.default_rng(number)
    kinds = list(_KINDS.items())
    name, make = kinds[number % len(kinds)]
    return make(name, random)


def carry_out(attack: Attack, port: int) -> int | None:
    """The status of the answer, if there was one."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            for part in attack.parts:
                if isinstance(part, float):
                    time.sleep(part)
                else:
                    connection.sendall(part)
            if not attack.patience:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return None
            connection.settimeout(attack.patience)
            came = connection.recv(65536)
            with suppress(TimeoutError):
                while len(came) < 12 and (chunk := connection.recv(65536)):
                    came += chunk
        except (ConnectionError, TimeoutError):
            return None
    return int(came[9:12]) if came.startswith(b"HTTP/1.1 ") else None


@functools.cache
def _seeds() -> tuple[bytes, ...]:
    kinds = [("PNG", "L"), ("JPEG", "RGB"), ("GIF", "L"), ("WEBP", "RGB"), ("TIFF", "RGB"), ("BMP", "L"), ("PPM", "L")]
    return tuple(picture(seed, (40, 30), kind, mode) for seed, (kind, mode) in enumerate(kinds))


@functools.cache
def _bombs() -> tuple[bytes, ...]:
    """Far more pixels than bytes; strips; one pixel."""
    claim = bytearray(blank(1, 1))
    claim[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    tiff = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(tiff, "TIFF", compression="group4")
    gif = io.BytesIO()
    Image.new("L", (65_535, 655)).save(gif, "GIF")
    sizes = [(20_000, 20_000), (1, 1), (1, 20_000), (20_000, 1), (7_000, 7_000), (50_000, 1_000)]
    return (*(blank(*size) for size in sizes), bytes(claim), tiff.getvalue(), gif.getvalue())


def _request(body: bytes, *, kind: str = "image/png", path: str = "/v1/predict", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % length + body


def _form(random: Random, files: Sequence[bytes], name: str = "files") -> bytes:
    return b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"; filename="%d.png"\r\n\r\n%s\r\n'
        % (name.encode(), i, content)
        for i, content in enumerate(files)
    ) + (b"--b--\r\n" if random.random() < 0.8 else b"")


def _mutant(seeds: Sequence[bytes], random: Random) -> bytes:
    return next(mutants([seeds[int(random.integers(len(seeds)))]], 1, int(random.integers(2**31))))


def _noise(name: str, random: Random) -> Attack:
    return Attack(name, (random.bytes(int(random.integers(1, 3000))),), 0.5)


def _random_body(name: str, random: Random) -> Attack:
    return Attack(name, (_request(random.bytes(int(random.integers(0, 5000)))),))


def _damaged(name: str, random: Random) -> Attack:
    return Attack(name, (_request(_mutant(_seeds(), random)),))


def _damaged_head(name: str, random: Random) -> Attack:
    return Attack(name, (_mutant([_request(_seeds()[0])[:200]], random),), 0.5)


def _half_body(name: str, random: Random) -> Attack:
    whole = _request(_seeds()[int(random.integers(len(_seeds())))])
    return Attack(name, (whole[: int(random.integers(130, len(whole)))],), float(random.choice([0.0, 0.2])))


def _half_head(name: str, random: Random) -> Attack:
    return Attack(name, (_request(b"")[: int(random.integers(1, 100))],), float(random.choice([0.0, 0.2])))


def _wrong_length(name: str, random: Random) -> Attack:
    length = random.choice([0, 1, 10**9, 2**63, -1])
    return Attack(
        name, (_request(_seeds()[0]).replace(b"Content-Length: ", b"Content-Length: %d\r\nX: " % length),), 0.5
    )


def _chunked(name: str, random: Random) -> Attack:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = _seeds()[0]
    good = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return Attack(name, (head + (_mutant([good], random) if random.random() < 0.7 else good),), 0.5)


def _odd_form(name: str, random: Random) -> Attack:
    form = _form(random, [_seeds()[0]], str(random.choice(["file", "files", "", "x"])))
    body = _mutant([form], random)
    return Attack(name, (_request(body, kind="multipart/form-data; boundary=b"),))


def _odd_batch(name: str, random: Random) -> Attack:
    files = [_mutant(_seeds(), random) for _ in range(int(random.choice([0, 1, 5, 40])))]
    return Attack(
        name, (_request(_form(random, files), kind="multipart/form-data; boundary=b", path="/v1/predict/batch"),)
    )


def _wrong_type(name: str, random: Random) -> Attack:
    kinds = [
        "application/json",
        "text/html",
        "image/",
        "multipart/form-data",
        "é",
        "x" * 5000,
        "multipart/form-data; boundary=",
    ]
    kind = kinds[int(random.integers(len(kinds)))]
    return Attack(name, (_request(_seeds()[0]).replace(b"image/png", kind.encode()),))


def _packed(name: str, random: Random) -> Attack:
    body = gzip.compress(bytes(1_000_000))
    return Attack(name, (_request(body).replace(b"Host: x", b"Content-Encoding: gzip"),))


def _bomb(name: str, random: Random) -> Attack:
    return Attack(name, (_request(_bombs()[int(random.integers(len(_bombs())))]),))


def _odd_query(name: str, random: Random) -> Attack:
    query = random.choice(
        ["top=-1", "top=0", "top=1e9", "top=99999999999999999999", "top=%00", "invert=2", "top=1&top=x", "%"]
    )
    return Attack(name, (_request(_seeds()[0], path=f"/v1/predict?{query}"),))


def _odd_route(name: str, random: Random) -> Attack:
    method = random.choice(["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "CONNECT", "PATCH"])
    path = random.choice(
        ["/", "/v1/predict", "//", "/v1/../..", "/%2e%2e/etc/passwd", "*", "http://other/x", "/docs/static/../app.py"]
    )
    return Attack(name, (f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(),), 2.0)


def _slow(name: str, random: Random) -> Attack:
    whole, at = _request(_seeds()[0]), int(random.integers(1, 300))
    return Attack(name, (whole[:at], 0.1, whole[at : at + 9], 0.1, whole[at + 9 :]))


def _reset(name: str, random: Random) -> Attack:
    return Attack(name, (_request(_seeds()[int(random.integers(len(_seeds())))]),), 0.0)


def _good(name: str, random: Random) -> Attack:
    return Attack(name, (_request(_seeds()[int(random.integers(len(_seeds())))]),))


_KINDS: dict[str, Callable[[str, Random], Attack]] = {
    "noise": _noise,
    "random body": _random_body,
    "damaged image": _damaged,
    "damaged head": _damaged_head,
    "half body": _half_body,
    "half head": _half_head,
    "wrong length": _wrong_length,
    "chunks": _chunked,
    "odd form": _odd_form,
    "odd batch": _odd_batch,
    "wrong type": _wrong_type,
    "packed": _packed,
    "bomb": _bomb,
    "odd query": _odd_query,
    "odd route": _odd_route,
    "slow": _slow,
    "reset": _reset,
    "good": _good,
}
