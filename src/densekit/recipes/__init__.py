"""Recipes by name: functions that return a validated Recipe."""

from collections.abc import Callable

from densekit.config import ModelConfig, Recipe
from densekit.errors import UnknownName
from densekit.recipes.modern import modern
from densekit.recipes.paper import c10, c10_plus, c100, c100_plus, imagenet, svhn
from densekit.recipes.quick import finetune, quick

RECIPES: dict[str, Callable[[str, ModelConfig | None], Recipe]] = {
    "quick": quick,
    "finetune": finetune,
    "modern": modern,
    "c10": c10,
    "c10+": c10_plus,
    "c100": c100,
    "c100+": c100_plus,
    "svhn": svhn,
    "imagenet": imagenet,
}

# `paper` is the paper's recipe for the data at hand, augmented as most of its results are.
_PAPER = {"cifar10": c10_plus, "cifar100": c100_plus, "svhn": svhn, "imagenet": imagenet}


def recipe_for(name: str, data: str, model: ModelConfig | None = None) -> Recipe:
    """The recipe `name` for DATA and a network (none: the recipe's own), with stratified splits. Raises UnknownName."""
    if name != "paper" and name not in RECIPES:
        raise UnknownName("recipe", name, [*RECIPES, "paper"])
    # Data that the paper does not know are trained as its CIFAR-10 with augmentation.
    recipe = (_PAPER.get(data, c10_plus) if name == "paper" else RECIPES[name])(data, model)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"stratify": True})})


__all__ = ["RECIPES", "recipe_for"]
