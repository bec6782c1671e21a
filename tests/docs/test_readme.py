"""What the READMEs tell people to type works as it is written, and both tell the same."""

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from densekit.cli.main import main

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README.zh-CN.md")
SHELLS, PYTHON = ("sh", "bash", "console"), ("python",)

# What makes the installation in which this test runs. Command: what of it is looked at instead.
INSTALLS = {
    "git clone <> densekit && cd densekit": ("pyproject.toml", r'(?m)^name = "densekit"'),
    "make demo": ("Makefile", r"(?m)^demo:.*\n\t\S*densekit demo$"),
    "python3 -m venv .venv": ("pyproject.toml", r"(?m)^requires-python = "),
    ". .venv/bin/activate": (".gitignore", r"(?m)^\.venv/$"),
    "pip install .": ("pyproject.toml", r'(?m)^densekit = "densekit\.cli\.main:main"'),
}

# Long trainings and measurements, with what makes them short; typer takes the last of an option given twice.
SHORTENED = {
    "densekit train path/to/photos --out runs/photos": "--epochs 1",
    "densekit bench train --model densenet_bc_100_12": "--batch 2 --repeats 1 --threads 1 --plans shared",
}


class Block(NamedTuple):
    """A fenced block without its comments, which are in the reader's language, as are placeholders."""

    language: str
    commands: tuple[str, ...]


def blocks(readme: str) -> Iterator[Block]:
    """The fenced blocks of a README, in order."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    fences = re.findall(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)
    assert len(fences) * 2 == text.count("```")
    for language, content in fences:
        if language in PYTHON:
            yield Block(language, (ast.unparse(ast.parse(content)),))
        elif language in SHELLS:
            yield Block(language, tuple(commands(content, prompt=language == "console")))
        else:
            raise AssertionError(f"{readme}: nobody runs a block of {language or 'no language'}; use sh or python")


def commands(content: str, *, prompt: bool) -> Iterator[str]:
    """The command of each line; in a console those behind the prompt."""
    for line in content.replace("\\\n", " ").splitlines():
        if prompt and not line.startswith("$ "):
            continue
        words = shlex.split(re.sub(r"<[^<>]+>", "<>", line.removeprefix("$ ")), comments=True)
        if words:
            yield " ".join(word if re.fullmatch(r"&&|<>", word) else shlex.quote(word) for word in words)


# A block that both READMEs hold is run once.
ALL = list(dict.fromkeys(block for readme in READMES for block in blocks(readme)))


def run(command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """In this process; it must succeed."""
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code, f"{command}: {capfd.readouterr().err}"


def parameters() -> Iterator[Any]:
    for block in ALL:
        marks = (pytest.mark.slow,) if block.commands[0].startswith("densekit bench") else ()
        yield pytest.param(block, id=block.commands[0][:50], marks=marks)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("block", list(parameters()))
def test_a_block_does_what_it_says(
    block: Block, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One after the other in one folder, as a reader types them; in this process, as each would load torch anew."""
    for command in block.commands:
        if block.language in PYTHON:
            exec(compile(command, "README", "exec"), {"__name__": "__main__"})
        elif command in INSTALLS:
            file, pattern = INSTALLS[command]
            assert re.search(pattern, (ROOT / file).read_text(encoding="utf-8")), f"{command}: {file} says otherwise"
        else:
            assert command.startswith("densekit "), f"say in INSTALLS what is to be done about: {command}"
            run(f"{command} {SHORTENED.get(command, '')}", monkeypatch, capfd)


@pytest.mark.parametrize("readme", READMES)
def test_a_readme_is_read_in_a_few_minutes(readme: str) -> None:
    assert len((ROOT / readme).read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("readme", READMES)
def test_links_of_a_readme_lead_to_files(readme: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / readme).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_both_readmes_have_the_same_commands() -> None:
    english, chinese = (list(blocks(readme)) for readme in READMES)
    assert english == chinese


def test_what_is_not_run_as_it_stands_is_in_the_readmes() -> None:
    """Or the tables above would go on excusing a command that is long gone."""
    assert {*INSTALLS, *SHORTENED} <= {command for block in ALL for command in block.commands}


def test_the_command_densekit_is_what_is_run_here() -> None:
    (script,) = entry_points(group="console_scripts", name="densekit")
    assert script.load() is main
