"""Draws the figures of paper.md and its Chinese twin: `python docs/figures/draw.py`.

Every number in them is measured: by hooks, on a network that runs. A test compares the files with what this draws.
"""

# ruff: noqa: RUF001  # text for readers, in two languages

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import torch
from torch import nn

from densekit.models import DenseNet, create_model

HERE = Path(__file__).parent
BLOCK = "densenet_16_12"  # four layers a block: few enough to draw each
WHOLE = "densenet121"
# Okabe and Ito's, with text dark enough on each: told apart with any colour vision.
SOURCES = ("#9aa7b4", "#56B4E9", "#E69F00", "#6cc4a4", "#dca0c0")
ENTERING, ADDED, OTHER = "#56B4E9", "#bfe2f7", "#E69F00"
INK, SOFT, LINE = "#1c2733", "#55616d", "#8793a0"
FONT = "Helvetica, Arial, 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', sans-serif"

WORDS = {
    "en": {
        "block_title": "A dense block: every layer reads all maps so far",
        "block_note": "{model}, block 1: k0 = {k0}, k = {k}; maps of {h}×{w}. Colours say which layer made them.",
        "reads": "reads {n}",
        "adds": "adds {n}",
        "layer": "layer {l}",
        "transition": "transition",
        "hands": "hands on {n}",
        "composite": "BN, ReLU, 3×3",
        "pointwise": "BN, ReLU, 1×1, pool",
        "whole_title": "densenet121 from image to logits",
        "whole_note": "Channels × height × width of one image. A bar's length is its channels; in a dense block",
        "whole_note2": "the dark part enters and the light part is added, 32 maps a layer.",
        "image": "image",
        "conv0": "convolution 7×7, stride 2",
        "pool0": "max pool 3×3, stride 2",
        "denseblock": "dense block {i}: {n} layers",
        "transition_i": "transition {i}",
        "head": "BN, ReLU, average over pixels",
        "classifier": "fully connected",
    },
    "zh": {
        "block_title": "稠密块：每一层都读取此前的全部特征图",
        "block_note": "{model} 的第 1 个块：k0 = {k0}，k = {k}，特征图大小 {h}×{w}。颜色表示特征图由哪一层产生。",
        "reads": "读取 {n}",
        "adds": "新增 {n}",
        "layer": "第 {l} 层",
        "transition": "过渡层",
        "hands": "输出 {n}",
        "composite": "BN、ReLU、3×3",
        "pointwise": "BN、ReLU、1×1、池化",
        "whole_title": "densenet121：从图像到 logits",
        "whole_note": "单张图像的通道数 × 高 × 宽。条的长度与通道数成正比；稠密块中深色部分是块的输入，",
        "whole_note2": "浅色部分是各层新增的特征图，每层 32 张。",
        "image": "图像",
        "conv0": "7×7 卷积，步幅 2",
        "pool0": "3×3 最大池化，步幅 2",
        "denseblock": "稠密块 {i}：{n} 层",
        "transition_i": "过渡层 {i}",
        "head": "BN、ReLU、全局平均池化",
        "classifier": "全连接层",
    },
}


def shapes_of(model: nn.Module, image: tuple[int, int, int]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Module: (shape in, shape out) for one image, of every module that runs; batches apart."""
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def hook(name: str) -> Any:
        def keep(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            found[name] = (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        model.eval()(torch.zeros(1, *image))
    for handle in handles:
        handle.remove()
    return found


def dense_block(words: dict[str, str]) -> str:
    """What each layer of a block, and the transition behind it, read: a stack a reader, a colour a source."""
    model = create_model(BLOCK, plan="concat")
    assert isinstance(model, DenseNet)
    shapes = shapes_of(model, (3, 32, 32))
    layers = model.config.blocks[0]
    names = [f"features.denseblock1.denselayer{i + 1}" for i in range(layers)]
    reads = [shapes[name][0][0] for name in names] + [shapes["features.transition1"][0][0]]
    adds = [shapes[name][1][0] for name in names]
    height, width = shapes[names[0]][0][1:]
    note = words["block_note"].format(model=BLOCK, k0=reads[0], k=adds[0], h=height, w=width)
    parts = [*_head(words["block_title"], [note])]
    step, left, wide, top, scale = 152, 64, 62, 96, 3.4
    base = top + 24 + reads[-1] * scale
    for r, count in enumerate(reads):
        x = left + r * step
        y = base
        for s, maps in enumerate([reads[0], *adds[:r]]):
            tall = maps * scale
            y -= tall
            parts.append(_rect(x, y, wide, tall, SOURCES[s], stroke="white"))
            parts.append(_text(x + wide / 2, y + tall / 2 + 5, str(maps), middle=True, size=14))
        parts.append(_text(x + wide / 2, y - 8, words["reads"].format(n=count), middle=True, size=14, bold=True))
        last = r == layers
        parts.append(_arrow(x + wide / 2, base + 4, x + wide / 2, base + 26))
        title = words["transition"] if last else words["layer"].format(l=r + 1)
        does = words["pointwise"] if last else words["composite"]
        parts.append(_rect(x - 35, base + 28, wide + 70, 50, "white", stroke=INK))
        parts.append(_text(x + wide / 2, base + 48, title, middle=True, size=14, bold=True))
        parts.append(_text(x + wide / 2, base + 67, does, middle=True, size=12.5, fill=SOFT))
        parts.append(_arrow(x + wide / 2, base + 80, x + wide / 2, base + 102))
        made = shapes["features.transition1"][1][0] if last else adds[r]
        tall = 24
        parts.append(_rect(x - 14, base + 104, wide + 28, tall, "#e3e7eb" if last else SOURCES[r + 1], stroke="white"))
        word = words["hands"] if last else words["adds"]
        parts.append(_text(x + wide / 2, base + 121, word.format(n=made), middle=True, size=13.5))
    return _svg(left * 2 + (len(reads) - 1) * step + wide, base + 150, parts)


def whole(words: dict[str, str]) -> str:
    """A row a module, with the shape it makes."""
    model = create_model(WHOLE, plan="concat")
    assert isinstance(model, DenseNet)
    shapes = shapes_of(model, (3, 224, 224))
    parts = [*_head(words["whole_title"], [words["whole_note"], words["whole_note2"]])]
    top, row, left, scale = 112, 40, 290, 0.38
    for i, (title, enters, shape, colour) in enumerate(_rows(model, shapes, words)):
        y = top + i * row
        parts.append(_text(left - 18, y + 17, title, end=True, size=14.5))
        if enters:
            parts.append(_rect(left, y, enters * scale, 25, ENTERING))
            parts.append(_rect(left + enters * scale, y, (shape[0] - enters) * scale, 25, ADDED))
        else:
            parts.append(_rect(left, y, max(1.5, shape[0] * scale), 25, colour))
        parts.append(_text(left + shape[0] * scale + 12, y + 17, " × ".join(map(str, shape)), size=14))
    return _svg(820, top + (i + 1) * row + 8, parts)


def _rows(
    model: DenseNet, shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]], words: dict[str, str]
) -> Iterator[tuple[str, int, Sequence[int], str]]:
    """(title, channels that enter a dense block, shape, colour)."""
    yield words["image"], 0, shapes["features.conv0"][0], LINE
    yield words["conv0"], 0, shapes["features.conv0"][1], LINE
    yield words["pool0"], 0, shapes["features.pool0"][1], LINE
    for i, layers in enumerate(model.config.blocks, start=1):
        entering, made = shapes[f"features.denseblock{i}"]
        yield words["denseblock"].format(i=i, n=layers), entering[0], made, ADDED
        if f"features.transition{i}" in shapes:
            yield words["transition_i"].format(i=i), 0, shapes[f"features.transition{i}"][1], OTHER
    yield words["head"], 0, shapes["classifier"][0], LINE
    yield words["classifier"], 0, shapes["classifier"][1], LINE


def _head(title: str, notes: Sequence[str]) -> Iterator[str]:
    yield _text(28, 36, title, size=18, bold=True)
    for i, note in enumerate(notes):
        yield _text(28, 60 + 19 * i, note, size=13.5, fill=SOFT)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" '
    opening += f'height="{_n(height)}">'
    arrow = (
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 Z" fill="{LINE}"/></marker></defs>'
    )
    # White in a dark theme too, as the colours are chosen for it.
    page = f'<rect width="{_n(width)}" height="{_n(height)}" rx="8" fill="white"/>'
    return "\n".join([opening, arrow, page, f'<g font-family="{FONT}">', *parts, "</g>", "</svg>", ""])


def _rect(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none") -> str:
    size = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
    return f'<rect {size} fill="{fill}" stroke="{stroke}" stroke-width="1.2"/>'


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: float,
    fill: str = INK,
    bold: bool = False,
    middle: bool = False,
    end: bool = False,
) -> str:
    anchor = ' text-anchor="middle"' if middle else ' text-anchor="end"' if end else ""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{_n(x)}" y="{_n(y)}" font-size="{size}"{anchor}{weight} fill="{fill}">{escape(words)}</text>'


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    ends = f'x1="{_n(x)}" y1="{_n(y)}" x2="{_n(to_x)}" y2="{_n(to_y)}"'
    return f'<line {ends} stroke="{LINE}" stroke-width="1.6" marker-end="url(#a)"/>'


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def drawings() -> dict[Path, str]:
    """All of them, by file."""
    found = {}
    for language, words in WORDS.items():
        end = "svg" if language == "en" else f"{language}.svg"
        found[HERE / f"dense-block.{end}"] = dense_block(words)
        found[HERE / f"densenet121.{end}"] = whole(words)
    return found


if __name__ == "__main__":
    for file, drawing in drawings().items():
        file.write_text(drawing, encoding="utf-8")
        print(file)
