"""Which images of a scan are the same picture: to the pixel, or but for compression, size, brightness or a mirror.

Candidates are found by a perceptual hash, the signs of the lowest 8 x 8 frequencies (Zauner 2010), sorted under many
random orders of its bits, where close ones become neighbours (Charikar 2002): n log n, whatever the images. Of those
whose frequencies agree roughly, thumbnails decide: not by their pixels, which agree for any two pairs of trousers, but
by their edges.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densekit.data_check.image_scan import ImageScan

ALIKE = 0.98
"""Cosine between the edges of two thumbnails from which on they show the same picture; see docs/data-check.md."""
BLANK = 2.0
"""Deviation of a thumbnail, in levels of 255, below which there is nothing on it."""

_ORDERS = 32  # of the bits
_NEIGHBOURS = 8
_DIFFERENT = 16  # bits of 63
_ROUGHLY = 0.96  # cosine of profiles; of pairs alike by their edges it is 0.979 or more on Fashion-MNIST
_ODD = np.tile(np.arange(8) % 2 == 1, 8)
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


def identical(scan: ImageScan) -> list[NDArray[np.int64]]:
    """Rows of two or more images with the same pixels, group by group."""
    rows = scan.readable
    order = rows[np.argsort(scan.digests[rows], kind="stable")]
    starts = np.flatnonzero(scan.digests[order][1:] != scan.digests[order][:-1]) + 1
    groups = [group for group in np.split(order, starts) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def blank(scan: ImageScan) -> NDArray[np.int64]:
    """Rows of images that show nothing: one shade all over."""
    rows = scan.readable
    return rows[_deviation(scan.thumbs[rows]) < BLANK]


def alike(scan: ImageScan, *, mirrors: bool) -> Alike:
    """Near duplicates, and with `mirrors` those of an image's mirror image; blank images are never among them."""
    rows = scan.readable
    _, first = np.unique(scan.digests[rows], return_index=True)
    rows = np.sort(rows[first])
    rows = rows[_deviation(scan.thumbs[rows]) >= BLANK]
    thumbs, chroma, n = scan.thumbs[rows], scan.chroma[rows], len(rows)
    pairs = _candidates(_profiles(thumbs), mirrors=mirrors)
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


def _profiles(thumbs: NDArray[np.uint8]) -> NDArray[np.float16]:
    """(n, h, w) -> (n, 64): the lowest frequencies, each as strong as in the edges; of length 1, without the mean."""
    down, across = (_cosines(side) for side in thumbs.shape[1:])
    strength = np.hypot(*np.indices((8, 8))).astype(np.float32)  # 0 for the mean
    profiles = np.empty((len(thumbs), 64), np.float16)
    for i in range(0, len(thumbs), _AT_ONCE):
        shares = (down @ thumbs[i : i + _AT_ONCE].astype(np.float32) @ across.T * strength).reshape(-1, 64)
        profiles[i : i + _AT_ONCE] = shares / np.maximum(np.linalg.norm(shares, axis=1, keepdims=True), 1e-9)
    return profiles


def _cosines(side: int) -> NDArray[np.float32]:
    """(8, side): the first rows of the discrete cosine transform."""
    place = (2 * np.arange(side) + 1) * np.pi / (2 * side)
    return np.cos(np.arange(8)[:, None] * place).astype(np.float32)


def _candidates(profiles: NDArray[np.float16], *, mirrors: bool) -> Pairs:
    """(n, 64) -> (k, 2): neighbours in some order of the bits that are roughly alike, the lower number first.

    With `mirrors` number n + i is the mirror image of i; it stands second, and never beside another one or its own.
    """
    n, random = len(profiles), np.random.default_rng(0)
    bits = profiles > 0
    if mirrors:
        bits = np.concatenate((bits, bits ^ _ODD))
    whole = _packed(bits)
    found = np.empty(0, np.int64)
    for _ in range(_ORDERS):
        order = np.argsort(_packed(bits[:, random.permutation(64)]), kind="stable")
        pairs = [found]
        for step in range(1, min(_NEIGHBOURS, len(bits) - 1) + 1):
            near = _differing(whole[order[:-step]], whole[order[step:]]) <= _DIFFERENT
            a, b = order[:-step][near], order[step:][near]
            a, b = np.minimum(a, b), np.maximum(a, b)
            near = (a < n) & (a != b - n)
            a, b = a[near], b[near]
            near = _rough(profiles, a, b) >= _ROUGHLY
            pairs.append(a[near] * len(bits) + b[near])
        found = np.unique(np.concatenate(pairs))
    return np.stack(np.divmod(found, max(len(bits), 1)), 1)


def _rough(profiles: NDArray[np.float16], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float32]:
    """(k,) and (k,) -> (k,): cosine of profiles."""
    n, chunks = len(profiles), [np.empty(0, np.float32)]
    for i in range(0, len(a), 8 * _AT_ONCE):
        first, second = a[i : i + 8 * _AT_ONCE], b[i : i + 8 * _AT_ONCE]
        x, y = profiles[first].astype(np.float32), profiles[second % n].astype(np.float32)
        # In a mirror, frequencies that are odd across change their sign.
        chunks.append(np.einsum("ij,ij->i", x, np.where((second >= n)[:, None] & _ODD, -y, y)))
    return np.concatenate(chunks)


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
