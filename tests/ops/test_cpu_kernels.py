"""The compiled kernels against the reference in float64, and the table that their calls are checked by."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from densekit.ops.backends.base import (
    BatchNormGradient,
    BlockShape,
    BnRelu,
    PendingNorm,
    PendingNormBackward,
    PooledBnRelu,
    Size,
)
from densekit.ops.backends.cpu import bindings, library
from densekit.ops.backends.cpu.backend import CpuKernels
from densekit.ops.backends.reference import Reference

pytestmark = pytest.mark.skipif(not library.available(), reason="no compiler was there at installation")

CPU, REFERENCE = CpuKernels(), Reference()
# (images, height, width): one pixel, one image, odd sizes, H != W, more rows than a strip holds. The widest channels
# make backward tiles of the fewest row groups, and products of several prefetch intervals.
SIZES = [Size(1, 1, 1), Size(3, 1, 1), Size(1, 7, 5), Size(2, 8, 8), Size(5, 9, 13), Size(2, 33, 32), Size(1, 56, 57)]
CHANNELS = [(24, 48, 12), (5, 16, 4), (37, 40, 10), (64, 128, 32), (3, 7, 3), (17, 33, 19), (130, 136, 50)]


@pytest.fixture(params=library.available_builds(), autouse=True)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every instruction set that this processor runs."""
    monkeypatch.setenv("DENSEKIT_KERNELS", request.param)
    library.load.cache_clear()
    yield request.param
    library.load.cache_clear()


def matrix(rows: int, columns: int) -> Tensor:
    """As the kernels want it, empty."""
    return CPU.matrix(rows, columns, torch.float32, torch.device("cpu"))


def buffer(rows: int, columns: int) -> Tensor:
    """Random, in a wider matrix whose other columns are not numbers: what a kernel reads past its own must not show."""
    x = torch.full((rows, columns + 29 - columns % 16), torch.nan)[:, :columns]
    return x.copy_(torch.randn(rows, columns) + 0.3)


def doubles(value: Any) -> Any:
    """The same in float64: tensors, also in (named) tuples and lists; others as they are."""
    if isinstance(value, Tensor):
        return value.double()
    if isinstance(value, Size) or not isinstance(value, tuple | list):
        return value
    parts = [doubles(each) for each in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def flat(value: Any) -> list[Tensor]:
    """The tensors in a result that have values."""
    if isinstance(value, Tensor):
        return [value] if value.numel() else []
    return [tensor for each in value or () for tensor in flat(each)]


def close(actual: Any, expected: Any) -> None:
    pairs = list(zip(flat(actual), flat(expected), strict=True))
    assert pairs
    for found, truth in pairs:
        assert torch.isfinite(found).all()
        scale = truth.abs().max().clamp_min(1e-30)
        assert ((found.double() - truth).abs().max() / scale).item() < 2e-5


def compare(name: str, *arguments: Any, **options: Any) -> Any:
    """Calls a primitive of both, in float32 and float64; what the kernels gave."""
    actual = getattr(CPU, name)(*arguments, **options)
    close(actual, getattr(REFERENCE, name)(*map(doubles, arguments), **options))
    return actual


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "width", "growth"), CHANNELS)
@pytest.mark.parametrize("threads", [1, 3])
def test_kernels_equal_the_reference(size, channels, width, growth, threads):
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = buffer(size.pixels, channels)
        prologue = BnRelu(torch.rand(channels) + 0.5, torch.randn(channels), torch.randn(channels))
        _compare_batch_norm(x, prologue, size)
        _compare_conv1x1(x, prologue, width, growth)
        _compare_conv3x3(x, prologue, growth, size)
        _compare_blocks(x, size, width, growth)
    finally:
        torch.set_num_threads(before)


def _compare_batch_norm(x: Tensor, prologue: BnRelu, size: Size) -> None:
    pixels, channels = x.shape
    scale, shift, centre = prologue
    compare("statistics", x)
    compare("column_reductions", x, torch.randn(pixels, channels))
    out, truth = matrix(pixels, channels), x.double().clone()
    CPU.normalise(PendingNorm(x, centre, scale), out)
    REFERENCE.normalise(doubles(PendingNorm(x, centre, scale)), truth)
    close(out, truth)
    for direct in (None, torch.randn(pixels, channels)):
        compare("normalise_backward", PendingNormBackward(buffer(pixels, channels), x, direct, scale, shift, centre))
    for pool in (1, 2, 3):
        if min(size.height, size.width) >= pool:
            actual = CPU.bn_relu_pool(x, prologue, size, pool, torch.float32)
            close(actual, REFERENCE.bn_relu_pool(*doubles((x, prologue)), size, pool, torch.float64))
            dy = torch.randn(size.images * (size.height // pool) * (size.width // pool), channels)
            actual = CPU.bn_relu_pool_backward(x, prologue, dy, size, pool, torch.float32)
            close(actual, REFERENCE.bn_relu_pool_backward(*doubles((x, prologue, dy)), size, pool, torch.float64))


def _compare_conv1x1(x: Tensor, prologue: BnRelu, width: int, growth: int) -> None:
    pixels, channels = x.shape
    scale, _, centre = prologue
    weight = torch.randn(width, channels)
    h, _ = compare("conv1x1", x, prologue, weight, moments=True)
    for few in {1, growth % channels, channels} - {0}:
        pending = PendingNorm(torch.randn(pixels, few), centre[:few], scale[:few])
        given, truth = matrix(pixels, channels).copy_(x), x.double()
        actual = CPU.conv1x1(given, prologue, weight, pending, moments=True)
        expected = REFERENCE.conv1x1(truth, *doubles((prologue, weight, pending)), moments=True)
        close((given, actual), (truth, expected))
    dh = BatchNormGradient(
        matrix(pixels, width).normal_(), h, torch.rand(width), torch.randn(width), torch.randn(width)
    )
    dx = matrix(pixels, channels).normal_()
    for finalised in {0, growth % channels, channels}:
        added, truth = matrix(pixels, channels).copy_(dx), dx.double()
        actual = CPU.conv1x1_backward(x, prologue, weight, dh, added, finalised)
        expected = REFERENCE.conv1x1_backward(*doubles((x, prologue, weight, dh)), truth, finalised)
        close((added, actual), (truth, expected))


def _compare_conv3x3(x: Tensor, prologue: BnRelu, growth: int, size: Size) -> None:
    pixels, channels = x.shape
    weight = torch.randn(growth, channels, 3, 3)
    compare("conv3x3", x, prologue, weight, size, moments=True)
    compare("conv3x3_backward", x, prologue, weight, matrix(pixels, growth).normal_(), size)
    # A gradient that is worked out on the way into the convolution, of a few columns as in a block.
    few = slice(channels - min(growth, channels), channels)
    dx = matrix(pixels, channels).normal_()
    for direct in (None, torch.randn(pixels, channels)[:, few]):
        pending = PendingNormBackward(dx[:, few], x[:, few], direct, *(v[few] for v in prologue))
        compare("conv3x3_backward", x, prologue, weight[: len(pending.rstd)], pending, size)


def _compare_blocks(x: Tensor, size: Size, width: int, growth: int) -> None:
    channels, layers = x.shape[1], 3
    torch.manual_seed(1)
    folded: list[tuple[Tensor, ...]] = []
    for seen in range(channels, channels + layers * growth, growth):
        weights = (torch.randn(width, seen, 1, 1), torch.rand(width), torch.randn(growth, width, 3, 3) / width)
        folded.append((torch.rand(seen) + 0.5, torch.randn(seen), *weights, torch.randn(width)))
    weights = []
    for kernels, given in ((CPU, folded), (REFERENCE, doubles(folded))):
        packed = [
            (*affine, kernels.pack_dense_layer(*own), bias) for *affine, w, s, k, bias in given for own in [(w, s, k)]
        ]
        weights.append(kernels.block_weights([tensor for layer in packed for tensor in layer]))
    total = channels + layers * growth
    behind = BnRelu(torch.rand(total) + 0.5, torch.randn(total))
    for pool in (None, 1, 2):
        if pool is None or min(size.height, size.width) >= pool:
            shape = (size, BlockShape(layers, width, growth))
            epilogue = None if pool is None else PooledBnRelu(behind, pool)
            actual = CPU.dense_block(x, weights[0], epilogue, *shape)
            close(actual, REFERENCE.dense_block(x.double(), weights[1], doubles(epilogue), *shape))


def test_statistics_of_a_large_offset_keep_their_digits():
    """A sum of squares in float32 would lose all of them."""
    x = torch.randn(5000, 24) + 1000
    mean, variance = CPU.statistics(x)
    expected_mean, expected_variance = REFERENCE.statistics(x.double())
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), expected_variance, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_not_a_number_goes_where_torch_lets_it_go(value):
    size = Size(2, 6, 6)
    x = buffer(size.pixels, 24)
    x[17, 5] = value
    prologue = BnRelu(torch.ones(24), torch.zeros(24))
    weight, kernel = torch.randn(48, 24), torch.randn(12, 24, 3, 3)
    found = [
        (
            kernels.conv1x1(x, prologue, weight, moments=False)[0],
            kernels.conv3x3(x, prologue, kernel, size, moments=False)[0],
        )
        for kernels in (CPU, REFERENCE)
    ]
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["x", "gradient"])
@pytest.mark.parametrize("finalised", [12, 24])
def test_backward_lets_them_go_where_torch_lets_them_go(value, where, finalised):
    """But for the weights of a 3x3 kernel: where it meets the border torch leaves zeros out, here 0 * NaN counts."""
    size = Size(2, 6, 6)
    x, dz, h, dy = buffer(72, 24), buffer(72, 48), buffer(72, 48), buffer(72, 12)
    for tensor, at in ((x, 15), (dz, 5), (dy, 5)):
        if (tensor is x) == (where == "x"):
            tensor[17, at] = value
    one, nil = torch.ones(24), torch.zeros(24)
    prologue = BnRelu(one, nil, nil)
    dh = BatchNormGradient(dz, h, torch.rand(48), torch.randn(48), torch.randn(48))
    weight, kernel = torch.randn(48, 24), torch.randn(12, 24, 3, 3)
    found = []
    for kernels in (CPU, REFERENCE):
        dx = matrix(72, 24).fill_(1)
        gradients = kernels.conv1x1_backward(x, prologue, weight, dh, dx, finalised)
        filled = matrix(72, 24).copy_(x)
        pending = PendingNorm(x[:, 3:], nil[3:], one[3:])
        h2, _ = kernels.conv1x1(filled, prologue, weight, pending, moments=False)
        found.append([dx, *flat(gradients), filled, h2])
        given = PendingNormBackward(dy, x[:, 12:], None, one[:12], nil[:12], one[:12])
        for gradient in (dy, given):
            *others, taps = kernels.conv3x3_backward(x, prologue, kernel, gradient, size)
            found[-1] += [*others, taps.abs().sum((2, 3))]
    for actual, expected in zip(*found, strict=True):
        assert torch.equal(actual.isfinite(), expected.isfinite())
        good = expected.isfinite()
        torch.testing.assert_close(actual[good], expected[good], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "takes x, M, C, mean, variance, not x, M, C, mean, variance, depth"),
        ({"x": torch.zeros(4, 4, dtype=torch.float64)}, "x is torch.float64 on cpu, not float32"),
        ({"x": torch.zeros(4, 4, device="meta")}, "x is torch.float32 on meta"),
        ({"x": torch.zeros(4, 4).T}, "x is no matrix"),
        ({"x": torch.zeros(4)}, "x is no matrix"),
        ({"mean": torch.zeros(8)[::2]}, "mean is written, and not contiguous"),
    ],
)
def test_a_call_that_does_not_fit_the_table_is_refused(changes, message):
    """A pointer where a size is expected would not be noticed before it crashed."""
    arguments = {"x": torch.zeros(4, 4), "M": 4, "C": 4, "mean": torch.zeros(4), "variance": torch.zeros(4)} | changes
    loaded = library.load()
    assert loaded is not None
    with pytest.raises(TypeError, match=message):
        bindings.call(loaded.handle, "statistics", **arguments)


def test_the_table_has_every_kernel_that_is_defined_and_every_field():
    """What the header declares in a form that bindings.py does not read would be missing."""
    table = bindings.read()
    text = re.sub(r"//.*", "", bindings.HEADER.read_text())
    assert sum(map(len, table.structures.values())) == len(re.findall(r"^    \S.*;$", text, re.MULTILINE))
    source = (bindings.HEADER.parent / "kernels.cpp").read_text()
    assert set(re.findall(r"^DEFINE\((\w+)\)$", source, re.MULTILINE)) == set(table.kernels)
    assert table.kernels["statistics"].arguments == ("x", "M", "C", "mean", "variance")
