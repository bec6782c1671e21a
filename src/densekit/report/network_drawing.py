"""A network as a drawing: a row a stage, with its resolution as a square and its channels as a bar. SVG, no network."""

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from densekit import atomic
from densekit.errors import BadData, InvalidInput
from densekit.formatting import counted, short_amount
from densekit.models.structure import Module, Structure

_ENOUGH = 5  # stages; containers are opened until there are as many
_MOST = 40
_WIDTH, _TOP, _ROW, _SIDE = 940, 116, 38, 28
_SQUARES, _BARS, _BAR_WIDTH, _NUMBERS, _PARAMETERS, _MACS = 276, 326, 290, 640, 836, 916
# Okabe and Ito's colours; dark grounds get lighter ones.
_STYLE = """
svg { --ground: #fff; --ink: #1c2733; --soft: #566472; --line: #d9dfe5; --enters: #56b4e9; --adds: #bfe2f7;
  --transition: #e69f00; --other: #9aa7b4 }
@media (prefers-color-scheme: dark) {
  svg { --ground: #12181e; --ink: #dfe6ec; --soft: #9fadba; --line: #36424e; --enters: #2f7fb0; --adds: #8cc7ec;
    --transition: #d99a1c; --other: #71808e }
}
text { font-family: Helvetica, Arial, sans-serif; font-size: 14px; fill: var(--ink) }
.title { font-size: 18px; font-weight: bold } .soft { fill: var(--soft); font-size: 13px }
.end { text-anchor: end } .middle { text-anchor: middle }
.ground { fill: var(--ground) } .square { fill: none; stroke: var(--soft); stroke-width: 1.5 }
.enters { fill: var(--enters) } .adds { fill: var(--adds) } .transition { fill: var(--transition) }
.other { fill: var(--other) } .tick { stroke: var(--ground); stroke-width: 1 } .line { stroke: var(--line) }
"""


def stages(found: Structure) -> list[Module]:
    """The modules that a drawing shows: the coarsest level that has enough of those that change shape or cost."""
    children: dict[str, list[Module]] = {}
    for module in found.modules[1:]:
        children.setdefault(module.name.rpartition(".")[0], []).append(module)
    chosen = [found.modules[0]]
    while len(_visible(chosen)) < _ENOUGH and not all(module.leaf for module in chosen):
        chosen = [below for module in chosen for below in children.get(module.name, [module])]
    return _visible(chosen)[:_MOST]


def _visible(modules: list[Module]) -> list[Module]:
    """Without norms, activations and dropout, which keep the shape and cost next to nothing."""
    return [module for module in modules if module.output and (module.macs or module.output != module.input)]


def drawing(found: Structure) -> str:
    """The SVG, for light and dark grounds."""
    rows = stages(found)
    most = max([found.input[0], *(module.output[0] for module in rows)])
    scale = _BAR_WIDTH / most
    height = _TOP + _ROW * (len(rows) + 1) + 14
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(found.name)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}" rx="8"/>',
        _text(24, 34, found.name, "title"),
        _text(24, 57, f"{found.parameters:,} parameters, {short_amount(found.macs)} MACs", "soft"),
        *_legend(rows),
        _text(_SQUARES, _TOP - 14, "resolution", "soft middle"),
        _text(_BARS, _TOP - 14, "channels", "soft"),
        _text(_NUMBERS, _TOP - 14, "output", "soft"),
        _text(_PARAMETERS, _TOP - 14, "parameters", "soft end"),
        _text(_MACS, _TOP - 14, "MACs", "soft end"),
        f'<line class="line" x1="24" x2="{_WIDTH - 24}" y1="{_TOP - 6}" y2="{_TOP - 6}"/>',
    ]
    side = max(found.input[1:])
    parts += _row(0, "input", found.input, side, [(found.input[0] * scale, "other")])
    for i, module in enumerate(rows, start=1):
        counts = (f"{module.parameters:,}" if module.parameters else "", short_amount(module.macs))
        parts += _row(i, _label(found, module), module.output, side, _bars(module, scale), counts)
        if module.kind == "DenseBlock":
            parts += _ticks(found, module, i, scale)
    return "\n".join([*parts, "</svg>", ""])


def write_drawing(found: Structure, path: Path) -> None:
    """Writes `drawing`. Raises InvalidInput for a name that is no .svg, BadData where it cannot be written."""
    if path.suffix.lower() != ".svg":
        raise InvalidInput(f"--draw {path} is not .svg; name the drawing FILE.svg")
    try:
        atomic.write(path, drawing(found))
    except OSError as error:
        raise BadData(f"cannot write {path}: {error.strerror}; name another --draw") from error


def _row(
    index: int,
    label: str,
    shape: tuple[int, ...],
    largest: int,
    bars: list[tuple[float, str]],
    counts: tuple[str, str] = ("", ""),
) -> Iterator[str]:
    top = _TOP + index * _ROW
    middle = top + _ROW / 2
    yield _text(24, middle + 5, label if len(label) <= 30 else f"{label[:29]}…")
    if len(shape) == 3:
        # By the root: 7 pixels of 224 would be a dot.
        height, width = (_SIDE * (pixels / largest) ** 0.5 for pixels in shape[1:])
        x, y = _SQUARES - width / 2, middle - height / 2
        yield f'<rect class="square" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    x = float(_BARS)
    for width, kind in bars:
        yield f'<rect class="{kind}" x="{x:.1f}" y="{middle - 11}" width="{max(1.0, width):.1f}" height="22"/>'
        x += width
    yield _text(_NUMBERS, middle + 5, " × ".join(map(str, shape)))  # noqa: RUF001  # a sign for readers
    yield _text(_PARAMETERS, middle + 5, counts[0], "end")
    yield _text(_MACS, middle + 5, counts[1], "end")


def _legend(rows: list[Module]) -> Iterator[str]:
    """What the colours of dense blocks mean, where there are any."""
    if any(module.kind == "DenseBlock" for module in rows):
        for x, kind, words in ((_BARS, "enters", "enters the block"), (_BARS + 150, "adds", "added, one cell a layer")):
            yield f'<rect class="{kind}" x="{x}" y="45" width="14" height="14"/>'
            yield _text(x + 20, 57, words, "soft")


def _bars(module: Module, scale: float) -> list[tuple[float, str]]:
    if module.kind == "DenseBlock":
        enters, made = module.input[0], module.output[0]
        return [(enters * scale, "enters"), ((made - enters) * scale, "adds")]
    return [(module.output[0] * scale, "transition" if "ransition" in module.kind else "other")]


def _ticks(found: Structure, block: Module, index: int, scale: float) -> Iterator[str]:
    """Lines between what each layer of a dense block adds, where there is room."""
    layers, middle = _layers(found, block), _TOP + index * _ROW + _ROW / 2
    step = (block.output[0] - block.input[0]) / layers * scale
    for i in range(layers if step >= 4 else 0):
        x = _BARS + block.input[0] * scale + i * step
        yield f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 11}" y2="{middle + 11}"/>'


def _layers(found: Structure, block: Module) -> int:
    return sum(module.name.startswith(f"{block.name}.") and module.depth == block.depth + 1 for module in found.modules)


def _label(found: Structure, module: Module) -> str:
    parent, _, own = module.name.rpartition(".")
    if module.kind == "DenseBlock":
        return f"dense block {own.removeprefix('denseblock')}, {counted(_layers(found, module), 'layer')}"
    if module.kind == "Transition":
        return f"transition {own.removeprefix('transition')}"
    named = f"{parent.rpartition('.')[2]}.{own}" if own.isdecimal() else own
    if module.kind == "Sequential":
        return f"{named}, {counted(_layers(found, module), 'block')}"
    return f"{named}: {module.kind}"


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    classes = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{classes}>{escape(words)}</text>' if words else ""
