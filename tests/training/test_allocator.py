"""Memory that a step frees waits for the next one. In processes of their own, as malloc is the whole process's."""

import ctypes
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="tunes glibc's malloc")

_PROGRAM = """
import json, resource, torch
from densekit.training import allocator, trainer  # all that training imports: the heap is as large

def step():  # 64 MB in one piece, which glibc maps and returns each time
    torch.ones(16 << 20)

def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
found = {"before": faults()}
with allocator.retain_freed_memory():
    found |= {"kept": faults(), "held": resident()}
found |= {"released": resident(), "after": faults()}
try:
    with allocator.retain_freed_memory():
        raise KeyError
except KeyError:
    found["failed"] = faults()
print(json.dumps(found))
"""


def _measured(**environment: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_freed_memory_waits_for_the_next_step_and_is_given_back_at_the_end() -> None:
    found = _measured()
    least = 20 * (64 << 20) // (2 << 20)  # were all pages huge
    assert min(found["before"], found["after"], found["failed"]) >= least
    # What else lies in the heap may be in the way once.
    assert found["kept"] < found["before"] / 5
    assert found["released"] < found["held"] - (60 << 20)


@pytest.mark.parametrize(
    "environment", [{"MALLOC_MMAP_THRESHOLD_": "1000000"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000"}]
)
@pytest.mark.slow
def test_who_tunes_malloc_is_left_alone(environment: dict[str, str]) -> None:
    found = _measured(**environment)
    assert found["kept"] > found["before"] / 2
