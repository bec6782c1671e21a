"""Models go to the Hugging Face Hub and come back, through its own client and a Hub on this machine."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scipy.stats import binomtest

import densekit
from densekit import api
from densekit.config import Preprocessing
from densekit.errors import BadData, BadWeights, InvalidInput
from densekit.models import build, config_for
from densekit.publishing.model_card import RunRecord as Story
from densekit.publishing.model_card import model_card
from densekit.runs import run_folder
from densekit.weights import ModelCard, model_folder, read_card, save_model
from densekit.weights.initial import start_from
from tests.conftest import write_photos
from tests.weights.fake_hub import FakeHub, Repository

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra hub")
constants = pytest.importorskip("huggingface_hub.constants")

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client's own upload

NAME = "hf:ann/digits"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The client's settings are read when it is imported, so they are set where they then are."""
    server = FakeHub()
    settings = {
        "ENDPOINT": server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        # Its newer way to send large files needs a server of its own; without it the client takes Git LFS.
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "writer")
    yield server
    server.stop()


def tiny_model(folder: Path, *, seed: int = 0, **card: Any) -> Path:
    """A model folder of a network of three classes."""
    torch.manual_seed(seed)
    config = config_for("densenet_bc_10_4").model_copy(update={"num_classes": 3, "image_size": (16, 16)})
    preprocessing = Preprocessing(channels=3, size=(16, 16), resize=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    given = {"model": config, "classes": ("a", "b", "c"), "preprocessing": preprocessing} | card
    save_model(folder, build(config).state_dict(), ModelCard.model_validate(given))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_comes_back_with_the_same_weights_and_answers(hub: FakeHub, tiny_run: Path, tmp_path: Path) -> None:
    done = api.push(tiny_run, NAME, license="mit")
    assert done.url == f"{hub.endpoint}/ann/digits/commit/{done.revision}"
    assert set(hub.repositories["ann/digits"].commits[-1][1]) == {"config.json", "model.safetensors", "README.md"}
    theirs, ours = densekit.load(NAME), densekit.load(tiny_run)
    assert all(torch.equal(value, theirs.model.state_dict()[key]) for key, value in ours.model.state_dict().items())
    picture = next(write_photos(tmp_path / "photos").rglob("*.png"))
    assert theirs.predict(picture).top(10) == ours.predict(picture).top(10)
    assert theirs.card.provenance["hub"] == f"{NAME}@{done.revision}"
    # Weights go by LFS, and the token only to the Hub itself.
    assert any(line.startswith("PUT /large/") for line in hub.seen)
    assert hub.elsewhere
    assert not any(hub.elsewhere)


def test_a_revision_is_pinned_and_recorded(hub: FakeHub, tmp_path: Path) -> None:
    first = api.push(tiny_model(tmp_path / "one"), NAME).revision
    second = api.push(tiny_model(tmp_path / "two", seed=1), NAME).revision
    assert first != second
    weights = {at: densekit.load(f"{NAME}{at}").model.state_dict() for at in ("", f"@{first}", f"@{second}")}
    key = "features.conv0.weight"
    assert torch.equal(weights[""][key], weights[f"@{second}"][key])
    assert not torch.equal(weights[""][key], weights[f"@{first}"][key])
    photos = write_photos(tmp_path / "photos", classes=("a", "b", "c"), size=20)
    assert densekit.evaluate(NAME, str(photos)).model == f"{NAME}@{second}"
    settings = {"data.image_size": 16, "batch_size": 8, "data.test_fraction": 0.2}
    words: dict[str, Any] = {"model": "densenet_bc_10_4", "epochs": 1, "settings": settings, "init": NAME}
    run = densekit.train(str(photos), out=tmp_path / "run", **words)
    assert run_folder.recipe_of(run.folder).init == f"{NAME}@{second}"
    assert read_card(model_folder(run.folder)).provenance["init"] == f"{NAME}@{second}"


def test_init_takes_weights_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    pushed = tiny_model(tmp_path / "model")
    api.push(pushed, NAME)
    config = read_card(pushed).model
    network = build(config)
    assert start_from(network, config, NAME, ("a", "b", "c")).new == ()
    expected = densekit.load(pushed).model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_what_was_fetched_is_there_without_a_network(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = api.push(tiny_model(tmp_path / "model"), NAME).revision
    densekit.load(NAME)
    hub.stop()
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its tries
    assert densekit.load(NAME).card.provenance["hub"] == f"{NAME}@{revision}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert densekit.load(f"{NAME}@{revision}").classes == ("a", "b", "c")
    with pytest.raises(BadWeights, match=r"not in this machine's cache, and HF_HUB_OFFLINE"):
        densekit.load("hf:ann/other")


def test_only_config_and_safetensors_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    files = files_of(tiny_model(tmp_path / "model"))
    extra = {"pytorch_model.bin": b"a pickle", "README.md": b"# hers", "setup.py": b"raise SystemExit"}
    hub.repositories["ann/digits"] = Repository()
    hub.repositories["ann/digits"].add(files | extra)
    densekit.load(NAME)
    fetched = {line.rpartition("/")[2] for line in hub.seen if "/resolve/" in line}
    assert fetched == {"config.json", "model.safetensors"}


def _put(**about: Any) -> Any:
    def put(hub: FakeHub, files: dict[str, bytes]) -> None:
        taken = {name: files[name] for name in about.get("files", files)} | about.get("more", {})
        hub.repositories["ann/digits"] = Repository(
            **{key: value for key, value in about.items() if key not in ("files", "more")}
        )
        hub.repositories["ann/digits"].add(taken)

    return put


def _nothing(*_: Any) -> None:
    pass


PICKLED = {"files": ["config.json"], "more": {"pytorch_model.bin": b"a pickle"}}
BERT = json.dumps({"architectures": ["BertModel"], "model_type": "bert"}).encode()


@pytest.mark.parametrize(
    ("put", "token", "name", "words"),
    [
        (_nothing, None, NAME, r"no model ann/digits on http.*or it is private: log in with `hf auth login`"),
        (_nothing, "reader", NAME, r"no model ann/digits on http.*private and your token may not read it"),
        (_put(private=True), None, NAME, r"no model ann/digits.*or it is private"),
        (_put(gated=True), None, NAME, r"is gated: ask for access on http.*/ann/digits; then log in"),
        (_put(gated=True), "reader", NAME, r"is gated.*your token's owner has no access yet"),
        (_put(), "nonsense", NAME, r"does not accept your token"),
        (_put(status=403), "reader", NAME, r"your token may not read hf:ann/digits: the Hub answers 403"),
        (_put(status=500), None, NAME, r"the Hub answered 500 for hf:ann/digits .*try again later"),
        (_put(), None, f"{NAME}@no-such", r"no such revision; name a branch, a tag or a commit after the @"),
        (_put(files=["model.safetensors"]), None, NAME, r"not a densekit model: it does not hold both"),
        (_put(**PICKLED), None, NAME, r"does not hold both config.json and model.safetensors.*Pickles.*never fetched"),
        (_put(more={"config.json": BERT}), None, NAME, r"not a densekit model: its config.json is another library's"),
        (_put(more={"model.safetensors": b"other"}), None, NAME, r"sha256 differs"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_with_the_fix(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Any, token: str | None, name: str, words: str
) -> None:
    put(hub, files_of(tiny_model(tmp_path / "model")))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(BadWeights, match=words) as caught:
        densekit.load(name)
    assert "\n" not in str(caught.value)


def test_without_a_network_the_message_says_so(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stop()
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with pytest.raises(BadWeights, match=r"could not be fetched, nor is it in this machine's cache.*check the network"):
        densekit.load(NAME)


@pytest.mark.parametrize("name", ["hf:digits", "hf:ann/digits@", "hf:a/b/c", "hf:", "hf:ann/dig its"])
def test_a_malformed_name_is_refused_before_anything_is_asked(hub: FakeHub, name: str) -> None:
    with pytest.raises(InvalidInput, match="is not hf:OWNER/NAME"):
        densekit.load(name)
    assert not hub.seen


@pytest.mark.parametrize(
    ("token", "options", "error", "words"),
    [
        (None, {}, InvalidInput, r"needs a token that may write; log in"),
        ("reader", {}, BadData, r"your token may not write to hf:ann/digits"),
        ("nonsense", {}, BadData, r"does not accept your token"),
        ("writer", {"private": True}, InvalidInput, r"there already, and public: --private cannot change that"),
    ],
)
def test_what_cannot_be_pushed_is_one_line_and_changes_nothing(
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    folder = tiny_model(tmp_path / "model")
    hub.repositories["ann/digits"] = Repository()
    before = hub.repositories["ann/digits"].add({"old": b"file"})
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error, match=words) as caught:
        api.push(folder, NAME, **options)
    assert "\n" not in str(caught.value)
    assert [commit for commit, _ in hub.repositories["ann/digits"].commits] == [before]


def test_damaged_weights_are_not_pushed(hub: FakeHub, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(BadWeights, match="sha256 differs"):
        api.push(folder, NAME)
    assert not hub.seen


def test_private_is_private(hub: FakeHub, tmp_path: Path) -> None:
    api.push(tiny_model(tmp_path / "model"), NAME, private=True)
    assert hub.repositories["ann/digits"].private


def test_a_card_that_was_edited_stays_until_it_is_replaced(hub: FakeHub, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    assert not any("stays" in note for note in api.push(folder, NAME).notes)
    # As densekit wrote it: written anew without asking.
    assert not any("stays" in note for note in api.push(folder, NAME, license="mit").notes)
    repository = hub.repositories["ann/digits"]
    assert b"license: mit" in repository.commits[-1][1]["README.md"]
    repository.add({"README.md": repository.commits[-1][1]["README.md"].replace(b"## Limits", b"## My limits")})
    other = tiny_model(tmp_path / "other", seed=1)
    assert any("edited on the Hub and stays" in note for note in api.push(other, NAME).notes)
    assert b"My limits" in repository.commits[-1][1]["README.md"]
    assert not any("stays" in note for note in api.push(other, NAME, replace_card=True).notes)
    assert b"My limits" not in repository.commits[-1][1]["README.md"]


def header_of(card: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert match is not None
    return yaml.safe_load(match[1])


def test_a_dry_run_writes_what_would_be_sent_and_sends_nothing(hub: FakeHub, tiny_run: Path, tmp_path: Path) -> None:
    done = api.push(tiny_run, NAME, license="mit", dry_run=tmp_path / "dry")
    assert not hub.seen
    assert done.revision is done.url is None
    result = run_folder.result_of(tiny_run)
    assert result is not None
    assert densekit.evaluate(tmp_path / "dry", "digits").top1 == result.top1
    header = header_of((tmp_path / "dry" / "README.md").read_text())
    assert (header["license"], header["library_name"]) == ("mit", "densekit")
    (entry,) = header["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in entry["metrics"]}
    assert values["accuracy"] == pytest.approx(result.top1, abs=1e-6)
    assert values["ece"] == pytest.approx(result.ece, abs=1e-6)
    assert (entry["dataset"]["name"], entry["dataset"]["split"]) == ("digits", "test")
    assert huggingface_hub.ModelCard.load(tmp_path / "dry" / "README.md").data.eval_results


def test_the_card_gives_wilsons_interval_and_the_runs_own_facts(tiny_run: Path) -> None:
    result = run_folder.result_of(tiny_run)
    assert result is not None
    assert result.top1 is not None
    text = model_card(read_card(model_folder(tiny_run)), Story.read(tiny_run), repository="ann/digits", license=None)
    interval = binomtest(round(result.top1 * result.count), result.count).proportion_ci(0.95, method="wilson")
    assert f"| top-1 accuracy | {result.top1:.2%} | {interval.low:.2%} to {interval.high:.2%} |" in text
    counts = run_folder.recipe_of(tiny_run).data.limit
    assert f"Only the first {counts} training images" in text
    for words in ("Wilson", "## Limits", "seed 0", "It began with random weights", "plan of the dense blocks", "mean "):
        assert words in text
    assert "license" not in header_of(text)
    assert "Not stated by whoever pushed it" in text
    for row in result.per_class:
        assert re.search(rf"^\| {row['class']} \| {row['count']} \| ", text, re.MULTILINE)


def test_the_card_of_an_imported_model_calls_unknown_what_is_unknown(tmp_path: Path) -> None:
    state = build(config_for("densenet_bc_10_4")).state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    api.import_model(tmp_path / "theirs.pth", tmp_path / "model")
    card = read_card(tmp_path / "model")
    text = model_card(card, None, repository="ann/theirs", license="bsd-3-clause")
    assert "model-index" not in header_of(text)
    for words in (
        "Unknown. No measurement stands beside these weights",
        "Unknown: its calibration was not measured",
        "Unknown: the file that these weights were imported from does not say",
        "Unknown: densekit did not train it",
        "theirs.pth",
        "Mean and deviation are unknown",
        "Nothing has been tested",
    ):
        assert words in text
    assert "%" not in text.replace("95 % interval", "")


def test_the_card_of_a_multi_label_run_has_areas_and_no_accuracy(xray_run: Any) -> None:
    card = read_card(model_folder(xray_run.folder))
    text = model_card(card, Story.read(xray_run.folder), repository="ann/xrays", license=None)
    low, high = card.metrics["auroc_interval"]
    assert f"| AUROC, mean over the classes | {card.metrics['auroc']:.4f} | {low:.4f} to {high:.4f} |" in text
    assert "by group where the data have groups" in text
    assert "top-1" not in text
    assert "thresholds suit its own validation images" in text
    assert "multi-label" in header_of(text)["tags"]


def test_paths_of_this_machine_are_not_pushed(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    photos = write_photos(tmp_path / "secret" / "photos")
    settings = {"data.image_size": 16, "batch_size": 8, "data.test_fraction": 0.2}
    model = tiny_model(tmp_path / "secret" / "start")
    words: dict[str, Any] = {"model": "densenet_bc_10_4", "epochs": 1, "settings": settings, "init": str(model)}
    run = densekit.train(str(photos), out=tmp_path / "secret" / "run", **words)
    done = api.push(run.folder, NAME, dry_run=tmp_path / "dry")
    assert any("paths of this machine are left out: data.source" in note for note in done.notes)
    for file in ("config.json", "README.md"):
        assert "secret" not in (tmp_path / "dry" / file).read_text()
    assert "photos" in (tmp_path / "dry" / "README.md").read_text()
    assert densekit.evaluate(tmp_path / "dry", str(photos), split="all").count == 24


def test_nor_are_they_where_the_data_has_a_name(tmp_path: Path) -> None:
    """Other options of the command name folders, too."""
    pytest.importorskip("huggingface_hub")
    command = f"densekit train digits --data-dir {tmp_path}/secret --out {tmp_path}/secret/run"
    model = tiny_model(tmp_path / "model", provenance={"recipe": "quick", "command": command})
    api.push(model, NAME, dry_run=tmp_path / "dry")
    for file in ("config.json", "README.md"):
        assert "secret" not in (tmp_path / "dry" / file).read_text()


def test_a_card_is_written_of_whatever_config_json_tells(tmp_path: Path) -> None:
    """Provenance has no form: an older densekit told less of it, and anybody may edit it."""
    odd: list[dict[str, Any]] = [
        {"provenance": {"recipe": "quick"}},
        {"provenance": {"recipe": "quick", "step": "many", "seconds": None}, "metrics": {"top1": 0.5}},
        {"provenance": {"imported": {"file": "x.pth"}}, "metrics": {"loss": 1.0, "split": "val"}},
    ]
    for number, about in enumerate(odd):
        text = model_card(read_card(tiny_model(tmp_path / str(number), **about)), None, repository=None, license=None)
        assert "## Limits" in text
        assert ("an unknown number of images" in text) == ("metrics" in about)


def test_class_names_cannot_break_the_card(tmp_path: Path) -> None:
    names = ("a | b", "<script>alert(1)</script>", "c\n# d")
    card = read_card(tiny_model(tmp_path / "model", classes=names))
    text = model_card(card, None, repository=None, license=None)
    assert "a \\| b, &lt;script>alert(1)&lt;/script>, c # d" in text
    assert "hf:" not in text  # there is no repository to fetch it from


def test_the_command_line_reads_the_clients_own_settings(hub: FakeHub, tmp_path: Path) -> None:
    """In a process of its own, which knows of the Hub what the environment says."""
    api.push(tiny_model(tmp_path / "model"), NAME)
    (picture, *_) = write_photos(tmp_path / "photos", classes=("cat",), count=1).rglob("*.png")
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "densekit", "predict", NAME, str(picture), "--json"],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {row["class"] for row in json.loads(done.stdout)["top"]} == {"a", "b", "c"}
    assert list((tmp_path / "home").rglob("model.safetensors"))
