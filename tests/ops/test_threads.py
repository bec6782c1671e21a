"""The kernels among threads, processes and forks: equal calls give equal bits, and nothing waits for ever."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from densekit.ops.backends.cpu import library
from densekit.ops.backends.cpu.backend import CpuKernels
from tests.ops.test_plans import images, network, with_plan

pytestmark = pytest.mark.skipif(not library.available(), reason="no compiler was there at installation")

ROOT = Path(__file__).parents[2]
# A shape each that gives images to threads, and one that gives them strips of one image.
WORK = [("densenet_bc_22_12", (4, 3, 16, 12)), ("densenet_b_16_5", (1, 3, 33, 20)), ("densenet_22_7", (3, 3, 9, 14))]


@pytest.fixture(autouse=True)
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads for the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def step(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Gradients and statistics of a copy in training and evaluation, and what it infers; draws no random numbers."""
    model = with_plan(model, "shared")
    found = {}
    for training in (True, False):
        x = images(*shape, dtype=torch.float32).requires_grad_()
        model.zero_grad(set_to_none=True)
        model.train(training)(x).square().sum().backward()
        found |= {f"grad {training} {name}": p.grad for name, p in model.named_parameters()}
        found[f"input {training}"] = x.grad
    with torch.inference_mode():
        return found | {"inference": model(images(*shape, dtype=torch.float32))} | dict(model.named_buffers())


def models() -> list[nn.Module]:
    return [network(name, torch.float32) for name, _ in WORK]


def differing(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    assert actual.keys() == expected.keys()
    return [key for key, value in expected.items() if not torch.equal(actual[key], value)]


@pytest.mark.parametrize("count", [1, 2])
def test_several_threads_disturb_nobody(threads, count):
    """The interpreter's lock is not held by a kernel, so that theirs do run at once."""
    threads(count)
    work = [(model, shape) for model, (_, shape) in zip(models(), WORK, strict=True)]
    alone = [step(*each) for each in work]
    with ThreadPoolExecutor(6) as pool:
        jobs = [(i, pool.submit(step, *work[i])) for _ in range(4) for i in range(3)]
        for i, job in jobs:
            assert not differing(job.result(timeout=120), alone[i])


def test_threads_share_one_model_in_inference(threads):
    """Whoever comes first folds its weights."""
    threads(2)
    model = with_plan(network(dtype=torch.float32), "shared").eval()
    inputs = [torch.randn(n, 3, 12, 16) for n in (1, 2, 3, 4, 5, 6)]

    def infer(model: nn.Module, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(x)

    expected = [infer(with_plan(model, "shared"), x) for x in inputs]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            assert all(map(torch.equal, pool.map(infer, [model] * 6, inputs), expected))


@pytest.mark.parametrize(("name", "shape"), WORK)
def test_equal_runs_give_equal_bits_and_thread_counts_agree(threads, name, shape):
    model, truth = network(name, torch.float32), None
    for count in (1, 2, 3):
        threads(count)
        first = step(model, shape)
        assert not differing(step(model, shape), first)
        truth = truth or first
        for key, value in truth.items():
            if value.is_floating_point():
                # Sums are split between threads; a ReLU at which two of them round apart would show more.
                assert (first[key] - value).norm() <= 1e-4 * value.norm() + 1e-5, (count, key)


def test_kernels_follow_torch_in_the_number_of_threads(threads, monkeypatch):
    asked = []

    class Library:
        def densekit_statistics(self, *arguments: object) -> int:
            asked.append(arguments[-1])
            return 0

    monkeypatch.setattr(library, "load", lambda: library.Library("avx2", Library()))
    kernels = CpuKernels()
    for count in (1, 3, 2):
        threads(count)
        kernels.statistics(torch.zeros(4, 4))
        # A thread of Python that torch has not seen yet, as a server has them.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(kernels.statistics, torch.zeros(4, 4)).result()
    assert asked == [1, 1, 3, 3, 2, 2]


def digest() -> str:
    """Of all bits of `step`."""
    total = hashlib.sha256()
    for model, (_, shape) in zip(models(), WORK, strict=True):
        for value in step(model, shape).values():
            total.update(value.contiguous().numpy().tobytes())
    return total.hexdigest()


def start(code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)


def output(process: subprocess.Popen[str]) -> str:
    try:
        printed, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children, too
        process.communicate()
        raise
    assert process.returncode == 0, errors[-3000:]
    return printed.strip()


def test_several_processes_at_once(threads):
    threads(2)
    code = "from tests.ops.test_threads import digest; print(digest())"
    assert {output(process) for process in [start(code), start(code)]} == {digest()}


FORK = """
import multiprocessing, os, torch
from tests.ops.test_threads import WORK, block, differing, models, step

def recomputes(expected):
    torch.set_num_threads(1)  # as DataLoader's workers do
    assert not differing(step(*work), expected)

torch.set_num_threads(1)
work = models()[0], WORK[0][1]
model = step(*work)
torch.set_num_threads(2)
both = block()
step(*work)
child = os.fork()
if not child:
    grandchild = os.fork()
    same = not differing(block(), both)
    os._exit(not same if not grandchild else os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) or not same)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
worker = multiprocessing.get_context("fork").Process(target=recomputes, args=(model,))
worker.start()
worker.join(60)
assert worker.exitcode == 0, worker.exitcode
assert not differing(block(), both)
print("done")
"""


def block() -> dict[str, Tensor]:
    """A dense block alone, forward and backward, and in inference."""
    model = with_plan(network(dtype=torch.float32), "shared").features.denseblock1
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 24, 13, 12, generator=generator).requires_grad_()
    y = model(x)
    y.backward(torch.randn(y.shape, generator=generator))
    found = {"y": y.detach(), "dx": x.grad, **{name: p.grad for name, p in model.named_parameters()}}
    with torch.inference_mode():
        return found | {"inference": model.eval()(x)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_computes_the_same_and_ends():
    """It starts OpenMP threads of its own, as many as its parent has."""
    assert output(start(FORK)) == "done"


# sklearn brings an OpenMP runtime under a name of its own, which is no business of ours.
ONE_RUNTIME = """
import ctypes, os, sys
from pathlib import Path
{first}
import torch
from tests.ops.test_threads import block
from densekit.ops.backends.cpu import library

class Info(ctypes.Structure):
    _fields_ = [(n, t) for n, t in zip("path base name at".split(), (ctypes.c_char_p, ctypes.c_void_p) * 2)]

def home(handle):
    # The file that its OpenMP calls end in.
    info = Info()
    address = ctypes.cast(handle.omp_get_num_threads, ctypes.c_void_p)
    assert ctypes.CDLL(None).dladdr(address, ctypes.byref(info))
    return os.path.realpath(info.path.decode())

torch.set_num_threads(2)
block()
kernels, theirs = library.load().handle, ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"))
mapped = {{os.path.realpath(line.split()[-1]) for line in Path("/proc/self/maps").open()
          if Path(line.split()[-1]).name.startswith(("libgomp", "libomp", "libiomp"))}}
others = {{path for path in mapped if "scikit_learn" in path}}
assert home(kernels) == home(theirs), (home(kernels), home(theirs))
assert mapped - others == {{home(theirs)}}, mapped
print(len(others))
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
@pytest.mark.parametrize("first", ["", "import sklearn.cluster"])
def test_torch_and_the_kernels_share_one_openmp_runtime(first):
    assert output(start(ONE_RUNTIME.format(first=first))) in ("0", "1")
