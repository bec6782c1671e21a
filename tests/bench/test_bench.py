"""`densekit bench`: fair turns, honest absences, one form of evidence. Measured values are nobody's business here."""

import importlib.util
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from densekit import optional_packages
from densekit.bench import suite, worker
from densekit.bench.backends import BenchBackend, NotApplicable, bench_backends
from densekit.bench.chart import read_reports, write_chart
from densekit.bench.job import Job
from densekit.bench.memory import saved_bytes
from densekit.bench.rounds import TRIAL, play
from densekit.bench.runners import Training
from densekit.bench.suite import BenchSettings, benchmark
from densekit.bench.summary import summarise
from densekit.bench.time_to_accuracy import AccuracySettings, milestones, time_to_accuracy
from densekit.bench.workload import network, read_data, write_data
from densekit.errors import BadData, DensekitError
from densekit.models import build
from tests.conftest import Command

MODEL = "densenet_bc_10_4"
PACKAGES = {"onnx", "onnxscript", "onnxruntime", "openvino"}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers in this process, which saves starting Python and torch for each."""
    threads = torch.get_num_threads()

    def run(job: Job) -> dict[str, Any]:
        answer = job.write(Path(job.folder, "job.json"))
        answer.write_text(json.dumps(worker.measure(Job.read(Path(job.folder, "job.json")))))
        torch.set_num_threads(threads)
        return json.loads(answer.read_text())

    monkeypatch.setattr(suite, "_in_a_process", run)
    monkeypatch.setattr(os, "getppid", os.getpid)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no extra were installed."""
    monkeypatch.setattr(optional_packages, "find_spec", lambda _: None)


def rows_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["runs"][0]["contenders"]}


@pytest.mark.usefixtures("here", "without")
def test_training_is_compared_and_written(densekit: Command, tmp_path: Path) -> None:
    status, out, _ = densekit(
        "bench", "train", "--model", MODEL, "--batch", 4, "--threads", 1, "--repeats", 2, "--json", "--out", "evidence"
    )
    assert status == 0
    (report,) = json.loads(out)
    assert report == json.loads((tmp_path / "evidence" / f"train-{MODEL}.json").read_text())
    assert {"what", "model", "image", "parameters", "macs", "environment", "versions", "kernels", "runs"} == set(report)
    assert report["environment"]["command"].startswith("densekit bench train")
    rows = rows_of(report)
    assert list(rows)[:3] == ["densekit concat", "densekit checkpoint", "densekit shared"]
    for name in ("densekit shared", "torchvision", "torchvision memory_efficient"):
        row = rows[name]
        assert row["status"] == "measured"
        assert row["quartiles"][0] <= row["value"] <= row["quartiles"][1]
        assert {variant["layout"] for variant in row["variants"]} == {"channels_last", "contiguous"}
        assert all(len(variant["times"]) == 2 for variant in row["variants"])
        # Two products backward for one forward, of one image's MACs.
        assert row["flops_per_second"] == pytest.approx(6 * report["macs"] * 4 / row["value"])
        assert max(row["difference"].values()) < 1e-4
    assert rows["timm"]["status"] == "not installed"


@pytest.mark.usefixtures("here", "without")
def test_what_is_missing_stays_in_the_table(densekit: Command) -> None:
    status, out, _ = densekit("bench", "infer", "--model", MODEL, "--batch", 1, "--repeats", 1, "--threads", 1)
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    for name in (
        "densekit onnxruntime",
        "densekit openvino",
        "torchvision onnxruntime",
        "torchvision openvino",
        "timm",
    ):
        (line,) = [line for line in lines if line[: len(name.split())] == name.split()]
        assert "not installed" in " ".join(line)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_graphs_agree_with_the_network(tmp_path: Path) -> None:
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    settings = BenchSettings(("infer",), (MODEL,), batch=2, threads=(1,), rounds=1, out=tmp_path)
    (report,) = benchmark(settings, lambda _: None)
    assert {row["status"] for row in rows_of(report).values()} == {"measured"}
    assert all(row["difference"]["logits"] < 1e-5 for row in rows_of(report).values())


def test_each_measurement_is_a_process_with_its_threads(tmp_path: Path) -> None:
    config = network(MODEL)
    write_data(tmp_path, "memory", config, 8)
    job = Job("memory", MODEL, 1, 1, (), False, str(tmp_path), os.getpid(), ("densekit shared", "channels_last"))
    (row,) = suite._in_a_process(job)["variants"]
    assert row["status"] == "measured"
    assert 0 < row["saved_bytes"] <= 2 * row["peak_bytes"]  # the peak is a matter of pages


@pytest.mark.usefixtures("here", "without")
def test_memory_is_a_table(densekit: Command, tmp_path: Path) -> None:
    status, out, _ = densekit("bench", "memory", "--model", MODEL, "--batch", 4, "--plans", "shared", "--out", "out")
    assert status == 0
    rows = rows_of(json.loads((tmp_path / "out" / f"memory-{MODEL}.json").read_text()))
    assert [name for name in rows if name.startswith("densekit")] == ["densekit shared"]
    assert rows["densekit shared"]["saved_bytes"] < rows["torchvision"]["saved_bytes"]
    assert "densekit shared" in out


def test_saved_bytes_count_a_storage_once_and_no_parameters(tmp_path: Path) -> None:
    """Convolution, ReLU in place, convolution: autograd keeps the images and the ReLU's output, each once."""
    config = network(MODEL)
    write_data(tmp_path, "memory", config, 2)
    data = read_data(tmp_path)
    net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(inplace=True), nn.Conv2d(5, 10, 32), nn.Flatten())
    images = 2 * 3 * 32 * 32 * 4
    rectified = 2 * 5 * 32 * 32 * 4
    loss = 2 * 10 * 4 + 2 * 8 + 4  # log probabilities, labels, total weight
    assert saved_bytes(Training(net, data, "contiguous")) == images + rectified + loss


def test_a_wrong_contender_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = network(MODEL)
    write_data(tmp_path, "infer", config, 2)

    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build(config)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) * 1.01

        def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
            return self.net.load_state_dict(state, strict, assign)

    monkeypatch.setattr(worker, "bench_backends", lambda *_, **__: [BenchBackend("liar", "timm", lambda _: Wrong())])
    answer = worker.measure(Job("infer", MODEL, 1, 1, (), compiled=False, folder=str(tmp_path)))
    assert [variant["status"] for variant in answer["variants"]] == ["wrong"] * 2
    assert answer["variants"][0]["reason"] == "logits differ from float64 by 1.0e-02"
    assert not any("times" in variant for variant in answer["variants"])


def test_turns_alternate_and_the_slower_layout_drops_out() -> None:
    turns: list[str] = []

    def run(name: str) -> None:
        turns.append(name)
        time.sleep(0.15 if name == "slow" else 0.1)

    runs = {name: partial(run, name) for name in ("fast", "slow", "other")}
    times, calls = play(runs, 3, lambda name: "same" if name != "other" else name, lambda *_: None)
    assert set(calls.values()) == {1}
    assert turns[3:] == ["fast", "slow", "other"] * TRIAL + ["fast", "other"]
    assert {name: len(own) for name, own in times.items()} == {"fast": 3, "slow": 2, "other": 3}


def test_a_row_is_the_better_layout() -> None:
    variants = [
        {"name": "torchvision", "layout": "channels_last", "status": "measured", "times": [3.0, 1.0, 2.0]},
        {"name": "torchvision", "layout": "contiguous", "status": "measured", "times": [1.5, 1.4, 1.6]},
        {"name": "densekit concat", "layout": "channels_last", "status": "measured", "times": [0.5]},
        {"name": "densekit concat", "layout": "contiguous", "status": "failed", "reason": "no"},
    ]
    entrants = [c for c in bench_backends("train") if c.name in ("torchvision", "densekit concat")]
    ours, peer = summarise({"variants": variants, "peak_flops": 100.0}, entrants, flops=15, batch=2)
    assert (peer["layout"], peer["value"], peer["share_of_peak"]) == ("contiguous", 1.5, 0.2)
    assert (ours["relative_to_best_peer"], ours["layouts_tried"]) == (pytest.approx(1 / 3), ["channels_last"])


@pytest.mark.parametrize("name", ["densenet_40_12", "densenet_c_40_12"])
def test_a_network_that_peers_lack_is_said_to_be_so(name: str) -> None:
    peer = next(c for c in bench_backends("train") if c.name == "torchvision")
    with pytest.raises(NotApplicable, match="torchvision has only bottlenecked nets"):
        peer.build(network(name), {})


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["bench", "trian"], 2, "did you mean train"),
        (["bench", "train", "here"], 2, "--out here"),
        (["bench", "train", "--model", "densnet121"], 2, "did you mean densenet121"),
        (["bench", "train", "--model", "resnet_20"], 2, "resnet_20 is no DenseNet"),
        (["bench", "train", "--plans", "conct"], 2, "did you mean concat"),
        (["bench", "train", "--threads", "one"], 2, "--threads 1,2"),
        (["bench", "train", "--threads", "0"], 2, "--threads 0"),
        (["bench", "train", "--threads", "1,5000"], 2, "more than this process has cores"),
        (["bench", "train", "--batch", "1"], 2, "pass 2 or more"),
        (["bench", "train", "--repeats", "0"], 2, "--repeats 0"),
        (["bench", "train", "--epochs", "3"], 2, "densekit bench accuracy"),
        (["bench", "accuracy", "--model", "densenet_40_12"], 2, "torchvision"),
        (["bench", "chart", "nowhere"], 3, "no reports in nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line(densekit: Command, arguments: list[str], status: int, words: str) -> None:
    got, out, err = densekit(*arguments)
    assert (got, out, err.count("\n")) == (status, "", 1)
    assert words in err


def test_a_worker_that_dies_is_an_error(tmp_path: Path) -> None:
    settings = BenchSettings(("infer",), (MODEL,), batch=1, threads=(1,), rounds=1, plans=("concat",), out=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(DensekitError, match="ended with status 1"):
            list(benchmark(settings, lambda _: None))


@pytest.mark.usefixtures("here", "without")
def test_the_chart_shows_every_report(tmp_path: Path) -> None:
    settings = BenchSettings(("train", "infer"), (MODEL,), batch=2, threads=(1,), rounds=1, out=tmp_path)
    list(benchmark(settings, lambda _: None))
    for other in ("loader", "serve"):  # what other benchmarks leave in the same folder
        (tmp_path / f"{other}.json").write_text(json.dumps({"what": other, "rows": []}))
    vector, pixels = write_chart(tmp_path, tmp_path / "pictures")
    assert vector.read_text().startswith("<?xml")
    assert pixels.read_bytes().startswith(b"\x89PNG")
    assert [report["what"] for report in read_reports(tmp_path)] == ["train", "infer"]
    with pytest.raises(BadData, match="with 7 threads; there are 1"):
        write_chart(tmp_path, threads=7)


def test_a_foreign_file_among_reports_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(BadData, match=r"other\.json is no report"):
        read_reports(tmp_path)


def test_a_race_trains_the_same_on_both_sides(tmp_path: Path) -> None:
    """Equal weights, batches and augmentation: the curves part by rounding alone."""
    said: list[str] = []
    course = AccuracySettings(model=MODEL, data="digits", images=300, epochs=2, out=tmp_path)
    report = time_to_accuracy(course, tmp_path / "data", said.append)
    assert [row["name"] for row in report["rows"]] == ["densekit", "torchvision", "torchvision", "densekit"]
    assert len(said) == 4
    ours, theirs = ([row for row in report["rows"] if row["name"] == name] for name in ("densekit", "torchvision"))
    for our, their in zip(ours, theirs, strict=True):
        assert our["train_loss"] == pytest.approx(their["train_loss"], rel=1e-2)
    assert ours[1]["seconds"] > ours[0]["seconds"] > 0
    assert json.loads((tmp_path / "time-to-accuracy.json").read_text()) == report
    assert (tmp_path / "time-to-accuracy.svg").read_text().startswith("<?xml")
    assert (tmp_path / "time-to-accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_milestones_are_what_both_have_reached() -> None:
    rows = [
        {"name": name, "val_top1": top1, "seconds": seconds}
        for name, top1, seconds in [("a", 0.5, 1), ("b", 0.5, 2), ("a", 0.8, 3), ("b", 0.7, 4), ("a", 0.75, 5)]
    ]
    assert milestones(rows) == [(0.5, {"a": 1, "b": 2}), (0.7, {"a": 3, "b": 4})]
