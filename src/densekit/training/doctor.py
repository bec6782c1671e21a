"""`densekit doctor`: what this installation is, and whether its parts do what they should."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from densekit.folders import data_folder
from densekit.models import create_model
from densekit.ops.backends.cpu.library import load as library
from densekit.optional_packages import missing_of
from densekit.runs import run_folder

_EXTRAS = (
    *("timm", "h5py", "pydicom", "datasets", "captum", "onnx", "onnxruntime", "openvino"),
    *("tensorboard", "wandb", "mlflow"),
)
_TOLERANCE = 1e-4  # relative, of a gradient in float32 that has passed through a whole network


def examine(data_dir: str | Path | None = None) -> dict[str, Any]:
    """Facts by name, and under `checks` what was tried: {"name", "passed", "found"}."""
    folder = data_folder(data_dir)
    environment = run_folder.environment()
    facts = {key: environment[key] for key in environment if key not in ("command", "started")}
    return facts | {
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "data_folder": str(folder),
        "data": sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [],
        "free_bytes": shutil.disk_usage(_existing(folder)).free,
        "extras": {name: not missing_of([name]) for name in _EXTRAS},
        "checks": [_checked(name, check) for name, check in _CHECKS.items()],
    }


def _checked(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"name": name, "passed": True, "found": check()}
    except Exception as error:  # whatever is broken here is what is being looked for
        return {"name": name, "passed": False, "found": f"{type(error).__name__}: {error}"}


def _kernels() -> str:
    """Native kernels give the gradients of the plain form."""
    if library() is None:
        return "not compiled, torch's operators do their work; with g++ or clang, install densekit again"
    gradients = []
    with torch.random.fork_rng(devices=[]):
        for plan in ("concat", "shared"):
            torch.manual_seed(0)
            model = create_model("densenet_bc_22_12", num_classes=10, image_size=32, plan=plan)
            model(torch.randn(4, 3, 32, 32)).square().sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    difference = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    if difference > _TOLERANCE:
        raise ArithmeticError(f"gradients differ from torch's by {difference:.1e}")
    return f"gradients within {difference:.0e} of torch's"


def _threads() -> str:
    """Kernels follow torch's number of threads, so they share its OpenMP runtime; two would fight for the cores."""
    count, found = torch.get_num_threads(), library()
    if found is None:
        return f"{count}, torch's own"
    try:
        maximum = found[1].omp_get_max_threads  # of the runtime that the kernels are linked to
    except AttributeError:
        return f"{count}, but kernels run on one: their compiler had no OpenMP"
    try:
        torch.set_num_threads(count + 1)
        followed = maximum() == count + 1
    finally:
        torch.set_num_threads(count)
    if not followed:
        raise RuntimeError(f"kernels do not follow torch's number of threads, {count}")
    return f"{count}, for torch and kernels alike"


_CHECKS: dict[str, Callable[[], str]] = {"kernels": _kernels, "threads": _threads}


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())
