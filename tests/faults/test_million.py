"""A million samples in shards: memory stays what it is, a stop in the middle is gone on from, no sample is lost."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults.command import ENVIRONMENT

SAMPLES, SHARDS, BATCH = 1_000_000, 20, 500
_BLOCK = 512


def write_million(folder: Path, samples: int = SAMPLES, shards: int = SHARDS) -> None:
    """KEY.png, a constant, and KEY.cls, its last digit, made by pasting: tarfile would take minutes."""
    stream = io.BytesIO()
    Image.new("L", (2, 2), 77).save(stream, "PNG")
    sizes = (len(stream.getvalue()), 1)
    template = np.zeros(4 * _BLOCK, np.uint8)
    for number, (suffix, size) in enumerate(zip((".png", ".cls"), sizes, strict=True)):
        header = bytearray(_BLOCK)
        header[:13] = b"000000000" + suffix.encode()
        header[100:108], header[108:116], header[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
        header[124:136], header[136:148] = b"%011o\0" % size, b"%011o\0" % 0
        header[156:157], header[257:265] = b"0", b"ustar\x0000"
        template[number * 2 * _BLOCK :][:_BLOCK] = np.frombuffer(header, np.uint8)
    template[_BLOCK:][: sizes[0]] = np.frombuffer(stream.getvalue(), np.uint8)
    each = samples // shards
    for shard in range(shards):
        numbers = np.arange(shard * each, (shard + 1) * each)
        digits = (numbers[:, None] // 10 ** np.arange(8, -1, -1) % 10 + ord("0")).astype(np.uint8)
        rows = np.tile(template, (each, 1))
        rows[:, 3 * _BLOCK] = digits[:, -1]
        for first in (0, 2 * _BLOCK):
            headers = rows[:, first : first + _BLOCK]
            headers[:, :9] = digits
            headers[:, 148:156] = ord(" ")  # a checksum counts its own field so
            sums = headers.sum(1, dtype=np.int64)
            headers[:, 148:154] = (sums[:, None] // 8 ** np.arange(5, -1, -1) % 8 + ord("0")).astype(np.uint8)
            headers[:, 154] = 0
        path = folder / f"train-{shard:03}.tar"
        path.write_bytes(rows.tobytes() + bytes(2 * _BLOCK))
        os.utime(path, (1e9, 1e9))  # old enough for its index to be kept


# One rank's share of an epoch, with two workers: what it saw, and memory in MB by time.
READER = """
import json, sys
from pathlib import Path
import numpy as np
from densekit.config import AugmentConfig, DataConfig, Preprocessing
from densekit.data import Loader, load

folder, rank, skip, stop, batch, out = sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6]
def resident(pid):
    '''Of the leader all, of its workers what they do not share with it.'''
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kb["Rss" if pid == "self" else "Private_Dirty"] / 1024
children = lambda: Path("/proc/self/task").joinpath(str(__import__("os").getpid()), "children").read_text().split()
images = load(DataConfig(source=f"wds:{folder}"), Path()).splits["train"]
images.fingerprint()
size = Preprocessing(channels=1, size=(2, 2), resize=2, mean=(0.5,), std=(0.5,))
loader = Loader(images, size, batch, AugmentConfig(), rank=rank, size=2, workers=2)
seen = np.zeros(len(images), np.uint8)
memory = []
for number, each in enumerate(loader.epoch(3, skip=skip)):
    if skip + number == stop:
        break
    samples = each.samples.numpy()
    seen[samples] += 1
    assert not each.failures
    assert (each.targets.numpy() == samples % 10).all()
    if number % 50 == 49:
        memory.append([resident("self"), *map(resident, children())])
np.save(out + ".npy", seen)
Path(out + ".json").write_text(json.dumps(memory))
"""


@pytest.mark.slow
@pytest.mark.marathon
@pytest.mark.timeout(3600)
def test_a_million_samples_stream_in_flat_memory_each_once(tmp_path: Path) -> None:
    """Two ranks, each stopped in the middle of the epoch and started anew there."""
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("needs Linux's account of memory")
    folder = tmp_path / "shards"
    folder.mkdir()
    write_million(folder)
    middle = SAMPLES // BATCH // 2
    seen = np.zeros(SAMPLES, np.int64)
    for skip, stop in ((0, middle), (middle, -1)):
        outs = [tmp_path / f"{rank}-{skip}" for rank in range(2)]
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", READER, *map(str, (folder, rank, skip, stop, BATCH, outs[rank]))],
                env=os.environ | ENVIRONMENT,
            )
            for rank in range(2)
        ]
        assert [reader.wait() for reader in readers] == [0, 0]
        for out in outs:
            seen += np.load(f"{out}.npy")
            memory = np.array(json.loads(out.with_suffix(".json").read_text()))
            print(f"MB, leader and workers: first {memory[0].round()}, last {memory[-1].round()}, most {memory.max(0)}")
            assert (memory.max(0) - memory[0] < 30).all()  # what grows by each of its samples would be 100 MB or more
            assert memory.max() < 1500
    assert (seen == 1).all()
