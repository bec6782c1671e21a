"""Every setting of a run, as frozen models validated once, here. Code below this module trusts what it is given."""

from densekit.config.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AugmentConfig,
    Columns,
    DataConfig,
    Preprocessing,
    Separator,
)
from densekit.config.fields import Fraction, Frozen, ImageSize, Size, Window
from densekit.config.model import Architecture, DenseNetConfig, DropoutSite, ExternalConfig, ModelConfig, ResNetConfig
from densekit.config.recipe import Recipe, ThresholdRule, TrackerName
from densekit.config.settings import (
    describe,
    dotted_keys,
    flatten,
    read_setting,
    recipe_from,
    with_data_settings,
    with_settings,
)
from densekit.config.training import (
    CheckpointConfig,
    DivergenceConfig,
    EarlyStoppingConfig,
    EmaConfig,
    OptimizerConfig,
    ScheduleConfig,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Architecture",
    "AugmentConfig",
    "CheckpointConfig",
    "Columns",
    "DataConfig",
    "DenseNetConfig",
    "DivergenceConfig",
    "DropoutSite",
    "EarlyStoppingConfig",
    "EmaConfig",
    "ExternalConfig",
    "Fraction",
    "Frozen",
    "ImageSize",
    "ModelConfig",
    "OptimizerConfig",
    "Preprocessing",
    "Recipe",
    "ResNetConfig",
    "ScheduleConfig",
    "Separator",
    "Size",
    "ThresholdRule",
    "TrackerName",
    "Window",
    "describe",
    "dotted_keys",
    "flatten",
    "read_setting",
    "recipe_from",
    "with_data_settings",
    "with_settings",
]
