"""What has been learned about training since the paper, in one recipe for small images and one for photographs."""

from densekit.config import (
    AugmentConfig,
    DataConfig,
    EmaConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
)
from densekit.data.sources.registry import NOT_MIRROR_SAFE, is_in_memory
from densekit.models.names import config_for

# Batch norm and biases are left out of weight decay, as Goyal et al. 2017 and He et al. 2019 do.
# The last two are what torchvision's other networks call theirs.
_NO_DECAY = ("*norm*", "*.bias", "*bn*", "*downsample.1*")


def modern(data: str = "cifar10", model: ModelConfig | None = None) -> Recipe:
    """`densekit train cifar10 --recipe modern`, `densekit train imagenet --recipe modern`.

    A cosine with warm-up, averaged weights, TrivialAugment, mixup and CutMix, random erasing, label smoothing, and no
    weight decay where it is of no use. In bfloat16, dense blocks run the plain form. Cost: CIFAR 200 epochs of batch
    128; ImageNet 100 epochs of batch 512, the first half of them at lower resolution. The error it reaches on these has
    not been measured yet; each part's source is named in `config.AugmentConfig`.
    """
    photographs = not is_in_memory(data)
    return _photographs(data, model) if photographs else _small(data, model)


def _small(data: str, model: ModelConfig | None) -> Recipe:
    return Recipe(
        name="modern",
        model=model or config_for("densenet_bc_100_12"),
        data=DataConfig(source=data, protocol="tune" if data == "digits" else "final"),
        augment=AugmentConfig(
            flip=data not in NOT_MIRROR_SAFE,
            crop="pad",
            crop_padding=4 if data in ("cifar10", "cifar100", "svhn") else 2,
            policy="trivial",
            erase=0.1,
            # Gentle: nets of a million parameters have little to spare for regularisation.
            mixup=0.1,
            cutmix=0.5,
        ),
        optimizer=OptimizerConfig(lr=0.2, weight_decay=5e-4, no_decay=_NO_DECAY, clip_norm=5.0),
        schedule=ScheduleConfig(name="cosine", warmup=0.025),
        ema=EmaConfig(decay=0.99),
        epochs=200,
        batch_size=128,
        label_smoothing=0.1,
    )


def _photographs(data: str, model: ModelConfig | None) -> Recipe:
    return Recipe(
        name="modern",
        model=model or config_for("densenet121"),
        data=DataConfig(source=data, protocol="final" if data == "imagenet" else "tune", workers=8),
        augment=AugmentConfig(
            flip=True, crop="resized", crop_scale=(0.08, 1.0), policy="trivial", erase=0.1, mixup=0.2, cutmix=1.0
        ),
        optimizer=OptimizerConfig(lr=0.25, weight_decay=2e-5, no_decay=_NO_DECAY, clip_norm=5.0),
        schedule=ScheduleConfig(name="cosine", warmup=0.05),
        ema=EmaConfig(decay=0.999),
        epochs=100,
        batch_size=512,
        label_smoothing=0.1,
        resize=((0.0, 160), (0.25, 192), (0.5, 224)),
        precision="bfloat16",
    )
