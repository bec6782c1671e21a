"""The paper's recipes (Huang et al. 2017, sec. 4.2, and the authors' Torch code). Errors are the published ones, in %.

All: SGD with Nesterov momentum 0.9, no dampening, weight decay 1e-4 on every parameter, batch norm and biases included.
They report the last epoch, never the best on the test images. Choose with data.protocol=tune first; `final`, the
default here, trains on all training images.
"""

from densekit.config import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    DenseNetConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
)
from densekit.models.names import config_for

_SGD = OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
_STEPS = ScheduleConfig(name="steps", milestones=(0.5, 0.75), factor=0.1)
_CIFAR_PLUS = AugmentConfig(flip=True, crop="pad", crop_padding=4)
_DROPOUT = 0.2  # only where there is no augmentation (sec. 4.2)


def c10_plus(data: str = "cifar10", model: ModelConfig | None = None) -> Recipe:
    """C10+: `densekit train cifar10 --recipe c10+`.

    300 epochs, batch 64. Published: densenet_bc_100_12 4.51, densenet_40_12 5.24, densenet_bc_190_40 3.46.
    Flip, and crops from the normalised image padded with 4 zeros, the mean colour.
    """
    return _cifar("c10+", data, model, augmented=True)


def c10(data: str = "cifar10", model: ModelConfig | None = None) -> Recipe:
    """C10: `densekit train cifar10 --recipe c10`.

    As C10+ without augmentation, with dropout 0.2. Published: densenet_bc_100_12 5.92, densenet_bc_250_24 5.19.
    """
    return _cifar("c10", data, model, augmented=False)


def c100_plus(data: str = "cifar100", model: ModelConfig | None = None) -> Recipe:
    """C100+: `densekit train cifar100 --recipe c100+`. Published: densenet_bc_100_12 22.27, bc_190_40 17.18."""
    return _cifar("c100+", data, model, augmented=True)


def c100(data: str = "cifar100", model: ModelConfig | None = None) -> Recipe:
    """C100: `densekit train cifar100 --recipe c100`. Published: densenet_bc_100_12 24.15, densenet_bc_250_24 19.64."""
    return _cifar("c100", data, model, augmented=False)


def svhn(data: str = "svhn", model: ModelConfig | None = None) -> Recipe:
    """SVHN: `densekit train svhn --recipe svhn`.

    40 epochs on train + extra less 6,000 images, which choose the epoch to test; pixels divided by 255 and nothing
    more; dropout 0.2. Published: densenet_bc_100_12 1.76, densenet_100_24 1.59.
    """
    return Recipe(
        name="svhn",
        model=_with_dropout(model or config_for("densenet_bc_100_12")),
        data=DataConfig(source=data, protocol="tune", val_count=6000, normalise="unit"),
        optimizer=_SGD,
        schedule=_STEPS,
        epochs=40,
        batch_size=64,
        select="best",
    )


def imagenet(data: str = "imagenet", model: ModelConfig | None = None) -> Recipe:
    """ImageNet: `densekit train imagenet --model densenet121 --recipe imagenet`.

    90 epochs, batch 256, rate / 10 at 30 and 60. Published, single crop: densenet121 25.02, densenet264 22.15.
    """
    return Recipe(
        name="imagenet",
        model=model or config_for("densenet121"),
        data=DataConfig(source=data, protocol="final", workers=8),
        augment=AugmentConfig(flip=True, crop="resized", color_jitter=0.4, lighting=0.1),
        optimizer=_SGD,
        schedule=ScheduleConfig(name="steps", milestones=(1 / 3, 2 / 3), factor=0.1),
        epochs=90,
        batch_size=256,
    )


def _cifar(name: str, data: str, model: ModelConfig | None, *, augmented: bool) -> Recipe:
    model = model or config_for("densenet_bc_100_12")
    return Recipe(
        name=name,
        model=model if augmented else _with_dropout(model),
        data=DataConfig(source=data, protocol="final", val_count=5000),
        augment=_CIFAR_PLUS if augmented else AugmentConfig(),
        optimizer=_SGD,
        schedule=_STEPS,
        checkpoint=CheckpointConfig(every_seconds=600),
        epochs=300,
        batch_size=64,
    )


def _with_dropout(model: ModelConfig) -> ModelConfig:
    return model.model_copy(update={"dropout_rate": _DROPOUT}) if isinstance(model, DenseNetConfig) else model
