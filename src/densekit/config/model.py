"""Settings of a network."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from densekit.config.fields import Fraction, Frozen, ImageSize

DropoutSite = Literal["conv1x1", "conv3x3", "transition"]


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
