"""Recipes for small budgets."""

from densekit.config import AugmentConfig, DataConfig, EmaConfig, ModelConfig, OptimizerConfig, Recipe, ScheduleConfig
from densekit.data.sources.registry import NOT_MIRROR_SAFE, is_in_memory
from densekit.models.names import config_for

_EPOCHS = {"digits": 20}


def quick(data: str = "fashion-mnist", model: ModelConfig | None = None) -> Recipe:
    """The default: `densekit train fashion-mnist`.

    One cycle of SGD in few epochs (Smith and Topin 2018), label smoothing 0.1, crops and, where a mirror keeps the
    class, flips. The averaged weights (EMA) are the result. Folders of photographs get random resized crops.
    """
    photographs = not is_in_memory(data)
    return Recipe(
        name="quick",
        model=model or config_for("densenet121" if photographs else "densenet_bc_22_12"),
        data=DataConfig(source=data),
        augment=AugmentConfig(
            flip=data not in NOT_MIRROR_SAFE,
            crop="resized" if photographs else "pad",
            crop_padding=1 if data == "digits" else 4 if data in ("cifar10", "cifar100", "svhn") else 2,
            crop_scale=(0.35, 1.0),
        ),
        optimizer=OptimizerConfig(name="sgd", lr=0.2, momentum=0.9, weight_decay=5e-4),
        schedule=ScheduleConfig(name="one_cycle"),
        # Over more steps, at these rates, averaged batch norm statistics no longer fit the averaged weights.
        ema=EmaConfig(decay=0.99),
        epochs=_EPOCHS.get(data, 10),
        batch_size=64,
        label_smoothing=0.1,
    )


def finetune(data: str, model: ModelConfig | None = None) -> Recipe:
    """From trained weights to your own classes: `densekit train DIR --recipe finetune --init torchvision:densenet121`.

    A low rate with a short warm-up and a cosine fall, gentle crops. The head is new where the classes differ, and
    learns five times as fast as the rest.
    """
    recipe = quick(data, model)
    return recipe.model_copy(
        update={
            "name": "finetune",
            "optimizer": OptimizerConfig(name="sgd", lr=0.05, body_lr=0.2, momentum=0.9, weight_decay=1e-4),
            "schedule": ScheduleConfig(name="cosine", warmup=0.1),
            "ema": EmaConfig(decay=0.99),
            "epochs": 10,
            "batch_size": 32,
        }
    )
