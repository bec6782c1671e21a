"""Data sets of Hugging Face's library, from this machine alone; their rows are read by our decoder."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import densekit
from densekit.config import AugmentConfig, DataConfig
from densekit.data import DataSet, Loader, load
from densekit.data.sources.huggingface import ArrowImages
from densekit.data.split import divide
from densekit.data.write_shards import shard
from densekit.data_check.check import check
from densekit.errors import BadData, BadImage, InvalidInput, UnknownName
from tests.conftest import write_photos
from tests.data.pictures import preprocessing
from tests.narrow import not_none

datasets = pytest.importorskip("datasets", reason="needs the extra hf")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # the library's own


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def photo(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 7, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int, *, first: int = 0) -> Any:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    cells = [{"bytes": photo(i), "path": None} for i in range(first, first + count)]
    return datasets.Dataset.from_dict({"image": cells, "label": [i % 2 for i in range(count)]}, features=features)


def read(source: object, **settings: object) -> DataSet:
    return load(DataConfig.model_validate({"source": f"hf:{source}"} | settings), Path())


def test_splits_classes_and_bytes_of_a_saved_set(tmp_path: Path) -> None:
    given = {"train": rows(9), "validation": rows(4, first=20), "test": rows(3, first=30), "extra": rows(2)}
    datasets.DatasetDict(given).save_to_disk(tmp_path / "set")
    data = read(tmp_path / "set")
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 9, "val": 4, "test": 3}
    assert (data.classes, data.columns) == (("cat", "dog"), "images image; labels label; left out: extra")
    train = data.splits["train"]
    assert isinstance(train, ArrowImages)
    assert train.labels.tolist() == [0, 1] * 4 + [0]
    assert [train.encoded(i) for i in range(9)] == [photo(i) for i in range(9)]
    part = train.subset(np.array([5, 0]))
    assert [part.encoded(0), part.encoded(1)] == [photo(5), photo(0)]
    assert part.labels.tolist() == [1, 0]
    assert part.path(0).as_posix().endswith("set/train/5")


def test_parquet_and_a_folder_of_pictures_are_read(tmp_path: Path) -> None:
    rows(12).to_parquet(tmp_path / "a.parquet")
    data = read(tmp_path / "a.parquet")
    assert len(data.splits["train"]) == 12
    photos = write_photos(tmp_path / "photos")
    theirs, ours = read(photos), load(DataConfig(source=str(photos)), tmp_path)
    assert theirs.classes == ours.classes
    # By content, as the folder itself.
    divided, expected = (divide(each, DataConfig(source="x")) for each in (theirs, ours))
    for split in ("train", "val", "test"):
        assert sorted(divided.splits[split].content_hashes()) == sorted(expected.splits[split].content_hashes())


def test_every_row_is_decoded_once_over_two_ranks_workers_and_a_stop(tmp_path: Path) -> None:
    rows(75).save_to_disk(tmp_path / "set")
    images = read(tmp_path / "set").splits["train"]
    seen: list[int] = []
    for rank in range(2):
        for first, last in ((0, 2), (2, None)):
            loader = Loader(images, preprocessing(), 16, AugmentConfig(), seed=1, rank=rank, size=2, workers=rank)
            batches = list(loader.epoch(4, skip=first))[: None if last is None else last - first]
            for batch in batches:
                seen += batch.samples.tolist()
                for x, sample in zip(batch.images, batch.samples.tolist(), strict=True):
                    assert round(float(x[0, 3, 3]) * 127.5 + 127.5) == sample
    assert sorted(seen) == list(range(75))


def test_columns_can_be_named_and_are_asked_for(tmp_path: Path) -> None:
    given = rows(8)
    two = given.add_column("kind", ["a", "b"] * 4).rename_column("label", "answer")
    two.save_to_disk(tmp_path / "set")
    assert read(tmp_path / "set").classes == ("cat", "dog")  # the only column of class labels
    named = read(tmp_path / "set", label_columns="kind", path_column="image")
    assert (named.classes, named.splits["train"].labels.tolist()) == (("a", "b"), [0, 1] * 4)
    with pytest.raises(UnknownName, match="did you mean answer"):
        read(tmp_path / "set", label_columns="answr")
    two.remove_columns(["answer"]).save_to_disk(tmp_path / "other")
    with pytest.raises(InvalidInput, match=r"which column.*data\.label_columns=NAME"):
        read(tmp_path / "other")
    two.remove_columns(["image"]).save_to_disk(tmp_path / "none")
    with pytest.raises(InvalidInput, match="no images"):
        read(tmp_path / "none")


def test_lists_of_labels_are_several(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["cat", "dog", "emu"])
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.Sequence(names)})
    cells = [{"bytes": photo(i), "path": None} for i in range(3)]
    made = datasets.Dataset.from_dict({"image": cells, "labels": [[0, 2], [], [1]]}, features=features)
    made.save_to_disk(tmp_path / "set")
    data = read(tmp_path / "set")
    assert data.multi_label
    assert data.splits["train"].labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_hidden_answers_of_a_test_are_left_out_and_odd_ones_refused(tmp_path: Path) -> None:
    features = rows(1).features
    hidden = datasets.Dataset.from_dict(
        {"image": [{"bytes": photo(i), "path": None} for i in range(3)], "label": [-1] * 3}, features=features
    )
    datasets.DatasetDict({"train": rows(8), "test": hidden}).save_to_disk(tmp_path / "set")
    data = read(tmp_path / "set")
    assert set(data.splits) == {"train"}
    assert data.columns.endswith("left out: test")


@pytest.mark.parametrize("several", [False, True])
def test_numbers_of_classes_mean_what_their_own_split_says(several: bool, tmp_path: Path) -> None:
    """Each split was encoded by itself: 0 is a cat in one, and a dog in the other."""

    def split(names: list[str], labels: list[int], *, first: int) -> Any:
        kind = datasets.ClassLabel(names=names)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Sequence(kind) if several else kind})
        cells = [{"bytes": photo(first + i), "path": None} for i in range(len(labels))]
        given = [[label] for label in labels] if several else labels
        return datasets.Dataset.from_dict({"image": cells, "label": given}, features=features)

    train = split(["cat", "dog", "emu"], [0, 1, 2], first=0)
    # The test stands first, as in a dict that was made in another order.
    tested = {"test": split(["dog", "emu"], [0, 1, 1], first=3), "train": train}
    datasets.DatasetDict(tested).save_to_disk(tmp_path / "set")
    data = read(tmp_path / "set")
    assert data.classes == ("cat", "dog", "emu")
    labels = data.splits["test"].labels
    assert (labels.argmax(1) if several else labels).tolist() == [1, 2, 2]
    odd = {"train": train, "test": split(["dog", "yak"], [0, 1], first=3)}
    datasets.DatasetDict(odd).save_to_disk(tmp_path / "odd")
    with pytest.raises(BadData, match=r"holds yak, which is none of the 3 classes of train \(cat, dog, emu"):
        read(tmp_path / "odd")


def test_rows_without_an_image_are_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.png").write_bytes(photo(200))
    cells: list[Any] = [{"bytes": photo(i % 250), "path": None} for i in range(2010)]
    cells[1] = {"bytes": None, "path": str(tmp_path / "gone.png")}
    cells[5] = {"bytes": None, "path": str(tmp_path / "there.png")}
    cells[2004] = None
    made = datasets.Dataset.from_dict(
        {"image": cells, "label": [i % 2 for i in range(2010)]}, features=rows(1).features
    )
    monkeypatch.setattr(
        "densekit.data.sources.huggingface._loaded", lambda _: {"train": made}
    )  # saved, it would hold the files
    with pytest.raises(BadData, match=r"an unreadable image: .*set/train/1 does not exist.*data\.max_bad"):
        read("set")
    data = read("set", max_bad=2)
    assert [(path.name, error.code) for path, error in data.skipped.files.items()] == [
        ("1", "missing"),
        ("2004", "missing"),
    ]
    images = data.splits["train"]
    assert isinstance(images, ArrowImages)
    assert len(images) == len(images.content_hashes()) == 2008
    assert (images.name(1), images.encoded(4)) == ("2", tmp_path / "there.png")
    images.fingerprint()
    (tmp_path / "there.png").unlink()
    with pytest.raises(BadImage, match=r"there\.png cannot be read"):
        replace(images).content_hashes()  # of a set that has read none yet


def test_a_bad_row_is_named_and_counted(tmp_path: Path) -> None:
    features = rows(1).features
    cells = [{"bytes": photo(i) if i != 3 else b"no picture", "path": None} for i in range(40)]
    made = datasets.Dataset.from_dict({"image": cells, "label": [i % 2 for i in range(40)]}, features=features)
    made.save_to_disk(tmp_path / "set")
    images = read(tmp_path / "set").splits["train"]
    failures = [f for batch in Loader(images, preprocessing(), 8).epoch() for f in batch.failures]
    assert [(path.name, error.code) for path, error in failures] == [("3", "not_an_image")]
    assert "set/train/3 does not begin like" in str(failures[0][1])
    assert not check(f"hf:{tmp_path}/set", settings={"data.val_fraction": 0.2}).passed


@pytest.mark.parametrize("name", ["owner/no-such-set", "no-such-set:config", "/no/such/folder"])
def test_what_cannot_be_loaded_is_one_line_with_the_fix(name: str) -> None:
    with pytest.raises(BadData, match=r"cannot load hf:.*hf:FOLDER") as caught:
        read(name)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_on_rows_is_resumed_evaluated_and_sharded(tmp_path: Path) -> None:
    from tests.faults.command import state_of, train_until

    source = f"hf:{write_photos(tmp_path / 'photos')}"
    settings = {"data.workers": 1, "batch_size": 4, "data.image_size": 16, "data.test_fraction": 0.2}
    words: dict[str, Any] = {"model": "densenet_bc_10_4", "epochs": 2, "settings": settings}
    whole = densekit.train(source, out=tmp_path / "whole", **words)
    train_until(3, source, out=tmp_path / "cut", **words)
    densekit.resume(tmp_path / "cut")
    assert state_of(tmp_path / "cut") == state_of(tmp_path / "whole")
    assert densekit.evaluate(whole.folder, split="test", out=tmp_path / "out").top1 == whole.result.top1
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        predicted = list(csv.DictReader(file))
    test = divide(read(tmp_path / "photos", test_fraction=0.2), not_none(whole.classifier().card.data)).splits["test"]
    assert [row["path"] for row in predicted] == test.names()
    assert shard(source, tmp_path / "shards") == {"train": (1, 24)}
    assert torch.equal(
        load(DataConfig(source=f"wds:{tmp_path}/shards"), tmp_path).splits["train"].labels.sort().values,
        torch.arange(2).repeat_interleave(12),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of cats, dogs and emus, from a folder."""
    root = tmp_path_factory.mktemp("three")
    photos = write_photos(root / "photos", classes=("cat", "dog", "emu"), count=8, size=16)
    settings = {"data.image_size": 16, "batch_size": 8, "plan": "concat"}
    return densekit.train(photos, model="densenet_bc_10_4", epochs=1, out=root / "run", settings=settings).folder


@pytest.mark.parametrize("split", ["test", "validation", "dev"])
def test_a_set_of_one_split_that_is_not_for_training_is_evaluated(run: Path, split: str, tmp_path: Path) -> None:
    datasets.DatasetDict({split: rows(5)}).save_to_disk(tmp_path / "set")
    source, ours = f"hf:{tmp_path}/set", "test" if split == "test" else "val"
    for wanted in (None, split, ours):
        result = densekit.evaluate(run, source, split=wanted)
        assert (result.split, result.count) == (ours, 5)
    with pytest.raises(InvalidInput, match=f"set has no train split, only {ours}; use --split {ours} or --split all"):
        densekit.evaluate(run, source, split="train")


def test_splits_of_any_name_are_evaluated(run: Path, tmp_path: Path) -> None:
    """`dev` and `validation` mean the same: the second keeps its name."""
    given = {"dev": rows(3), "validation": rows(4, first=9), "holdout": rows(5, first=20)}
    datasets.DatasetDict(given).save_to_disk(tmp_path / "set")
    source = f"hf:{tmp_path}/set"
    counts = {split: densekit.evaluate(run, source, split=split).count for split in ("val", "validation", "holdout")}
    assert counts == {"val": 3, "validation": 4, "holdout": 5}
    assert densekit.evaluate(run, source, split="all", out=tmp_path / "out").count == 12
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        found = [(row["split"], row["path"]) for row in csv.DictReader(file)]
    expected = {"val": 3, "validation": 4, "holdout": 5}
    assert found == [(split, str(row)) for split, count in expected.items() for row in range(count)]
    with pytest.raises(BadData, match=r"training needs one train.*evaluate takes any"):
        read(tmp_path / "set")


def test_a_split_of_one_class_without_labels_or_with_other_numbers_is_evaluated(run: Path, tmp_path: Path) -> None:
    """Labels are matched by name, and what has none is left out."""
    kind = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["emu"])})
    cells = [{"bytes": photo(i), "path": None} for i in range(4)]
    emus = datasets.Dataset.from_dict({"image": cells, "label": [0] * 4}, features=kind)
    given = {"test": emus, "train": rows(6), "unlabelled": rows(3).remove_columns(["label"])}
    datasets.DatasetDict(given).save_to_disk(tmp_path / "set")
    result = densekit.evaluate(run, f"hf:{tmp_path}/set")
    counts = {row["class"]: row["count"] for row in result.per_class}
    assert (result.split, counts) == ("test", {"cat": 0, "dog": 0, "emu": 4})
    assert densekit.evaluate(run, f"hf:{tmp_path}/set", split="all").count == 10
    emus.to_parquet(tmp_path / "emus.parquet")
    assert densekit.evaluate(run, f"hf:{tmp_path}/emus.parquet").count == 4


def test_images_of_all_splits_are_predicted_and_sorted(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from densekit.cli.main import main

    given = {"holdout": rows(2).remove_columns(["label"]), "test": rows(3, first=5)}
    datasets.DatasetDict(given).save_to_disk(tmp_path / "set")
    classifier = densekit.load(run)
    found = list(classifier.predict_files(f"hf:{tmp_path}/set"))
    names = [f"hf:{tmp_path}/set/test/{row}" for row in range(3)]
    assert [name for name, _ in found] == [*names, *(f"hf:{tmp_path}/set/holdout/{row}" for row in range(2))]
    for (_, mine), value in zip(found, (5, 6, 7, 0, 1), strict=True):
        assert isinstance(mine, densekit.Prediction)
        np.testing.assert_allclose(mine.probabilities, classifier.predict(photo(value)).probabilities, atol=1e-6)
    words = ["densekit", "predict", run, f"hf:{tmp_path}/set", "--sort-into", tmp_path / "sorted"]
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert "5 images" in capsys.readouterr().out
    copies = sorted(path.name for path in (tmp_path / "sorted").rglob("*.*"))
    assert len(copies) == 5
    assert {path.rpartition(".")[2] for path in copies} == {"png"}
