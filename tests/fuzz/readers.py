"""What reads bytes that come from anywhere: by name, sound inputs, and a function that raises only what is promised."""

import csv
import io
import json
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load

from densekit import create_model
from densekit.config import DataConfig, Preprocessing
from densekit.data import load as load_data
from densekit.data.decoding.decode import decode
from densekit.data.sets import EncodedImages
from densekit.errors import BadImage, BadWeights, DensekitError
from densekit.models import config_for
from densekit.training.checkpoint import read_checkpoint, save_checkpoint
from densekit.training.compose import compose
from densekit.weights import ModelCard, load_model, save_model
from densekit.weights.folder import CONFIG, WEIGHTS
from densekit.weights.foreign import sandboxed_reader
from tests.faults.train_state import state
from tests.weights.keras_files import config_of

MODEL = "densenet_bc_10_4"
_KERNEL = torch.ones(3, 3, 3, 8)


class Wrong(AssertionError):
    """A reader took damaged input for something else."""


@dataclass(frozen=True)
class Reader:
    """`read` answers, or raises one of `errors`; or `Wrong`, where it can be known that the answer is not right."""

    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...] = (DensekitError,)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def _images() -> Sequence[bytes]:
    """Every format that is read, and the odd modes of each, small."""
    random = np.random.default_rng(0)
    colour = Image.fromarray(random.integers(0, 256, (23, 31, 3), dtype=np.uint8))
    grey, deep = colour.convert("L"), Image.fromarray(random.integers(0, 65536, (9, 11), dtype=np.uint16))
    clear = colour.copy()
    clear.putalpha(grey)
    palette = colour.quantize(17)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    found = [_encoded(image, "PNG") for image in (colour, grey, deep, clear, palette, grey.convert("1"))]
    found += [_encoded(colour, "JPEG"), _encoded(colour, "JPEG", progressive=True, exif=exif), _encoded(grey, "JPEG")]
    found += [_encoded(colour.convert("CMYK"), "JPEG"), _encoded(palette, "GIF"), _encoded(colour, "BMP")]
    found += [_encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(90)])]
    found += [_encoded(colour, "TIFF", compression=c) for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")]
    found += [_encoded(deep, "TIFF"), _encoded(colour, "WebP"), _encoded(clear, "WebP", lossless=True)]
    return [*found, _encoded(colour, "PPM"), _encoded(grey, "PPM")]


@cache
def _pictures_of_png() -> set[bytes]:
    return {decode(content).image.tobytes() for content in _images() if content.startswith(b"\x89PNG")}


def _read_image(content: bytes) -> None:
    image = decode(content, max_pixels=1_000_000).image
    image.resize((8, 8))  # what training does next
    # A PNG has checksums of all that decides its pixels; other formats cannot tell a flipped bit from a picture.
    # Above their whole length a damaged beginning may leave another, equally sound file.
    # An accident may itself be a PNG, such as one with a chunk left out.
    whole = content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB\x60\x82")
    if whole and image.tobytes() not in _pictures_of_png() and not _sound_png(content):
        raise Wrong("a damaged PNG was read as another picture")


def _sound_png(content: bytes) -> bool:
    """Whether every chunk up to the end has the checksum that it says."""
    at = 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + length]
        if zlib.crc32(body) != int.from_bytes(content[at + 8 + length : at + 12 + length], "big"):
            return False
        if body[:4] == b"IEND":
            return True
        at += 12 + length
    return False


def _card() -> ModelCard:
    preprocessing = Preprocessing(channels=3, size=(8, 8), resize=8, mean=(0, 0, 0), std=(1, 1, 1))
    model = config_for(MODEL).model_copy(update={"num_classes": 2})
    return ModelCard(model=model, classes=("a", "b"), preprocessing=preprocessing)


@cache
def _model_files() -> dict[str, bytes]:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), create_model(MODEL, num_classes=2).state_dict(), _card())
        return {name: (Path(folder) / name).read_bytes() for name in (CONFIG, WEIGHTS)}


def _read_model(name: str, content: bytes) -> None:
    files = _model_files()
    with tempfile.TemporaryDirectory() as folder:
        for other, whole in files.items():
            (Path(folder) / other).write_bytes(content if other == name else whole)
        model, card = load_model(Path(folder), "concat")
    for key, tensor in load(files[WEIGHTS]).items():
        if not torch.equal(model.state_dict()[key], tensor):
            raise Wrong(f"{key} is not what was saved")
    if name == CONFIG and json.loads(content)["classes"] != list(card.classes):
        raise Wrong("a card was read as another")


@cache
def _checkpoint_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "last"
        save_checkpoint(folder, state(1), _card(), {"seed": 0})
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _read_checkpoint(content: bytes) -> None:
    """The first byte chooses the file that is damaged."""
    files = _checkpoint_files()
    names = sorted(name for name in files if name != CONFIG)  # not of the state: what a prediction reads
    name = names[content[0] % len(names)] if content else names[0]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "last"
        folder.mkdir()
        for other, whole in files.items():
            (folder / other).write_bytes(content[1:] if other == name else whole)
        found = read_checkpoint(folder)
    # A fuzzer that looks into comparisons can write a document of its own with the right checksum: nothing is damaged.
    own = json.loads(files["state.json"])["sha256"]["state.json"]
    same = [found.document == json.loads(files["state.json"]) or own.encode() not in content]
    same.append(found.weights == files[WEIGHTS])
    if not all([*same, found.tensors == files["state.safetensors"]]):
        raise Wrong(f"a damaged {name} was taken for whole")


def _checkpoint_seeds() -> Sequence[bytes]:
    files = _checkpoint_files()
    return [bytes([i]) + files[name] for i, name in enumerate(sorted(name for name in files if name != CONFIG))]


@cache
def _foreign_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return create_model(MODEL, num_classes=2).state_dict()


@cache
def _foreign_files() -> Sequence[bytes]:
    """What torch.save, safetensors and Keras write of one small network; the last where h5py is there."""
    from safetensors.torch import save

    weights = _foreign_weights()
    found = [save(weights)]
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"state_dict": weights, "epoch": 3}, buffer, _use_new_zipfile_serialization=zipped)
        found.append(buffer.getvalue())
    try:
        import h5py
    except ImportError:
        return found
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = np.array([b"conv0"])
        group = file.create_group("conv0")
        group.attrs["weight_names"] = np.array([b"conv0/kernel:0"])
        group["conv0/kernel:0"] = _KERNEL.numpy()
    keras = io.BytesIO()
    with zipfile.ZipFile(keras, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(config_of({"conv0": {"kernel": _KERNEL.numpy()}})))
        archive.writestr("model.weights.h5", buffer.getvalue())
    return [*found, buffer.getvalue(), keras.getvalue()]


def _read_foreign(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "weights"
        path.write_bytes(content)
        found = sandboxed_reader.read(path, Path(root), None)
    held = sum(tensor.numel() * tensor.element_size() for tensor in found.tensors.values())
    if held > sandboxed_reader.room_for(len(content)):
        raise Wrong(f"{held} bytes of tensors came out of a file of {len(content)}")
    if content.startswith(b"PK\x03\x04"):  # an archive has checksums, other files cannot tell a flipped bit
        wanted = {"conv0/kernel": _KERNEL} if found.container == "keras" else _foreign_weights()
        if found.tensors.keys() != wanted.keys() or not all(map(torch.equal, found.tensors.values(), wanted.values())):
            raise Wrong("a damaged archive was read as other weights")


def _configs() -> Sequence[bytes]:
    tree = compose("digits", model="densenet_bc_22_12").model_dump(mode="json")
    few = {"epochs": 3, "optimizer": {"lr": 0.05}, "data": {"val_count": 20}, "resize": [[0.0, 8]]}
    aliases = b"augment: {crop_scale: &s [0.1, 1.0]}\ndata: {window: *s}\n"
    merged = b"optimizer: {<<: [&o {lr: 0.1}, {momentum: 0.5}]}\n"
    whole = {key: value for key, value in tree.items() if key not in ("name", "model")}
    return [*(yaml.safe_dump(x).encode() for x in (few, whole)), aliases, merged]


def _read_config(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "recipe.yaml"
        path.write_bytes(content)
        recipe = compose("digits", model="densenet_bc_22_12", config=path)
    if not (recipe.epochs >= 1 and recipe.batch_size >= 1 and recipe.optimizer.lr >= 0):
        raise Wrong("a recipe that cannot be trained")


@cache
def _pixels() -> Sequence[bytes]:
    return [_encoded(Image.new("L", (4, 4), 40 * i), "PNG") for i in range(6)]


def _tables() -> Sequence[bytes]:
    one = "image,label,patient,split\r\n" + "".join(f'"{i}.png",c{i % 2},p{i},train\r\n' for i in range(6))
    return [
        one.encode(),
        ("\ufeff" + one.replace(",", ";")).encode(),
        (
            "path,a,b\n" + "".join(f"{i}.png,{i % 2},{'' if i == 3 else -1 if i == 4 else 1}\n" for i in range(6))
        ).encode(),
    ]


def _read_table(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        for i, picture in enumerate(_pixels()):
            (Path(root) / f"{i}.png").write_bytes(picture)
        path = Path(root) / "table.csv"
        path.write_bytes(content)
        labels = ["a", "b"] if content.startswith(b"path,") else []
        config = DataConfig.model_validate({"source": f"csv:{path}", "label_columns": labels or None, "max_bad": 6})
        data = load_data(config, Path(root))
        text = content.decode("utf-8-sig")
    rows = sum(bool(row) for row in csv.reader(io.StringIO(text, newline=""))) - 1
    found = sum(map(len, data.splits.values())) + len(data.skipped.files)
    if found != rows:
        raise Wrong(f"{found} images of {rows} rows")


def _shards() -> Sequence[bytes]:
    """One label an image, or several."""
    found = []
    for ending, label in (("cls", b"%d"), ("json", b'{"label": ["c%d"], "group": "p"}')):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for i, picture in enumerate(_pixels()):
                for name, content in ((f"{i}.png", picture), (f"{i}.{ending}", label % (i % 2))):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        found.append(buffer.getvalue())
    return found


def _read_shard(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "train-0.tar"
        path.write_bytes(content)
        images = load_data(DataConfig(source=f"wds:{path}"), Path(root)).splits["train"]
        assert isinstance(images, EncodedImages)
        for sample in range(len(images)):
            with suppress(BadImage):
                picture = images.decoded(sample, channels=1, max_pixels=1_000_000).image.tobytes()
                encoded = images.encoded(sample)
                assert isinstance(encoded, bytes)
                if picture not in _shades() and not _sound_png(encoded):  # a fuzzer can write checksums, too
                    raise Wrong(f"{images.name(sample)} is another picture")


@cache
def _shades() -> set[bytes]:
    return {decode(picture, channels=1).image.tobytes() for picture in _pixels()}


READERS: dict[str, Reader] = {
    "image": Reader(_images, _read_image, (BadImage,)),
    "weights": Reader(lambda: [_model_files()[WEIGHTS]], lambda x: _read_model(WEIGHTS, x), (BadWeights,)),
    "card": Reader(lambda: [_model_files()[CONFIG]], lambda x: _read_model(CONFIG, x)),
    "checkpoint": Reader(_checkpoint_seeds, _read_checkpoint, (BadWeights,)),
    "foreign": Reader(_foreign_files, _read_foreign, (DensekitError, MemoryError)),
    "config": Reader(_configs, _read_config),
    "table": Reader(_tables, _read_table),
    "shard": Reader(_shards, _read_shard),
}
