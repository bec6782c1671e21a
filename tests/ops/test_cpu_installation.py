"""Installed without a compiler, with a broken one, with libraries that are stale or cut short: torch does the work."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from densekit.ops import backends, plans
from densekit.ops.backends.cpu import build as compiling
from densekit.ops.backends.cpu import library
from tests.ops.test_plans import images, network, with_plan

ROOT = Path(__file__).parents[2]
needs_kernels = pytest.mark.skipif(not library.available(), reason="no compiler was there at installation")


@pytest.fixture(autouse=True)
def looked_up_anew() -> Iterator[None]:
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def build_wheel(folder: Path, *, kernels_beside_the_source: bool, **environment: str) -> tuple[Path, str]:
    """Of a copy of this tree, and what its build said."""
    tree = folder / "tree"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.part")
    shutil.copytree(ROOT / "src", tree / "src", ignore=ignored)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree)
    if kernels_beside_the_source:  # of an editable installation, on a machine with a compiler
        (tree / "src/densekit/ops/backends/cpu/densekit_baseline.so").write_bytes(b"old")
    (folder / "bin").mkdir()
    clean = {k: v for k, v in os.environ.items() if k != "CXX"} | {"PATH": str(folder / "bin")} | environment
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(tree)], env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel, done.stdout + done.stderr


def assert_works_without_kernels(wheel: Path, folder: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", ".part"))]
        # Without py.typed type checkers do not look; without the others no report and no model card can be written, and
        # no kernel be called.
        needed = {"py.typed", "report/templates/page.html", "publishing/model_card.md", "ops/backends/cpu/kernels.h"}
        assert {f"densekit/{name}" for name in needed} <= {*archive.namelist()}
        archive.extractall(folder / "installed")
    code = f"""
import torch, densekit
from densekit.ops import inference, shared
from densekit.ops.backends.cpu import library
assert densekit.__file__.startswith({str(folder)!r}), densekit.__file__
assert not library.available() and library.build_name() == "none"
torch.manual_seed(0)
model = densekit.create_model("densenet_bc_10_4", plan="shared", num_classes=3)
x = torch.randn(2, 3, 8, 8)
calls = []
for module in (shared, inference):
    module.run = lambda *arguments, real=module.run: calls.append(1) or real(*arguments)
model(x).square().sum().backward()
with torch.inference_mode():
    actual = model.eval()(x)
    model.use_plan("concat")
    torch.testing.assert_close(actual, model(x))
assert len(calls) == 6
"""
    environment = os.environ | {"PYTHONPATH": str(folder / "installed"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_a_machine_without_a_compiler_gets_pure_python_that_works(tmp_path):
    wheel, _ = build_wheel(tmp_path, kernels_beside_the_source=True)
    assert_works_without_kernels(wheel, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is compiled there")
def test_a_compiler_that_fails_is_named_in_one_line(tmp_path):
    broken = tmp_path / "broken-g++"
    broken.write_text(
        "#!/bin/sh\necho 'x.cpp:1: fatal error: cstddef: No such file' >&2\necho 'terminated.' >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    wheel, said = build_wheel(tmp_path, kernels_beside_the_source=False, CXX=str(broken))
    (line,) = [line.strip() for line in said.splitlines() if "broken-g++" in line]
    assert line.startswith(f"densekit: {broken} refused kernels")
    assert line.endswith("torch's operators do their work, more slowly: x.cpp:1: fatal error: cstddef: No such file")
    with zipfile.ZipFile(wheel) as archive:
        assert wheel.name.endswith("-py3-none-any.whl")
        assert not [name for name in archive.namelist() if name.endswith((".so", ".part"))]


def works() -> None:
    """The shared plan equals the plain one, by whatever means there are."""
    model, x = network(dtype=torch.float32).eval(), images(dtype=torch.float32)
    with torch.inference_mode():
        expected, actual = (with_plan(model, plan)(x) for plan in ("concat", "shared"))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@needs_kernels
def test_libraries_older_than_their_sources_are_not_called(tmp_path, monkeypatch):
    for name in compiling.FILES:
        shutil.copy(library.FOLDER / name, tmp_path)
    with (tmp_path / "simd.hpp").open("a") as file:
        file.write("// edited\n")
    monkeypatch.setattr(compiling, "SOURCE", tmp_path / "kernels.cpp")
    with pytest.warns(UserWarning, match="older than its sources; python -m densekit.ops.backends.cpu.build"):
        assert not library.available()
    works()


@needs_kernels
def test_libraries_that_cannot_be_loaded_are_passed_over(tmp_path, monkeypatch):
    """Cut short by a full disk, or made for another machine; the next best is taken."""
    best, *others = library.available_builds()
    for name in (best, *others):
        shutil.copy(library.FOLDER / f"densekit_{name}.so", tmp_path)
    path = tmp_path / f"densekit_{best}.so"
    path.write_bytes(path.read_bytes()[:100])
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    with pytest.warns(UserWarning, match=f"densekit_{best}.so cannot be loaded: "):
        assert library.build_name() == (others[0] if others else "none")
    works()


@needs_kernels
@pytest.mark.parametrize("wanted", ["none", *library.available_builds()])
def test_the_environment_chooses(wanted, monkeypatch):
    monkeypatch.setenv("DENSEKIT_KERNELS", wanted)
    assert library.build_name() == wanted
    assert library.available() == (wanted != "none")
    kernels = plans.kernels_for("auto", backends.call_of(images(dtype=torch.float32)))
    assert (kernels and kernels.name) == (None if wanted == "none" else "cpu")
    works()


@needs_kernels
def test_weights_that_are_part_of_another_tensor():
    """A 1x1 kernel cut from a wider one has rows with gaps."""
    model = network(dtype=torch.float32)
    layer = model.features.denseblock1.denselayer1
    wide = torch.randn(len(layer.conv1.weight), layer.conv1.in_channels + 5, 1, 1)
    layer.conv1.weight = torch.nn.Parameter(wide[:, 5:])
    results = []
    for plan in ("concat", "shared"):
        twin, x = with_plan(model, plan), images(dtype=torch.float32).requires_grad_()
        twin.features.denseblock1.denselayer1.conv1.weight = torch.nn.Parameter(wide[:, 5:])  # a copy has no gaps
        twin.eval()(x).sum().backward()
        with torch.inference_mode():
            results.append([twin(x), x.grad, twin.features.denseblock1.denselayer1.conv1.weight.grad])
    for actual, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
