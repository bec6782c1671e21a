"""The compiled primitives against their torch twins in float64."""

import importlib
import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from densekit.ops.backends import cpu, reference
from densekit.ops.backends.cpu.library import available_builds

library = importlib.import_module("densekit.ops.backends.cpu.library")  # the package has the function of that name
pytestmark = pytest.mark.skipif(not cpu.available(), reason="no compiler was there at installation")

# (images, height, width): one pixel, one image, odd sizes, H != W, more rows than a strip holds. The widest channels
# make backward tiles of the fewest groups, and products that pause.
SIZES = [(1, 1, 1), (3, 1, 1), (1, 7, 5), (2, 8, 8), (5, 9, 13), (2, 33, 32), (1, 56, 57)]
CHANNELS = [(24, 48, 12), (5, 16, 4), (37, 40, 10), (64, 128, 32), (3, 7, 3), (17, 33, 19), (130, 136, 50)]


@pytest.fixture(params=available_builds(), autouse=True)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every instruction set that this processor runs."""
    monkeypatch.setenv("DENSEKIT_KERNELS", request.param)
    cpu.library.cache_clear()
    yield request.param
    cpu.library.cache_clear()


def buffer(rows: int, columns: int) -> Tensor:
    """Random, in a wider matrix whose other columns are not numbers: what a kernel reads past its own must not show."""
    x = torch.full((rows, columns + 29 - columns % 16), torch.nan)[:, :columns]
    return x.copy_(torch.randn(rows, columns) + 0.3)


def close(actual: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().clamp_min(1e-30)
    assert torch.isfinite(actual).all()
    assert ((actual.double() - expected).abs().max() / scale).item() < 2e-5


def doubles(*tensors: Tensor) -> list[Tensor]:
    return [t.double() for t in tensors]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "width", "growth"), CHANNELS)
@pytest.mark.parametrize("threads", [1, 3])
def test_primitives_equal_their_twins(size, channels, width, growth, threads):
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _compare(size, channels, width, growth)
    finally:
        torch.set_num_threads(before)


def _compare(size: tuple[int, int, int], channels: int, width: int, growth: int) -> None:
    pixels = size[0] * size[1] * size[2]
    x = buffer(pixels, channels)
    scale, shift, centre = torch.rand(channels) + 0.5, torch.randn(channels), torch.randn(channels)
    weight = torch.randn(width, channels)

    for actual, expected in zip(cpu.statistics(x), reference.statistics(x.double()), strict=True):
        close(actual, expected)
    out = cpu.matrix(pixels, channels, x)
    cpu.normalise(x, centre, scale, out)
    close(out, (x.double() - centre.double()) * scale.double())

    h, *moments = cpu.conv1x1(x, scale, shift, weight, moments=True)
    expected_h, *expected_moments = reference.conv1x1(*doubles(x, scale, shift, weight), moments=True)
    for actual, expected in zip((h, *moments), (expected_h, *expected_moments), strict=True):
        close(actual, expected)

    for few in {1, growth % channels, channels} - {0}:
        maps, vectors = torch.randn(pixels, few), (centre[:few], scale[:few])
        before, truth = cpu.matrix(pixels, channels, x).copy_(x), x.double()
        given = reference.PendingNorm(maps, *vectors)
        found = cpu.conv1x1(before, scale, shift, weight, given, moments=True)
        given = reference.PendingNorm(*doubles(maps, *vectors))
        expected = reference.conv1x1(truth, *doubles(scale, shift, weight), given, moments=True)
        for a, e in zip((before, *found), (truth, *expected), strict=True):
            close(a, e)

    dz = cpu.matrix(pixels, width, x).normal_()
    coefficients = (torch.rand(width), torch.randn(width), torch.randn(width))
    dx = cpu.matrix(pixels, channels, x).normal_()
    expected_dx = dx.double()
    for finalised_channels in {growth % channels, channels}:
        actual_dx, truth_dx = cpu.matrix(pixels, channels, x).copy_(dx), expected_dx.clone()
        *gradients, sums = cpu.conv1x1_backward(
            x, scale, shift, centre, weight, dz, h, coefficients, actual_dx, finalised_channels
        )
        *expected, truth_sums = reference.conv1x1_backward(
            *doubles(x, scale, shift, centre, weight, dz, h),
            tuple(doubles(*coefficients)),
            truth_dx,
            finalised_channels,
        )
        for a, e in zip((actual_dx, *gradients, *sums), (truth_dx, *expected, *truth_sums), strict=True):
            if e.numel():
                close(a, e)

    kernel = torch.randn(growth, channels, 3, 3)
    y = cpu.conv3x3(x, scale, shift, kernel, size)
    close(y, reference.conv3x3(*doubles(x, scale, shift, kernel), size))
    dy = cpu.matrix(pixels, growth, x).normal_()
    actual = cpu.conv3x3_backward(x, scale, shift, centre, kernel, dy, size)
    expected = reference.conv3x3_backward(*doubles(x, scale, shift, centre, kernel, dy), size)
    for a, e in zip(actual, expected, strict=True):
        close(a, e)

    for actual, expected in zip(
        cpu.column_reductions(x, out), reference.column_reductions(*doubles(x, out)), strict=True
    ):
        close(actual, expected)
    for pool in (1, 2, 3):
        if min(size[1:]) < pool:
            continue
        close(
            cpu.bn_relu_pool(x, scale, shift, size, pool),
            reference.bn_relu_pool(*doubles(x, scale, shift), size, pool),
        )
        up = torch.randn(size[0] * (size[1] // pool) * (size[2] // pool), channels)
        actual = cpu.bn_relu_pool_backward(x, scale, shift, centre, up, size, pool)
        expected = reference.bn_relu_pool_backward(*doubles(x, scale, shift, centre, up), size, pool)
        for a, e in zip(actual, expected, strict=True):
            close(a, e)
    for direct in (None, torch.randn(pixels, channels)):
        actual = cpu.normalise_backward(dx, x, direct, scale, shift, centre)
        extra = None if direct is None else direct.double()
        close(actual, reference.normalise_backward(*doubles(dx, x), extra, *doubles(scale, shift, centre)))

        # The same, worked out on the way into a convolution, of a few columns as in a block.
        few = slice(channels - min(growth, channels), channels)
        flows = [m if m is None else m[:, few] for m in (dx, x, direct)]
        vectors = (scale[few], shift[few], centre[few])
        given = reference.PendingNormBackward(*flows, *vectors)
        truth = reference.PendingNormBackward(*(m if m is None else m.double() for m in flows), *doubles(*vectors))
        own = kernel[: len(vectors[0])]
        actual = cpu.conv3x3_backward(x, scale, shift, centre, own, given, size)
        expected = reference.conv3x3_backward(*doubles(x, scale, shift, centre, own), truth, size)
        for a, e in zip(actual, expected, strict=True):
            close(a, e)
    _compare_blocks(x, size, width, growth)


def _compare_blocks(x: Tensor, size: tuple[int, int, int], width: int, growth: int) -> None:
    channels, layers, blocks = x.shape[1], 3, {}
    for kernels in (cpu, reference):
        torch.manual_seed(1)
        tensors = []
        for seen in range(channels, channels + layers * growth, growth):
            weights = (torch.randn(width, seen, 1, 1), torch.rand(width), torch.randn(growth, width, 3, 3) / width)
            affine = (torch.rand(seen) + 0.5, torch.randn(seen))
            bias = torch.randn(width)
            if kernels is reference:
                weights, affine, (bias,) = doubles(*weights), doubles(*affine), doubles(bias)
            tensors += [*affine, kernels.pack_dense_layer(*weights), bias]
        blocks[kernels] = kernels.block_weights(tensors)
    behind = (torch.rand(seen + growth) + 0.5, torch.randn(seen + growth))
    for pool in (None, 1, 2):
        if pool is None or min(size[1:]) >= pool:
            sizes = (size, layers, width, growth)
            epilogue, truth_epilogue = (None, None) if pool is None else ((*behind, pool), (*doubles(*behind), pool))
            actual = cpu.dense_block(x, blocks[cpu], epilogue, *sizes)
            close(actual, reference.dense_block(x.double(), blocks[reference], truth_epilogue, *sizes))


def test_statistics_of_a_large_offset_keep_their_digits():
    """A sum of squares in float32 would lose all of them."""
    x = torch.randn(5000, 24) + 1000
    mean, variance = cpu.statistics(x)
    expected_mean, expected_variance = reference.statistics(x.double())
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), expected_variance, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_not_a_number_goes_where_torch_lets_it_go(value):
    x = buffer(2 * 6 * 6, 24)
    x[17, 5] = value
    one, nil = torch.ones(24), torch.zeros(24)
    weight, kernel = torch.randn(48, 24), torch.randn(12, 24, 3, 3)
    for actual, expected in [
        (
            cpu.conv1x1(x, one, nil, weight, moments=False)[0],
            reference.conv1x1(x, one, nil, weight, moments=False)[0],
        ),
        (cpu.conv3x3(x, one, nil, kernel, (2, 6, 6)), reference.conv3x3(x, one, nil, kernel, (2, 6, 6))),
    ]:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["x", "gradient"])
@pytest.mark.parametrize("finalised_channels", [12, 24])
def test_backward_lets_them_go_where_torch_lets_them_go(value, where, finalised_channels):
    """But for the weights of a 3x3 kernel: where it meets the border torch leaves zeros out, here 0 * NaN counts."""
    size = (2, 6, 6)
    x, dz, h, dy = buffer(72, 24), buffer(72, 48), buffer(72, 48), buffer(72, 12)
    for tensor, at in ((x, 15), (dz, 5), (dy, 5)):
        if (tensor is x) == (where == "x"):
            tensor[17, at] = value
    one, nil, coefficients = torch.ones(24), torch.zeros(24), (torch.rand(48), torch.randn(48), torch.randn(48))
    weight, kernel = torch.randn(48, 24), torch.randn(12, 24, 3, 3)
    found = []
    for kernels in (cpu, reference):
        dx = cpu.matrix(72, 24, x).fill_(1)
        *gradients, column_reductions = kernels.conv1x1_backward(
            x, one, nil, nil, weight, dz, h, coefficients, dx, finalised_channels
        )
        pending_norm = cpu.matrix(72, 24, x).copy_(x)
        h2, *_ = kernels.conv1x1(
            pending_norm, one, nil, weight, reference.PendingNorm(x[:, 3:], nil[3:], one[3:]), moments=False
        )
        given = reference.PendingNormBackward(dy, x[:, 12:], None, one[:12], nil[:12], one[:12])
        found.append([dx, *gradients, *column_reductions, pending_norm, h2])
        for gradient in (dy, given):
            *maps, taps = kernels.conv3x3_backward(x, one, nil, nil, kernel, gradient, size)
            found[-1] += [*maps, taps.abs().sum((2, 3))]
    for actual, expected in zip(*found, strict=True):
        assert torch.equal(actual.isfinite(), expected.isfinite())
        good = expected.isfinite()
        torch.testing.assert_close(actual[good], expected[good], rtol=1e-4, atol=1e-3)


def test_python_declares_what_the_source_declares():
    """A pointer where a size is expected would not be noticed before it crashes."""
    source = (library.FOLDER / "kernels.cpp").read_text()
    declared = {}
    for name, parameters in re.findall(r"^EXPORT\((\w+),\s*\(([^)]*)\)", source, re.MULTILINE):
        types = (parameter.strip().rsplit(maxsplit=1)[0] for parameter in parameters.split(","))
        declared[name] = "".join("i" if t == "I" else "t" if t == "int" else "p" for t in types)
        assert set(declared[name]) <= set("pit")
    assert declared == {name: codes.replace(" ", "") for name, codes in library.SIGNATURES.items()}
