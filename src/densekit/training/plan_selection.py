"""Which plan a network is trained by, measured on the run's own first images."""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from densekit import atomic, strict_json
from densekit.errors import BadData
from densekit.folders import cache_folder
from densekit.models import DenseNet
from densekit.models.cost import saved_bytes_of
from densekit.ops import backends
from densekit.ops.backends.base import Call, KernelBackend
from densekit.ops.backends.cpu.build import fingerprint
from densekit.precision import autocast
from densekit.runs import run_folder
from densekit.training import allocator
from densekit.training.optimizer import optimizer_for
from densekit.training.setup import Phase, TrainContext

# In this order the later must beat the earlier by the margin: what differs less may be noise.
_CANDIDATES = ("concat", "shared")
_LAST_RESORT = "checkpoint"
_MARGIN = 1.05
_MEASURED = "in turns"  # how; other times in a user's cache are not comparable
# Rounds in which each plan makes a step; the first allocates and chooses kernels, and is not counted. Short ones are
# repeated until they have taken this many seconds together, as one burst of load may cover several.
_ROUNDS, _MOST_ROUNDS, _ENOUGH = 4, 12, 3.0
_CONTROL = Path("/sys/fs/cgroup")
# Limit, use, statistics, and what in these counts caches that the kernel gives back; of versions 2 and 1.
_CONTROL_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


@dataclass(frozen=True)
class Choice:
    """A plan, and what was measured of those that were tried."""

    plan: str
    seconds: dict[str, float]
    """Of a training step, per image, by plan."""
    memory: int
    """Bytes that autograd keeps at once, in each process."""

    def reason(self) -> str:
        """For people."""
        own = self.seconds[self.plan]
        others = [
            f"{name} took {times / own:.1f} times as long" for name, times in self.seconds.items() if name != self.plan
        ]
        return "; ".join(others)


def choose(prepared: TrainContext, macs: int, phase: Phase = nullcontext) -> tuple[TrainContext, Choice]:
    """The recipe with its plan decided, if it leaves that open, and the network set to it; changes no other state.

    The fastest plan that fits the memory there is now; `checkpoint` where the others do not. What was measured is kept
    in the user's cache, so that equal runs on a machine get equal plans, and so equal bits, however busy it was.
    A network that is no DenseNet (`macs` an image) has but one way. `phase` shows that it takes a while.
    """
    recipe, model = prepared.recipe, prepared.model
    choice = prepared.world.run_on_main(lambda: _decided(prepared, macs, phase))
    if isinstance(model, DenseNet):
        model.use_plan(choice.plan)
        prepared = replace(prepared, recipe=recipe.model_copy(update={"plan": choice.plan}))
    return prepared, choice


def least_memory(prepared: TrainContext) -> int:
    """Bytes that autograd keeps at once, in each process, by the plan that keeps least of those to choose from."""
    plan: str = prepared.recipe.plan
    if isinstance(prepared.model, DenseNet) and plan == "auto":
        plan = "shared" if "shared" in _candidates(prepared) else _LAST_RESORT  # shared keeps less than checkpoint
    return _images_at_once(prepared) * saved_bytes_of(prepared.recipe.model, plan)


def speed(prepared: TrainContext, macs: int) -> float:
    """Seconds of a training step, per image, by the network's own plan, now: `choose` may know those of a busier hour.

    Changes no state.
    """
    plan = prepared.recipe.plan
    return _seconds_per_image(prepared, _first_images(prepared, macs), (plan,))[plan]


def _decided(prepared: TrainContext, macs: int, phase: Phase) -> Choice:
    key = _key(prepared)
    plans, memory = _plans(prepared)
    known = _recall(key)
    if any(plan not in known for plan in plans):
        # All of them anew: what was measured in a busier hour is not comparable.
        with phase(f"measuring a training step ({', '.join(plans)})"):
            known |= _seconds_per_image(prepared, _first_images(prepared, macs), plans)
        _remember(key, known)
    best = plans[0]
    for plan in plans:
        if known[plan] * _MARGIN < known[best]:
            best = plan
    return Choice(best, {plan: known[plan] for plan in plans}, _images_at_once(prepared) * memory[best])


def _plans(prepared: TrainContext) -> tuple[tuple[str, ...], dict[str, int]]:
    """Those to choose from, and the bytes that each keeps of an image."""
    recipe = prepared.recipe
    if not isinstance(prepared.model, DenseNet):
        return (recipe.plan,), {recipe.plan: saved_bytes_of(recipe.model)}
    plans = _candidates(prepared)
    memory = {plan: saved_bytes_of(recipe.model, plan) for plan in (*plans, _LAST_RESORT)}
    if recipe.plan == "auto":
        free = room(prepared.device)
        plans = tuple(plan for plan in plans if _fits(_images_at_once(prepared) * memory[plan], free)) or (
            _LAST_RESORT,
        )
    return plans, memory


def _candidates(prepared: TrainContext) -> tuple[str, ...]:
    """What a DenseNet's recipe allows."""
    recipe = prepared.recipe
    if recipe.plan != "auto":
        return (recipe.plan,)
    # Under autocast `shared` is `concat`, and keeps as much; of other devices only the queueing would be timed.
    timed = recipe.precision == "float32" and prepared.device.type in ("cpu", "cuda")
    return _CANDIDATES if timed and _backend(prepared) is not None else _CANDIDATES[:1]


def _images_at_once(prepared: TrainContext) -> int:
    """Images of a step that one process computes together."""
    recipe = prepared.recipe
    batch = min(recipe.batch_size, len(prepared.data.splits["train"]))
    return math.ceil(batch / (prepared.world.size * recipe.accumulate))


def _key(prepared: TrainContext) -> str:
    """Everything that the speed of a plan may depend on."""
    recipe = prepared.recipe
    facts = recipe.model_dump_json(include={"model", "batch_size", "precision", "optimizer", "kernels"})
    environment = run_folder.environment()
    machine = [environment[name] for name in ("densekit", "torch", "processor", "threads", "kernels", "cuda")]
    backend = _backend(prepared)
    kernels = None if backend is None else backend.name
    everything = [facts, str(prepared.device), machine, kernels, fingerprint(), _MEASURED]
    return hashlib.sha256(strict_json.dumps(everything).encode()).hexdigest()[:16]


def _backend(prepared: TrainContext) -> KernelBackend | None:
    """What would compute the blocks of plan `shared`; none: their modules."""
    call = Call(prepared.device, torch.float32, None, (_images_at_once(prepared), *([1] * 3)))
    return backends.resolve(call, prepared.recipe.kernels)


def _file(key: str) -> Path:
    """One for each key: of two runs that write at once, neither loses what the other measured."""
    return cache_folder() / "plans" / f"{key}.json"


def _recall(key: str) -> dict[str, float]:
    """Seconds by plan."""
    try:
        return {str(plan): float(seconds) for plan, seconds in json.loads(_file(key).read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _remember(key: str, seconds: dict[str, float]) -> None:
    try:
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        atomic.write(_file(key), strict_json.dumps(seconds, indent=1))
    except OSError:
        pass  # no cache: it will be measured again


def _first_images(prepared: TrainContext, macs: int) -> Tensor:
    """As many as show the speed of a batch: all of them if small, where a step's overhead is most of it."""
    with prepared.loader("train", prepared.recipe.augment).reading() as batches:
        images = next((batch.images for batch in batches if len(batch.images)), None)
    if images is None:
        raise BadData("none of the training images can be read; mend them, or name another folder")
    if len(images) == 1:  # of which batch norm may have a single value
        images = images.repeat(2, 1, 1, 1)
    return images[: max(2, 4_000_000_000 // macs)].contiguous(memory_format=torch.channels_last)


def _fits(saved: int, room: float) -> bool:
    """Whether a step that keeps `saved` bytes has room, with half as much again for what backward makes."""
    return saved * 1.5 < room


def room(device: torch.device) -> float:
    """Bytes that are free: of the device, or of the machine and of the share of it that a container may use."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return min(_free(), *(_left(*names) for names in _CONTROL_FILES))


def total_memory(device: torch.device) -> float:
    """Bytes that the device has, or the machine and the share of it that a container may use, whoever uses them now."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return min(_meminfo("MemTotal"), *(_limit(names[0]) for names in _CONTROL_FILES))


def _free() -> float:
    return _meminfo("MemAvailable")


def _limit(name: str) -> float:
    try:
        return float(int((_CONTROL / name).read_text()))
    except (OSError, ValueError):
        return math.inf


def _meminfo(entry: str) -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith(f"{entry}:"))
    except (OSError, StopIteration):
        return math.inf  # not Linux: the system swaps before it fails


def _left(limit: str, used: str, statistics: str, cached: str) -> float:
    """Of a control group's memory; infinite where there is no such file, or no limit in it ("max")."""
    try:
        lines = (line.split() for line in (_CONTROL / statistics).read_text().splitlines())
        given_back = next((int(value) for name, value in lines if name == cached), 0)
        return float(int((_CONTROL / limit).read_text()) - int((_CONTROL / used).read_text()) + given_back)
    except (OSError, ValueError):
        return math.inf


@allocator.retain_freed_memory()
def _seconds_per_image(prepared: TrainContext, images: Tensor, plans: Sequence[str]) -> dict[str, float]:
    """Of a training step, by plan."""
    with torch.random.fork_rng():
        steps = {plan: _step_of(prepared, images, plan) for plan in plans}
        return {plan: seconds / len(images) for plan, seconds in shortest(steps).items()}


def shortest(steps: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """The least seconds that each of `steps` says it took, in rounds of one call of each.

    Load on the machine only adds time. In turns it meets all of them alike, and the least of several rounds is the
    one that it met least.
    """
    rounds: list[dict[str, float]] = []
    while len(rounds) < _ROUNDS or (
        len(rounds) < _MOST_ROUNDS and sum(sum(each.values()) for each in rounds) < _ENOUGH
    ):
        rounds.append({name: step() for name, step in steps.items()})
    return {name: min(each[name] for each in rounds[1:]) for name in steps}


def _step_of(prepared: TrainContext, images: Tensor, plan: str) -> Callable[[], float]:
    """What makes a training step of a copy of the network, and says how many seconds it took."""
    recipe, device = prepared.recipe, prepared.device
    model = copy.deepcopy(prepared.model).train()
    if isinstance(model, DenseNet):
        model.use_plan(plan)
    optimizer = optimizer_for(model, recipe.optimizer)
    targets = torch.zeros(len(images), dtype=torch.int64, device=device)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        with autocast(device, recipe.precision):
            logits = model(images)
        F.cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    return step
