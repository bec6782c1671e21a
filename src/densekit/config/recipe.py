"""A recipe: everything that decides a run's result."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, NonNegativeInt, PositiveInt, model_validator

from densekit.config.data import AugmentConfig, DataConfig
from densekit.config.fields import Fraction, Frozen
from densekit.config.model import ModelConfig
from densekit.config.training import (
    CheckpointConfig,
    DivergenceConfig,
    EarlyStoppingConfig,
    EmaConfig,
    OptimizerConfig,
    ScheduleConfig,
)

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


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
