"""Every setting of a run, as frozen models validated once, here. Code below this module trusts what it is given."""

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from densekit.errors import InvalidInput, UnknownName
from densekit.parsing import Malformed
from densekit.setting_values import value_for

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
DropoutSite = Literal["conv1x1", "conv3x3", "transition"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]

# Of a network's input; beyond them one image alone would take gigabytes.
_MOST_PIXELS = 1 << 26
_LONGEST_SIDE = 1 << 14


def _bounded(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] * size[1] > _MOST_PIXELS:
        raise ValueError(f"an input has at most {_MOST_PIXELS:,} pixels")
    return size


Size = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_bounded)]
"""(height, width) in pixels."""
ImageSize = Annotated[
    Size,
    # One number means a square, as everybody writes it.
    BeforeValidator(lambda size: (size, size) if isinstance(size, int | str) else size),
]


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
Window = tuple[float, PositiveFloat]


def _rule(text: str) -> str:
    name, colon, wanted = text.partition(":")
    try:
        known = 0 < float(wanted) <= 1 if name == "sensitivity" else name in ("youden", "f1") and not colon
    except ValueError:
        known = False
    if not known:
        raise ValueError("it is youden, f1, or sensitivity:S with S above 0 and at most 1, such as sensitivity:0.95")
    return text


ThresholdRule = Annotated[str, AfterValidator(_rule)]


class Frozen(BaseModel):
    """Immutable; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Architecture(Frozen):
    """What every network has, whatever its family."""

    name: str
    """The name it was built from; shown to people, never parsed again."""
    in_channels: PositiveInt = 3
    num_classes: NonNegativeInt = 1000
    """0: no head, pooled features come out."""
    image_size: ImageSize = (224, 224)
    """(height, width) it is trained at, in pixels."""


class DenseNetConfig(Architecture):
    """One DenseNet (Huang et al. 2017, sec. 3)."""

    family: Literal["densenet"] = "densenet"
    growth_rate: PositiveInt
    """k: feature maps each layer adds."""
    blocks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Layers of each dense block."""
    stem: Literal["cifar", "imagenet"]
    """One 3x3 convolution, or 7x7/2 + BN + ReLU + 3x3/2 max pool."""
    stem_channels: PositiveInt
    """k0: feature maps the stem makes; the paper has 16 for plain CIFAR nets and 2k otherwise."""
    bottleneck: bool = True
    """B: a 1x1 convolution to bottleneck_width * k maps before each 3x3."""
    bottleneck_width: PositiveInt = 4
    compression: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """theta: a transition after m maps makes floor(theta * m). C means below 1."""
    dropout_rate: Fraction = 0.0
    dropout_sites: tuple[DropoutSite, ...] = ("conv1x1", "conv3x3", "transition")
    """After which convolutions; the authors drop after every one but the first. Peers: ("conv3x3",)."""
    initialisation: Literal["paper", "torchvision"] = "paper"
    """Normal with fan-out (the authors) or fan-in (torchvision, timm, MONAI)."""
    pool_first: bool = True
    """Transitions average before their 1x1 convolution: the same function, a quarter of that convolution's work."""
    transition_relu: bool = True
    """A ReLU between a transition's batch norm and convolution: the paper's prose has none, the authors' code one."""
    norm_eps: PositiveFloat = 1e-5
    """Added to a batch norm's variance. Keras: 1.001e-5."""
    stem_norm: bool | None = None
    """Batch norm and ReLU after the stem's convolution; none: as the stem has it, which the cifar stem has not."""

    @model_validator(mode="after")
    def _imagenet_stem_is_normalised(self) -> Self:
        if self.stem == "imagenet" and self.stem_norm is False:
            raise ValueError("stem_norm false is for the cifar stem; the imagenet stem has a batch norm")
        return self


class ResNetConfig(Architecture):
    """A CIFAR residual network (He et al. 2016), pre-activated (2016b), or of stochastic depth (Huang et al. 2016)."""

    family: Literal["resnet"] = "resnet"
    depth: PositiveInt
    bottleneck: bool = False
    preactivation: bool = False
    survival: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Probability that the last residual branch is kept in training; falls linearly from 1 at the first."""
    image_size: ImageSize = (32, 32)
    num_classes: NonNegativeInt = 10

    @model_validator(mode="after")
    def _depth_divides(self) -> Self:
        per_unit = 9 if self.bottleneck else 6
        if self.depth < per_unit + 2 or (self.depth - 2) % per_unit:
            raise ValueError(f"depth {self.depth} is not {per_unit}n + 2, which three equal stages need")
        return self


class ExternalConfig(Architecture):
    """A network of another library, by that library's name."""

    family: Literal["torchvision", "timm"]


ModelConfig = Annotated[DenseNetConfig | ResNetConfig | ExternalConfig, Field(discriminator="family")]


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


class OptimizerConfig(Frozen):
    """SGD as the paper's sec. 4.2: weight decay is wd * w in the gradient, on all parameters."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.1
    """The schedule's highest learning rate."""
    body_lr: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of it for all parameters but those of the head, which in fine-tuning is new and the rest is not."""
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeFloat = 1e-4
    no_decay: tuple[str, ...] = ()
    """Parameters without weight decay, by name: patterns such as "*.bias" and "*norm*"."""
    clip_norm: PositiveFloat | None = None
    """Gradients whose norm, over all parameters, is greater are scaled down to it."""


class ScheduleConfig(Frozen):
    """Learning rate as a function of the share of training done."""

    name: Literal["steps", "one_cycle", "cosine"] = "one_cycle"
    milestones: tuple[Fraction, ...] = (0.5, 0.75)
    """steps: where the rate falls, as shares of all epochs."""
    factor: PositiveFloat = 0.1
    """steps: by how much."""
    warmup: Fraction = 0.25
    """one_cycle, cosine: share of training in which the rate rises."""
    start: PositiveFloat = 0.04
    """one_cycle, cosine: first rate, as a share of lr."""
    end: NonNegativeFloat = 1e-4
    """one_cycle, cosine: last rate, as a share of lr."""


class EmaConfig(Frozen):
    """Exponential moving average of the weights, evaluated and shipped in their place."""

    decay: Fraction = 0.0
    """0 switches it off. Early on the decay is (1 + steps) / (10 + steps), if that is less."""


class CheckpointConfig(Frozen):
    """When the state is saved, besides the end of each epoch and a stop by signal."""

    every_steps: PositiveInt | None = None
    every_seconds: PositiveFloat | None = 300.0


class DivergenceConfig(Frozen):
    """What happens when the loss is not a finite number, or grows far beyond the loss of chance."""

    rollbacks: NonNegativeInt = 0
    """How often training may go back to its last checkpoint and on at a lower rate, before it stops."""
    factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """What the rate is multiplied by, each time."""
    growth: Annotated[float, Field(gt=1.0)] | None = None
    """Training has diverged when its loss is so many times that of chance for 10 steps; none: any finite loss will do.

    A validation loss of four times that, twice, goes back too where a rollback is left, and is named where none is.
    """


class EarlyStoppingConfig(Frozen):
    """Ends training when a metric of the validation images stops improving."""

    patience: PositiveInt | None = None
    """Epochs in a row without an improvement after which training ends; none: it never does."""
    metric: Literal["loss", "score"] = "loss"
    """The validation loss, or what select=best compares: accuracy, or AUROC of several labels."""
    min_delta: NonNegativeFloat = 0.0
    """By how much more than this the metric has to change to count as improved."""


class Recipe(Frozen):
    """Everything that decides a run's result."""

    name: str
    model: ModelConfig
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EmaConfig = EmaConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    divergence: DivergenceConfig = DivergenceConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    epochs: PositiveInt
    batch_size: PositiveInt = 64
    """Images of an update, over all processes."""
    accumulate: PositiveInt = 1
    """In how many pieces, one after the other, each process takes its share: less memory; statistics are by piece."""
    join_last_image: bool = False
    """A last batch of one image joins the batch before it, as batch norm cannot learn from one; set by training.

    Runs of older versions stay as they were.
    """
    shuffle_by_seed: bool = False
    """The order of training images depends on the seed, not on the epoch alone; set by training where seed is not 0.

    Runs of older versions stay as they were: all seeds had the order of seed 0.
    """
    sync_batch_norm: bool = True
    """In several processes: statistics of the whole batch, so that their number does not change the result."""
    label_smoothing: Fraction = 0.0
    class_weights: Literal["equal", "balanced"] = "equal"
    """balanced: a class's images weigh in the loss as if all classes had equally many."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """shuffled: each epoch has every training image once. balanced: as many images, equally many of each class.

    Of several labels: of each label, and of no label where there are such images. Rare images repeat in an epoch.
    """
    threshold: ThresholdRule | None = None
    """How the validation images choose the probability from which on a label, or the positive class of two, is present:
    youden, f1, or sensitivity:0.95 for at least that sensitivity. None: youden; of several labels f1.
    """
    resize: tuple[tuple[Fraction, PositiveInt], ...] = ()
    """Progressive resizing: from these shares of the epochs on, training images are scaled to so many pixels square."""
    select: Literal["last", "best"] = "last"
    """The weights that are reported: the last epoch's (paper sec. 4.2), or the best on validation (its SVHN runs)."""
    init: str | None = None
    """Weights to start from: a MODEL, torchvision:NAME or timm:NAME."""
    plan: Literal["auto", "concat", "checkpoint", "shared"] = "auto"
    """How dense blocks are executed; changes speed and memory, never the function."""
    kernels: str = "auto"
    """What plan shared computes with: cpu (compiled), reference (torch's operators), or auto, the best that can.

    A block that the named one cannot compute runs by plan concat.
    """
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """The lower two by autocast; float16 with a scaled loss."""
    device: str = "auto"
    trackers: Annotated[
        tuple[TrackerName, ...],
        BeforeValidator(lambda names: (names,) if isinstance(names, str) else names),
    ] = ()
    """Where the run is shown besides its own folder; each is an extra of the package."""
    seed: NonNegativeInt = 0

    def side(self, epoch: int) -> int | None:
        """Pixels square of training images in an epoch, counted from 0, if `resize` says."""
        return next((side for share, side in reversed(self.resize) if epoch >= share * self.epochs), None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.select == "best" and self.data.protocol == "final":
            raise ValueError("select=best needs validation images, which data.protocol=final does not hold out")
        if self.sampling == "balanced" and self.class_weights == "balanced":
            raise ValueError("sampling=balanced and class_weights=balanced correct for the same counts; choose one")
        if [share for share, _ in self.resize] != sorted({share for share, _ in self.resize}):
            raise ValueError("resize needs shares that rise, such as [[0.0, 24], [0.5, 32]]")
        return self


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """`recipe` with dotted keys replaced, e.g. {"optimizer.lr": "0.05"}; strings are read by `setting_values`.

    Raises UnknownName for a key that does not exist and InvalidInput for a value that does not fit.
    """
    tree = recipe.model_dump()
    owner: Any
    for key, value in settings.items():
        *path, last = key.split(".")
        node: dict[str, Any] = tree
        owner = recipe
        for part in path:
            below = node.get(part)
            node = below if isinstance(below, dict) else {}
            owner = getattr(owner, part, None)
        if last not in node or isinstance(node[last], dict):
            raise UnknownName("setting", key, dotted_keys(tree))
        node[last] = read_setting(type(owner), last, key, value)
    return recipe_from(tree)


def with_data_settings(config: DataConfig, settings: Mapping[str, Any]) -> DataConfig:
    """`config` with dotted keys below `data.` replaced. Raises UnknownName or InvalidInput."""
    known = {f"data.{key}" for key in DataConfig.model_fields}
    for key in settings:
        if key not in known:
            raise UnknownName("setting of data", key, known)
    fields = {key: key.removeprefix("data.") for key in settings}
    values = {field: read_setting(DataConfig, field, key, settings[key]) for key, field in fields.items()}
    try:
        return DataConfig.model_validate(config.model_dump() | values)
    except ValidationError as error:
        raise InvalidInput(describe(error)) from error


def read_setting(model: type[BaseModel], field: str, key: str, given: Any) -> Any:
    """A string as `setting_values` reads it for that field, anything else as it is. Raises InvalidInput."""
    if not isinstance(given, str):
        return given
    try:
        return value_for(model, field, given)
    except Malformed as error:
        raise InvalidInput(f"{key}={given[:80]}: {error}; write a list like [0.5, 0.75]") from error


def recipe_from(tree: Mapping[str, Any]) -> Recipe:
    """Raises InvalidInput with every fault in one line."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise InvalidInput(describe(error)) from error


_FAULTS_SHOWN = 8
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


def describe(error: ValidationError) -> str:
    """Pydantic's findings in one line: key, what was given, the rule."""
    faults = []
    found = error.errors(include_url=False, include_context=False)
    for fault in found[:_FAULTS_SHOWN]:
        # The discriminator of a union is part of pydantic's path but of no key that a user writes.
        key = ".".join(str(part) for part in fault["loc"] if part not in {"densenet", "resnet", "torchvision", "timm"})
        message = fault["msg"].removeprefix("Value error, ")
        given = "" if isinstance(fault["input"], dict) else f"={_shortened(fault['input'])}"
        if fault["type"] == "string_type":
            message += "; in YAML, put it in quotes"
        faults.append(f"{key}{given}: {message}" if key else message)
    if len(found) > len(faults):
        faults.append(f"and {len(found) - len(faults):,} more")
    return "invalid setting: " + "; ".join(faults)


def _shortened(value: Any) -> str:
    shown = _SHORT.repr(value)
    return shown[1:-1] if isinstance(value, str) else shown


def dotted_keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every key that --set accepts."""
    keys: list[str] = []
    for key, value in tree.items():
        keys += dotted_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return keys


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping, as a YAML file gives it, as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
