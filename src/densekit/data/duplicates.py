"""Which images of a survey are the same picture: to the pixel, or but for compression, size, brightness or a mirror.

Candidates are found by a perceptual hash, the signs of the lowest 8 x 8 frequencies (Zauner 2010), sorted under many
random orders of its bits, where close ones become neighbours (Charikar 2002): n log n, whatever the images. Thumbnails
then decide: not the pixels are compared, which agree for any two pairs of trousers, but their edges.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densekit.data.survey import Survey

ALIKE = 0.98
"""Cosine between the edges of two thumbnails from which on they show the same picture; see docs/data-check.md."""
BLANK = 2.0
"""Deviation of a thumbnail, in levels of 255, below which there is nothing on it."""

_ORDERS = 16  # of the bits; with 5 % of them different a pair is missed once in 10,000
_NEIGHBOURS = 8
_DIFFERENT = 10  # bits of 63
_AT_ONCE = 4096  # pairs: some 50 MB of edges

_SAME_COLOURS = 0.8  # cosine of Cb and Cr
_COLOURFUL = 6.0  # root mean square of Cb and Cr; less is grey

_ONES = np.array([value.bit_count() for value in range(2**16)], dtype=np.uint8)

Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class Alike:
    """Pairs of rows that show the same picture, though not with the same pixels."""

    pairs: Pairs
    """(P, 2), the lower row first. Of images that are identical only the first takes part."""
    mirrored: NDArray[np.bool_]
    """(P,): they only agree when one of them is mirrored left to right."""
    similarity: NDArray[np.float32]
    """(P,): 1 for equal edges."""


def identical(survey: Survey) -> list[NDArray[np.int64]]:
    """Rows of two or more images with the same pixels, group by group."""
    rows = survey.readable
    order = rows[np.argsort(survey.digests[rows], kind="stable")]
    starts = np.flatnonzero(survey.digests[order][1:] != survey.digests[order][:-1]) + 1
    groups = [group for group in np.split(order, starts) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def blank(survey: Survey) -> NDArray[np.int64]:
    """Rows of images that show nothing: one shade all over."""
    rows = survey.readable
    return rows[_deviation(survey.thumbs[rows]) < BLANK]


def alike(survey: Survey, *, mirrors: bool) -> Alike:
    """Near duplicates, and with `mirrors` those of an image's mirror image; blank images are never among them."""
    rows = survey.readable
    _, first = np.unique(survey.digests[rows], return_index=True)
    rows = np.sort(rows[first])
    rows = rows[_deviation(survey.thumbs[rows]) >= BLANK]
    thumbs, chroma, n = survey.thumbs[rows], survey.chroma[rows], len(rows)
    bits = _bits(thumbs)
    pairs = _close(np.concatenate((bits, _mirrored(bits))) if mirrors else bits)
    pairs = pairs[(pairs[:, 0] < n) & (pairs[:, 0] != pairs[:, 1] - n)]  # not two mirror images, nor one's own
    flipped = pairs[:, 1] >= n
    pairs = np.sort(np.where(pairs >= n, pairs - n, pairs), axis=1)
    pairs, flipped = _unique(pairs, flipped, n)
    similarity = np.concatenate(
        [
            _similarity(thumbs, chroma, pairs[i : i + _AT_ONCE], flipped[i : i + _AT_ONCE])
            for i in range(0, max(1, len(pairs)), _AT_ONCE)
        ]
    )
    good = similarity >= ALIKE
    pairs, flipped, similarity = pairs[good], flipped[good], similarity[good]
    direct = {(a, b) for a, b in pairs[~flipped].tolist()}  # what is symmetric agrees both ways
    keep = np.array([not (f and (a, b) in direct) for (a, b), f in zip(pairs.tolist(), flipped, strict=True)], bool)
    return Alike(rows[pairs[keep]], flipped[keep], similarity[keep])


def connected(pairs: Iterable[Iterable[int]]) -> list[list[int]]:
    """What hangs together by pairs, sorted."""
    parent: dict[int, int] = {}

    def root(x: int) -> int:
        while parent.setdefault(x, x) != x:
            parent[x] = x = parent[parent[x]]
        return x

    for a, b in pairs:
        parent[max(root(a), root(b))] = min(root(a), root(b))
    groups: dict[int, list[int]] = {}
    for x in sorted(parent):
        groups.setdefault(root(x), []).append(x)
    return list(groups.values())


def _deviation(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, h, w) -> (n,)."""
    chunks = [thumbs[i : i + _AT_ONCE].std((1, 2), dtype=np.float32) for i in range(0, len(thumbs), _AT_ONCE)]
    return np.concatenate([*chunks, np.empty(0, np.float32)])


def _bits(thumbs: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(n, h, w) -> (n, 64): whether a frequency's share is positive. The first one, the mean, is left out."""
    down, across = (_cosines(side) for side in thumbs.shape[1:])
    bits = np.empty((len(thumbs), 64), bool)
    for i in range(0, len(thumbs), _AT_ONCE):
        shares = down @ thumbs[i : i + _AT_ONCE].astype(np.float32) @ across.T
        bits[i : i + _AT_ONCE] = shares.reshape(-1, 64) > 0
    bits[:, 0] = False
    return bits


def _mirrored(bits: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the mirror image: frequencies that are odd across change their sign."""
    odd = np.tile(np.arange(8) % 2 == 1, 8)
    return bits ^ odd


def _cosines(side: int) -> NDArray[np.float32]:
    """(8, side): the first rows of the discrete cosine transform."""
    place = (2 * np.arange(side) + 1) * np.pi / (2 * side)
    return np.cos(np.arange(8)[:, None] * place).astype(np.float32)


def _close(bits: NDArray[np.bool_]) -> Pairs:
    """(n, 64) -> (k, 2): neighbours in some order of the bits that differ in few, the lower number first."""
    n, random = len(bits), np.random.default_rng(0)
    whole = _packed(bits)
    found = np.empty(0, np.int64)
    for _ in range(_ORDERS):
        order = np.argsort(_packed(bits[:, random.permutation(64)]), kind="stable")
        pairs = [found]
        for step in range(1, min(_NEIGHBOURS, n - 1) + 1):
            a, b = order[:-step], order[step:]
            near = _differing(whole[a], whole[b]) <= _DIFFERENT
            a, b = a[near], b[near]
            pairs.append(np.minimum(a, b) * n + np.maximum(a, b))
        found = np.unique(np.concatenate(pairs))
    return np.stack((found // max(n, 1), found % max(n, 1)), 1)


def _packed(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(">u8").astype(np.uint64).ravel()


def _differing(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return _ONES[(a ^ b).view(np.uint16).reshape(-1, 4)].sum(1, dtype=np.uint8)


def _unique(pairs: Pairs, flipped: NDArray[np.bool_], n: int) -> tuple[Pairs, NDArray[np.bool_]]:
    """The mirror image of a beside b, and of b beside a, are one pair."""
    _, first = np.unique((pairs[:, 0] * n + pairs[:, 1]) * 2 + flipped, return_index=True)
    return pairs[first], flipped[first]


def _similarity(
    thumbs: NDArray[np.uint8], chroma: NDArray[np.int8], pairs: Pairs, flipped: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(k, 2) -> (k,): cosine between edges; 0 where both are in colour, but in others."""
    a, b = pairs[:, 0], pairs[:, 1]
    others = np.where(flipped[:, None, None], thumbs[b][:, :, ::-1], thumbs[b])
    cosine = _cosine(_edges(thumbs[a]), _edges(others))
    hues = chroma[a].astype(np.float32), chroma[b].astype(np.float32)
    other_hues = np.where(flipped[:, None, None, None], hues[1][..., ::-1], hues[1])
    x, y = hues[0].reshape(len(a), 32), other_hues.reshape(len(b), 32)
    strength = np.minimum(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)) / np.sqrt(np.float32(32))
    return np.where((strength > _COLOURFUL) & (_cosine(x, y) < _SAME_COLOURS), np.float32(0), cosine)


def _edges(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(k, h, w) -> (k, features): differences between neighbouring pixels, which brightness does not change."""
    x = thumbs.astype(np.float32)
    across, down = np.diff(x, axis=2), np.diff(x, axis=1)
    return np.concatenate([edges.reshape(len(x), math.prod(edges.shape[1:])) for edges in (across, down)], axis=1)


def _cosine(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of rows; 0 where one of them is 0."""
    product = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.einsum("ij,ij->i", x, y) / np.maximum(product, np.float32(1e-9))
