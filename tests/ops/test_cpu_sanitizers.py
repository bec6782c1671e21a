"""The kernels under gcc's address and undefined-behaviour sanitizers: no access outside of what the contract allows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from densekit.ops.backends.cpu.bindings import HEADER
from densekit.ops.backends.cpu.build import compile_all, compiler
from densekit.ops.backends.cpu.library import available_builds

HERE = Path(__file__).parent / "sanitize"
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1")
# Unoptimised: compiled in seconds, and nothing that reads is optimised away.
FLAGS = ("-O0", *SANITIZE)


def runtimes() -> list[str]:
    """Libraries to load before all others; what the compiler does not have it names without a folder."""
    tool = compiler()
    if tool is None or "g++" not in Path(tool).name:
        return []
    asked = [[tool, f"-print-file-name={name}"] for name in ("libasan.so", "libubsan.so")]
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for command in asked]
    return found if all(Path(path).is_absolute() for path in found) else []


pytestmark = [
    pytest.mark.slow,  # about a minute
    pytest.mark.skipif(not runtimes(), reason="needs g++ with its sanitizers"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels with sanitizers in them, and the driver to call them, not yet linked."""
    folder = tmp_path_factory.mktemp("sanitized")
    assert compile_all(folder, FLAGS)
    include = f"-I{HEADER.parent}"
    command = [
        str(compiler()),
        "-std=c++17",
        *FLAGS,
        include,
        "-c",
        str(HERE / "driver.cpp"),
        "-o",
        str(folder / "driver.o"),
    ]
    subprocess.run(command, check=True)
    return folder


def run(command: list[str], **environment: str) -> str:
    """What it prints; Python and torch keep memory until they end, which is no leak of ours."""
    settings = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=os.environ | settings | environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[:3000]
    return done.stdout


@pytest.mark.parametrize("build", available_builds())
def test_every_kernel_stays_within_its_contract(folder, build):
    """With fewer units than threads, too, and no leaks, as the driver keeps nothing."""
    program = folder / f"driver_{build}"
    library = folder / f"densekit_{build}.so"
    subprocess.run([str(compiler()), *FLAGS, str(folder / "driver.o"), str(library), "-o", str(program)], check=True)
    for threads in ("1", "3"):
        assert run([str(program), threads], ASAN_OPTIONS="detect_leaks=1").endswith(" calls\n")


def test_blocks_keep_the_contract(folder):
    """What Python hands to the kernels: slices of matrices, gradients, copies. The widest vectors reach farthest."""
    build = available_builds()[0]
    command = [sys.executable, "-W", "error", str(HERE / "blocks.py"), str(folder)]
    assert run(command, LD_PRELOAD=" ".join(runtimes()), DENSEKIT_KERNELS=build).startswith(build)
