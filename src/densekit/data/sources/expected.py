"""What the model that is evaluated tells of the data."""

from dataclasses import dataclass

from densekit.config import DataConfig


@dataclass(frozen=True)
class Expected:
    """Data for an evaluation: neither training images nor two classes are needed."""

    classes: tuple[str, ...] | None = None
    """The model's, by which columns of a table are found; none: the settings are those of training."""
    multi_label: bool = False
    trained: DataConfig | None = None
    """How the training data were read; its columns and words are taken where a table has them."""

    @property
    def is_own(self) -> bool:
        """Whether these are the data that the model was trained on, which are read as for training."""
        return self.classes is None
