"""HTML pages as a reader and as a browser see them."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Literal, NamedTuple

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = '<b>x</b>"><img src=http://example.org/a.png onerror=alert(1)>'
"""A name that is an attack where it is not escaped."""


class _Text(HTMLParser):
    """Collects what stands between the tags."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def text_of(page: Path) -> str:
    """The text of a page, with single spaces."""
    parser = _Text()
    parser.feed(page.read_text())
    return " ".join(" ".join(parser.parts).split())


class Look(NamedTuple):
    """What a browser made of a page."""

    complaints: list[str]
    requests: list[str]
    widths: list[int]
    """Pixels of each picture."""
    overflow: int
    """Pixels by which the page is too wide."""
    heading: str
    colours: list[str]
    """Of the ink and the ground of the first section."""


def looked_at(page_file: Path, scheme: Literal["light", "dark"] = "light") -> Look:
    """Opens a page in a browser as narrow as a phone."""
    from playwright.sync_api import sync_playwright

    complaints: list[str] = []
    requests: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"],
        )
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri(), wait_until="load")
        widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        heading = page.inner_text("h1")
        colours = page.eval_on_selector_all(
            "section",
            "all => all.slice(0, 1).map(getComputedStyle).flatMap(style => [style.color, style.backgroundColor])",
        )
        browser.close()
    return Look(complaints, requests, widths, overflow, heading, colours)
