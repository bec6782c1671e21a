"""Whatever is sent, the server answers or hangs up; it never fails, and its answers stay right."""

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serve.hostile import attack, carry_out
from tests.serve.servers import MODEL, QUICK, Served, picture, resident, served

ALLOWED = {200, 307, 400, 404, 405, 413, 415, 422, 429, 503, None}
TOGETHER = 16
PNG = {"content-type": "image/png"}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def answers(server: Served, count: int = 8) -> list[str]:
    """To good images, as JSON."""
    with server.client as client:
        found = [client.post("/v1/predict", content=picture(seed), headers=PNG) for seed in range(count)]
    assert [response.status_code for response in found] == [200] * count
    return [json.dumps(response.json()["top"]) for response in found]


def beset(server: Served, numbers: range) -> Counter[tuple[str, int | None]]:
    """Many at once."""

    def one(number: int) -> tuple[str, int | None]:
        made = attack(number)
        return made.name, carry_out(made, server.port)

    with ThreadPoolExecutor(TOGETHER) as pool:
        return Counter(pool.map(one, numbers))


def check(server: Served, seen: Counter[tuple[str, int | None]], starts: int, before: list[str]) -> None:
    unexpected = {what: count for what, count in seen.items() if what[1] not in ALLOWED}
    assert not unexpected
    assert answers(server) == before
    assert server.count("worker_start") == starts  # nothing has ended the worker
    assert not server.other
    assert not [line for line in list(server.lines) if "trace" in line or line.get("status") == 500]
    assert seen["good", 200] == sum(count for (name, _), count in seen.items() if name == "good")
    assert seen["bomb", 413]
    assert seen["damaged image", 422] + seen["damaged image", 415]


@pytest.mark.slow
def test_some_hundred_hostile_requests(server: Served) -> None:
    before, starts = answers(server), server.count("worker_start")
    check(server, beset(server, range(216)), starts, before)


@linux
@pytest.mark.slow
@pytest.mark.marathon
@pytest.mark.timeout(7200)
def test_ten_thousand_hostile_requests_leave_no_trace() -> None:
    with served(MODEL, *QUICK) as server:
        before = answers(server)
        beset(server, range(2000))
        early = {pid: resident(pid) for pid in (server.process.pid, server.worker)}
        check(server, beset(server, range(2000, 12_000)), 1, before)
        for pid, size in early.items():
            assert resident(pid) < 1.1 * size + 30e6, early
        assert server.stop() == 0


@linux
@pytest.mark.slow
@pytest.mark.marathon
@pytest.mark.timeout(7200)
def test_memory_is_flat_over_many_requests() -> None:
    """As many as come in an hour at a few a second."""
    with served(MODEL, *QUICK) as server, server.client as client:
        pids = (server.process.pid, server.worker)
        sizes = []
        for number in range(20_000):
            response = client.post("/v1/predict", content=picture(number % 50), headers=PNG)
            assert response.status_code == 200
            if number % 1000 == 999:
                sizes.append([resident(pid) for pid in pids])
        for process in zip(*sizes, strict=True):
            early, late = max(process[2:6]), max(process[-4:])
            assert late < 1.02 * early + 4e6, sizes
        assert server.stop() == 0
