"""What the pages of the documentation tell people to type works as it is written.

A page's blocks are run in order in one folder, as a reader does. A block behind `<!-- needs: ... -->` is not run, as it
needs what no test has; of its commands it is looked at that densekit has such verbs and options. Blocks of `text` and
those without a language are output or grammar, and not run.
"""

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from densekit import train
from densekit.cli.main import assemble
from densekit.weights import model_folder
from tests.conftest import write_photos
from tests.data.xrays import write_xrays
from tests.docs import reference
from tests.docs.test_readme import INSTALLS, commands, run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if path.parent.name != "decisions" and path.name != "paper.md"  # whose blocks are excerpts: test_paper.py
)
QUICK = ("hub.md", "models.md", "timm.md", "reference/python.md")
"""Run by `make test`; the others take up to a minute each."""
TRANSLATED = {
    f"zh/{page}": page
    for page in ("analyse.md", "data.md", "findings.md", "glossary.md", "index.md", "page.md", "tutorial.md")
}
# What makes long commands short, as in tests/docs/test_readme.py; every one of it must be in a page.
SHORTENED = {
    "densekit train digits --model densenet_bc_22_12 --epochs 8 --out runs/first": "--epochs 1 --set data.limit=200",
    "densekit train digits --model densenet_bc_22_12 --epochs 8 --set label_smoothing=0 --out runs/sure": (
        "--epochs 1 --set data.limit=200"
    ),
    "densekit resume runs/first --epochs 10": "--epochs 2",
    "densekit analyse runs/first --images 200 --out runs/first-analysis": "--images 20",
    "densekit train photos --epochs 20 --set data.image_size=64 --model densenet_bc_40_12 --out runs/photos": (
        "--epochs 1 --set data.image_size=32"
    ),
    "densekit train fashion-mnist --out runs/fashion": "--epochs 1",
    "densekit train fashion-mnist": "--epochs 1",
    "densekit train cifar10 --model densenet_bc_100_12 --recipe c10+": "--epochs 1 --set data.limit=8",
    "densekit train photos --recipe finetune --init torchvision:densenet121 --model densenet121": (
        "--epochs 1 --set data.limit=4 --set data.image_size=64"
    ),
    "densekit train digits --set optimizer.lr=0.05 --set augment.crop=none": "--epochs 1 --set data.limit=100",
    "densekit train csv:labels.csv --set data.label_columns=Cardiomegaly,Effusion,Nodule --set data.channels=1": (
        "--epochs 1 --model densenet_bc_10_4 --set data.image_size=32 --set data.limit=16"
    ),
    "densekit train csv:labels.csv --set 'data.window=[2048, 4096]'": (
        "--epochs 1 --model densenet_bc_10_4 --set data.image_size=32 --set data.limit=16 "
        "--set data.label_columns=Cardiomegaly,Effusion,Nodule --out runs/window"
    ),
    "densekit train wds:shards": "--epochs 1 --model densenet_bc_10_4 --set data.image_size=32",
    "densekit train hf:./saved": "--epochs 1 --model densenet_bc_10_4 --set data.image_size=32",
    "densekit analyse fashion-mnist": "--images 8 --out a0",
    "densekit analyse runs/c10": "--images 20 --out a1",
    "densekit analyse runs/c10 --twin runs/c10-seed1 --twin runs/c10-seed2": "--images 20 --out a2",
    "densekit analyse runs/c10 --beside runs/resnet": "--images 20 --out a3",
    "densekit analyse models/densenet121 --only weights": "--out a4",
    "densekit export fashion-mnist --format onnx,openvino --int8 --out exported-int8": (
        "--calibration 8 --max-drop 0.5"
    ),
}


class Block(NamedTuple):
    """Of a page: its commands, or a Python program."""

    python: bool
    commands: tuple[str, ...]
    needs: str


def blocks(page: str) -> Iterator[Block]:
    """Those of sh and python, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    pattern = r"(?:^<!-- needs: (?P<needs>.*) -->\n)?^```(?P<language>.*)\n(?P<content>(?:.*\n)*?)```$"
    found = list(re.finditer(pattern, text, re.MULTILINE))
    assert len(found) * 2 == text.count("```"), f"{page}: a fence is not closed, or indented"
    for match in found:
        language, content, needs = match["language"], match["content"], match["needs"] or ""
        if language == "python":
            yield Block(True, (content,), needs)
        elif language == "sh":
            script = content.startswith("#!")  # a shell's own language
            yield Block(False, () if script else tuple(commands(content, prompt=False)), needs)
        else:
            assert language in ("", "text", "json", "yaml"), f"{page}: nobody runs a block of {language}"
            assert not re.search(r"^densekit .*\S$", content, re.MULTILINE) or "FILE" in content, (
                f"{page}: a command in a block that nobody runs: {content}"
            )


EVERY = [(page, block) for page in PAGES for block in blocks(page)]


def is_installing(command: str) -> bool:
    """Whether it makes the installation in which this test runs; its extras must be there to install."""
    if command in INSTALLS:
        return True
    match = re.fullmatch(r"pip install '(?:densekit|\.)\[(?P<extras>[a-z,]+)\]'", command)
    if match is None:
        return False
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(match["extras"].split(",")) <= set(known), command
    return True


def parsed(command: str) -> None:
    """Raises what densekit's command line says of verbs, options and arguments that it does not have."""
    words = shlex.split(command)
    while words and "=" in words[0]:
        words.pop(0)  # settings of the environment
    if "densekit" not in words:
        return  # another program's
    verb: Any = typer.main.get_command(assemble())
    given = words[words.index("densekit") + 1 :]
    if words[0] == "docker" and words[1] == "build":
        return
    while hasattr(verb, "commands"):
        if not given:
            return
        assert given[0] in verb.commands, f"{command}: no verb {given[0]}"
        verb = verb.commands[given.pop(0)]
    verb.make_context(verb.name, given)


@pytest.mark.parametrize("page", [page for page in PAGES if any(own == page for own, _ in EVERY)])
def test_verbs_and_options_of_every_command_are_there(page: str) -> None:
    """Also of those that are not run."""
    for block in (block for own, block in EVERY if own == page and not block.python):
        for command in block.commands:
            if not is_installing(command):
                parsed(command)


@pytest.fixture
def desk(place: Path, request: pytest.FixtureRequest) -> Path:
    """And what the pages speak of besides."""
    page = request.node.callspec.params["page"]
    (place / "labels.csv").write_text(write_xrays(place / "table").read_text())
    (place / "images").symlink_to(place / "table/images")
    if "runs/c10" in (DOCS / page).read_text():
        for seed, name in enumerate(("c10", "c10-seed1", "c10-seed2")):
            small(place / "runs" / name, "densenet_bc_10_4", seed=seed)
        small(place / "runs/resnet", "resnet_8")
        (place / "models").mkdir()
        (place / "models/densenet121").symlink_to(model_folder(place / "runs/c10"))
    if page == "hub.md":
        small(place / "runs/digits", "densenet_bc_10_4")
    if "hf:./saved" in (DOCS / page).read_text():
        write_photos(place / "saved")
    if page == "data-check.md":
        scans(place / "scans")
        rows = [f"{path.relative_to(place)},{path.parent.name}" for path in (place / "photos").rglob("*.png")]
        (place / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return place


def small(folder: Path, model: str, *, seed: int = 0) -> None:
    """A run on a few digits."""
    train("digits", model=model, epochs=1, out=folder, seed=seed, settings={"data.limit": 100, "plan": "concat"})


def scans(root: Path) -> None:
    """A picture of each patient, whose name the file's begins with."""
    for number, path in enumerate(sorted(write_photos(root).rglob("*.png"))):
        path.rename(path.with_name(f"patient{number}_{path.name}"))


def _cases() -> Iterator[Any]:
    for page in dict.fromkeys(page for page, block in EVERY if not block.needs):
        if page not in TRANSLATED:
            yield pytest.param(page, marks=() if page in QUICK else [pytest.mark.slow, pytest.mark.marathon])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of Hugging Face's datasets
@pytest.mark.parametrize("page", list(_cases()))
def test_a_page_does_what_it_says(
    page: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One command after the other, in this process, as each would load torch anew."""
    for block in (block for own, block in EVERY if own == page and not block.needs):
        for command in block.commands:
            if block.python:
                with redirect_stdout(sys.stderr):
                    exec(compile(command, page, "exec"), {"__name__": "__main__"})
            elif not is_installing(command):
                assert command.startswith("densekit "), f"{page}: say what {command} needs: <!-- needs: ... -->"
                run(f"{command} {SHORTENED.get(command, '')}", monkeypatch, capfd)


def test_what_is_shortened_is_in_a_page() -> None:
    assert set(SHORTENED) <= {command for _, block in EVERY for command in block.commands}


@pytest.mark.parametrize(("translation", "original"), list(TRANSLATED.items()))
def test_a_translation_has_the_same_commands(translation: str, original: str) -> None:
    def bare(page: str) -> list[Any]:
        # Without comments and placeholders, which are in the reader's language.
        return [
            (block.python, [re.sub(r"\s*#.*", "", command) for command in block.commands], bool(block.needs))
            for block in blocks(page)
        ]

    assert bare(translation) == bare(original)


@pytest.mark.parametrize(("translation", "original"), list(TRANSLATED.items()))
def test_a_translation_has_the_names_and_numbers_of_the_original(translation: str, original: str) -> None:
    """Settings, options, fields and files; and every number that is written with digits in a table."""

    def named(page: str) -> set[str]:
        text = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"<[^<>\n]+>", "<>", text)  # placeholders are in the reader's language
        rows = " ".join(re.findall(r"^\|.*\|$", text, re.MULTILINE))
        return {*re.findall(r"`[^`]+`", text), *re.findall(r"\d+(?:[.,]\d+)*", re.sub(r"\]\([^)]*\)", "", rows))}

    assert named(original) - named(translation) == set()


def test_the_reference_is_that_of_this_code() -> None:
    for name, text in reference.pages().items():
        assert (reference.DOCS / name).read_text(encoding="utf-8") == text, (
            f"docs/{name} is old; write it anew: python -m tests.docs.reference"
        )


def test_what_needs_something_says_what() -> None:
    """And which pages have such blocks: a test that nobody runs is not added unseen."""
    assert all(block.needs.strip() for _, block in EVERY if block.needs)
    waived = {page for page, block in EVERY if block.needs}
    known = (
        "container.md data.md evaluate.md findings.md hub.md serve.md study.md training.md tutorial.md "
        "zh/data.md zh/findings.md zh/tutorial.md"
    )
    assert waived == set(known.split())
