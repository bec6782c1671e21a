"""The documentation builds into a site that holds together, needs no other host, and fits a phone."""

import functools
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def in_nav(entries: Any) -> Iterator[str]:
    """Every page that the site's navigation names."""
    if isinstance(entries, str):
        yield entries
    for entry in entries if isinstance(entries, list) else entries.values() if isinstance(entries, dict) else ():
        yield from in_nav(entry)


def test_every_page_can_be_reached() -> None:
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    decisions = {page for page in pages if re.match(r"decisions/\d", page)}  # from their list
    assert set(in_nav(SITE["nav"])) == pages - decisions


def built(tree: Path) -> subprocess.CompletedProcess[str]:
    """`make docs`, in a copy."""
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=900)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the site is made of."""
    pytest.importorskip("zensical", reason="needs the extra docs")
    root = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, root / "docs")
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copy(ROOT / "zensical.toml", root)
    return root


@pytest.fixture(scope="module")
def site(tree: Path) -> Path:
    done = built(tree)
    assert done.returncode == 0, done.stdout + done.stderr
    return tree / "build" / "site"


@pytest.mark.slow
def test_it_has_all_pages_and_takes_nothing_from_other_hosts(site: Path) -> None:
    for page in in_nav(SITE["nav"]):
        assert (site / page).with_suffix(".html").is_file()
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]*src=\"?(?:https?:)?//[^>]*", text), file
        assert not re.findall(r"<link[^>]*href=\"?(?:https?:)?//[^>]*", text), file
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\(\"?(?:https?:)?//", style.read_text(encoding="utf-8")), style
    # mkdocstrings found what the reference asks for.
    assert 'id="densekit.api.push"' in (site / "reference" / "python.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("site")  # which is built from the same tree, before
def test_a_broken_link_is_an_error(tree: Path) -> None:
    page = tree / "docs" / "timm.md"
    whole = page.read_text(encoding="utf-8")
    page.write_text(whole + "\n[nowhere](no-such-page.md)\n", encoding="utf-8")
    try:
        done = built(tree)
    finally:
        page.write_text(whole, encoding="utf-8")
    assert done.returncode != 0
    assert "page does not exist" in done.stderr
    assert "timm.md" in done.stderr


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_phone_shows_it_without_scrolling_sideways_and_asks_nobody_else(address: str) -> None:
    browser = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 390, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in ("index", "tutorial", "reference/settings", "reference/python", "zh/tutorial"):
            page.goto(f"{address}/{name}.html")
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        page.goto(f"{address}/index.html")
        page.set_viewport_size({"width": 1200, "height": 800})
        page.keyboard.press("Control+k")
        page.keyboard.type("label_smoothing")
        page.get_by_text("Settings").last.wait_for(timeout=30_000)
        chromium.close()
    assert not errors
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]


def test_the_container_is_of_files_and_extras_that_there_are() -> None:
    """As far as can be seen without Docker."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "NOT BUILT" in text.splitlines()[0] + text.splitlines()[1]
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split()), line
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert set(extras.split(",")) <= set(EXTRAS)
    user, command = text.index("USER densekit"), text.index('CMD ["serve"')
    assert user < command
    assert '"--host", "0.0.0.0"' in text[command:]
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    needed = {name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for name in line.split()}
    assert {f"!{name}" for name in needed} <= set(kept)


def test_the_recipe_for_wheels_looks_for_types_and_kernels() -> None:
    recipe = yaml.safe_load((ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8"))
    step = next(step for step in recipe["jobs"]["wheels"]["steps"] if "cibuildwheel" in step.get("uses", ""))
    program = re.search(r'python -c "(.*)"', step["env"]["CIBW_TEST_COMMAND"])
    assert program is not None
    compile(program[1], "CIBW_TEST_COMMAND", "exec")
    assert {"py.typed", "densekit.ops"} <= set(re.findall(r"py\.typed|densekit\.ops", program[1]))
