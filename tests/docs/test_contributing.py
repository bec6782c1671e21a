"""What contributors are told to type and to read exists, and the workflows do what `make check` and `make test` do."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
COMMANDS = [
    words
    for block in re.findall(r"^```sh\n((?:.*\n)*?)```$", GUIDE, re.MULTILINE)
    for line in block.splitlines()
    if (words := shlex.split(line, comments=True))
]


def document(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    """Of all jobs of a workflow."""
    return [step for job in document(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_guide_exists(words: list[str]) -> None:
    program, *arguments = words
    if program == "make":
        assert arguments
        assert set(arguments) <= TARGETS
    elif program == "pytest":
        assert (ROOT / arguments[0]).exists()
        if "-k" in arguments:
            word = arguments[arguments.index("-k") + 1]
            assert [file for file in (ROOT / arguments[0]).rglob("test_*.py") if word in file.name]
    elif program == "git":
        assert arguments == ["clone", PROJECT["project"]["urls"]["Source"]]
    elif program == "cd":
        assert arguments == [PROJECT["project"]["urls"]["Source"].rpartition("/")[2]]
    else:
        assert words == [".", ".venv/bin/activate"]
        assert re.search(r"^VENV := \.venv$", MAKEFILE, re.MULTILINE)


def test_the_guide_begins_with_a_clone_and_ends_its_first_block_with_a_test() -> None:
    assert COMMANDS[0][:2] == ["git", "clone"]
    assert [words[0] for words in COMMANDS[:5]] == ["git", "cd", "make", ".", "pytest"]


def test_what_the_guide_names_is_there() -> None:
    """Files, targets of the Makefile, and ruff's rules."""
    named = re.findall(r"`([^`\n]+)`", re.sub(r"^```sh\n(?:.*\n)*?```$", "", GUIDE, flags=re.MULTILINE))
    paths = [name for name in named if re.fullmatch(r"\.?[\w.-]+(/[\w.-]*)+|[\w-]+\.(md|toml)|src|tests", name)]
    assert len(paths) > 8
    assert [name for name in paths if name != "build/site" and not (ROOT / name).exists()] == []
    targets = [name.removeprefix("make ") for name in named if name.startswith("make ")]
    assert targets
    assert set(targets) <= TARGETS
    lint = PROJECT["tool"]["ruff"]["lint"]
    assert {"PLR0913", "C90"} <= set(lint["select"])
    assert (lint["pylint"]["max-args"], lint["mccabe"]["max-complexity"]) == (8, 10)
    assert PROJECT["tool"]["mypy"]["strict"]
    assert "tests" in PROJECT["tool"]["mypy"]["packages"]


def test_pull_requests_are_checked_and_tested_on_every_python_that_is_promised() -> None:
    workflow = document(ROOT / ".github/workflows/ci.yml")
    assert "pull_request" in workflow[True]  # YAML takes `on` for a truth value
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in workflow["jobs"].items()}
    assert runs == {"check": [".ci/run check"], "test": [".ci/run test"]}
    promised = [entry.rpartition(" :: ")[2] for entry in PROJECT["project"]["classifiers"] if ":: 3." in entry]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == promised


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_pins_what_it_uses(path: Path) -> None:
    assert document(path)["permissions"] == {"contents": "read"}
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    assert [name for name in used if not re.search(r"@v\d+(\.\d+)*$", name)] == []


def test_workflows_ask_for_targets_that_there_are() -> None:
    asked = [
        run.split()[1:] for path in WORKFLOWS for step in steps(path) if (run := step.get("run", "")).startswith(".ci")
    ]
    assert len(asked) == 4
    assert {target for targets in asked for target in targets} <= TARGETS


def test_hooks_run_the_tools_of_make_check() -> None:
    (local,) = (repo for repo in document(ROOT / ".pre-commit-config.yaml")["repos"] if repo["repo"] == "local")
    hooks = {" ".join(hook["entry"].split()[:2]) for hook in local["hooks"]}
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    checks = {" ".join(line.replace("$(BIN)", ".venv/bin").split()[:2]) for line in recipe.splitlines()}
    assert hooks == checks


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name)
def test_an_issue_form_has_what_github_requires(path: Path) -> None:
    form = document(path)
    if path.name == "config.yml":
        assert set(form) <= {"blank_issues_enabled", "contact_links"}
        return
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)


def test_citations_are_of_this_version_and_of_the_paper() -> None:
    from densekit.version import __version__

    cff, bib = document(ROOT / "CITATION.cff"), (ROOT / "CITATION.bib").read_text(encoding="utf-8")
    assert cff["cff-version"] == "1.2.0"
    assert cff["version"] == __version__
    assert f"version = {{{__version__}}}" in bib
    assert cff["license"] == PROJECT["project"]["license"]
    source = PROJECT["project"]["urls"]["Source"]
    assert cff["repository-code"] == source
    assert f"url     = {{{source}}}" in bib
    (paper,) = cff["references"]
    assert f"doi       = {{{paper['doi']}}}" in bib
    assert f"title     = {{{paper['title']}}}" in bib
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert f"author    = {{{' and '.join(names)}}}" in bib
    assert [entry["name"] for entry in cff["authors"]] == [entry["name"] for entry in PROJECT["project"]["authors"]]


def test_every_address_of_the_project_is_below_one() -> None:
    urls = PROJECT["project"]["urls"]
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} == set(urls)
    assert [url for url in urls.values() if not url.startswith(urls["Source"])] == []


def test_the_site_and_the_package_describe_themselves_alike() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["site_description"]
    assert site == PROJECT["project"]["description"]
