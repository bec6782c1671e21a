"""What is shown before training starts."""

from dataclasses import dataclass

from densekit.config import Recipe
from densekit.formatting import amount, counted, duration
from densekit.models.cost import Cost
from densekit.training.plan_selection import Choice
from densekit.training.setup import TrainContext


@dataclass(frozen=True)
class RunEstimate:
    """What a run will do and cost; memory and time are predictions."""

    images: dict[str, int]
    classes: int
    input: tuple[int, int, int]
    parameters: int
    macs: int
    start: str | None
    """What the weights start from."""
    new: tuple[str, ...]
    """Tensors that do not."""
    adapted: tuple[str, ...]
    """Tensors that do, changed, and how."""
    steps: int
    plan: str
    """How dense blocks are executed."""
    plan_reason: str
    memory_bytes: int
    seconds: float
    columns: str = ""
    """Of a table, which are used."""
    remarks: tuple[str, ...] = ()
    """What a person should know about how the data were read, such as images that are not used."""
    decided: tuple[tuple[str, str], ...] = ()
    """What the user left open: its name, and its value with the reason."""

    def rows(self) -> dict[str, str]:
        """A name and a value for each line that people are shown before training."""
        channels, height, width = self.input
        classes = counted(self.classes, "class", "classes")
        rows = dict(self.decided)
        rows["images"] = ", ".join(f"{count:,} {name}" for name, count in self.images.items())
        if self.remarks:
            rows["note"] = "; ".join(self.remarks)
        if self.columns:
            rows["columns"] = self.columns
        rows |= {
            "input": f"{height} x {width}, {counted(channels, 'channel')}; {classes}",
            "network": f"{self.parameters:,} parameters, {amount(self.macs)} MACs an image",
        }
        if self.start is not None:
            rows["start"] = self.start if self.new else f"{self.start}, head included"
        if self.new:
            rows["new head"] = ", ".join(self.new)
        if self.adapted:
            rows["adapted"] = "; ".join(self.adapted)
        if self.plan_reason:
            rows["plan"] = f"{self.plan}; {self.plan_reason} (measured)"
        rows |= {
            "time": f"about {duration(max(1, self.seconds))} for {counted(self.steps, 'step')} (predicted)",
            "memory": f"about {amount(self.memory_bytes)}B for weights and activations (predicted)",
        }
        return rows


def memory_bytes(recipe: Recipe, cost: Cost, activations: int) -> int:
    """Of weights, and of what autograd keeps at once."""
    copies = 3 + (recipe.ema.decay > 0)  # weights, gradients, momentum, average
    return copies * 4 * cost.parameters + activations


def estimate_run(prepared: TrainContext, choice: Choice, cost: Cost) -> RunEstimate:
    """From counts and from what `choice` measured."""
    recipe, model = prepared.recipe, prepared.model
    steps = recipe.epochs * len(prepared.loader("train", recipe.augment))
    counts = {name: len(images) for name, images in prepared.data.splits.items()}
    # A forward pass alone is about a third of a step.
    evaluated = recipe.epochs * counts.get("val", 0) + counts.get("test", 0)
    height, width = model.config.image_size
    sides = [recipe.side(epoch) for epoch in range(recipe.epochs)]
    whole = sum(1 if side is None else side**2 / (height * width) for side in sides)  # epochs' worth of pixels
    return RunEstimate(
        images=counts,
        classes=len(prepared.data.classes),
        input=(model.config.in_channels, *model.config.image_size),
        parameters=cost.parameters,
        macs=cost.macs,
        start=recipe.init,
        new=prepared.new,
        adapted=prepared.adapted,
        steps=steps,
        plan=choice.plan,
        plan_reason=choice.reason(),
        memory_bytes=memory_bytes(recipe, cost, choice.memory),
        seconds=choice.seconds[choice.plan] * (whole * counts["train"] + evaluated / 3),
        columns=prepared.data.columns,
        remarks=tuple(prepared.data.remarks()),
    )
