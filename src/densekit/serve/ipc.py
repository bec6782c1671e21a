"""Messages between the server and its worker: JSON and bytes, each after its length. Reading one runs nothing."""

import asyncio
import base64
import json
import struct
from typing import IO, TYPE_CHECKING, Any

from densekit import strict_json
from densekit.errors import BadData, BadWeights, DensekitError, InvalidInput, ProofFailed

if TYPE_CHECKING:  # a worker has to know what to do with signals before it waits for torch
    from torch import Tensor

ERRORS: dict[str, type[DensekitError]] = {
    kind.__name__: kind for kind in (InvalidInput, ProofFailed, BadWeights, BadData, DensekitError)
}
"""By the name that a message calls them; the more special ones first."""
_HEAD = struct.Struct(">II")
Message = tuple[dict[str, Any], bytes]


def packed(document: dict[str, Any], content: bytes = b"") -> bytes:
    """One message."""
    text = strict_json.dumps(document).encode()
    return b"".join((_HEAD.pack(len(text), len(content)), text, content))


def failure(error: DensekitError) -> dict[str, str]:
    """As part of a document."""
    return {"kind": next(name for name, kind in ERRORS.items() if isinstance(error, kind)), "message": str(error)}


def image(pixels: "Tensor") -> dict[str, Any]:
    """Pixels, uint8, as part of a document."""
    return {"shape": list(pixels.shape), "bytes": base64.b64encode(pixels.numpy().tobytes()).decode()}


def pixels_of(found: dict[str, Any]) -> "Tensor":
    """The other way."""
    import torch

    return torch.frombuffer(bytearray(base64.b64decode(found["bytes"])), dtype=torch.uint8).reshape(found["shape"])


def read(stream: IO[bytes]) -> Message | None:
    """The next message; none at the end, also at one within a message, or where the other process was killed."""
    try:
        head = stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        text, content = _HEAD.unpack(head)
        body = stream.read(text + content)
    except ConnectionError:
        return None
    return (json.loads(body[:text]), body[text:]) if len(body) == text + content else None


async def receive(stream: asyncio.StreamReader) -> Message | None:
    """As `read`."""
    try:
        text, content = _HEAD.unpack(await stream.readexactly(_HEAD.size))
        body = await stream.readexactly(text + content)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return json.loads(body[:text]), body[text:]
