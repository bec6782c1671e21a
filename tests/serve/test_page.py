"""The page, driven as a person would: in a real Chromium, with mouse, keys, clipboard and a narrow screen."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image

import densekit
from densekit import Run
from densekit.config import Preprocessing
from densekit.inference.classifier import Classifier
from densekit.models import build, config_for
from densekit.weights import ModelCard
from tests.html_pages import CHROMIUM, HOSTILE
from tests.serve.pages import Tab, bytes_of, served
from tests.serve.servers import served as running

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
REFUSED = re.compile(r"^Failed to load resource")  # Chromium's own words for any status of 400 and more
ROOT = Path(__file__).parents[2] / "src" / "densekit" / "serve" / "static"

Opens = Callable[..., Tab]
"""Opens a page of the server, or of another at `url`; words are options of the browser's context."""


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(classifier: Classifier) -> Iterator[str]:
    with served(classifier) as url:
        yield url


@pytest.fixture
def tab(browser: "Browser", server: str) -> Iterator[Opens]:
    """Opens pages; each must have asked nobody else, and complained of nothing but refusals that the test wants."""
    tabs = []

    def opened(url: str = server, refused: bool = False, **context: Any) -> Tab:
        tabs.append((Tab(browser, url, **context), refused))
        return tabs[-1][0]

    yield opened
    for each, refused in tabs:
        each.close()
        assert each.hosts <= {each.url.split("/")[2], ""}
        complaints = [text for text in each.complaints if not (refused and REFUSED.match(text))]
        assert complaints == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five different pictures, the last of them damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(4):
        (folder / f"{i}.png").write_bytes(bytes_of(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)))
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:500])
    return [*sorted(folder.glob("?.png")), folder / "broken.png"]


def transfer(path: Path, kind: str) -> str:
    """JavaScript that gives the page a file by a drop or a paste."""
    content = base64.b64encode(path.read_bytes()).decode()
    event = (
        "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})"
        if kind == "drop"
        else "new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true})"
    )
    return f"""() => {{
        const bytes = Uint8Array.from(atob("{content}"), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "{path.name}", {{type: "image/png"}}));
        document.body.dispatchEvent({event});
    }}"""


def test_a_chosen_picture_is_named_and_explained(tab: Opens, classifier: Classifier, pictures: list[Path]) -> None:
    page = tab().open()
    page.choose(pictures[0])
    expected = classifier.predict(pictures[0])
    (name,) = page.answers()
    best = expected.top(5)
    assert name == best[0]["class"]
    card = page.opened()
    assert card.locator(".classes .class").all_inner_texts() == [row["class"] for row in best]
    shares = [float(text.strip("<% ")) for text in card.locator(".classes .number").all_inner_texts()]
    np.testing.assert_allclose(shares, [100 * float(row["probability"]) for row in best], atol=0.11)
    assert re.search(r"[\d.]+ ms on the server, \d+ ms there and back; explained in [\d.]+ ms", card.inner_text())
    assert card.locator(".input figcaption").inner_text() == "What the network sees: 28 \u00d7 28 pixels."
    assert card.locator(".diagram svg").count() == 3
    assert "The classifier used most: " in card.inner_text()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_pictures_can_be_dropped_and_pasted(tab: Opens, classifier: Classifier, pictures: list[Path], way: str) -> None:
    page = tab().open()
    page.page.evaluate(transfer(pictures[1], way))
    assert page.answers() == [classifier.predict(pictures[1]).top(1)[0]["class"]]


def test_the_page_shows_that_a_drop_is_welcome(tab: Opens) -> None:
    page = tab().open()
    page.page.evaluate("document.body.dispatchEvent(new DragEvent('dragenter', {bubbles: true, cancelable: true}))")
    assert page.page.get_by_text("Let go to add them").is_visible()
    page.page.evaluate("document.body.dispatchEvent(new DragEvent('dragleave', {bubbles: true}))")
    assert page.page.get_by_text("Add pictures").is_visible()


def test_pasted_text_is_no_picture(tab: Opens) -> None:
    page = tab().open()
    page.page.evaluate(
        "document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: new DataTransfer(), bubbles: true}))"
    )
    assert "not text or a link" in page.page.locator("#note").inner_text()


def test_several_at_once_and_a_broken_one_spoils_nothing(
    tab: Opens, classifier: Classifier, pictures: list[Path]
) -> None:
    page = tab(refused=True).open()
    page.choose(*pictures)
    found = page.answers(4)
    assert found == [classifier.predict(path).top(1)[0]["class"] for path in pictures[:4]]
    page.page.locator("#stop").wait_for(state="hidden")
    assert page.page.locator("#progress-text").inner_text() == "5 of 5 done, 1 without an answer"
    broken = page.page.locator(".card[data-state=failed]")
    assert "broken.png" in broken.inner_text()
    assert "is not complete" in broken.inner_text()
    assert broken.locator("button").count() == 1  # to remove it: trying again would not help
    page.page.locator("#clear").click()
    assert page.page.locator(".card").count() == 0


def test_progress_is_shown_and_can_be_stopped(tab: Opens, pictures: list[Path]) -> None:
    page = tab().open()
    page.page.route("**/v1/predict*", lambda route: None)  # never answered
    page.choose(*pictures[:4])
    assert page.page.locator("progress").get_attribute("max") == "4"
    assert page.page.locator("#progress-text").inner_text() == "0 of 4 done"
    assert page.page.locator(".card[data-state=asking]").count() == 2
    page.page.locator("#stop").click()
    page.page.wait_for_function("document.querySelectorAll('.card[data-state=stopped]').length === 4")
    page.page.unroute_all(behavior="ignoreErrors")
    page.page.locator(".card").nth(2).get_by_text("Try again").click()
    assert len(page.answers(1)) == 1


def test_the_overlay_is_where_the_map_is_and_as_opaque_as_wanted(tab: Opens, pictures: list[Path]) -> None:
    page = tab(device_scale_factor=2).open()
    heard = page.overhear()
    page.choose(pictures[2])
    card = page.explained()
    found = np.array(heard[0]["classes"][0]["map"])
    pixels = np.array(
        page.page.evaluate("""() => {
            const canvas = document.querySelector(".card canvas");
            const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return Array.from({length: 7}, (_, row) => Array.from({length: 7}, (_, column) => {
                const y = Math.floor((row + 0.5) * canvas.height / 7);
                const x = Math.floor((column + 0.5) * canvas.width / 7);
                return [0, 1, 2, 3].map((channel) => data[4 * (y * canvas.width + x) + channel]);
            }));
        }""")
    )
    veiled = (pixels[..., 0] > 250) & (pixels[..., 2] < 5)  # the line is drawn over some cells
    wanted = 255 * 0.9 * np.clip(found, 0, None) / found.max()
    assert veiled.mean() > 0.3
    np.testing.assert_allclose(pixels[..., 3][veiled], wanted[veiled], atol=12)
    assert (pixels[..., 3][wanted == 0] <= 4).all()
    canvas = card.locator("canvas")
    sizes = canvas.evaluate("(c) => [c.width, c.height, c.clientWidth, c.clientHeight]")
    assert sizes[:2] == [2 * side for side in sizes[2:]]  # a pixel of the screen each
    assert canvas.evaluate("(c) => getComputedStyle(c).opacity") == "0.6"
    card.locator("input[type=range]").fill("0")
    assert canvas.evaluate("(c) => getComputedStyle(c).opacity") == "0"
    page.choose(pictures[0])  # a new card takes what was chosen last
    page.page.locator(".card").nth(1).locator("canvas").wait_for()
    assert page.explained().locator("canvas").evaluate("(c) => getComputedStyle(c).opacity") == "0"


@pytest.mark.parametrize("count", [1, 3])
def test_the_first_click_on_which_layers_opens_it(tab: Opens, pictures: list[Path], count: int) -> None:
    page = tab().open()
    page.choose(*pictures[:count])
    card = page.explained()
    summary = card.get_by_text("Which layers the answer drew on")
    assert not card.locator(".diagram svg").first.is_visible()
    summary.click()
    card.locator(".diagram svg").first.wait_for()
    card.locator(".classes button").nth(1).click()
    page.page.get_by_role("button", name="中文").click()
    assert card.locator(".diagram svg").first.is_visible()  # open it stays, whatever is told anew
    card.locator("summary").click()
    assert not card.locator(".diagram svg").first.is_visible()


def shades(width: int, height: int) -> NDArray[np.uint8]:
    """RGB without symmetry: red grows to the right, green downwards, and a blue disc is nearer to the upper left."""
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(x - 0.4 * width, y - 0.35 * height) < 0.2 * min(width, height)
    return np.dstack([255 * x / width, 255 * y / height, 200 * disc]).astype(np.uint8)


def saved(folder: Path, kind: str) -> Path:
    """A photo of that kind; its name says what the browser or the server must not get wrong."""
    path = folder / f"{kind}.{'jpg' if kind.startswith('exif') else 'png'}"
    if kind.startswith("exif"):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = int(kind[4:])
        Image.fromarray(shades(640, 400)).save(path, exif=exif, quality=95)
    elif kind == "transparent":
        disc = shades(500, 300)
        Image.fromarray(np.dstack([disc, np.where(disc[..., 2], 255, 0)]).astype(np.uint8)).save(path)
    elif kind == "grey16":
        Image.fromarray(shades(300, 420)[..., 0].astype(np.uint16) * 257).save(path)
    else:
        width, height = {"wide": (1600, 400), "tall": (400, 1600), "large": (3000, 2000), "tiny": (16, 12)}[kind]
        Image.fromarray(shades(width, height)).save(path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["exif3", "exif6", "exif7", "transparent", "grey16", "wide", "tall", "large", "tiny"])
def test_the_map_lies_over_the_part_of_the_photo_that_the_network_sees(
    tab: Opens, classifier: Classifier, tmp_path: Path, kind: str, scheme: str
) -> None:
    """What is on the screen under the map, scaled down, is the network's input; whatever surrounds it is darkened."""
    path = saved(tmp_path, kind)
    page = tab(color_scheme=scheme).open()
    page.choose(path)
    card = page.explained()
    card.locator("input[type=range]").fill("0")
    view = Image.open(io.BytesIO(card.locator(".view").screenshot())).convert("L")
    seen = classifier.pixels([classifier.decode(path).image])[0, 0].numpy().astype(float)
    resample = Image.Resampling.BOX if kind == "tiny" else Image.Resampling.BILINEAR
    found = np.asarray(view.resize((28, 28), resample), float)
    inner = np.s_[1:-1, 1:-1]  # rounded corners, and what a fraction of a pixel does at a border
    assert np.abs(found - seen)[inner].mean() < 6
    shown, wanted = card.locator(".photo .frame img"), classifier.decode(path).image.size
    assert shown.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == list(wanted)
    assert shown.evaluate("(image) => image.clientWidth / image.clientHeight") == pytest.approx(
        wanted[0] / wanted[1], rel=0.02
    )
    cut = "The darkened part is cut off before the network sees the picture."
    assert cut in card.locator(".photo figcaption").inner_text()
    assert "as the network sees it" in card.locator(".input img").get_attribute("alt")


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, {"width": 360, "height": 740}])
def test_a_photo_keeps_its_resolution_as_far_as_the_window_allows(
    tab: Opens, tmp_path: Path, viewport: dict[str, int]
) -> None:
    page = tab(viewport=viewport).open()
    page.choose(saved(tmp_path, "grey16"), saved(tmp_path, "large"), saved(tmp_path, "tall"), saved(tmp_path, "tiny"))
    page.answers(4)
    page.page.wait_for_function(
        "[...document.querySelectorAll('.photo img')].every((i) => i.naturalWidth && i.clientWidth)"
    )
    sizes = page.page.locator(".photo .frame").evaluate_all("all => all.map((f) => [f.clientWidth, f.clientHeight])")
    column = page.page.locator(".body").first.evaluate("(body) => body.clientWidth")
    assert sizes[0] == [min(300, column), pytest.approx(1.4 * min(300, column), abs=1)]  # as many pixels as it has
    assert all(width <= column and height <= 0.75 * viewport["height"] + 1 for width, height in sizes)
    assert sizes[1][0] > 0.45 * column
    assert sizes[3][0] in (240, column)  # squares of 15 pixels
    assert page.overflow() <= 0


def test_a_file_that_the_browser_cannot_show_is_shown_as_the_network_sees_it(
    tab: Opens, classifier: Classifier, tmp_path: Path
) -> None:
    path = tmp_path / "scan.tif"
    Image.fromarray(shades(300, 200)[..., 0]).save(path)
    page = tab().open()
    page.choose(path)
    card = page.explained()
    words = "The browser cannot show this file, so this is what the network sees: 28 \u00d7 28 pixels."
    assert words in card.locator(".photo figcaption").inner_text()
    assert card.locator(".photo img").evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [28, 28]
    assert card.locator("canvas").is_visible()
    assert card.locator(".input").count() == 0


def test_another_class_has_another_map_and_other_points(tab: Opens, pictures: list[Path]) -> None:
    page = tab().open()
    heard = page.overhear()
    page.choose(pictures[0])
    card = page.opened()
    rows = heard[0]["classes"]
    before = page.page.evaluate("document.querySelector('canvas').toDataURL()")
    card.locator(".classes button").nth(1).click()
    assert card.locator(".classes [aria-pressed=true]").inner_text().startswith(rows[1]["class"])
    assert page.page.evaluate("document.querySelector('canvas').toDataURL()") != before
    assert f"“{rows[1]['class']}”" in card.locator(".photo figcaption").inner_text()
    score = float(card.locator("tfoot .number").inner_text())
    points = [float(text.replace("\u2212", "-")) for text in card.locator("tbody .number").all_inner_texts()]
    assert score == pytest.approx(rows[1]["logit"], abs=0.01)
    assert sum(points) == pytest.approx(score, abs=0.05)


def test_squares_are_as_large_as_the_reuse_says(tab: Opens, pictures: list[Path]) -> None:
    page = tab().open()
    heard = page.overhear()
    page.choose(pictures[0])
    card = page.opened()
    block = heard[0]["reuse"][1]
    edges = (
        card.locator(".block")
        .nth(1)
        .locator(".square")
        .evaluate_all("squares => squares.map((square) => Number(square.getAttribute('width')))")
    )
    values = np.array(block["values"], dtype=float)
    shares = np.concatenate([values[: r + 1, r] / np.nanmax(values[:, r]) for r in range(values.shape[1])])
    np.testing.assert_allclose(np.square(np.array(edges) / max(edges)), shares, atol=1e-3)
    chosen = card.locator(".block").nth(1).locator("select")
    chosen.select_option(label="layer 4")
    most = block["sources"][int(np.nanargmax(values[:, 3]))]
    words = card.locator(".block").nth(1).locator(".readout").inner_text()
    assert words.startswith("Layer 4 used most: " + most)
    card.locator(".block").nth(1).locator("svg").click(position={"x": 30 + 1.5 * 30, "y": 60})  # the second column
    assert chosen.input_value() == "1"


@pytest.mark.parametrize(
    ("locale", "tag", "words"),
    [("en-GB", "en", "Choose pictures"), ("zh-CN", "zh-Hans", "选择图片"), ("zh-TW", "zh-Hans", "选择图片"),
     ("fr-FR", "en", "Choose pictures")],
)  # fmt: skip
def test_the_browsers_language_is_spoken(tab: Opens, locale: str, tag: str, words: str) -> None:
    page = tab(locale=locale).open()
    assert page.page.locator("html").get_attribute("lang") == tag
    assert page.page.get_by_text(words, exact=True).is_visible()


def test_a_chosen_language_is_taken_everywhere_and_remembered(tab: Opens, pictures: list[Path]) -> None:
    page = tab(refused=True).open()
    page.choose(pictures[0], pictures[4])
    page.explained()
    page.page.locator(".card[data-state=failed]").wait_for()
    english = page.page.locator("body").inner_text()
    page.page.get_by_role("button", name="中文").click()
    chinese = page.page.locator("body").inner_text()
    assert page.page.locator("html").get_attribute("lang") == "zh-Hans"
    assert "图片不完整" in chinese
    # What stays English are names: of the model, its classes and the files.
    left = set(re.findall(r"[A-Za-z_]{3,}", chinese)) - {"English", "densekit", "DenseNet", "densenet_bc_", "Ctrl"}
    names = " ".join(densekit.load("fashion-mnist").classes) + " broken png"
    assert {word for word in left if word not in names} == set()
    assert english != chinese
    page.page.reload()
    assert page.page.locator("html").get_attribute("lang") == "zh-Hans"
    assert page.page.get_by_role("button", name="中文").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("locale", ["en", "zh-CN"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(tab: Opens, pictures: list[Path], locale: str, scheme: str) -> None:
    page = tab(locale=locale, color_scheme=scheme, refused=True, **PHONE).open()
    assert page.overflow() <= 0
    assert page.page.locator("label[for=photograph]").is_visible()
    assert page.page.locator("#photograph").get_attribute("capture") == "environment"
    page.choose(pictures[0])
    page.opened()
    assert page.page.locator("details[open] .diagram svg").count() == 3
    page.choose(*pictures[1:])
    page.answers(4)
    assert page.overflow() <= 0
    page.page.locator("#about summary").click()
    assert page.overflow() <= 0


def test_a_deep_network_fits_a_phone_too(tab: Opens, browser: "Browser", pictures: list[Path]) -> None:
    config = config_for("densenet_bc_100_12").model_copy(update={"blocks": (2, 60, 1), "image_size": (32, 32)})
    shape = Preprocessing(channels=3, size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    names = tuple(f"class {i} with a long name" for i in range(10))
    deep = Classifier(build(config), ModelCard(model=config, classes=names, preprocessing=shape), torch.device("cpu"))
    with served(deep) as url:
        wide = tab(url).open()
        wide.choose(pictures[0])
        wide.opened()
        sizes = wide.page.locator(".diagram svg").evaluate_all(
            "all => all.map((s) => [s.clientWidth, s.width.baseVal.value])"
        )
        assert [drawn for drawn, _ in sizes] == [meant for _, meant in sizes]  # not scaled: names keep their size
        page = tab(url, **PHONE).open()
        page.choose(pictures[0])
        page.opened()
        assert page.overflow() <= 0
        widths = page.page.locator(".diagram svg").evaluate_all("all => all.map((svg) => svg.clientWidth)")
        assert len(widths) == 3
        assert max(widths) <= 360
        labels = page.page.locator(".diagram").nth(1).locator("text.reader")
        boxes = labels.evaluate_all("all => all.map((t) => t.getBoundingClientRect()).map((b) => [b.left, b.right])")
        assert len(boxes) > 5
        assert all(left > right for (_, right), (left, _) in pairwise(boxes))


def test_keys_are_enough(tab: Opens, pictures: list[Path]) -> None:
    page = tab().open()
    # Playwright takes choosers over once somebody listens, but does not wait until it has.
    page.page.on("filechooser", lambda _: None)
    keys = page.page.keyboard
    focused = "document.activeElement"

    def to(selector: str, most: int = 40) -> None:
        for _ in range(most):
            keys.press("Tab")
            if page.page.evaluate(f"{focused}.matches({selector!r})"):
                return
        raise AssertionError(f"{selector} is not reached by Tab")

    to("#choose")
    outline = page.page.evaluate("getComputedStyle(document.querySelector('label[for=choose]')).outlineStyle")
    assert outline == "solid"  # the input cannot be seen, its label can
    with page.page.expect_file_chooser() as chooser:
        keys.press("Space")
    chooser.value.set_files(pictures[0])
    card = page.explained()
    assert page.page.evaluate(f"{focused}.tagName") == "H3"  # where the answer stands
    to(".classes li:nth-child(3) button")
    keys.press("Enter")
    assert card.locator(".classes li:nth-child(3) [aria-pressed=true]").count() == 1
    assert page.page.evaluate(f"{focused}.closest('li') === document.querySelector('.classes li:nth-child(3)')")
    keys.press("Shift+Tab")
    keys.press("Shift+Tab")
    keys.press("Shift+Tab")
    assert page.page.evaluate(f"{focused}.type") == "range"
    value = page.page.evaluate(f"Number({focused}.value)")
    keys.press("ArrowRight")
    assert page.page.evaluate(f"Number({focused}.value)") > value
    to("summary")
    assert not page.page.evaluate(f"{focused}.parentElement.open")
    keys.press("Enter")
    assert page.page.evaluate(f"{focused}.parentElement.open")
    to("select")
    before = card.locator(".readout").first.inner_text()
    keys.press("ArrowUp")
    assert card.locator(".readout").first.inner_text() != before
    page.page.locator(".remove").focus()
    keys.press("Enter")
    assert page.page.locator(".card").count() == 0
    assert page.page.evaluate(f"{focused}.id") == "choose"


def test_a_screen_reader_is_told(tab: Opens, pictures: list[Path], classifier: Classifier) -> None:
    page = tab(refused=True).open()
    live = page.page.locator("#live")
    assert live.get_attribute("role") == "status"
    page.choose(pictures[0])
    (name,) = page.answers()
    assert live.inner_text().startswith(f"0.png: {name}, ")
    page.explained()
    picture = page.page.get_by_role(
        "img", name=re.compile(f"The picture 0.png with the evidence for {name} marked: strongest ")
    )
    assert picture.is_visible()
    assert page.page.get_by_label("Opacity of the map").is_visible()
    page.choose(pictures[4])
    page.page.locator(".card[data-state=failed]").wait_for()
    assert "broken.png: The picture is not complete" in live.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en", "zh-CN"])
def test_axe_finds_no_fault(tab: Opens, pictures: list[Path], scheme: str, locale: str) -> None:
    """Contrast, labels, roles and order, by axe-core, in every state that a page can be in."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = tab(color_scheme=scheme, locale=locale, refused=True).open()

    def faults() -> list[tuple[str, list[str]]]:
        found = axe.Axe().run(page.page).response["violations"]
        return [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found]

    assert faults() == []
    page.choose(pictures[0])
    page.explained()
    assert faults() == []
    page.page.route("**/v1/predict*", lambda route: route.fulfill(status=503, headers={"Retry-After": "30"}))
    page.choose(pictures[1])
    page.page.locator(".busy").wait_for()
    page.page.locator("#about summary").click()
    assert faults() == []
    page.page.locator("#stop").click()
    page.page.unroute_all(behavior="ignoreErrors")
    page.choose(pictures[4])
    page.page.locator(".card[data-state=failed]").wait_for()
    page.page.evaluate("document.querySelector('#token-form').hidden = false")
    assert faults() == []


def test_a_busy_server_is_asked_again_when_it_says(tab: Opens, pictures: list[Path]) -> None:
    page = tab(refused=True).open()
    asked = []

    def busy(route: Any) -> None:
        asked.append(page.page.evaluate("performance.now()"))
        if len(asked) > 2:
            route.continue_()
        else:
            error = {"error": {"code": "queue_full", "message": "128 images wait"}}
            route.fulfill(status=429 if len(asked) == 1 else 503, headers={"Retry-After": "1"}, json=error)

    page.page.route("**/v1/predict*", busy)
    page.choose(pictures[0])
    words = page.page.locator(".busy")
    words.wait_for()
    assert words.inner_text() == "The server is busy. Trying again in 1 s."
    assert len(page.answers()) == 1
    waits = np.diff(asked)
    assert len(waits) == 2
    assert (waits > 950).all()


def answering(answer: dict[str, Any] | None) -> Callable[[Any], None]:
    """What a route does that answers so, or, without an answer, cannot be reached."""
    return lambda route: route.fulfill(**answer) if answer else route.abort("connectionrefused")


def test_what_goes_wrong_is_said_in_plain_words(tab: Opens, pictures: list[Path]) -> None:
    page = tab(refused=True).open()
    for answer, words in (
        ({"status": 413, "json": {"error": {"code": "too_many_pixels", "message": "x"}}}, "too many pixels"),
        ({"status": 503, "json": {"error": {"code": "timeout", "message": "x"}}}, "took too long"),
        (
            {"status": 500, "json": {"error": {"code": "internal", "message": "x"}}},
            "Something is wrong with the server",
        ),
        ({"status": 422, "json": {"error": {"code": "novel", "message": "of a new kind"}}}, "of a new kind"),
        ({"status": 413, "body": "<html>nginx</html>"}, "too large for this server"),
        ({"status": 504, "body": "<html>nginx</html>"}, "took too long"),
        ({"status": 200, "body": "<html>a login page</html>"}, "does not understand"),
        ({"status": 200, "json": {"top": "nonsense"}}, "does not understand"),
        (None, "cannot be reached"),
    ):
        page.page.unroute_all()
        page.page.route("**/v1/predict*", answering(answer))
        page.choose(pictures[0])
        page.page.locator(".card").first.locator(".problem").wait_for()
        assert words in page.page.locator(".card").first.inner_text()
    page.page.unroute_all()
    page.page.locator(".card").first.get_by_text("Try again").click()
    assert len(page.answers()) == 1
    page.complaints.clear()  # of nonsense the page itself warns


def test_a_server_that_is_not_there_is_asked_again_on_demand(tab: Opens) -> None:
    page = tab(refused=True)
    page.page.route("**/v1/model", lambda route: route.abort("connectionrefused"))
    page.page.goto(page.url)
    page.page.get_by_text("The server cannot be reached").wait_for()
    page.page.unroute_all()
    page.page.get_by_role("button", name="Try again").click()
    page.page.locator("#intake").wait_for()
    assert not page.page.locator("#problem").is_visible()


@pytest.mark.marathon
@pytest.mark.slow
def test_the_command_serves_it(tab: Opens, classifier: Classifier, pictures: list[Path]) -> None:
    """As its users start it: pictures are named in another process than where they are explained."""
    with running("fashion-mnist", "--engine", "torch", "--threads", "1") as server:
        page = tab(server.url).open()
        page.choose(*pictures[:4])
        assert page.answers(4) == [classifier.predict(path).top(1)[0]["class"] for path in pictures[:4]]
        assert page.opened().locator(".diagram svg").count() == 3


@pytest.mark.marathon
@pytest.mark.slow
def test_an_exported_file_behind_a_token(tab: Opens, tiny_run: Path, pictures: list[Path], tmp_path: Path) -> None:
    """All that the page cannot do there, it says: nobody gets in without the token, nothing is explained."""
    exported = densekit.export_model(tiny_run, tmp_path / "exported").files["onnx"]
    with running(exported, "--threads", "1", "--set", "body_bytes=1000000", DENSEKIT_TOKEN="open-sesame") as server:
        _past_the_token(tab(server.url, refused=True), exported, pictures, tmp_path)


def _past_the_token(page: Tab, exported: Path, pictures: list[Path], tmp_path: Path) -> None:
    page.page.goto(page.url)
    field = page.page.get_by_label("This server wants a token")
    field.wait_for()
    assert field.get_attribute("type") == "password"
    field.fill("wrong")
    field.press("Enter")
    page.page.get_by_text("or another one than this").wait_for()
    field.fill("open-sesame")
    field.press("Enter")
    page.page.locator("#intake").wait_for()
    page.page.reload()  # the tab remembers it
    page.page.locator("#intake").wait_for()
    assert "cannot show why" in page.page.locator("#unexplained").inner_text()
    page.choose(pictures[0])
    assert page.answers() == [densekit.load(exported).predict(pictures[0]).top(1)[0]["class"]]
    page.page.get_by_text("What the network sees").wait_for()
    for selector in ("canvas", ".card summary:visible", ".classes button", "input[type=range]"):
        assert page.page.locator(selector).count() == 0
    large = tmp_path / "large.png"
    large.write_bytes(bytes_of(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)))
    page.choose(large)
    page.page.locator(".card .problem").wait_for()
    words = page.page.locator(".card").first.inner_text()
    assert "The file has 1.5 MB, and this server takes up to 1.0 MB" in words


def test_several_labels_are_each_found_or_not(tab: Opens, xray_run: Run, xrays: Path) -> None:
    classifier = xray_run.classifier()
    path = next(xrays.parent.rglob("*.png"))
    with served(classifier) as url:
        page = tab(url).open()
        page.choose(path)
        page.explained()
        rows = classifier.predict(path).top(5)
        shown = page.page.locator(".classes .verdict").all_inner_texts()
        assert shown == ["✓ found" if row["present"] else "not found" for row in rows]


def test_a_light_background_can_be_swapped(tab: Opens, classifier: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "light.png"
    pixels = np.full((28, 28), 255, np.uint8)
    pixels[8:20, 6:22] = np.random.default_rng(3).integers(0, 128, (12, 16))
    path.write_bytes(bytes_of(pixels))
    page = tab().open()
    page.choose(path)
    page.explained()
    page.page.get_by_role("button", name="Swap dark and light").click()
    page.page.get_by_text("Dark and light are swapped.").wait_for()
    assert page.answers() == [classifier.predict(path, invert=True).top(1)[0]["class"]]
    page.explained()
    assert page.page.get_by_role("button", name="Dark and light as they were").is_visible()


def test_names_are_text_whatever_they_hold(tab: Opens, pictures: list[Path], tmp_path: Path) -> None:
    hostile = densekit.load("fashion-mnist")
    hostile.card = hostile.card.model_copy(update={"classes": (HOSTILE,) * 10})
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    path.write_bytes(pictures[0].read_bytes())
    with served(hostile) as url:
        page = tab(url).open()
        page.choose(path)
        assert page.answers() == [HOSTILE]
        card = page.explained()
        assert card.locator("h3").inner_text() == path.name
        assert page.page.locator("main b").count() == 1  # the headline's own


def test_nothing_moves_where_that_is_not_wanted(tab: Opens) -> None:
    page = tab(reduced_motion="reduce").open()
    moving = page.page.evaluate(
        "[...document.querySelectorAll('*')].filter((n) => getComputedStyle(n).transitionDuration !== '0s').length"
    )
    assert moving == 0


def test_both_languages_say_the_same(tab: Opens) -> None:
    """The same keys and places in them; each key is used, and each that is used is there."""
    page = tab().open()
    strings = page.page.evaluate("async () => (await import('/assets/strings.js')).STRINGS")
    assert strings.keys() == {"en", "zh-Hans"}
    english, chinese = strings["en"], strings["zh-Hans"]
    assert list(english) == list(chinese)
    for key, words in english.items():
        places = re.findall(r"\{\w+\}", words)
        assert sorted(set(places)) == sorted(set(re.findall(r"\{\w+\}", chinese[key]))), key
        assert words
        assert chinese[key]
    code = "".join(path.read_text() for path in ROOT.iterdir() if path.suffix in (".js", ".html"))
    code = code.replace((ROOT / "strings.js").read_text(), "")
    named = set(re.findall(r"""(?:text\(|data-text=|data-label=|[?:=] )"([a-z]+(?:\.\w+)*)\"""", code))
    made = set(re.findall(r"`([a-z]+)\.(?:\w+\.)?\$\{", code))
    no_keys = {"densekit.language", "densekit.token", "image.png"}
    assert {name for name in named if "." in name} - no_keys - english.keys() == set()
    unused = [key for key in english if f'"{key}"' not in code and key.split(".")[0] not in made]
    assert unused == []
