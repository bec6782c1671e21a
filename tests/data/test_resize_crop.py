"""Which part of an image a network sees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from densekit.config import Preprocessing
from densekit.data.resize_crop import framed, region


def shape(height: int, width: int, resize: int) -> Preprocessing:
    return Preprocessing(channels=1, size=(height, width), resize=resize, mean=(0.5,), std=(0.25,))


sides = st.integers(1, 300)
inputs = st.builds(shape, st.integers(8, 64), st.integers(8, 64), st.integers(8, 80))


@settings(max_examples=150, deadline=None)
@given(size=st.tuples(sides, sides), preprocessing=inputs)
def test_the_region_is_where_the_frames_pixels_come_from(size: tuple[int, int], preprocessing: Preprocessing) -> None:
    """Of an image whose values are their own places, the frame says where each of its pixels was."""
    width, height = size
    left, top, wide, high = region(size, preprocessing)
    for axis, (start, share, side, count) in enumerate(
        ((left, wide, width, preprocessing.size[1]), (top, high, height, preprocessing.size[0]))
    ):
        line = np.arange(side, dtype=np.float32) + 1  # 0 is what lies outside
        places = np.broadcast_to(line if axis == 0 else line[:, None], (height, width))
        frame = np.asarray(framed(Image.fromarray(np.ascontiguousarray(places)), preprocessing))
        row = frame.max(axis=axis)
        expected = side * (start + share * (np.arange(count) + 0.5) / count) + 0.5
        inside = (row > 0) & (expected > 3) & (expected < side - 2)
        reach = max(1.0, side * share / count)  # at the ends of a row, resizing has fewer pixels to average
        inside &= (expected > 2 * reach + 1) & (expected < side - 2 * reach)
        np.testing.assert_allclose(row[inside], expected[inside], atol=0.25 * reach)  # of the larger kind of pixel


@pytest.mark.parametrize(
    ("size", "preprocessing", "expected"),
    [
        ((640, 480), shape(48, 48, 48), (8 / 64, 0.0, 48 / 64, 1.0)),
        ((480, 640), shape(48, 48, 48), (0.0, 8 / 64, 1.0, 48 / 64)),
        ((512, 512), shape(224, 224, 256), (1 / 16, 1 / 16, 7 / 8, 7 / 8)),
        ((100, 100), shape(32, 64, 32), (-0.5, 0.0, 2.0, 1.0)),
        ((28, 28), shape(28, 28, 28), (0.0, 0.0, 1.0, 1.0)),
    ],
)
def test_regions_of_usual_sizes(
    size: tuple[int, int], preprocessing: Preprocessing, expected: tuple[float, ...]
) -> None:
    assert region(size, preprocessing) == pytest.approx(expected)
