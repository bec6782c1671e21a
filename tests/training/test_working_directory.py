"""A run does not depend on the directory it was started in, and its images may move."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import densekit
from densekit.config import DataConfig, Preprocessing
from densekit.data.sources.registry import place_of
from densekit.errors import BadData, ProofFailed
from densekit.models import config_for
from densekit.study.grid import Options
from densekit.weights import ModelCard, read_card
from densekit.weights.redaction import without_paths
from tests.conftest import write_photos

SMALL: dict[str, Any] = {"data.image_size": 16, "batch_size": 8, "plan": "concat"}
NET = "densenet_bc_10_4"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with photos/ and a table of them."""
    photos = write_photos(tmp_path / "here" / "photos", count=12)
    rows = "".join(f"{path.relative_to(photos)},{path.parent.name}\n" for path in sorted(photos.rglob("*.png")))
    (tmp_path / "here" / "table.csv").write_text(f"path,label\n{rows}")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize(
    ("data", "settings"), [("photos", {}), ("csv:table.csv", {"data.image_root": "photos"}), ("wds:shards", {})]
)
def test_a_run_goes_on_from_any_directory(
    data: str, settings: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if data == "wds:shards":
        from densekit.data.write_shards import shard

        shard("photos", "shards")
    run = densekit.train(data, model=NET, epochs=1, out="run", settings=SMALL | settings)
    monkeypatch.chdir(place)
    resumed = densekit.resume(place / "here/run", epochs=2)
    assert resumed.evaluate().top1 == resumed.result.top1
    assert (
        run.result.data == resumed.result.data == {"photos": "photos", "csv:table.csv": "csv:table.csv"}.get(data, data)
    )
    assert densekit.evaluate("here/run").count == resumed.result.count


def test_weights_to_start_from_are_found_from_any_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    densekit.train("photos", model=NET, epochs=1, out="first", settings=SMALL)
    densekit.train("photos", model=NET, epochs=1, out="second", init="first", settings=SMALL)
    shutil.rmtree("second/checkpoints/last")
    monkeypatch.chdir(place)
    assert densekit.resume("here/second").result.count > 0


def test_the_data_folder_that_was_given_is_used_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its relative path, too; a data set would be downloaded again."""
    densekit.train("digits", model=NET, epochs=1, out="run", data_dir="sets", settings={"data.limit": 50})
    from densekit.runs import run_folder

    assert run_folder.data_dir_of(Path("run")) == str(place / "here" / "sets")


def test_the_leader_alone_reads_which_data_folder_was_given(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another host the run may not be there, and each process would look for the images elsewhere."""
    from densekit.distributed.process_group import DistributedContext
    from densekit.runs import run_folder

    densekit.train("photos", model=NET, epochs=1, out="run", settings=SMALL)
    from_leader, data_dir_of = DistributedContext.run_on_main, run_folder.data_dir_of
    reading, seen = [False], list[bool]()

    def of_leader(world: DistributedContext, work: Any) -> Any:
        reading.append(True)
        value = from_leader(world, work)
        reading.pop()
        return value

    def read(folder: Path) -> str | None:
        seen.append(reading[-1])
        return data_dir_of(folder)

    monkeypatch.setattr(DistributedContext, "run_on_main", of_leader)
    monkeypatch.setattr(run_folder, "data_dir_of", read)
    densekit.resume("run", epochs=2)
    assert seen
    assert all(seen)


@pytest.mark.parametrize("name", ["set [1]", "set {a,b}"])
def test_a_pattern_of_shards_works_in_a_directory_whose_name_looks_like_one(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from densekit.data.write_shards import shard

    shard("photos", place / name / "shards")
    monkeypatch.chdir(place / name)
    run = densekit.train("wds:shards/*.tar", model=NET, epochs=1, out="run", settings=SMALL)
    assert run.evaluate().top1 == run.result.top1


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[1]", b"[" * 100_000], ids=["bytes", "list", "nested"])
def test_a_damaged_line_among_the_events_does_not_stop_a_run(line: bytes, place: Path) -> None:
    densekit.train("photos", model=NET, epochs=1, out="run", settings=SMALL)
    with Path("run/events.jsonl").open("ab") as events:
        events.write(line + b"\n")
    assert densekit.resume("run", epochs=2).result.count > 0


def test_images_that_moved_need_no_permission(place: Path) -> None:
    densekit.train("photos", model=NET, epochs=1, out="run", settings=SMALL)
    Path("photos").rename("elsewhere")
    with pytest.raises(BadData, match=r"photos, which run is trained on, is not there.*--set data\.source=NEW"):
        densekit.resume("run", epochs=2)
    with pytest.raises(BadData, match="photos, which run was trained on, is not there"):
        densekit.evaluate("run")
    densekit.resume("run", epochs=2, settings={"data.source": "elsewhere"})
    events = [json.loads(line) for line in Path("run/events.jsonl").read_text().splitlines()]
    assert any("data.source" in change for event in events for change in event.get("changes", ()))
    assert densekit.evaluate("run").data == "elsewhere"


def test_images_that_moved_and_changed_need_it(place: Path) -> None:
    densekit.train("photos", model=NET, epochs=1, out="run", settings=SMALL)
    write_photos(Path("elsewhere"), count=12, size=44)
    with pytest.raises(ProofFailed, match="images"):
        densekit.resume("run", epochs=2, settings={"data.source": "elsewhere"})


def test_the_root_of_a_table_may_move(place: Path) -> None:
    settings = SMALL | {"data.image_root": "photos"}
    densekit.train("csv:table.csv", model=NET, epochs=1, out="run", settings=settings)
    Path("photos").rename("elsewhere")
    with pytest.raises(BadData, match=r"--set data\.image_root=NEW"):
        densekit.resume("run", epochs=2)
    densekit.resume("run", epochs=2, settings={"data.image_root": "elsewhere"})


def test_a_run_of_an_older_version_with_relative_paths_goes_on(place: Path) -> None:
    densekit.train("photos", model=NET, epochs=1, out="run", settings=SMALL)
    last = Path("run/checkpoints/last")
    recipe = yaml.safe_load(Path("run/config.yaml").read_text())
    recipe["data"]["source"] = "photos"
    Path("run/config.yaml").write_text(yaml.safe_dump(recipe))
    card = json.loads((last / "config.json").read_text())
    card["data"]["source"] = "photos"
    (last / "config.json").write_text(json.dumps(card))
    assert densekit.evaluate("run", "photos").split == "test"
    densekit.resume("run", epochs=2)
    assert yaml.safe_load(Path("run/config.yaml").read_text())["data"]["source"] == str(place / "here/photos")


@pytest.mark.slow
def test_a_study_of_an_older_version_with_relative_paths_goes_on(place: Path) -> None:
    Path("grid.yaml").write_text(yaml.safe_dump({"data": "photos", "arms": {"one": {"model": NET}}, "settings": SMALL}))
    densekit.api.study("grid.yaml", out="study", options=Options(epochs=1, seeds=1))
    for path in (Path("study/study.yaml"), *Path("study").rglob("config.yaml")):
        path.write_text(path.read_text().replace(str(place / "here/photos"), "photos"))
    done = densekit.api.study("grid.yaml", out="study", options=Options(epochs=1, seeds=1))
    assert done.found is not None


def test_paths_may_be_path_objects(place: Path) -> None:
    """Wherever a name of data or weights is taken."""
    from densekit.data.write_shards import shard
    from densekit.data_check.check import check

    photos = Path("photos")
    first = densekit.train(photos, model=NET, epochs=1, out=Path("first"), settings=SMALL)
    run = densekit.train(photos, model=NET, epochs=1, init=first.folder, out=Path("run"), settings=SMALL)
    assert run.evaluate(photos).count == densekit.evaluate(run.folder, photos).count == run.result.count
    assert check(photos).data.name == "photos"
    assert shard(photos, Path("shards"))["train"] == (1, 24)
    assert Options(data=photos).data == "photos"


def test_a_pushed_card_has_no_path_of_this_machine(place: Path) -> None:
    densekit.train("photos", model=NET, epochs=1, out="first", settings=SMALL)
    densekit.train("photos", model=NET, epochs=1, out="run", init="first", settings=SMALL)
    card = read_card(Path("run/checkpoints/last"))
    assert str(place) in card.model_dump_json()
    assert str(place) not in without_paths(card)[0].model_dump_json()


@pytest.mark.parametrize("name", ["mnist", "imagenet", "synthetic:8x8x1:2", "csv:t", "hf:x", "photos"])
@pytest.mark.parametrize("form", ["", "hf:"])
def test_a_folder_stays_one_in_a_card_without_folders(name: str, form: str, tmp_path: Path) -> None:
    """And does not become the data set that is called so."""
    (tmp_path / name).mkdir()
    card = ModelCard(
        model=config_for(NET).model_copy(update={"num_classes": 2}),
        classes=("a", "b"),
        preprocessing=Preprocessing(channels=3, size=(8, 8), resize=8, mean=(0, 0, 0), std=(1, 1, 1)),
        data=DataConfig(source=f"{form}{tmp_path}/{name}"),
    )
    public = without_paths(card)[0]
    assert public.data is not None
    source = public.data.source
    assert source == f"{form}{'' if (form, name) == ('', 'photos') else './'}{name}"
    if not form:
        assert place_of(source) == Path(name)
    assert without_paths(public)[0] == public
