"""Faults that were put into a data set are found, named and counted; a sound one has none."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from densekit.config import DataConfig
from densekit.data import load
from densekit.data.sets import ArrayImages, DataSet, FileImages
from densekit.data.sources.archives import DEBIAN_FASHION
from densekit.data_check import duplicates
from densekit.data_check.duplicates import Alike, alike, identical
from densekit.data_check.image_scan import scan_images
from densekit.data_check.inspection import Check, as_dict, check
from densekit.errors import InvalidInput
from tests.narrow import expect_type

CLASSES = ("cat", "dog")


def scene(number: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A picture unlike that of any other number: smooth shapes, an edge, some grain."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    left, top = random.integers(5, 50, 2).tolist()
    coarse.paste(tuple(random.integers(0, 256, 3).tolist()), (left, top, left + 30, top + 20))
    grain = random.normal(0, 4, (size[1], size[0], 1))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sound: two classes of twelve training and four test images."""
    number = 0
    for split, count in (("train", 12), ("test", 4)):
        for name in CLASSES:
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                number += 1
                scene(number, (256, 240)).save(tmp_path / "photos" / split / name / f"p{number}_{i}.png")
    return tmp_path / "photos"


def examined(root: Path, **options: Any) -> Check:
    settings = {key.removeprefix("data_"): options.pop(key) for key in [*options] if key.startswith("data_")}
    config = DataConfig.model_validate({"source": str(root)} | settings)
    return check(load(config, root, strict=False), config, **options)


def codes(found: Check) -> dict[str, int]:
    return {finding.code: len(finding.items) for finding in found.findings}


def images_of(found: Check, code: str) -> list[list[str]]:
    finding = next(finding for finding in found.findings if finding.code == code)
    seen = found.scan
    return [[f"{seen.splits[seen.split[row]]}/{seen.names[row]}" for row in item.rows] for item in finding.items]


def first(root: Path, pattern: str) -> Path:
    return min(root.glob(pattern))


def test_sound_data_have_no_findings(photos: Path) -> None:
    found = examined(photos)
    assert codes(found) == {}
    assert found.passed
    assert found.counts.tolist() == [[12, 12], [4, 4]]


def copy_to_test(photos: Path) -> None:
    Image.open(first(photos, "train/cat/*")).save(photos / "test" / "cat" / "other.bmp")


def copy_to_other_class(photos: Path) -> None:
    Image.open(first(photos, "train/cat/*")).save(photos / "train" / "dog" / "other.png", compress_level=1)


def copy_beside(photos: Path) -> None:
    (photos / "train" / "cat" / "other.png").write_bytes(first(photos, "train/cat/*").read_bytes())


def recompress_to_test(photos: Path) -> None:
    recompressed(Image.open(first(photos, "train/cat/*")), 40).save(photos / "test" / "cat" / "other.png")


def recompress_to_other_class(photos: Path) -> None:
    recompressed(Image.open(first(photos, "train/cat/*")), 40).save(photos / "train" / "dog" / "other.png")


def mirror_beside(photos: Path) -> None:
    image = Image.open(first(photos, "train/cat/*"))
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "train" / "cat" / "other.png")


def break_one(photos: Path) -> None:
    path = first(photos, "train/cat/*")
    path.write_bytes(path.read_bytes()[:-2000])


def write_text(photos: Path) -> None:
    (photos / "train" / "cat" / "notes.jpg").write_text("dear reader")


def rename_to_jpg(photos: Path) -> None:
    path = first(photos, "train/cat/*")
    path.rename(path.with_suffix(".jpg"))


def store_as_grey(photos: Path) -> None:
    path = first(photos, "train/cat/*")
    Image.open(path).convert("L").save(path)


def hide_one(photos: Path) -> None:
    first(photos, "train/cat/*").rename(photos / "train" / "cat" / "picture.data")


def animate(photos: Path) -> None:
    frames = [scene(number, (256, 240)) for number in (900, 901)]
    frames[0].save(photos / "train" / "cat" / "a.png", "PNG", save_all=True, append_images=frames[1:])


def paint_over(photos: Path) -> None:
    Image.new("RGB", (256, 240), "navy").save(first(photos, "train/cat/*"))


def shrink(photos: Path) -> None:
    scene(902, (40, 40)).save(first(photos, "train/cat/*"))


def stretch(photos: Path) -> None:
    scene(903, (700, 300)).save(first(photos, "train/cat/*"))


def thin_out(photos: Path) -> None:
    for path in sorted(photos.glob("train/cat/*"))[3:]:
        path.unlink()


def empty_class(photos: Path) -> None:
    (photos / "train" / "emu").mkdir()
    (photos / "test" / "emu").mkdir()
    scene(904, (256, 240)).save(photos / "test" / "emu" / "e.png")


def only_in_test(photos: Path) -> None:
    (photos / "test" / "emu").mkdir()
    scene(905, (256, 240)).save(photos / "test" / "emu" / "e.png")


def never_tested(photos: Path) -> None:
    for path in photos.glob("test/cat/*"):
        path.unlink()


ERRORS: dict[Callable[[Path], None], dict[str, int]] = {
    copy_to_test: {"duplicates_across_splits": 1},
    copy_to_other_class: {"label_conflict": 1},
    break_one: {"unreadable": 1},
    write_text: {"unreadable": 1},
    empty_class: {"missing_class": 1},
    only_in_test: {"missing_class": 1},
}
WARNINGS: dict[Callable[[Path], None], dict[str, int]] = {
    copy_beside: {"duplicates": 1},
    recompress_to_test: {"near_duplicates_across_splits": 1},
    recompress_to_other_class: {"near_label_conflict": 1},
    mirror_beside: {"near_duplicates": 1},
    rename_to_jpg: {"wrong_suffix": 1},
    store_as_grey: {"mixed_modes": 1},
    hide_one: {"ignored": 1},
    animate: {"notices": 1},
    paint_over: {"blank": 1},
    shrink: {"small": 1},
    stretch: {"long": 1},
    thin_out: {"few_images": 1},
    never_tested: {"unmeasured_test": 1},
}


@pytest.mark.parametrize("spoil", [*ERRORS, *WARNINGS], ids=lambda function: function.__name__)
def test_one_fault_is_one_finding(photos: Path, spoil: Callable[[Path], None]) -> None:
    spoil(photos)
    found = examined(photos)
    assert codes(found) == (ERRORS | WARNINGS)[spoil]
    assert found.passed == (spoil in WARNINGS)


def test_bad_files_within_the_budget_are_a_warning(photos: Path) -> None:
    break_one(photos)
    write_text(photos)
    assert not examined(photos, data_max_bad=1).passed
    found = examined(photos, data_max_bad=2)
    assert (codes(found), found.passed) == ({"unreadable": 2}, True)
    assert found.counts.sum() == 31  # the broken one is no image of its class


def test_a_class_that_is_far_larger_is_named(photos: Path) -> None:
    for number in range(200, 320):
        scene(number, (64, 64)).save(photos / "train" / "dog" / f"{number}.png")
    for path in sorted(photos.glob("train/cat/*"))[10:]:
        path.unlink()
    finding = next(f for f in examined(photos).findings if f.code == "imbalance")
    assert "dog has 132 training images, cat 10: 13 times" in finding.message


def test_what_is_in_three_places_is_one_item_with_all_of_them(photos: Path) -> None:
    copy_to_test(photos)
    copy_beside(photos)
    recompress = photos / "test" / "cat" / "recompressed.png"
    recompressed(Image.open(first(photos, "train/cat/p*")), 40).save(recompress)
    found = examined(photos)
    original = first(photos, "train/cat/p*").name
    expected = [f"train/cat/{original}", "train/cat/other.png", "test/cat/other.bmp"]
    assert [sorted(group) for group in images_of(found, "duplicates_across_splits")] == [sorted(expected)]
    (near,) = images_of(found, "near_duplicates_across_splits")
    assert sorted(near) == sorted([*expected, "test/cat/recompressed.png"])


def test_a_leaking_group_is_an_error_and_a_kept_one_is_not(photos: Path) -> None:
    assert "group_leak" not in codes(examined(photos, group=r"^(p\d+)_"))
    names = {first(photos, "train/cat/*"): "p1_9.png", first(photos, "test/dog/*"): "p1_8.png"}
    for path, name in names.items():
        path.rename(path.with_name(name))
    found = examined(photos, group=r"^(p\d+)_")
    assert codes(found) == {"group_leak": 1}
    assert not found.passed
    assert found.findings[0].items[0].note == "p1"
    assert "1 of 30 groups" in found.findings[0].message  # two files have left their own


def test_a_pattern_with_a_slash_looks_at_the_path(photos: Path) -> None:
    found = examined(photos, group="^(cat|dog)/")
    assert [item.note for item in found.findings[0].items] == ["cat", "dog"]


def test_images_without_a_group_are_counted(photos: Path) -> None:
    first(photos, "train/cat/*").rename(photos / "train" / "cat" / "odd.png")
    assert codes(examined(photos, group=r"^(p\d+)_")) == {"without_group": 1}


def test_groups_that_a_source_knows_need_no_pattern(photos: Path) -> None:
    config = DataConfig(source=str(photos))
    data = load(config, photos)
    for images in data.splits.values():
        object.__setattr__(images, "groups", ["ward 7"] * len(images))
    assert codes(check(data, config)) == {"group_leak": 1}


@pytest.mark.parametrize(
    ("group", "words"),
    [("(", "not a regular expression"), ("p\\d+", "no parentheses"), ("(x)", "matches no file name")],
)
def test_a_pattern_that_cannot_be_used_is_named(photos: Path, group: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        examined(photos, group=group)


def test_arrays_have_no_names_to_group_by() -> None:
    config = DataConfig(source="digits")
    with pytest.raises(InvalidInput, match="has none"):
        check(load(config, Path()), config, group="(.)")


def test_programs_get_every_case(photos: Path) -> None:
    copy_to_test(photos)
    write_text(photos)
    report = as_dict(examined(photos))
    assert report["passed"] is False
    assert report["splits"]["test"] == {"cat": 5, "dog": 4}
    by_code = {finding["code"]: finding for finding in report["findings"]}
    (item,) = by_code["duplicates_across_splits"]["items"]
    assert {image["split"] for image in item["images"]} == {"train", "test"}
    assert by_code["unreadable"]["items"][0]["path"].endswith("notes.jpg")


CHANGES = {
    "jpeg 75": lambda image: recompressed(image, 75),
    "jpeg 30": lambda image: recompressed(image, 30),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "twice the size": lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
    "another shape": lambda image: image.resize((100, 100), Image.Resampling.BICUBIC),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


def pairs_in(folder: Path, images: dict[str, Image.Image], *, mirrors: bool = True) -> Alike:
    for name, image in images.items():
        (folder / name[0]).mkdir(parents=True, exist_ok=True)
        image.save(folder / name[0] / f"{name}.png")
    config = DataConfig(source=str(folder))
    return alike(scan_images(load(config, folder), config), mirrors=mirrors)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(tmp_path: Path, change: Callable[[Image.Image], Image.Image]) -> None:
    """Of twenty photographs and drawings each has one changed copy, in the other class."""
    originals = {f"a{i}": scene(i) for i in range(16)} | {f"a{i}": photograph(i) for i in range(16, 20)}
    copies = {name.replace("a", "b"): change(image) for name, image in originals.items()}
    found = pairs_in(tmp_path, originals | copies)
    assert sorted(found.pairs.tolist()) == [[i, i + 20] for i in range(20)]
    assert not found.mirrored.any()


def photograph(number: int) -> Image.Image:
    from skimage import data

    photographs: list[Callable[[], Any]] = [data.astronaut, data.coffee, data.chelsea, data.rocket]
    return Image.fromarray(photographs[number % 4]())


def test_a_mirrored_copy_is_said_to_be_one(tmp_path: Path) -> None:
    image = photograph(0)
    images = {"a": image, "b": recompressed(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 60), "c": photograph(1)}
    found = pairs_in(tmp_path, images)
    assert (found.pairs.tolist(), found.mirrored.tolist()) == ([[0, 1]], [True])
    assert len(pairs_in(tmp_path, {}, mirrors=False).pairs) == 0


def test_other_colours_are_another_picture(tmp_path: Path) -> None:
    """A red and a blue sign of the same form, of the same luma."""
    sign = np.zeros((64, 64), bool)
    sign[10:50, 20:40] = True
    red, blue = (np.where(sign[..., None], colour, 200).astype(np.uint8) for colour in ((200, 40, 40), (40, 68, 255)))
    found = pairs_in(tmp_path, {"a": Image.fromarray(red), "b": Image.fromarray(blue)})
    assert len(found.pairs) == 0


def test_a_cropped_or_turned_copy_is_not_found(tmp_path: Path) -> None:
    """The page says so; should this begin to fail, it has to say something better."""
    image = photograph(0)
    images = {"a": image, "b": image.crop((40, 40, 480, 480)), "c": image.rotate(90)}
    assert len(pairs_in(tmp_path, images).pairs) == 0


def arrays(pixels: np.ndarray) -> DataSet:
    images = ArrayImages(torch.from_numpy(pixels), torch.zeros(len(pixels), dtype=torch.int64))
    return DataSet("arrays", ("x",), {"train": images})


def test_many_copies_and_many_alike_do_not_hang_it() -> None:
    """Whatever the images, it is n log n; here all of one class are nearly one picture."""
    random = np.random.default_rng(0)
    base = random.integers(60, 190, (1, 1, 24, 24))
    alikes = np.clip(base + random.normal(0, 1, (4000, 1, 24, 24)), 0, 255).astype(np.uint8)
    data = arrays(np.concatenate((alikes, np.repeat(alikes[:1], 4000, axis=0))))
    seen = scan_images(data, DataConfig(source="x"))
    found = alike(seen, mirrors=True)
    assert len(identical(seen)[0]) == 4001
    assert len(np.unique(found.pairs)) == 4000  # every one has a neighbour
    assert len(found.pairs) <= 16 * 8 * 2 * 4000


def test_memory_does_not_depend_on_the_size_of_pictures(tmp_path: Path) -> None:
    scene(1, (1500, 1500)).save(tmp_path / "a.png")
    paths = tuple(tmp_path / "a.png" for _ in range(3))
    images = FileImages(paths, torch.zeros(3, dtype=torch.int64), tmp_path)
    seen = scan_images(DataSet("x", ("x",), {"train": images}), DataConfig(source="x"))
    kept = sum(array.nbytes for array in (seen.thumbs, seen.chroma, seen.digests, seen.sizes, seen.split, seen.labels))
    assert kept / 3 < 1200


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_arrays_of_any_number_of_channels_can_be_looked_at(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, channels, 9, 5), dtype=np.uint8)
    seen = scan_images(arrays(np.concatenate((pixels, pixels[:1]))), DataConfig(source="x"))
    assert [group.tolist() for group in identical(seen)] == [[0, 20]]


@pytest.fixture(scope="module")
def clothing() -> DataSet:
    if not DEBIAN_FASHION.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    data = load(DataConfig(source="fashion-mnist"), Path("/nonexistent"))
    return data.with_splits({"train": data.splits["test"]})


def test_the_search_finds_nearly_all_copies_among_thousands_that_are_close(clothing: DataSet) -> None:
    """Being n log n must not mean half of them: 2,000 copies, darker and noisier, among 10,000 pictures of clothing."""
    images = expect_type(clothing.splits["train"], ArrayImages)
    noise = torch.randn(images.pixels[:2000].shape) * 3
    copies = (images.pixels[:2000] * 0.8 + noise).clamp(0, 255).to(torch.uint8)
    data = clothing.with_splits({"train": ArrayImages(torch.cat((images.pixels, copies)), torch.zeros(12_000).long())})
    seen = scan_images(data, DataConfig(source="x"))
    originals, changed = (duplicates._edges(seen.thumbs[rows]) for rows in (slice(2000), slice(10_000, 12_000)))
    same = duplicates._cosine(originals, changed) >= duplicates.ALIKE
    expected = {(int(i), int(i) + 10_000) for i in np.flatnonzero(same)}
    pairs = {(a, b) for a, b in alike(seen, mirrors=True).pairs.tolist()}
    assert len(expected) > 1000
    assert len(expected - pairs) < 0.02 * len(expected)


def test_what_is_put_into_clothing_is_all_that_is_found(clothing: DataSet) -> None:
    """Fashion-MNIST has no two images with the same pixels; here are three, one of them as another kind."""
    images = expect_type(clothing.splits["train"], ArrayImages)
    assert len({image.tobytes() for image in images.pixels.numpy()}) == 10_000
    labels = torch.cat((images.labels, images.labels[:2], (images.labels[2:3] + 1) % 10))
    data = clothing.with_splits({"train": ArrayImages(torch.cat((images.pixels, images.pixels[:3])), labels)})
    found = check(data, DataConfig(source="fashion-mnist"))
    assert images_of(found, "duplicates") == [["train/0", "train/10000"], ["train/1", "train/10001"]]
    assert images_of(found, "label_conflict") == [["train/2", "train/10002"]]


def table_of(folder: Path, rows: list[str]) -> Path:
    """path, patient, split and two labels of 0.png, 1.png, ..., which are scenes of these numbers."""
    folder.mkdir(exist_ok=True)
    for number in range(len(rows)):
        scene(number, (256, 240)).save(folder / f"{number}.png")
    (folder / "table.csv").write_text(
        "path,patient,split,a,b\n" + "".join(f"{i}.png,{r}\n" for i, r in enumerate(rows))
    )
    return folder / "table.csv"


SOUND = [f"p{i},{'train' if i < 22 else 'test'},{i % 2},{i // 2 % 2}" for i in range(30)]


def examined_table(path: Path) -> Check:
    config = DataConfig.model_validate({"source": f"csv:{path}", "label_columns": ["a", "b"]})
    return check(load(config, path, strict=False), config)


def test_a_table_of_several_labels_is_counted_by_class(tmp_path: Path) -> None:
    found = examined_table(table_of(tmp_path, SOUND))
    assert codes(found) == {}
    assert found.counts.tolist() == [[11, 10], [4, 4]]


def test_a_patient_of_a_table_in_two_splits_is_found_without_a_pattern(tmp_path: Path) -> None:
    found = examined_table(table_of(tmp_path, [*SOUND[:-1], "p3,test,1,0"]))
    assert codes(found) == {"group_leak": 1}
    assert images_of(found, "group_leak") == [["train/3.png", "test/29.png"]]


def test_a_label_that_every_training_image_has_is_an_error(tmp_path: Path) -> None:
    found = examined_table(table_of(tmp_path, [row[:-1] + "1" for row in SOUND]))
    assert codes(found) == {"constant_class": 1}
    assert not found.passed


@pytest.mark.parametrize(("labels", "code"), [("1,1", "label_conflict"), ("1,-1", "duplicates")])
def test_an_unknown_label_contradicts_none(tmp_path: Path, labels: str, code: str) -> None:
    path = table_of(tmp_path, [*SOUND, "p1,train,1,0", f"p1,train,{labels}"])
    for number in (30, 31):
        scene(100, (256, 240)).save(tmp_path / f"{number}.png")
    assert codes(examined_table(path)) == {code: 1}
