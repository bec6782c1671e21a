"""Which plan a network is trained by, measured on the run's own first images."""

import copy
import hashlib
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from densekit import strict_json
from densekit.engine import allocation, runs
from densekit.engine.optimizer import optimizer_for
from densekit.engine.precision import autocast
from densekit.engine.setup import Prepared
from densekit.errors import BadData
from densekit.folders import cache_folder
from densekit.models import DenseNet
from densekit.models.cost import saved_bytes_of
from densekit.ops.native.compile import fingerprint
from densekit.weights import atomic

# In this order the later must beat the earlier by the margin: what differs less may be noise.
_CANDIDATES = ("concat", "shared")
_LAST_RESORT = "checkpoint"
_MARGIN = 1.05
_MEASURED = "memory kept between steps"  # how; other times in a user's cache are not comparable
_STEPS = 3  # the first ones allocate and choose kernels
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


def choose(prepared: Prepared, macs: int) -> tuple[Prepared, Choice]:
    """The recipe with its plan decided, if it leaves that open, and the network set to it; changes no other state.

    The fastest plan that fits the memory there is now; `checkpoint` where the others do not. What was measured is kept
    in the user's cache, so that equal runs on a machine get equal plans, and so equal bits, however busy it was.
    A network that is no DenseNet (`macs` an image) has but one way.
    """
    recipe, model = prepared.recipe, prepared.model
    choice = prepared.world.from_leader(lambda: _decided(prepared, macs))
    if isinstance(model, DenseNet):
        model.use_plan(choice.plan)
        prepared = replace(prepared, recipe=recipe.model_copy(update={"plan": choice.plan}))
    return prepared, choice


def speed(prepared: Prepared, macs: int) -> float:
    """Seconds of a training step, per image, by the network's own plan, now: `choose` may know those of a busier hour.

    Changes no state.
    """
    return _seconds_per_image(prepared, _first_images(prepared, macs), prepared.recipe.plan)


def _decided(prepared: Prepared, macs: int) -> Choice:
    key = _key(prepared)
    plans, memory = _plans(prepared)
    known = _recall(key)
    if missing := [plan for plan in plans if plan not in known]:
        images = _first_images(prepared, macs)
        known |= {plan: _seconds_per_image(prepared, images, plan) for plan in missing}
        _remember(key, known)
    best = plans[0]
    for plan in plans:
        if known[plan] * _MARGIN < known[best]:
            best = plan
    return Choice(best, {plan: known[plan] for plan in plans}, _images_at_once(prepared) * memory[best])


def _plans(prepared: Prepared) -> tuple[tuple[str, ...], dict[str, int]]:
    """Those to choose from, and the bytes that each keeps of an image."""
    recipe = prepared.recipe
    if not isinstance(prepared.model, DenseNet):
        return (recipe.plan,), {recipe.plan: saved_bytes_of(recipe.model)}
    plans: tuple[str, ...] = (recipe.plan,)
    if recipe.plan == "auto":
        # Under autocast `shared` is `concat`, and keeps as much; of other devices only the queueing would be timed.
        timed = recipe.precision == "float32" and prepared.device.type in ("cpu", "cuda")
        plans = _CANDIDATES if timed else _CANDIDATES[:1]
    memory = {plan: saved_bytes_of(recipe.model, plan) for plan in (*plans, _LAST_RESORT)}
    if recipe.plan == "auto":
        room = _room(prepared.device)
        plans = tuple(plan for plan in plans if _fits(_images_at_once(prepared) * memory[plan], room)) or (
            _LAST_RESORT,
        )
    return plans, memory


def _images_at_once(prepared: Prepared) -> int:
    """Images of a step that one process computes together."""
    recipe = prepared.recipe
    batch = min(recipe.batch_size, len(prepared.data.splits["train"]))
    return math.ceil(batch / (prepared.world.size * recipe.accumulate))


def _key(prepared: Prepared) -> str:
    """Everything that the speed of a plan may depend on."""
    recipe = prepared.recipe
    facts = recipe.model_dump_json(include={"model", "batch_size", "precision", "optimizer"})
    environment = runs.environment()
    machine = [environment[name] for name in ("densekit", "torch", "processor", "threads", "kernels", "cuda")]
    everything = [facts, str(prepared.device), machine, fingerprint(), _MEASURED]
    return hashlib.sha256(strict_json.dumps(everything).encode()).hexdigest()[:16]


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


def _first_images(prepared: Prepared, macs: int) -> Tensor:
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


def _room(device: torch.device) -> float:
    """Bytes that are free: of the device, or of the machine and of the share of it that a container may use."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return min(_free(), *(_left(*names) for names in _CONTROL_FILES))


def _free() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable"))
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


@allocation.kept()
def _seconds_per_image(prepared: Prepared, images: Tensor, plan: str) -> float:
    recipe, device = prepared.recipe, prepared.device
    with torch.random.fork_rng():
        model = copy.deepcopy(prepared.model).train()
        if isinstance(model, DenseNet):
            model.use_plan(plan)
        optimizer = optimizer_for(model, recipe.optimizer)
        targets = torch.zeros(len(images), dtype=torch.int64, device=device)
        times = []
        for _ in range(_STEPS):
            started = time.perf_counter()
            optimizer.zero_grad()
            with autocast(device, recipe.precision):
                logits = model(images)
            F.cross_entropy(logits.float(), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
    return min(times[1:]) / len(images)
