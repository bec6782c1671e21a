"""What computes: the fastest of the installed runtimes that pass the proof which exports have to pass.

Of a MODEL that is an exported file there is one engine, its own runtime; it was proved when it was written.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from densekit.errors import DensekitError, InvalidInput, ProofFailed
from densekit.export import parity
from densekit.export.network import Exported
from densekit.export.parity_inputs import made_up
from densekit.export.writers import program_of, write_onnx
from densekit.inference import runtimes
from densekit.inference.classifier import Classifier
from densekit.inference.exported_network import ExportedNetwork, is_exported, load_exported
from densekit.inference.load import load
from densekit.inference.metadata import Metadata
from densekit.inference.runtimes import InferenceSession, Run
from densekit.optional_packages import require_package
from densekit.threads import cores
from densekit.weights import model_folder, open_model, read_card

NAMES = ("torch", "onnxruntime", "openvino")
_OPENERS = {"onnxruntime": runtimes.onnxruntime, "openvino": runtimes.openvino}
_SPAN, _LEAST, _MOST = 0.4, 3, 30  # seconds that one measurement should take, and repetitions

Say = Callable[..., None]


@dataclass(frozen=True)
class Engine:
    """One that has been chosen, with all that opening it again needs."""

    name: str
    threads: int
    runtime: str = ""
    """Its name and version."""
    file: str | None = None
    """The graph that was written for it; none: torch, or MODEL itself."""

    def open(self, model: str) -> Classifier:
        """Without proof: for the engine that a worker before this one has proved. Raises what `load` raises."""
        torch.set_num_threads(self.threads)
        if is_exported(model):
            network, card = load_exported(model, self.threads)
            return Classifier(network, card, torch.device("cpu"))
        if self.file is None:
            return load(model)
        card = read_card(model_folder(model))
        opened = _OPENERS[self.name](Path(self.file), self.threads)
        passport = Metadata(card.model_dump(mode="json"), inside=False)
        return Classifier(ExportedNetwork(opened, passport), card, torch.device("cpu"))

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON; `Engine(**facts)` is the same again."""
        return asdict(self)


def choose(model: str, folder: Path, batch: int, *, wanted: str | None, threads: int | None, say: Say) -> Engine:
    """The fastest engine for MODEL on this machine, by its time for one image and for `batch` together.

    `folder` is where a graph may be written. `wanted` and `threads` leave no choice. `say(event, **facts)` hears of
    every candidate. Raises ProofFailed or InvalidInput where the one that is wanted cannot be taken.
    """
    if wanted is not None and wanted not in NAMES:
        raise InvalidInput(f"--engine {wanted} is none of {', '.join(NAMES)}")
    counts = (threads,) if threads else tuple(sorted({1, cores()}))
    if is_exported(model):
        return _own(model, batch, wanted, counts, say)
    best: tuple[float, Engine] | None = None
    for run, engine, proof in _candidates(model, folder, wanted, counts, say):
        one, many = (_time(run, proof.inputs(False), size) for size in (1, batch))
        say("engine", **engine.facts, milliseconds={"1": round(1e3 * one, 3), str(batch): round(1e3 * many, 3)})
        score = math.sqrt(one * many / batch)
        if best is None or score < best[0]:
            best = (score, engine)
    assert best is not None  # torch itself raises what keeps it from being one
    return best[1]


def _own(model: str, batch: int, wanted: str | None, counts: tuple[int, ...], say: Say) -> Engine:
    """Of an exported file: in its own runtime, on as many threads as are fastest."""
    found: list[tuple[float, Engine]] = []
    for count in counts:
        torch.set_num_threads(count)
        network, card = load_exported(model, count)
        engine = Engine(network.opened.runtime.partition(" ")[0], count, network.opened.runtime)
        if wanted not in (None, engine.name):
            raise InvalidInput(f"{model} runs in {engine.name}; leave out --engine {wanted}, or serve the model itself")
        size = card.preprocessing.size
        shape = (
            (*size, card.preprocessing.channels) if network.passport.inside else (card.preprocessing.channels, *size)
        )
        images = np.zeros((batch, *shape), np.uint8 if network.passport.inside else np.float32)
        one, many = (_time(network.opened.run, images, n) for n in (1, batch))
        say("engine", **engine.facts, milliseconds={"1": round(1e3 * one, 3), str(batch): round(1e3 * many, 3)})
        found.append((math.sqrt(one * many / batch), engine))
    return min(found, key=lambda pair: pair[0])[1]


def _candidates(
    model: str, folder: Path, wanted: str | None, counts: tuple[int, ...], say: Say
) -> Iterator[tuple[Run, Engine, parity.Reference]]:
    """Those that pass their proof, one after the other, so that their threads do not meet."""
    network, card = open_model(model, "concat")
    proof = parity.Reference(network, made_up(card.preprocessing), card.preprocessing)
    names = (wanted,) if wanted else NAMES
    if "torch" in names:
        classifier = load(model)
        version = f"torch {torch.__version__}"
        yield from _proved(
            "torch", counts, proof, lambda n: InferenceSession(_run_of(classifier, n), {}, version), None, wanted, say
        )
    others = [name for name in names if name != "torch" and (wanted or _installed(name))]
    if not others:
        return
    path = folder / "model.onnx"
    try:
        for name in others:
            require_package(f"--engine {name}", "onnx", "onnxscript", "onnxruntime", *({name} - {"onnxruntime"}))
        say("export", file=str(path))
        example = torch.from_numpy(proof.inputs(False)[:2])
        write_onnx(program_of(Exported(network, None), example), Metadata(card.model_dump(mode="json"), False), path)
    except DensekitError as error:
        if wanted:
            raise
        say("engines_left_out", names=others, reason=str(error))
        return
    del network
    for name in others:
        yield from _proved(name, counts, proof, partial(_OPENERS[name], path), path, wanted, say)


def _proved(
    name: str,
    counts: tuple[int, ...],
    proof: parity.Reference,
    opener: Callable[[int], InferenceSession],
    path: Path | None,
    wanted: str | None,
    say: Say,
) -> Iterator[tuple[Run, Engine, parity.Reference]]:
    for count in counts:
        try:
            opened = opener(count)
            parity.require(proof.compare(opened.run, False), name)
        except (ProofFailed, RuntimeError) as error:  # runtimes say so in types of their own, all of them of this one
            if wanted or name == "torch":
                raise
            say("engine_refused", name=name, threads=count, reason=str(error))
            continue
        yield opened.run, Engine(name, count, opened.runtime, None if path is None else str(path)), proof


def _run_of(classifier: Classifier, threads: int) -> Run:
    torch.set_num_threads(threads)

    @torch.inference_mode()
    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        x = torch.from_numpy(images).to(classifier.device).contiguous(memory_format=torch.channels_last)
        logits: NDArray[np.float32] = classifier.model(x).cpu().numpy()
        return logits

    return run


def _installed(name: str) -> bool:
    try:
        require_package(name, "onnx", "onnxscript", "onnxruntime", name)
    except InvalidInput:
        return False
    return True


def _time(run: Run, images: NDArray[Any], batch: int) -> float:
    """Seconds of a batch: the least of some, as whatever disturbs only adds."""
    inputs = np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))
    run(inputs)  # the first prepares
    times: list[float] = []
    while len(times) < _LEAST or (sum(times) < _SPAN and len(times) < _MOST):
        start = time.perf_counter()
        run(inputs)
        times.append(time.perf_counter() - start)
    return min(times)
