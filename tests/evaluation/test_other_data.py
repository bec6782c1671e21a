"""Other data than those of training: any split of a folder, and tables that stand by themselves."""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import densekit
from densekit.errors import BadData, DensekitError, InvalidInput
from densekit.training.compose import compose
from tests.conftest import write_photos
from tests.data.xrays import FINDINGS, SETTINGS, write_xrays
from tests.narrow import not_none

SMALL: dict[str, Any] = {"data.image_size": 16, "batch_size": 8, "plan": "concat"}
NET = "densenet_bc_10_4"


@pytest.fixture(scope="module")
def findings_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By columns, of which none has a usual name, and paths below another folder."""
    root = tmp_path_factory.mktemp("findings")
    table = write_xrays(root / "xrays", patients=25)
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head.replace("Path", "Scan"), *(row.removeprefix("images/") for row in rows)]))
    settings = SETTINGS | {"data.path_column": "Scan", "data.image_root": str(root / "xrays/images")}
    return densekit.train(
        f"csv:{table}", model="densenet_bc_10_4", epochs=1, out=root / "run", settings=settings
    ).folder


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().err


def other_xrays(root: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> Path:
    """A table of other pictures, whose rows are changed."""
    table = write_xrays(root / "other", patients=12, seed=7, unknown=0)
    with table.open(newline="") as file:
        rows = [change(row) for row in csv.DictReader(file)]
    with (root / "other/test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / "other/test.csv"


@pytest.mark.parametrize("split", ["test", "val", "testing"])
def test_a_folder_with_one_split_is_measured_on_it(three_class_run: Path, tmp_path: Path, split: str) -> None:
    write_photos(tmp_path / "new" / split, classes=("ape", "cat", "dog"), count=4, size=50)
    result = densekit.evaluate(three_class_run, tmp_path / "new")
    assert (result.split, result.count) == ({"testing": "test"}.get(split, split), 12)


def test_such_a_folder_is_still_refused_for_training(tmp_path: Path) -> None:
    write_photos(tmp_path / "new/test", count=4)
    with pytest.raises(BadData, match="has test, but no training images"):
        densekit.train(tmp_path / "new", model=NET, epochs=1, out=tmp_path / "run", settings=SMALL)


@pytest.mark.parametrize("place", ["new", "new/test"])
def test_one_class_is_enough_and_the_others_are_named_and_have_no_metrics(
    three_class_run: Path, tmp_path: Path, place: str, said: Callable[[], str]
) -> None:
    write_photos(tmp_path / place, classes=("cat",), count=4, size=50)
    result = densekit.evaluate(three_class_run, tmp_path / "new")
    assert result.count == 4
    assert "not tested: ape, dog" in said()
    rows = {row["class"]: row for row in result.per_class}
    assert [rows[name]["count"] for name in ("ape", "cat", "dog")] == [0, 4, 0]
    assert {rows[name][metric] for name in ("ape", "dog") for metric in ("precision", "recall")} == {None}


def test_any_split_can_be_chosen_and_all_are_put_together(three_class_run: Path, tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        write_photos(tmp_path / "new" / split, classes=("ape", "cat"), count=3 + number, size=50 + number)
    counts = {
        split: densekit.evaluate(three_class_run, tmp_path / "new", split=split)
        for split in ("train", "val", "test", "all")
    }
    assert {split: result.count for split, result in counts.items()} == {"train": 6, "val": 8, "test": 10, "all": 24}
    right = sum(not_none(counts[split].top1) * counts[split].count for split in ("train", "val", "test"))
    assert not_none(counts["all"].top1) * 24 == pytest.approx(right)
    with pytest.raises(InvalidInput, match="unknown split"):
        densekit.evaluate(three_class_run, tmp_path / "new", split="holdout")


@pytest.mark.parametrize(
    ("there", "wanted", "words"),
    [
        (("test",), "val", "new has no val split, only test; use --split test or --split all"),
        (("train", "test"), "Valid", "new has no val split, only train and test; use --split test or --split all"),
        (("val", "test"), "train", "new has no train split, only val and test; use --split val or --split test or"),
        (("train",), "test", "new has no test split, only train; use --split all, or --set data.test_fraction=0.1 to"),
        (("train",), "val", "new has no val split, only train; use --split all, or --set data.val_fraction=0.1 to"),
    ],
)
def test_a_split_that_is_missing_is_told_with_those_that_are_there(
    there: tuple[str, ...], wanted: str, words: str, three_class_run: Path, tmp_path: Path
) -> None:
    for number, split in enumerate(there):
        write_photos(tmp_path / "new" / split, classes=("ape", "cat"), count=12, size=50 + number)
    with pytest.raises(InvalidInput) as caught:
        densekit.evaluate(three_class_run, tmp_path / "new", split=wanted)
    assert str(caught.value).startswith(words)
    # What is said works.
    for option in re.findall(r"--split (\w+)", words):
        assert densekit.evaluate(three_class_run, tmp_path / "new", split=option).split == option
    for option in re.findall(r"--set (\S+)=0.1", words):
        result = densekit.evaluate(three_class_run, tmp_path / "new", split=wanted, settings={option: 0.1})
        assert 0 < result.count < 8


def test_the_words_for_splits_that_folders_may_have_are_known(three_class_run: Path, tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        write_photos(tmp_path / "new" / split, classes=("ape", "cat"), count=3 + number, size=50 + number)
    assert densekit.evaluate(three_class_run, tmp_path / "new", split="Validation").count == 8
    assert densekit.evaluate(three_class_run, tmp_path / "new", split="training").count == 6


def test_the_only_split_is_measured_whole(three_class_run: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "new" / "train", classes=("ape", "cat"), count=12, size=50)
    assert densekit.evaluate(three_class_run, tmp_path / "new", split="train").count == 24


def test_all_of_named_data_are_put_together(tmp_path: Path) -> None:
    from densekit.data.sets import ArrayImages, DataSet, Images
    from densekit.data.sources.synthetic import synthetic
    from densekit.data.together import together

    data: DataSet = synthetic("synthetic:4x4x1:2:10")
    train: Images = data.splits["train"]
    whole = together({"train": train, "test": train})
    assert isinstance(whole, ArrayImages)
    assert whole.labels.tolist() == train.labels.tolist() * 2


def test_training_images_are_left_out_of_all(three_class_run: Path, tmp_path: Path, said: Callable[[], str]) -> None:
    write_photos(tmp_path / "new/test", classes=("ape", "cat"), count=3, size=50)
    used = [
        row.split(",")[1] for row in (three_class_run / "split.csv").read_text().splitlines() if row.startswith("train")
    ]
    (tmp_path / "new/train/ape").mkdir(parents=True)
    for name in used[:4]:
        shutil.copy(three_class_run.parent / "photos" / name, tmp_path / "new/train/ape")
    result = densekit.evaluate(three_class_run, tmp_path / "new", split="all")
    assert result.count == 6
    assert "left out 4 of the 10 images of new (all)" in said()


def test_a_class_that_only_the_chosen_split_lacks_is_named(
    three_class_run: Path, tmp_path: Path, said: Callable[[], str]
) -> None:
    write_photos(tmp_path / "new/train", classes=("ape", "cat", "dog"), count=3, size=50)
    write_photos(tmp_path / "new/test", classes=("ape", "cat"), count=3, size=51)
    densekit.evaluate(three_class_run, tmp_path / "new")
    assert "the test images are of none of these 1 class, not tested: dog" in said()


def test_unknown_classes_are_refused_by_name(three_class_run: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "new/test", classes=("cat", "Dog", "emu"), count=3, size=50)
    with pytest.raises(BadData, match=r"does not know Dog \(the model has dog\), emu; name"):
        densekit.evaluate(three_class_run, tmp_path / "new")


def values(result: Any) -> list[dict[str, Any]]:
    """Of each class, without intervals, which depend on whether the table has groups."""
    return [{name: value for name, value in row.items() if "interval" not in name} for row in result.per_class]


def test_a_table_is_read_by_its_own_columns_and_from_its_own_folder(findings_run: Path, tmp_path: Path) -> None:
    """The training table has a Scan column, below an image_root, and other columns before its labels."""
    turned = ("Pneumothorax", "Nodule", "Effusion", "Cardiomegaly")
    table = other_xrays(tmp_path, lambda row: {name: row[name] for name in turned} | {"filename": row["Path"]})
    other = densekit.evaluate(findings_run, f"csv:{table}")
    assert [row["class"] for row in other.per_class] == list(FINDINGS)
    given = {"data.label_columns": list(FINDINGS)}
    as_trained = other_xrays(tmp_path / "again", lambda row: row)
    expected = densekit.evaluate(findings_run, f"csv:{as_trained}", settings=given)
    assert (other.count, other.auroc) == (expected.count, expected.auroc)
    assert values(other) == values(expected)


@pytest.mark.parametrize("names", [("Effusion", "Nodule"), ("Nodule",)])
def test_a_table_with_some_labels_is_measured_on_those(
    names: tuple[str, ...], findings_run: Path, tmp_path: Path, said: Callable[[], str]
) -> None:
    table = other_xrays(tmp_path, lambda row: {"image": row["Path"], **{name: row[name] for name in names}})
    result = densekit.evaluate(findings_run, f"csv:{table}")
    assert [row["class"] for row in result.per_class if row["known"]] == list(names)
    assert all(row["auroc"] is None for row in result.per_class if row["class"] not in names)
    assert f"lacks {4 - len(names)} of the 4 classes" in said()


def test_a_class_without_a_positive_has_no_precision(findings_run: Path, tmp_path: Path) -> None:
    table = other_xrays(tmp_path, lambda row: {"image": row["Path"], "Effusion": row["Effusion"], "Nodule": "0"})
    rows = {row["class"]: row for row in densekit.evaluate(findings_run, f"csv:{table}").per_class}
    assert rows["Nodule"]["count"] == 0
    assert rows["Nodule"]["known"] > 0
    assert rows["Nodule"]["precision"] is rows["Nodule"]["recall"] is rows["Nodule"]["auroc"] is None


def test_one_column_may_list_what_training_had_in_columns(findings_run: Path, tmp_path: Path) -> None:
    by_columns = densekit.evaluate(findings_run, f"csv:{other_xrays(tmp_path, lambda row: row)}")
    table = other_xrays(
        tmp_path / "listed",
        lambda row: {"Image Index": row["Path"], "Finding Labels": ";".join(n for n in FINDINGS if row[n] == "1")},
    )
    settings = {"data.blank_labels": "absent"}
    listed = densekit.evaluate(findings_run, f"csv:{table}", settings=settings)
    assert values(listed) == values(by_columns)


def test_a_column_that_differs_in_case_is_named(findings_run: Path, tmp_path: Path, said: Callable[[], str]) -> None:
    table = other_xrays(tmp_path, lambda row: {"path": row["Path"], "NODULE": row["Nodule"], "Effusion": "1"})
    densekit.evaluate(findings_run, f"csv:{table}")
    assert "not read, as the name differs: NODULE (the model has Nodule)" in said()


def test_a_table_without_labels_of_the_model_says_what_it_has(findings_run: Path, tmp_path: Path) -> None:
    table = other_xrays(tmp_path, lambda row: {"path": row["Path"], "age": row["Age"]})
    with pytest.raises(InvalidInput, match=r"no column of .* called like a class .*it has path, age"):
        densekit.evaluate(findings_run, f"csv:{table}")


@pytest.mark.parametrize("head", ["path,label", "diagnosis,filename", "dx,image,split"])
def test_a_table_for_a_model_of_folders_is_found_by_its_values(
    head: str, three_class_run: Path, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "place/photos", classes=("cat", "dog"), count=3, size=50)
    columns = head.split(",")
    rows = []
    for path in sorted(photos.rglob("*.png")):
        cells = {"split": "test", **dict.fromkeys(("path", "filename", "image"), str(path.relative_to(photos.parent)))}
        rows.append(",".join(cells.get(column, path.parent.name) for column in columns))
    (photos.parent / "table.csv").write_text("\n".join([head, *rows]))
    result = densekit.evaluate(three_class_run, f"csv:{photos.parent / 'table.csv'}")
    assert (result.split, result.count) == ("test" if "split" in columns else "all", 6)
    assert [row["count"] for row in result.per_class] == [0, 3, 3]


def test_patients_of_another_table_may_be_in_several_splits(three_class_run: Path, tmp_path: Path) -> None:
    """Nothing is learned of them; for training they still may not."""
    photos = write_photos(tmp_path / "photos", classes=("cat", "dog"), count=2, size=50)
    rows = [f"{word}/{i}.png,{word},{('train', 'test')[i]},anna" for word in ("cat", "dog") for i in range(2)]
    (photos / "table.csv").write_text("\n".join(["path,label,split,patient", *rows]))
    assert densekit.evaluate(three_class_run, f"csv:{photos}/table.csv", split="all").count == 4
    with pytest.raises(BadData, match=r"patient anna of .* is in train and in test"):
        densekit.train(f"csv:{photos}/table.csv", model=NET, epochs=1, out=tmp_path / "run", settings=SMALL)


def test_a_column_of_labels_comes_before_columns_that_are_called_like_classes(
    three_class_run: Path, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", classes=("cat", "dog"), count=2, size=50)
    rows = [f"{word}/{i}.png,{word},{word == 'dog':d},{word == 'cat':d}" for word in ("cat", "dog") for i in range(2)]
    (photos / "table.csv").write_text("\n".join(["path,label,dog,cat", *rows]))
    result = densekit.evaluate(three_class_run, f"csv:{photos}/table.csv")
    assert [row["count"] for row in result.per_class] == [0, 2, 2]


def test_the_image_root_may_be_given(findings_run: Path, tmp_path: Path) -> None:
    table = other_xrays(tmp_path, lambda row: {"path": Path(row["Path"]).name, "Nodule": row["Nodule"]})
    settings = {"data.image_root": str(tmp_path / "other/images")}
    assert densekit.evaluate(findings_run, f"csv:{table}", settings=settings).count > 12
    with pytest.raises(DensekitError, match="do not exist"):
        densekit.evaluate(findings_run, f"csv:{table}")


def test_new_trainings_are_stratified_and_configurations_of_older_runs_are_not(tmp_path: Path) -> None:
    assert compose("digits").data.stratify
    assert not compose("digits", settings={"data.stratify": False}).data.stratify
    (tmp_path / "part.yaml").write_text("data: {val_fraction: 0.2}\n")
    assert compose("digits", config=tmp_path / "part.yaml").data.stratify
    (tmp_path / "run.yaml").write_text("data: {source: digits, val_fraction: 0.1}\n")
    assert not compose("digits", config=tmp_path / "run.yaml").data.stratify


def test_an_older_run_resumes_on_its_own_splits(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", count=12)
    settings = SMALL | {"data.stratify": False}
    run = densekit.train(photos, model=NET, epochs=1, out=tmp_path / "run", settings=settings)
    config = run.folder / "config.yaml"
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "stratify" not in line))
    assert densekit.resume(run.folder, epochs=2).result.count == run.result.count
    assert run.evaluate().split == "test"
