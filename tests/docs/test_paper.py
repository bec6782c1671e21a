"""docs/paper.md and its Chinese twin: the lines shown are in the code, and every number in them is measured."""

# ruff: noqa: RUF001  # × is how shapes are written there

import ast
import doctest
import importlib.util
import re
import shlex
import textwrap
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
import typer

import densekit
from densekit.analysis.measurements import PARTS
from densekit.cli import analyse, models, reproduce, study, train
from densekit.models import config_for, create_model
from densekit.models.cost import as_published, cost_of
from densekit.recipes import RECIPES, recipe_for
from tests.models.test_densenet import PUBLISHED

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = Path(densekit.__file__).parent
ENGLISH, CHINESE = DOCS / "paper.md", DOCS / "zh" / "paper.md"
PAGES = (ENGLISH, CHINESE)
_FENCE = re.compile(r"^```(\w*)\n((?:(?!```).*\n)*)```$", re.MULTILINE)
_TABLE = re.compile(r"^\|.*\n\|[-|]+\|\n(?:\|.*\n?)+", re.MULTILINE)
_WHERE = re.compile(r"`([\w.]+)` in `([\w/]+\.py)`|`([\w/]+\.py)` 中的 `([\w.]+)`")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)]*)\)")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_TOLD = re.compile(rf"`[^`]+`|(?<= )-(?= )|\+|{_NUMBER.pattern}")
_NAME = re.compile(r"`((?:densenet|resnet|preact_resnet)\w*)`")


def part(page: Path) -> Any:
    """A readable name for a test."""
    return pytest.param(page, id=str(page.relative_to(DOCS)))


both_pages = pytest.mark.parametrize("page", [part(page) for page in PAGES])


class Shown(NamedTuple):
    """A block of code, and what the paragraph before it says it is from."""

    name: str
    file: Path
    lines: list[str]


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def shown(page: Path) -> list[Shown]:
    found = []
    for match in _FENCE.finditer(text(page)):
        if match[1] == "python":
            before = text(page)[: match.start()].rstrip("\n")
            said = [*_WHERE.finditer(before[before.rindex("\n\n") :])][-1]
            name, file = (said[1], said[2]) if said[1] else (said[4], said[3])
            found.append(Shown(name, PACKAGE / file, match[2].splitlines()))
    return found


def rows(page: Path) -> list[list[list[str]]]:
    """Tables as rows of cells, the heading first."""
    return [
        [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in match[0].splitlines()
            if not set(line) <= set("|-")
        ]
        for match in _TABLE.finditer(text(page))
    ]


@cache
def drawing() -> ModuleType:
    """The script of the figures, whose hooks measure shapes."""
    spec = importlib.util.spec_from_file_location("draw", DOCS / "figures" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def counts(name: str) -> tuple[int, float]:
    """Parameters and millions of MACs; of the networks in PUBLISHED another test holds those to what is counted."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    found = cost_of(as_published(config_for(name)))
    return found.parameters, round(found.macs / 1e6, 1)


@cache
def shapes(name: str) -> dict[str, Any]:
    config = config_for(name)
    return drawing().shapes_of(create_model(name, plan="concat"), (config.in_channels, *config.image_size))


def lines_of(file: Path, name: str) -> list[str]:
    """The source of a function, method or constant."""
    source = file.read_text(encoding="utf-8")
    body: list[ast.stmt] = ast.parse(source).body
    for word in name.split("."):
        (node,) = (
            node
            for node in body
            if getattr(node, "name", None) == word
            or (isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [word])
        )
        body = getattr(node, "body", [])
    return source.splitlines()[node.lineno - 1 : node.end_lineno]


@both_pages
def test_the_lines_shown_are_in_the_function_named(page: Path) -> None:
    assert len(shown(page)) >= 15
    for name, file, lines in shown(page):
        source = lines_of(file, name)
        windows = ["\n".join(source[i : i + len(lines)]) for i in range(len(source))]
        assert "\n".join(lines) in map(textwrap.dedent, windows), (
            f"{file.name}, {name} has other lines than {page.name}"
        )


@both_pages
def test_shapes_are_those_of_the_network_as_it_runs(page: Path) -> None:
    checked = 0
    for heading, *body in rows(page):
        if (match := _NAME.fullmatch(heading[0])) is None:
            continue
        for module, enters, leaves in body:
            measured = tuple(" × ".join(map(str, shape)) for shape in shapes(match[1])[module.strip("`")])
            assert (enters, leaves) == measured, module
            checked += 1
    assert checked > 20


@both_pages
def test_counts_are_those_of_the_networks(page: Path) -> None:
    tables = [body for heading, *body in rows(page) if heading[-1] in ("MACs", "乘加次数")]
    assert len(tables) == 3
    for name, blocks, growth, parameters, macs in (row for body in tables for row in body):
        config: Any = config_for(name.strip("`"))
        assert blocks == ", ".join(map(str, config.blocks))
        assert growth == str(config.growth_rate)
        assert (parameters, macs) == tuple(
            f"{count:,}{unit}" for count, unit in zip(counts(config.name), ("", " M"), strict=True)
        )


@both_pages
def test_settings_are_those_of_the_recipes(page: Path) -> None:
    ((heading, *body),) = (table for table in rows(page) if table[0][0] in ("recipe", "配方"))
    assert len(body) == 10
    for key, *cells in body:
        for recipe, cell in zip(heading[1:], cells, strict=True):
            value: Any = recipe_for(recipe.strip("`"), "cifar10")
            for word in key.strip("`").split("."):
                value = getattr(value, word)
            values = value if isinstance(value, tuple) else (value,)
            assert cell == ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values), (key, recipe)


@both_pages
def test_published_parameters_are_those_of_our_networks(page: Path) -> None:
    (table,) = (table for table in rows(page) if "C10+" in table[0])
    ours = {"ResNet-110": "resnet_110", "ResNet-1001": "preact_resnet_1001"}
    for label, parameters, *_ in table[1:]:
        if found := _NAME.fullmatch(label):
            assert parameters == f"{counts(found[1])[0] / 1e6:.1f} M", label
        else:  # the field counts others' networks with and without their batch norms
            name = next(ours[word] for word in ours if re.search(rf"{word}(?!\d)", label))
            with torch.device("meta"):
                count = sum(p.numel() for p in create_model(name).parameters())
            assert float(parameters.removesuffix(" M")) == pytest.approx(count / 1e6, rel=0.02), label


@both_pages
def test_published_errors_are_those_of_the_recipes(page: Path) -> None:
    """Every error that a recipe's docstring names, where the page has its network."""
    on_page: dict[tuple[str, str], str] = {}
    for heading, *body in rows(page):
        columns = {"one crop": "imagenet", "单裁剪": "imagenet"}
        for row in body:
            for column, cell in zip(heading, row, strict=True):
                recipe = columns.get(column, column.lower())
                if recipe in RECIPES:
                    on_page[recipe, row[0].strip("`")] = cell
    checked = 0
    for recipe, function in RECIPES.items():
        for name, error in re.findall(r"\b((?:densenet|bc_)\w*) (\d+\.\d+)", function.__doc__ or ""):
            whole = name if name.startswith("densenet") else f"densenet_{name}"
            assert on_page[recipe, whole] == error, (recipe, name)
            checked += 1
    assert checked >= 10


@both_pages
def test_what_is_typed_at_the_prompt_answers_as_shown(page: Path) -> None:
    sessions = [match[2] for match in _FENCE.finditer(text(page)) if match[1] == "pycon"]
    assert sessions
    for session in sessions:
        test = doctest.DocTestParser().get_doctest(session, {}, page.name, str(page), 0)
        assert doctest.DocTestRunner().run(test).failed == 0


def commands(page: Path) -> set[str]:
    """In blocks, and in the text."""
    blocks = [line for match in _FENCE.finditer(text(page)) if match[1] == "sh" for line in match[2].splitlines()]
    return {*blocks, *re.findall(r"`(densekit [^`]+)`", text(page))}


def test_commands_are_ones_that_there_are() -> None:
    app = typer.Typer()
    for verb in (models, train, analyse, study, reproduce):
        app.command()(getattr(verb, verb.__name__.rpartition(".")[2]))
    known: Any = typer.main.get_command(app)
    for command in commands(ENGLISH):
        _, name, *arguments = shlex.split(command)
        context = known.commands[name].make_context(name, arguments)  # raises where it cannot be parsed
        assert set(context.params.get("only") or ()) <= set(PARTS)
    options = re.findall(r"`--only (\w+)`", text(ENGLISH))
    assert options
    assert set(options) <= set(PARTS)


@both_pages
def test_links_lead_somewhere(page: Path) -> None:
    links = _LINK.findall(text(page))
    assert links
    for _, _, target in links:
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_figures_are_what_the_script_draws() -> None:
    drawn = drawing().drawings()
    assert {file.name for file in drawn} == {file.name for file in (DOCS / "figures").glob("*.svg")}
    for file, content in drawn.items():
        assert file.read_text(encoding="utf-8") == content, f"draw {file.name} again: python docs/figures/draw.py"
    for page in PAGES:
        pictures = [page.parent / target for mark, _, target in _LINK.findall(text(page)) if mark]
        assert len(pictures) == 2
        assert all((".zh." in picture.name) == (page == CHINESE) for picture in pictures)


class Section(NamedTuple):
    """What has to be alike in both languages."""

    number: str
    code: list[tuple[str, str]]
    cells: list[list[str]]
    spans: Counter[str]
    numbers: Counter[str]
    links: Counter[str]


def sections(page: Path) -> list[Section]:
    found = []
    for section in re.split(r"^(?=## )", text(page), flags=re.MULTILINE):
        # Comments of sessions are in the reader's language; those of the code are the code's.
        code = [
            (kind, re.sub(r"  #.*", "", body) if kind == "pycon" else body) for kind, body in _FENCE.findall(section)
        ]
        # Of each cell what is no word: names, numbers, and that there is none.
        cells = [_TOLD.findall(cell) for match in _TABLE.finditer(section) for cell in match[0].split("|")]
        prose = _TABLE.sub("", _FENCE.sub("", section))
        links = Counter(re.sub(r"(\.\./)+|zh/|\.zh", "", target) for _, _, target in _LINK.findall(prose))
        spans = Counter(re.findall(r"`[^`]+`", prose))
        words = _LINK.sub("", prose)
        numbers = Counter(_NUMBER.findall(words))
        found.append(Section(section.split(" ")[1].split("\n")[0], code, cells, spans, numbers, links))
    return found


def test_the_chinese_twin_has_the_same_sections_code_and_numbers() -> None:
    english, chinese = sections(ENGLISH), sections(CHINESE)
    assert [s.number for s in english[1:]] == [s.number for s in chinese[1:]] == [f"{i}." for i in range(1, 16)]
    for ours, theirs in zip(english[1:], chinese[1:], strict=True):
        assert ours == theirs, ours.number
    # The page's own heading says how to read it; the links to each other are its first.
    assert english[0].numbers == chinese[0].numbers


def test_the_chinese_twin_is_chinese() -> None:
    prose = _TABLE.sub("", _FENCE.sub("", text(CHINESE)))
    for paragraph in prose.split("\n\n"):
        words = _LINK.sub("", re.sub(r"`[^`]+`", "", paragraph))
        if len(words.strip()) > 60 and "Convolutional" not in words:
            assert len(re.findall(r"[\u4e00-\u9fff]", words)) > len(words) / 4, paragraph
