"""How training images are normalised where weights come from: what a file proves, and what its names suggest."""

from typing import Literal, NamedTuple

from densekit.config import IMAGENET_MEAN, IMAGENET_STD


class Statistics(NamedTuple):
    """Mean and standard deviation per channel, in units where a pixel is 0 to 1."""

    source: str
    stem: Literal["cifar", "imagenet"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 224 / 256
    """Share of the resized image's shorter side that the network sees; of photographs alone."""

    def __str__(self) -> str:
        mean, std = (",".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{self.source} ({mean} and {std})"


IMAGENET = Statistics("ImageNet's", "imagenet", IMAGENET_MEAN, IMAGENET_STD)
# Pixels are scaled to -1024 ... 1024, and images are scaled as a whole: torchxrayvision.datasets.
XRAY = Statistics("torchxrayvision's", "imagenet", (0.5,), (1 / 2048,), crop=1.0)

_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10 = Statistics("CIFAR-10's", "cifar", _CIFAR10_MEAN, (0.2470, 0.2435, 0.2616))
# The mean over the images of each image's own deviation.
CIFAR10_PER_IMAGE = Statistics("kuangliu's for CIFAR-10", "cifar", _CIFAR10_MEAN, (0.2023, 0.1994, 0.2010))
CIFAR100 = Statistics("CIFAR-100's", "cifar", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
WEIAICUNZAI = Statistics(
    "weiaicunzai's for CIFAR-100",
    "cifar",
    (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
    (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
)
ANDREASVEIT = Statistics(
    "andreasveit's for CIFAR", "cifar", (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)
)
BAMOS = Statistics(
    "bamos's for CIFAR-10", "cifar", (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
)

# First digits of the SHA-256 of torchvision's densenet121, 169, 201 and 161, which are in the names of the files.
PUBLISHED_SHA256 = ("a639ec97", "b2777c0a", "c1103571", "8d451a50")
# Of keras.applications' DenseNet121, 169 and 201, with and without their tops.
PUBLISHED_MD5 = (
    *("9d60b8095a5708f2dcce2bca79d332c7", "d699b8f76981ab1b30698df4c175e90b", "1ceb130c1ea1b78c3bf6114dbdfd8807"),
    *("30ee3e1110167f948a6b9946edeeb738", "b8c4d4c20dd625c148057b9ff1c1176b", "c13680b51ded0fb44dff2d8f86ac8bb1"),
)
