"""Ten thousand damaged images and a thousand of all else that is read: an answer or an error, each in its time."""

import os
import pickle
import resource
import signal
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest

from tests.fuzz.mutations import mutants
from tests.fuzz.readers import READERS, Reader

COUNTS = {"image": 10_000}
SLICE = 500
SECONDS = 10
"""That one input may take, on a machine that is busy with other things."""
MEGABYTES = 400
"""That reading may add to a process: sound inputs are of some kilobytes."""

pytestmark = pytest.mark.slow


class TooSlow(Exception):
    """One input took longer than it may."""


def too_slow(_: int, __: FrameType | None) -> None:
    raise TooSlow


def try_all(reader: Reader, inputs: list[bytes], current: Path) -> tuple[Counter[str], list[str]]:
    """How it ended, by the name of the error; and what must not be, each with its input's place in `inputs`."""
    ends: Counter[str] = Counter()
    faults = []
    signal.signal(signal.SIGALRM, too_slow)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, content in enumerate(inputs):
        current.write_bytes(content)  # for whoever finds the process dead
        signal.alarm(SECONDS)
        try:
            reader.read(content)
            ends["read"] += 1
        except reader.errors as error:
            ends[type(error).__name__] += 1
            if "\n" in str(error) or not (str(error) or isinstance(error, MemoryError)):
                faults.append(f"input {number}: not one line: {str(error)!r}")
        except BaseException:
            faults.append(f"input {number}: {traceback.format_exc()}")
        finally:
            signal.alarm(0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > MEGABYTES:
        faults.append(f"reading took {grown:.0f} MB")
    return ends, faults


def in_a_child(reader: Reader, inputs: list[bytes], folder: Path) -> tuple[Counter[str], list[str]]:
    """`try_all` in a forked process: a crash of a decoder is a finding, not the end of the tests."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            (folder / "answer").write_bytes(pickle.dumps(try_all(reader, inputs, folder / "current")))
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    if status:
        return Counter(), [f"the process ended with status {status} at {(folder / 'current').read_bytes()[:200]!r}"]
    ends, faults = pickle.loads((folder / "answer").read_bytes())
    return ends, faults


@pytest.mark.parametrize("name", READERS)
def test_sound_inputs_are_read(name: str) -> None:
    reader, seeds = READERS[name], list(READERS[name].seeds())
    ends: Counter[str] = Counter()
    for content in seeds:
        reader.read(content)
        ends["read"] += 1
    assert ends["read"] == len(seeds) > 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", READERS)
def test_damaged_inputs_are_read_or_refused(name: str, tmp_path: Path) -> None:
    reader, count = READERS[name], COUNTS.get(name, 1000)
    seeds = list(reader.seeds())
    started, total, found = time.monotonic(), Counter[str](), []
    inputs = list(mutants(seeds, count))
    for first in range(0, count, SLICE):
        ends, faults = in_a_child(reader, inputs[first : first + SLICE], tmp_path)
        total += ends
        found += [f"slice {first}: {fault}" for fault in faults]
    print(f"{name}: {dict(total)} in {time.monotonic() - started:.0f} s")
    assert not found, f"{len(found)} faults; the first:\n{found[0]}"
    assert sum(total.values()) == count
    # Weights have a checksum, so that none of them is read.
    assert name == "weights" or len(total) > 1, "every input ended alike: the damage does not reach the reader"
