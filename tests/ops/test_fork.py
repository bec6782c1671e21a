"""A process forked after a prediction predicts, too: gunicorn --preload, Celery, multiprocessing's default on Linux."""

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from densekit import create_model
from densekit.ops import fork

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # Python 3.12 warns of every such fork
]
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def status_of_child(work: Callable[[], bool], forked: Callable[[], int] = os.fork) -> int:
    """0: it gave true; 1: false or an exception; -9: it was still at it after 60 s."""
    pid = forked()
    if not pid:
        status = 1
        try:
            status = int(not work())
        finally:
            os._exit(status)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def predicted(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model.eval()(IMAGES)


def gradient(model: nn.Module) -> Tensor:
    model.zero_grad()
    model.train()(IMAGES).square().sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("plan", ["auto", "concat"])
@pytest.mark.parametrize("compute", [predicted, gradient])
def test_a_child_computes_on_as_many_threads_and_to_the_same_bits(plan, compute):
    """Also its own child, and its parent afterwards."""
    model = create_model("densenet_bc_16_8", plan=plan)
    expected = compute(model)

    def same() -> bool:
        return torch.get_num_threads() == 2 and torch.equal(compute(model), expected)

    assert status_of_child(lambda: same() and status_of_child(same) == 0) == 0
    assert same()


def test_operators_of_torch_alone_do_not_hang_either():
    conv = nn.Conv2d(3, 24, 3)
    expected = predicted(conv)
    assert status_of_child(lambda: torch.equal(predicted(conv), expected)) == 0


def test_a_thread_may_fork_while_another_predicts():
    """Each thread of Python has OpenMP threads of its own."""
    model = create_model("densenet_bc_16_8")
    expected = predicted(model)
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(lambda: [predicted(model) for _ in range(20)])
        child = pool.submit(status_of_child, lambda: torch.equal(predicted(model), expected))
        assert child.result() == 0
        assert all(torch.equal(each, expected) for each in busy.result())


def test_a_pool_of_forked_processes_predicts():
    model = create_model("densenet_bc_16_8")
    expected = predicted(model)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        jobs = [pool.apply_async(predicted, (model,)) for _ in range(4)]
        assert all(torch.equal(job.get(timeout=60), expected) for job in jobs)


def test_a_fork_past_pythons_hooks_leaves_one_thread_and_says_so():
    """As servers written in C fork: they call Python in the child only."""
    if fork._LIBGOMP is None:
        pytest.skip("torch's OpenMP runtime looks after forks itself")
    model = create_model("densenet_bc_16_8")
    expected = predicted(model)

    def said_so() -> bool:
        with pytest.warns(UserWarning, match="computes on one thread"):
            ctypes.pythonapi.PyOS_AfterFork_Child()
        alone = predicted(model)
        torch.testing.assert_close(alone, expected)
        return torch.get_num_threads() == 1 and status_of_child(lambda: torch.equal(predicted(model), alone)) == 0

    assert status_of_child(said_so, ctypes.pythonapi.fork) == 0
