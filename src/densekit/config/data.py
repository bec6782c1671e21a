"""Settings of the images: source, splits, preprocessing, augmentation."""

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from densekit.config.fields import _LONGEST_SIDE, Fraction, Frozen, ImageSize, Size, Window


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a column is named twice")
    return names


Columns = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(lambda names: [name.strip() for name in names.split(",")] if isinstance(names, str) else names),
    AfterValidator(_each_once),
]


Separator = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(lambda text: "\t" if text == r"\t" else text),  # no shell makes a tab easy to type
]


class DataConfig(Frozen):
    """Which images, how they are split and read."""

    source: str
    """DATA of the command line: a known name, synthetic:HxWxC:CLASSES[:COUNT], a folder, csv:, wds: or hf:NAME."""
    protocol: Literal["tune", "final"] = "tune"
    """tune holds out part of the training images to choose by; final trains on all of them (paper sec. 4.2)."""
    val_fraction: Fraction = 0.1
    """Share of the training images held out under `tune`, chosen by content hash."""
    val_count: PositiveInt | None = None
    """An exact number instead (5,000 for CIFAR, 6,000 for SVHN in the paper)."""
    test_fraction: Fraction = 0.1
    """Share set aside for the test where a data set brings none."""
    stratify: bool = False
    """Divide every class by the same shares; set by training. Runs of older versions stay as they were: shares of all
    images, by hash alone.
    """
    image_size: ImageSize | None = None
    """Resize to (height, width); none: as the data set is, 224 for folders."""
    channels: Literal[1, 3, 4] | None = None
    """Channels a folder's images are decoded to; none: 3."""
    normalise: Literal["standard", "imagenet", "unit"] = "standard"
    """standard: mean and deviation of each channel of the training images; imagenet: those of ImageNet, for weights
    that were trained on it; unit: only division by 255 (the paper's SVHN)."""
    max_bad: NonNegativeInt = 0
    """Image files that may be unreadable before the run stops; they are skipped and listed."""
    max_pixels: PositiveInt = 100_000_000
    """Larger images are refused before they are decoded."""
    window: Window | None = None
    """[centre, width] of the values that are seen in DICOM and in grey images of more than 8 bits.

    None: what a DICOM file says, and all of 16 bits.
    """
    workers: NonNegativeInt = 0
    """Processes that decode folder images; never changes a result."""
    limit: PositiveInt | None = None
    """Use only this many training images (the first by content hash): for quick tries."""
    path_column: str | None = None
    """csv: the column of image files; none: one called path, image, file, filename or Image Index.

    hf: the column of images; none: the only one.
    """
    image_root: str | None = None
    """csv: the folder that its paths start from; none: the CSV's own."""
    label_columns: Columns | None = None
    """csv: one column of class names, or several, a class each, of 1, 0, and -1 or nothing for unknown: multi-label.

    None: one called label, class or Finding Labels. hf: one column; none: the only one of class labels.
    """
    label_separator: Separator | None = None
    r"""csv: what stands between the classes of one label column, such as "|", or \t for a tab: multi-label."""
    no_label: str | None = None
    """csv: the word in such a column that stands for no class at all, such as "No Finding"."""
    blank_labels: Literal["unknown", "absent", "class"] | None = None
    """csv: what an empty cell means, or a word such as nan, NA or None. None: with several labels an empty cell is
    unknown, which neither loss nor metrics count; with one label it is an error.

    unknown: with one label such rows are left out, and those of -1 beside 0 and 1. absent: the image is not of the
    class; for several labels. class: such words are names of classes.
    """
    binary: Literal["label", "classes"] | None = None
    """csv: whether one column of two values such as 0 and 1, or no and yes, is one label, which an image has or has not
    and which is called like the column, or two classes. None: a label, set by training.

    Runs of older versions stay as they were: classes.
    """
    positive: str | None = None
    """Of two classes, the one that sensitivity, precision and AUROC are about; none: the second in order.

    Of a column that is one label, the value that stands for present; none: 1, yes, true, positive or present.
    """
    group_column: str | None = None
    """csv: rows that agree in it stay in one split; none: one called patient, Patient ID, subject or subject_id."""
    split_column: str | None = None
    """csv: train, val or test for each row; none: one called split, if there is one, else as folders are split."""

    def as_trained(self) -> Self:
        """The same, where nothing else is set with two values of a table's column as one label."""
        if self.binary is not None or not self.source.startswith("csv:"):
            return self
        return self.model_copy(update={"binary": "label"})

    @model_validator(mode="after")
    def _tables_only(self) -> Self:
        form = self.source.partition(":")[0]
        for name, forms in _TABLE_SETTINGS.items():
            if getattr(self, name) is not None and form not in forms:
                wanted = " and ".join({"csv": "csv:FILE", "hf": "hf:NAME"}[form] for form in forms)
                raise ValueError(f"data.{name} is for {wanted}, and DATA is {self.source}; leave it out")
        return self


_TABLE_SETTINGS = {
    "path_column": ("csv", "hf"),
    "image_root": ("csv",),
    "label_columns": ("csv", "hf"),
    "label_separator": ("csv",),
    "no_label": ("csv",),
    "blank_labels": ("csv",),
    "binary": ("csv",),
    "group_column": ("csv",),
    "split_column": ("csv",),
}


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, pixels in [0, 1]; what torchvision trains with."""


class Preprocessing(Frozen):
    """How any image becomes a network's input; stored with the weights, used by training, evaluation and prediction."""

    channels: PositiveInt
    size: Size
    """Of the input, cut from the middle."""
    resize: Annotated[PositiveInt, Field(le=_LONGEST_SIDE)]
    """The shorter side is scaled to this many pixels before the cut."""
    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]
    """Per channel, in units where a pixel is 0 to 1."""
    background: Literal["dark", "light"] | None = None
    """What surrounds the object in the training images, where that is uniform."""
    known: bool = True
    """False: mean and std stand for what imported weights do not tell."""
    window: Window | None = None
    """[centre, width] of the values that are seen, where an image has more than 8 bits."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need a number for each of {self.channels} channels")
        return self

    def unnormalised(self) -> "Preprocessing":
        """The same but for its last step: pixels come out as 0 to 1."""
        return self.model_copy(update={"mean": (0.0,) * self.channels, "std": (1.0,) * self.channels})


class AugmentConfig(Frozen):
    """Random changes of training images, keyed by (seed, epoch, sample)."""

    flip: bool = False
    """Mirror left-right with probability 1/2."""
    crop: Literal["none", "pad", "resized"] = "none"
    """pad: zero-pad the normalised image (its mean colour) and crop back; resized: random area and aspect."""
    crop_padding: PositiveInt = 4
    crop_scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    """Share of the area kept by a resized crop."""
    color_jitter: NonNegativeFloat = 0.0
    """Brightness, contrast and saturation each by a factor from [1 - j, 1 + j], in random order."""
    lighting: NonNegativeFloat = 0.0
    """Deviation of the PCA colour noise of Krizhevsky et al. 2012."""
    erase: Fraction = 0.0
    """Probability to erase a rectangle to the mean colour (Zhong et al. 2020)."""
    policy: Literal["none", "trivial", "rand"] = "none"
    """TrivialAugment (Mueller and Hutter 2021) or RandAugment (Cubuk et al. 2020), as torchvision has them."""
    rand_operations: PositiveInt = 2
    rand_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """rand: how many operations an image goes through, and how strong they are, of 31 steps."""
    mixup: NonNegativeFloat = 0.0
    """alpha of mixup (Zhang et al. 2018): images and labels of a batch are averaged in pairs; 0 switches it off."""
    cutmix: NonNegativeFloat = 0.0
    """alpha of CutMix (Yun et al. 2019); where both are on, each batch has one of them."""
