"""Photographs per second: densekit's loader beside torchvision's ImageFolder in a DataLoader.

The same files, the same augmentation (a random crop of 8 to 100 % of the area scaled to 224 x 224, a mirror, normalised
float32 batches), the same number of workers. Everybody has an epoch in turn, so that what disturbs the machine disturbs
all alike.
"""

import importlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from densekit import atomic, strict_json, threads
from densekit.config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, DataConfig, Preprocessing
from densekit.data import Loader, load
from densekit.errors import BadData, InvalidInput
from densekit.runs.run_folder import environment

FILE = "loader.json"
SIZE = (224, 224)
_CLASSES = 4
_QUALITY = 90
_LONG, _SHORT = 500, 375  # pixels; most of ImageNet is about so large


@dataclass(frozen=True)
class LoadingSettings:
    """What is read, and how often."""

    images: int = 2048
    batch: int = 64
    workers: int | None = None
    """None: as many as there are cores."""
    rounds: int = 5
    out: Path = Path("results", "bench")


def measure(course: LoadingSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Images per second of every contender, round by round; written to `course.out`. `say` hears of every round.

    Raises InvalidInput for a course that cannot be, BadData where the result cannot be written.
    """
    workers = threads.cores() if course.workers is None else course.workers
    if min(course.batch, course.rounds, course.images // course.batch) < 1 or workers < 0:
        raise InvalidInput("--batch and --repeats are 1 or more, and --threads, the workers, 0 or more")
    try:
        course.out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="densekit-bench-") as folder:
            say(f"writing {course.images} photographs")
            total = write_photographs(Path(folder), course.images)
            times = _rounds(Path(folder), course, workers, say)
        rates = {name: [course.images / seconds for seconds in each] for name, each in times.items()}
        ours = statistics.median(rates["densekit"])
        report = {
            "what": "loader",
            "images": course.images,
            "bytes_per_image": total // course.images,
            "batch": course.batch,
            "workers": workers,
            "environment": environment(),
            "contenders": [
                {"name": name, "images_per_second": statistics.median(each), "rounds": each}
                for name, each in rates.items()
            ],
            "densekit_over": {
                name: ours / statistics.median(each) for name, each in rates.items() if name != "densekit"
            },
        }
        atomic.write(course.out / FILE, strict_json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise BadData(f"cannot write results to {course.out}: {error.strerror}; name another --out") from error
    return report


def _rounds(folder: Path, course: LoadingSettings, workers: int, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds of each epoch, by contender."""
    contenders = _contenders(folder, course.batch, workers)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(course.rounds + 1):
        for name in list(contenders) if number % 2 else reversed(list(contenders)):
            started = time.perf_counter()
            seen = sum(len(x) for x in contenders[name](number))
            seconds = time.perf_counter() - started
            assert seen == course.images
            if number:  # before that, workers started and files came into memory
                times[name].append(seconds)
                say(f"round {number} of {course.rounds}: {name}, {seen / seconds:.0f} images a second")
    return times


def _contenders(folder: Path, batch: int, workers: int) -> Mapping[str, Callable[[int], Iterator[Tensor]]]:
    """By name, an epoch's number -> its batches (N, 3, 224, 224), float32."""
    plain = Preprocessing(channels=3, size=SIZE, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    images = load(DataConfig(source=str(folder)), folder).splits["train"]
    ours = Loader(images, plain, batch, AugmentConfig(flip=True, crop="resized"), workers=workers)

    def densekit(epoch: int) -> Iterator[Tensor]:
        return (batch.images for batch in ours.epoch(epoch))

    theirs = {
        "torchvision, Pillow": (_pillow, [v2.PILToTensor()]),  # torchvision's own recipes for training
        "torchvision, tensors": (_tensor, []),
    }
    named: dict[str, Callable[[int], Iterator[Tensor]]] = {"densekit": densekit}
    for name, (reader, last) in theirs.items():
        transform = v2.Compose(
            [
                v2.RandomResizedCrop(SIZE, antialias=True),
                v2.RandomHorizontalFlip(),
                *last,
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
        files = torchvision.datasets.ImageFolder(str(folder), transform, loader=reader)
        peer = DataLoader(files, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        named[name] = _epoch_of(peer)
    return named


def _epoch_of(loader: Any) -> Callable[[int], Iterator[Tensor]]:
    return lambda _: (images for images, _ in loader)


def _pillow(path: str) -> Any:
    return torchvision.datasets.folder.pil_loader(path)


def _tensor(path: str) -> Tensor:
    return torchvision.io.decode_image(path, mode="RGB")


def write_photographs(folder: Path, count: int) -> int:
    """`count` JPEG files of about 500 x 375 pixels, cut from the photographs of scikit-learn, matplotlib and, if it is
    there, scikit-image; returns their bytes.
    """
    random = np.random.default_rng(0)
    photographs = _photographs()
    total = 0
    for i in range(count):
        image = photographs[i % len(photographs)]
        upright = random.random() < 0.25
        stretch = random.uniform(0.8, 1.25)
        size = (round(_SHORT * stretch), _LONG) if upright else (_LONG, round(_SHORT * stretch))
        # A piece of two thirds or more, at the picture's own aspect, so that no two files are alike.
        share = random.uniform(0.67, 1.0)
        width, height = (round(side * share) for side in image.size)
        left, top = (
            int(random.integers(side - part + 1)) for side, part in zip(image.size, (width, height), strict=True)
        )
        path = folder / f"class{i % _CLASSES}" / f"{i:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        cut = image.resize(size, Image.Resampling.LANCZOS, (left, top, left + width, top + height))
        cut.save(path, quality=_QUALITY)
        total += path.stat().st_size
    return total


def _photographs() -> list[Image.Image]:
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_images

    found = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    photograph: Any = get_sample_data("grace_hopper.jpg", asfileobj=False)
    found.append(Image.open(photograph).convert("RGB"))
    try:
        skimage: Any = importlib.import_module("skimage.data")
    except ImportError:
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Those that come with the package.
        return found + [
            Image.fromarray(getattr(skimage, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")
        ]
