"""The page of `densekit data check`: whole, harmless, small, and readable on a phone by day and by night."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from densekit.config import DataConfig
from densekit.data import load
from densekit.data.split import divide
from densekit.data_check.inspection import Check, check
from densekit.data_check.report_page import write_data_report
from tests.html_pages import CHROMIUM, HOSTILE, looked_at, text_of


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fault of nearly every kind, many of some, and names that would like to be markup."""
    root = tmp_path_factory.mktemp("page") / "photos"
    random = np.random.default_rng(0)
    classes = ("cat", "dog", HOSTILE.replace("/", "_"))
    for split, count in (("train", 30), ("test", 8)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                coarse.resize((300, 200), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
    for i in range(20):
        shutil.copy(root / "train" / "cat" / f"{i}.jpg", root / "train" / "cat" / f"copy{i}.jpg")
        Image.open(root / "train" / "dog" / f"{i}.jpg").save(root / "train" / "dog" / f"near{i}.jpg", quality=40)
    shutil.copy(root / "train" / "cat" / "0.jpg", root / "test" / "cat" / "leak.jpg")
    shutil.copy(root / "train" / "cat" / "1.jpg", root / "train" / "dog" / "conflict.jpg")
    (root / "train" / "cat" / "bad.jpg").write_text("no")
    (root / "train" / "cat" / "<i>.png").write_bytes((root / "train" / "cat" / "5.jpg").read_bytes())
    Image.new("RGB", (300, 200)).save(root / "train" / "dog" / "black.png")
    return root


@pytest.fixture(scope="module")
def page(spoilt: Path) -> tuple[Path, Check]:
    config = DataConfig(source=str(spoilt))
    found = check(divide(load(config, spoilt, strict=False), config), config, group=r"^(\d)\.")
    write_data_report(spoilt.parent / "check.html", found, config)
    return spoilt.parent / "check.html", found


def test_every_finding_stands_on_the_page(page: tuple[Path, Check]) -> None:
    path, found = page
    text = text_of(path)
    assert len(found.findings) > 8
    for finding in found.findings:
        assert finding.message in text
        assert finding.code in text
    assert "Training on these data would be wrong" in text
    copies = next(len(finding.items) for finding in found.findings if finding.code == "duplicates")
    assert copies > 12
    assert f"{copies - 12} more are not shown here" in text
    for words in ("leak.jpg", "conflict.jpg", "black.png", "bad.jpg is damaged", "similarity 0.9"):
        assert words.replace("is damaged", "does not begin") in text, words


class _Loads(HTMLParser):
    """Collects the tags, and the attributes by which a page could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        loading = ("src", "href", "srcset", "action", "style")
        self.sources += [value or "" for name, value in attrs if name in loading]


def test_it_is_one_small_file_that_loads_nothing(page: tuple[Path, Check]) -> None:
    found = _Loads()
    found.feed(page[0].read_text())
    sources = [source for source in found.sources if not source.startswith("--share:")]
    assert len(sources) > 50
    assert all(source.startswith("data:") for source in sources)
    assert "script" not in found.tags
    assert page[0].stat().st_size < 1_500_000


def test_names_are_text(page: tuple[Path, Check]) -> None:
    content = page[0].read_text()
    assert "<b>x" not in content
    assert "<img src=http" not in content
    assert "&lt;b&gt;x&lt;_b&gt;" in content


def test_sound_data_have_a_page_too(tmp_path: Path) -> None:
    config = DataConfig(source="synthetic:32x32x3:3:90")
    write_data_report(tmp_path / "check.html", check(divide(load(config, tmp_path), config), config), config)
    text = text_of(tmp_path / "check.html")
    assert "Nothing was found that would make training wrong" in text
    assert "class2" in text
    assert "32 x 32" in text


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_it_without_a_complaint(page: tuple[Path, Check], scheme: Literal["light", "dark"]) -> None:
    look = looked_at(page[0], scheme)
    assert look.complaints == []
    assert {url.split(":", 1)[0] for url in look.requests} <= {"file", "data"}
    assert min(look.widths) > 0
    assert look.overflow <= 0  # nothing wider than a phone
    ink, card = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in look.colours)
    assert (ink < card) == (scheme == "light")
    assert abs(ink - card) > 300
