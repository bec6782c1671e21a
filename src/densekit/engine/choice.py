"""Which plan a network is trained by, measured on the run's own first images."""

import copy
import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import platformdirs
import torch
import torch.nn.functional as F
from torch import Tensor

from densekit.engine import runs
from densekit.engine.optimizer import optimizer_for
from densekit.engine.setup import Prepared
from densekit.models import DenseNet
from densekit.models.cost import saved_bytes_of
from densekit.weights import atomic

# In this order the later must beat the earlier by the margin: what differs less may be noise.
_CANDIDATES = ("concat", "shared")
_MARGIN = 1.05
_STEPS = 3  # the first ones allocate and choose kernels


@dataclass(frozen=True)
class Choice:
    """A plan, and what was measured of those that were tried."""

    plan: str
    seconds: dict[str, float]
    """Of a training step, per image, by plan."""
    memory: int
    """Bytes that autograd keeps of a batch."""

    def reason(self) -> str:
        """For people."""
        own = self.seconds[self.plan]
        others = [
            f"{name} took {times / own:.1f} times as long" for name, times in self.seconds.items() if times != own
        ]
        return "; ".join(others)


def choose(prepared: Prepared, macs: int) -> tuple[Prepared, Choice]:
    """The recipe with its plan decided, if it leaves that open, and the network set to it; changes no other state.

    The fastest plan that fits the memory; `checkpoint` where the others do not. What was measured is kept in the user's
    cache, so that equal runs on a machine get equal plans, and so equal bits, whatever else it was doing.
    A network that is no DenseNet (`macs` an image) has but one way.
    """
    recipe, model = prepared.recipe, prepared.model
    key = _key(prepared)
    choice = _recall(key)
    if choice is None:
        choice = _measure(prepared, _first_images(prepared, macs))
        _remember(key, choice)
    if isinstance(model, DenseNet):
        model.use_plan(choice.plan)
        prepared = replace(prepared, recipe=recipe.model_copy(update={"plan": choice.plan}))
    return prepared, choice


def _measure(prepared: Prepared, images: Tensor) -> Choice:
    recipe, model = prepared.recipe, prepared.model
    if not isinstance(model, DenseNet):
        memory = recipe.batch_size * saved_bytes_of(recipe.model)
        return Choice(recipe.plan, {recipe.plan: _seconds_per_image(prepared, images)}, memory)
    plans: tuple[str, ...] = _CANDIDATES if recipe.plan == "auto" else (recipe.plan,)
    memory_of = {plan: recipe.batch_size * saved_bytes_of(recipe.model, plan) for plan in (*plans, "checkpoint")}
    if recipe.plan == "auto":
        plans = tuple(plan for plan in plans if _fits(memory_of[plan], prepared.device)) or ("checkpoint",)
    seconds: dict[str, float] = {}
    best = plans[0]
    for plan in plans:
        model.use_plan(plan)
        seconds[plan] = _seconds_per_image(prepared, images)
        if seconds[plan] * _MARGIN < seconds[best]:
            best = plan
    return Choice(best, seconds, memory_of[best])


def _key(prepared: Prepared) -> str:
    """Everything the answer may depend on."""
    recipe = prepared.recipe
    facts = recipe.model_dump_json(include={"model", "plan", "batch_size", "precision", "optimizer"})
    environment = runs.environment()
    machine = [environment[name] for name in ("densekit", "torch", "processor", "threads", "kernels", "cuda")]
    return hashlib.sha256(json.dumps([facts, str(prepared.device), machine]).encode()).hexdigest()[:16]


def _file() -> Path:
    return platformdirs.user_cache_path("densekit") / "plans.json"


def _recall(key: str) -> Choice | None:
    try:
        return Choice(**json.loads(_file().read_text())[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(key: str, choice: Choice) -> None:
    try:
        known = json.loads(_file().read_text()) if _file().exists() else {}
        _file().parent.mkdir(parents=True, exist_ok=True)
        atomic.write(_file(), json.dumps(known | {key: asdict(choice)}, indent=1))
    except (OSError, ValueError, TypeError):
        pass  # no cache: it will be measured again


def _first_images(prepared: Prepared, macs: int) -> Tensor:
    """As many as show the speed of a batch: all of them if small, where a step's overhead is most of it."""
    batch = next(iter(prepared.loader("train", prepared.recipe.augment).epoch(0)))
    return batch.images[: max(2, 4_000_000_000 // macs)].contiguous(memory_format=torch.channels_last)


def _fits(saved: int, device: torch.device) -> bool:
    """Whether a step that keeps `saved` bytes has room, with half as much again for what backward makes."""
    if device.type == "cuda":
        return saved * 1.5 < torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return True  # not Linux: the system swaps before it fails
    return saved * 1.5 < free


def _seconds_per_image(prepared: Prepared, images: Tensor) -> float:
    recipe, device = prepared.recipe, prepared.device
    with torch.random.fork_rng():
        model = copy.deepcopy(prepared.model).train()
        optimizer = optimizer_for(model, recipe.optimizer)
        targets = torch.zeros(len(images), dtype=torch.int64, device=device)
        times = []
        for _ in range(_STEPS):
            started = time.perf_counter()
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits = model(images)
            F.cross_entropy(logits.float(), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
    return min(times[1:]) / len(images)
