"""The proof that an exported file computes its network: against float64, at several batches, through its own runtime.

An export may err as float32 arithmetic does, in another order of operations, and no more: by FACTOR times what torch's
own float32 errs on the same images, plus FLOOR of the largest logit, as torch may be exact by chance.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densekit.config import Preprocessing
from densekit.data.loader import normalise
from densekit.errors import NotFinite, ProofFailed
from densekit.inference.runtimes import Run

BATCHES = (1, 2, 7)
IMAGES = sum(BATCHES)
FACTOR = 4.0
FLOOR = 1e-5
COMPANY = 0.02
"""Of 8 bits: a value that rounding puts a step further in other company moves the logits by less."""


@dataclass(frozen=True)
class Parity:
    """One batch. Errors are the largest of any logit, relative to the largest logit."""

    batch: int
    error: float
    torch_error: float
    """Of the network itself in float32."""
    allowed: float
    same_top1: int
    """Images whose class is that of float64."""
    ties: int
    """Others, whose two best classes are closer than what is allowed: either is right."""


class Reference:
    """What the network answers to some images: in float64, which counts as the truth, and in float32."""

    def __init__(self, model: nn.Module, pixels: Tensor, preprocessing: Preprocessing) -> None:
        """`pixels` are (N, C, H, W) uint8. Raises NotFinite where answers are not finite."""
        self.pixels = pixels
        self.images = scaled(pixels, preprocessing, torch.float32)
        with torch.no_grad():
            exact = copy.deepcopy(model).double().eval()
            self.truth: NDArray[np.float64] = exact(scaled(pixels, preprocessing, torch.float64)).numpy()
            self.torch: NDArray[np.float32] = model.eval()(self.images).numpy()
        if not (np.isfinite(self.truth).all() and np.isfinite(self.torch).all()):
            raise NotFinite("the network's own answers are not finite numbers; train it again, or take other weights")

    def inputs(self, inside: bool) -> NDArray[np.generic]:
        """What the graph takes: (N, H, W, C) uint8 if preprocessing is inside, else (N, C, H, W) float32."""
        return (self.pixels.permute(0, 2, 3, 1) if inside else self.images).contiguous().numpy()

    def compare(self, run: Run, inside: bool) -> list[Parity]:
        """Other images in every batch."""
        inputs, start, rows = self.inputs(inside), 0, []
        for batch in BATCHES:
            part = slice(start, start + batch)
            rows.append(_compared(run(inputs[part]), self.torch[part], self.truth[part]))
            start += batch
        return rows


def require(rows: Sequence[Parity], name: str) -> None:
    """Raises ProofFailed where a file's answers are not its network's."""
    for row in rows:
        if not row.error <= row.allowed:
            raise ProofFailed(
                f"{name} is refused: at batch {row.batch} its logits differ from float64 by {row.error:.1e} of the "
                f"largest, and {row.allowed:.1e} is allowed (torch's float32: {row.torch_error:.1e}); no file is kept. "
                "Try another version of the runtime, or another --format"
            )
        if row.same_top1 + row.ties < row.batch:
            raise ProofFailed(
                f"{name} is refused: at batch {row.batch} it names another class for "
                f"{row.batch - row.same_top1 - row.ties} of the images; no file is kept"
            )


def by_company(run: Run, inputs: NDArray[np.generic]) -> float:
    """The most that an image's logits depend on how many are beside it, relative to the largest logit.

    NaN where logits are not finite.
    """
    together = run(inputs)
    scale = float(np.abs(together).max()) or 1.0
    differences = []
    for batch in BATCHES:
        apart = [run(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
        with np.errstate(invalid="ignore"):
            differences.append(np.abs(np.concatenate(apart) - together).max() / scale)
    return float(np.max(differences))  # not max(), which passes over NaN


def scaled(pixels: Tensor, preprocessing: Preprocessing, dtype: torch.dtype) -> Tensor:
    """(N, C, H, W) uint8 -> normalised."""
    return normalise(pixels.to(dtype) / 255, preprocessing)


def _compared(actual: NDArray[np.float32], ours: NDArray[np.float32], truth: NDArray[np.float64]) -> Parity:
    scale = float(np.abs(truth).max()) or 1.0
    torch_error = float(np.abs(ours - truth).max()) / scale
    allowed = FACTOR * torch_error + FLOOR
    if actual.shape != truth.shape:
        return Parity(len(truth), float("inf"), torch_error, allowed, 0, 0)
    same = actual.argmax(1) == truth.argmax(1)
    best = np.sort(truth, axis=1)[:, -2:]
    close = best[:, -1] - best[:, 0] <= 2 * allowed * scale
    error = float(np.abs(actual - truth).max()) / scale
    return Parity(len(truth), error, torch_error, allowed, int(same.sum()), int((close & ~same).sum()))
