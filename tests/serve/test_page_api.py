"""What the page asks for: assets under a strict policy, facts about the model, explanations with right numbers."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import ExifTags, Image

import densekit
from densekit import Run
from densekit.analysis import reuse
from densekit.analysis.connectivity import blocks_of
from densekit.analysis.image_sample import Sample
from densekit.inference.classifier import Classifier
from densekit.models import DenseNet
from densekit.serve.app import create_app
from densekit.serve.limits import Limits
from densekit.serve.page import assets
from tests.narrow import expect_type
from tests.serve.pages import Here, app_of, bytes_of


@pytest.fixture(scope="module")
def picture() -> bytes:
    return bytes_of(np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8))


@pytest.fixture(scope="module")
def client(classifier: Classifier) -> Iterator[TestClient]:
    with TestClient(app_of(classifier, Limits())) as client:
        yield client


def explained(client: TestClient, content: bytes, **query: Any) -> Any:
    answer = client.post("/v1/explain", content=content, params=query, headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_asset_has_its_type_and_a_policy_without_inline_code(client: TestClient) -> None:
    assert {"index.html", "app.js", "page.css", "strings.js", "icon.svg"} <= assets().keys()
    for path in ("/", *(f"/assets/{name}" for name in assets())):
        answer = client.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304
        assert again.headers["content-security-policy"] == policy
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"
    assert client.get("/assets/app.js").headers["content-type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize("name", ["nothing.js", "..%2fpage.py", "%2e%2e/page.py", "page.py", ""])
def test_nothing_else_is_sent(client: TestClient, name: str) -> None:
    answer = client.get(f"/assets/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_the_markup_has_nothing_inline() -> None:
    page = assets()["index.html"].content.decode()
    assert "style=" not in page
    assert "<style" not in page
    assert " on" not in page.replace(" on this", "")
    assert page.count("<script") == 1
    assert "://" not in page


def test_facts_about_the_model(client: TestClient, classifier: Classifier) -> None:
    facts = client.get("/v1/model").json()
    assert facts["name"] == "densenet_bc_40_12"
    assert facts["classes"] == list(classifier.classes)
    assert facts["input"] == {"channels": 1, "height": 28, "width": 28}
    assert facts["preprocessing"]["mean"] == [0.286086]
    assert facts["capabilities"] == {"class_map": True, "reuse": True}
    assert facts["limits"] == {"body_bytes": Limits().body_bytes, "pixels": Limits().pixels}
    assert facts["metrics"]["top1"] == 0.9414


def test_numbers_are_those_of_the_network(client: TestClient, classifier: Classifier, picture: bytes) -> None:
    """Against captum's way of looking: hooks, one prediction, the head's own weights."""
    found = explained(client, picture, top=10)
    model = expect_type(classifier.model, DenseNet)
    x = classifier.inputs(classifier.pixels([Image.open(io.BytesIO(picture)).convert("L")]))
    with torch.no_grad():
        logits, features = model(x)[0], model.forward_features(x)[0]
    prediction = classifier.predict(picture)
    assert [row["class"] for row in found["classes"]] == [row["class"] for row in prediction.top(10)]
    for row in found["classes"]:
        index = row["index"]
        assert row["probability"] == pytest.approx(float(prediction.probabilities[index]), rel=1e-3, abs=1e-6)
        assert row["logit"] == pytest.approx(logits[index].item(), rel=1e-3, abs=1e-3)
        expected = (model.get_parameter("classifier.weight")[index][:, None, None] * features).sum(0)
        np.testing.assert_allclose(row["map"], expected.detach().numpy(), rtol=1e-3, atol=1e-3)
        assert np.mean(row["map"]) + row["bias"] == pytest.approx(row["logit"], rel=1e-4, abs=1e-4)
        assert sum(row["parts"]) + row["bias"] == pytest.approx(row["logit"], rel=1e-4, abs=1e-4)
        assert len(row["parts"]) == len(found["sources"]) == 7
    hooked = reuse.by_activation(model, blocks_of(model), Sample(x, torch.zeros(1, dtype=torch.int64)))
    assert [block["block"] for block in found["reuse"]] == [1, 2, 3]
    for block, seen in zip(found["reuse"], hooked, strict=True):
        values = np.array(block["values"], dtype=float)
        np.testing.assert_allclose(values, seen, rtol=1e-3, atol=1e-6)
        assert values.shape == (len(block["sources"]), len(block["readers"]))
    assert found["sources"][0] == "transition 2"
    assert found["reuse"][2]["readers"][-1] == "classifier"


def test_classes_can_be_asked_for(client: TestClient, picture: bytes) -> None:
    found = explained(client, picture, **{"class": [3, 0, 3]})
    assert [row["index"] for row in found["classes"]] == [3, 0]


def test_a_form_gives_the_same(client: TestClient, picture: bytes) -> None:
    form = client.post("/v1/explain", files={"file": ("x.png", picture)}).json()
    raw = explained(client, picture)
    assert form | {"milliseconds": 0} == raw | {"milliseconds": 0}


def test_dark_and_light_can_be_swapped(client: TestClient) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8)
    swapped = explained(client, bytes_of(pixels), invert=True)
    other = explained(client, bytes_of(255 - pixels))
    assert swapped["classes"] == other["classes"]
    assert swapped["seen"] == other["seen"]


@pytest.mark.parametrize(
    ("content", "query", "status", "code"),
    [
        (b"", {}, 400, "empty_file"),
        (b"no picture", {}, 415, "not_an_image"),
        ("picture", {"class": 10}, 422, "invalid_parameter"),
        ("picture", {"class": -1}, 422, "invalid_parameter"),
        ("picture", {"class": "shoe"}, 422, "invalid_parameter"),
        ("picture", {"top": 0}, 422, "invalid_parameter"),
        ("half", {}, 422, "truncated"),
    ],
)
def test_what_cannot_be_explained_is_said(
    client: TestClient, picture: bytes, content: bytes | str, query: dict[str, Any], status: int, code: str
) -> None:
    pictures = {"picture": picture, "half": picture[: len(picture) // 2]}
    body = pictures[content] if isinstance(content, str) else content
    answer = client.post("/v1/explain", content=body, params=query)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code


def test_limits_hold_here_too(classifier: Classifier, picture: bytes) -> None:
    with TestClient(app_of(classifier, Limits(pixels=1000))) as client:
        answer = client.post("/v1/explain", content=picture)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_many_pixels"
    with TestClient(app_of(classifier, Limits(body_bytes=1000))) as client:
        assert client.post("/v1/explain", content=picture).json()["error"]["code"] == "body_too_large"


def test_a_network_that_cannot_be_looked_into_still_answers(classifier: Classifier, picture: bytes) -> None:
    """As an exported file is: it maps images to logits, and that is all."""
    whole = classifier.predict(picture)
    closed = densekit.load("fashion-mnist")
    network = closed.model
    closed.model = torch.nn.Sequential(network)
    with TestClient(app_of(closed, Limits())) as client:
        assert client.get("/v1/model").json()["capabilities"] == {"class_map": False, "reuse": False}
        found = explained(client, picture)
    assert found["reuse"] is found["sources"] is None
    assert {row["map"] for row in found["classes"]} == {row["parts"] for row in found["classes"]} == {None}
    assert found["classes"][0]["class"] == whole.top(1)[0]["class"]
    assert found["classes"][0]["probability"] == pytest.approx(float(whole.probabilities.max()), rel=1e-3)


def test_several_labels_are_explained_each_for_itself(xray_run: Run, xrays: Path) -> None:
    classifier = xray_run.classifier()
    content = next(xrays.parent.rglob("*.png")).read_bytes()
    with TestClient(app_of(classifier, Limits())) as client:
        assert client.get("/v1/model").json()["task"] == "multi-label"
        found = explained(client, content, top=3)
    for row in found["classes"]:
        assert row["probability"] == pytest.approx(1 / (1 + np.exp(-row["logit"])), rel=1e-4)
        assert np.mean(row["map"]) + row["bias"] == pytest.approx(row["logit"], rel=1e-3, abs=1e-4)


def test_a_server_without_the_model_says_so(classifier: Classifier) -> None:
    app = app_of(classifier, Limits())
    app.state.classifier = None
    with TestClient(app) as client:
        assert client.get("/v1/model").json()["error"]["code"] == "no_model"
        assert client.get("/").status_code == 200


def test_the_page_needs_no_token_and_what_it_asks_does(classifier: Classifier, picture: bytes) -> None:
    limits = Limits()
    app = create_app(Here(classifier, limits), classifier, limits, name="x", token="open-sesame")
    with TestClient(app) as client:
        assert client.get("/").status_code == client.get("/assets/app.js").status_code == 200
        assert client.get("/v1/model").status_code == client.post("/v1/explain", content=picture).status_code == 401
        bearer = {"authorization": "Bearer open-sesame"}
        assert client.get("/v1/model", headers=bearer).status_code == 200
        assert client.post("/v1/explain", content=picture, headers=bearer).status_code == 200


@pytest.mark.parametrize(
    ("orientation", "region"),
    [
        (1, {"left": 1 / 6, "top": 0.0, "width": 2 / 3, "height": 1.0}),
        (6, {"left": 0.0, "top": 1 / 6, "width": 1.0, "height": 2 / 3}),
    ],
)
def test_the_part_that_the_network_sees_is_of_the_upright_picture(
    client: TestClient, orientation: int, region: dict[str, Any]
) -> None:
    content, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("L", (2100, 1400), 90).save(content, "jpeg", exif=exif)
    seen = explained(client, content.getvalue())["seen"]
    upright = (2100, 1400) if orientation == 1 else (1400, 2100)
    assert seen["image"] == dict(zip(("width", "height"), upright, strict=True))
    assert seen["region"] == pytest.approx(region)
