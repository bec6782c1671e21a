"""What `densekit train DATA` decides where the user did not: a pure function from facts to decisions with reasons."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from densekit.config import DenseNetConfig, ModelConfig, ResNetConfig
from densekit.data.prepare import resize_for
from densekit.errors import InvalidInput
from densekit.formatting import counted
from densekit.models import config_for
from densekit.models.cost import cost_of, saved_bytes_of
from densekit.training.facts import FROM_SCRATCH, SMALL, Facts, Given, Weights

_GENERAL = (None, "quick", "finetune")  # recipes that suit any data, and so any model

_LARGEST, _SMALLEST, _STEP = 224, 64, 16  # sizes of photographs, in pixels
_CIFAR_STEM_SIZE = 64  # of photographs: twice what CIFAR's nets know, at four times the cost; 96 would be nine times
_FULL_RESOLUTION = 96  # pixels of photographs, above which a net whose stem keeps them costs too much
_BUDGET = 3600.0  # seconds that a default run should take at most, if that is possible
_SMALL_NETS = ("densenet_bc_100_12", "densenet_bc_40_12", "densenet_bc_22_12")
_PHOTO_NETS = ("densenet121", "densenet_bc_40_12")
_NO_WEIGHTS = "there are none for such pictures and this network"
_USUAL = "; usual for AdamW with batches of any size"
_GROWTH, _ROLLBACKS, _SLOWER = 3.0, 4, 0.25


@dataclass(frozen=True)
class Decision:
    """One setting, and why it is so."""

    name: str
    """What it is called in the plan."""
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value}: {self.reason}"


@dataclass
class Decided:
    """All of them, and what they come to."""

    recipe: str = "quick"
    model: ModelConfig | None = None
    """None: the recipe's own."""
    settings: dict[str, Any] = field(default_factory=dict)
    reasons: list[Decision] = field(default_factory=list)

    def add(self, name: str, value: object, reason: str, **settings: Any) -> None:
        """A decision and the settings by which it is carried out; `_` stands for the dot in a key."""
        self.reasons.append(Decision(name, str(value), reason))
        self.settings |= {key.replace("__", "."): setting for key, setting in settings.items()}


def decide(facts: Facts, given: Given) -> Decided:
    """What the user did not set. Raises InvalidInput for --recipe finetune where no weights can be had."""
    done = Decided(given.recipe or "quick", given.model)
    start = _start(facts, given)
    _decide_start(done, facts, given, start)
    if start is not None and start.source.startswith("torchvision:"):
        reason = "those that these weights were trained with"
        done.add("pixels", "ImageNet's mean and deviation", reason, data__normalise="imagenet")
    epochs = _epochs(facts, start)
    _decide_network(done, facts, given, start, epochs)
    if given.recipe is None:
        _decide_training(done, facts, given, start, epochs)
    done.settings = {key: value for key, value in done.settings.items() if key not in given.keys}
    return done


def _start(facts: Facts, given: Given) -> Weights | None:
    """The weights to start from, whoever chose them."""
    if given.init not in (None, FROM_SCRATCH):
        return next((weights for weights in facts.weights if weights.source == given.init), None)
    if given.init == FROM_SCRATCH or given.recipe not in (None, "finetune"):
        return None
    wanted = [weights for weights in facts.weights if given.fits(weights.model)]
    if given.recipe == "finetune":
        return wanted[0] if wanted else None
    return wanted[0] if wanted and facts.few else None


def _decide_start(done: Decided, facts: Facts, given: Given, start: Weights | None) -> None:
    unfit = given.unfit(facts.weights) if given.init is None else ""
    if given.recipe == "finetune" and start is None and given.init in (None, FROM_SCRATCH):
        raise InvalidInput(
            "--recipe finetune needs weights to start from, and there are none"
            + (f" of {given.model.name}" if given.model else "")
            + (f" ({unfit or facts.excluded})" if unfit or facts.excluded else "")
            + "; name some with --init (a run or model folder, hf:OWNER/NAME, torchvision:NAME)"
            + (f", or {facts.missing}" if facts.missing else "")
        )
    if given.init is not None or given.recipe not in (None, "finetune"):
        return
    better = f"; for a better start, {facts.missing}" if facts.missing else ""
    if start is not None:
        reason = f"{start.what}; {_amount(facts)} are too few to learn as much from"
        done.add("weights", start.source, reason + (f"; {unfit}" if unfit else "") + better, init=start.source)
    elif not facts.few:
        done.add("weights", "none", f"{_amount(facts)} are enough to learn from scratch")
    else:
        none = "torchvision's weights could not be downloaded" if facts.missing else _NO_WEIGHTS
        done.add("weights", "none", (unfit or facts.excluded or none) + better)


def _decide_network(done: Decided, facts: Facts, given: Given, start: Weights | None, epochs: int) -> None:
    """The model and its size, which depend on each other by what they cost together."""
    if given.model is None and (given.recipe in _GENERAL or (given.recipe == "modern" and facts.small)):
        if start is not None:
            done.model = given.changed(start.model)
            done.add("model", start.model.name, "the network of these weights")
        else:
            done.model, reason = _model(facts, given, epochs)
            done.add("model", done.model.name, reason)
    if not facts.resizable or "data.image_size" in given.keys:
        return
    model = done.model or start.model if start is not None else done.model
    size, reason = _size(facts, model, epochs if given.recipe in (None, "finetune") else 0)
    done.add("size", f"{size} px", reason, data__image_size=(size, size))
    if given.recipe == "modern" and size < _LARGEST:
        done.settings["resize"] = ()  # its sizes in the course of training are those of larger photographs


def _model(facts: Facts, given: Given, epochs: int) -> tuple[ModelConfig, str]:
    """The largest network, of those that suit the size, that the machine trains within the budget; else the smallest.

    Of few photographs from scratch a large network would only learn the noise.
    """
    side = given.side or 0
    small = facts.small or (0 < side <= SMALL and not facts.few)
    if side > _FULL_RESOLUTION and not small:
        return given.changed(config_for(_PHOTO_NETS[0])), f"for photographs of {side} px, which its stem shrinks"
    if not small and facts.few:
        net = given.changed(config_for(_PHOTO_NETS[-1]))
        return net, f"a small net: {_amount(facts)} cannot teach a large one from scratch"
    names: tuple[str, ...] = _SMALL_NETS if small else _PHOTO_NETS
    if small and facts.images < 10_000:
        names = names[1:]
    config = given.changed(config_for(names[-1]))
    for name in names:
        config = given.changed(config_for(name))
        if facts.seconds(_macs(config, side or _usual_side(facts, config)), epochs) <= _BUDGET:
            break
    kind = f"pictures of {side or facts.size.median} px need no stem that shrinks them" if small else "for photographs"
    return config, f"{kind}; what {facts.machine} can train"


def _usual_side(facts: Facts, config: ModelConfig) -> int:
    """Pixels at which networks are compared by their costs, before a size is decided."""
    if facts.small:
        return _native(facts, config)
    return _SMALLEST if _cifar_like(config) else 128


def _size(facts: Facts, model: ModelConfig | None, epochs: int) -> tuple[int, str]:
    """Pixels square, never more than most pictures have. A recipe by name (0 `epochs`) is not made smaller for time."""
    if facts.small:
        return _native(facts, model), f"their own; half of the pictures have a shorter side up to {facts.size.median}"
    if model is not None and _cifar_like(model):
        return (
            _CIFAR_STEM_SIZE,
            f"the photos have {facts.size.median}, which cost too much in a net of full resolution",
        )
    sizes = [side for side in range(_LARGEST, _SMALLEST - 1, -_STEP) if resize_for((side, side)) <= facts.size.median]
    sizes = sizes or [_SMALLEST]
    # Below 128 pixels what ImageNet's weights know is worth little.
    usual = [side for side in sizes if side >= 128] or sizes[:1]
    net = model or config_for(_PHOTO_NETS[0])
    side = next((side for side in usual if facts.seconds(_macs(net, side), epochs) <= _BUDGET), usual[-1])
    if side == _LARGEST:
        return side, "the usual size of photographs"
    if side == usual[0]:
        return side, f"no more than the pictures have: half of them have a shorter side up to {facts.size.median}"
    return side, f"what {facts.machine} can train in about an hour"


def _native(facts: Facts, model: ModelConfig | None) -> int:
    """The pictures' own size, down to a multiple of 4, which pooling divides."""
    least = 8 if model is None or _cifar_like(model) else 32
    return max(least, facts.size.median // 4 * 4)


def _epochs(facts: Facts, start: Weights | None) -> int:
    if start is not None:
        return 10 if facts.images < 10_000 else 5
    return 30 if facts.images < 5_000 else 15 if facts.images < 20_000 else 10


def _decide_training(done: Decided, facts: Facts, given: Given, start: Weights | None, epochs: int) -> None:
    """Recipe, epochs, batch and learning rate, and what happens if the rate is too high after all."""
    tuned = start is not None or given.init not in (None, FROM_SCRATCH)
    done.recipe = "finetune" if tuned else "quick"
    how = "warm-up, then a cosine" if tuned else "one cycle of the learning rate"
    if "name" not in given.keys:
        done.add("recipe", done.recipe, f"{how}; the averaged weights are the result")
    if "epochs" not in given.keys:
        fast = "trained weights need few" if tuned else f"so often {_amount(facts)} are seen"
        done.add("epochs", epochs, fast, epochs=epochs)
    batch = given.batch_size or _batch(done, facts, given, tuned)
    if given.batch_size is None:
        done.add(
            "batch",
            batch,
            "images a step" if batch >= 32 else "what the memory holds",
            batch_size=batch,
        )
    if "optimizer.lr" not in given.keys:
        _decide_rate(done, given, batch, tuned)
        done.settings |= {"divergence.rollbacks": _ROLLBACKS, "divergence.factor": _SLOWER}
    done.settings["divergence.growth"] = _GROWTH
    if facts.small and not tuned:
        padding = max(1, (facts.size.median // 4 * 4) // 8)
        done.settings |= {"augment.crop": "pad", "augment.crop_padding": padding}


def _decide_rate(done: Decided, given: Given, batch: int, tuned: bool) -> None:
    """SGD's rate is in proportion to the batch (Goyal et al. 2017); AdamW divides by the size of gradients itself."""
    adaptive = given.optimizer not in (None, "sgd")
    if tuned:
        rate, body = 1e-4 if adaptive else 0.05 * batch / 32, 0.2
        reason = f"of the head, which may be new; {body:g} of it for all else, which is trained"
        reason += _USUAL if adaptive else ""
        done.add("rate", f"{rate:.3g}", reason, optimizer__lr=rate, optimizer__body_lr=body)
        return
    highest = 0.1 if done.model is None or _cifar_like(done.model) else 0.05
    rate = 1e-3 if adaptive else highest * batch / 64
    reason = "the highest of the cycle" + (_USUAL if adaptive else f", for batches of {batch}")
    done.add("rate", f"{rate:.3g}", reason, optimizer__lr=rate)


def _batch(done: Decided, facts: Facts, given: Given, tuned: bool) -> int:
    """32 of few images, so that there are enough steps, else 64; less where they take more than half of the memory."""
    batch = 32 if tuned or facts.images < 5_000 else 64
    model, decided = done.model, done.settings.get("data.image_size")
    if model is None:
        return batch
    unset = _LARGEST if facts.resizable else facts.size.median
    side = given.side or (decided[0] if decided else unset)
    plan = "shared" if isinstance(model, DenseNetConfig) else "concat"
    kept = 1.5 * _saved(model, side, plan)  # what autograd keeps, and what backward makes
    while batch > 4 and batch * kept > facts.memory / 2:
        batch //= 2
    return batch


def _cifar_like(model: ModelConfig) -> bool:
    """Whether a network's stem keeps the resolution of its input."""
    return isinstance(model, ResNetConfig) or (isinstance(model, DenseNetConfig) and model.stem == "cifar")


def _sized(model: ModelConfig, side: int) -> ModelConfig:
    return model.model_copy(update={"image_size": (side, side)})


@cache
def _saved(model: ModelConfig, side: int, plan: str) -> int:
    return saved_bytes_of(_sized(model, side), plan)


@cache
def _macs(model: ModelConfig, side: int) -> int:
    return cost_of(_sized(model, side)).macs


def _amount(facts: Facts) -> str:
    return counted(facts.images, "picture" if facts.small else "photo")
