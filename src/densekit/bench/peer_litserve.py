"""LitServe around torchvision's network. A module of its own, as LitServe sends its class to other processes."""

import base64
from pathlib import Path
from typing import Any

import litserve as ls
from fastapi import Request
from torch import Tensor

from densekit.bench.peer_network import Network

_BATCH = 16


class Api(ls.LitAPI):  # type: ignore[misc]  # LitServe ships no types
    """With its batching, and images in base64 as its examples have them."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(max_batch_size=_BATCH, batch_timeout=0.005)
        self.folder, self.threads = folder, threads

    def setup(self, device: str) -> None:
        """In the process that computes."""
        self.network = Network(self.folder, self.threads)

    def decode_request(self, request: Request) -> Tensor:
        """(C, H, W). By this annotation LitServe knows to hand over the body's JSON, not a request."""
        document: Any = request
        return self.network.read(base64.b64decode(document["image"]))

    def batch(self, inputs: list[Tensor]) -> list[Tensor]:
        """As they are: the network stacks them."""
        return inputs

    def predict(self, x: list[Tensor]) -> list[dict[str, Any]]:
        """An answer to each."""
        return self.network.answer(x)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As they are."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return output


def serve(folder: Path, port: int, threads: int) -> None:
    """Until it is killed."""
    server = ls.LitServer(Api(folder, threads), accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)
