"""`densekit export` as a function."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from numpy.typing import NDArray

from densekit import atomic, strict_json
from densekit.data import Images
from densekit.default_dtype import float32_default
from densekit.errors import BadData, InvalidInput, NotFinite, ProofFailed
from densekit.evaluation.held_out import FINGERPRINTS, fingerprints_in
from densekit.export import formats as table
from densekit.export import parity, quantization_report, speed, triton, writers
from densekit.export.network import Exported
from densekit.export.parity_inputs import BATCH, Real, images_for, made_up
from densekit.export.quantise import quantise
from densekit.folders import data_folder, expanded
from densekit.inference.exported_network import ExportedNetwork, is_exported
from densekit.inference.metadata import Metadata
from densekit.inference.runtimes import InferenceSession, open_file
from densekit.inference.triton_folder import model_file
from densekit.metrics.evaluation_loop import evaluate
from densekit.metrics.task import Records, task_of
from densekit.models import ImageClassifier
from densekit.version import __version__
from densekit.weights import ModelCard, model_folder, open_model
from densekit.weights.redaction import without_paths

REPORT = "parity.json"
_RACES = (1, 32)  # batches whose speed is measured: one request, and many


@dataclass(frozen=True)
class ExportedModel:
    """A folder of exported files."""

    folder: Path
    files: dict[str, Path]
    """By format; of Triton the model's folder in its repository."""
    report: dict[str, Any]
    """parity.json."""


@float32_default()
def export_model(
    model: str | Path,
    out: str | Path,
    *,
    formats: Sequence[str] = ("onnx",),
    preprocess: bool = False,
    int8: bool = False,
    max_drop: float = 0.01,
    calibration: int = 256,
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> ExportedModel:
    """Export a model for other runtimes; each file is run in its runtime and compared with the model before it is kept.

    Args:
        model: MODEL of the command line: a run, a model folder, a shipped model's name, or hf:OWNER/NAME.
        out: a new folder.
        formats: any of onnx, openvino, torch and triton.
        preprocess: include scaling and normalisation in the graph, which then takes (N, H, W, C) uint8; else it takes
            (N, C, H, W) float32, normalised.
        int8: quantise weights and activations to 8 bits.
        max_drop: with `int8`, the largest accepted loss of top-1 accuracy, or of the mean AUROC of several labels, as a
            fraction, on images held out.
        calibration: with `int8`, the number of training images that ranges are measured on.
        data: with `int8`, where these images are. None: the data the model was trained on.
        data_dir: where data sets are kept.
        say: called with each message of progress.

    Returns:
        The files, their sizes and what the comparison found.

    Raises:
        ProofFailed: an exported file does not answer as the model does; no file is left.
        InvalidInput: wrong arguments, or a missing package.
        BadData: data that are missing or unusable.
        BadWeights: a model that is missing or damaged.
    """
    out = expanded(out)
    if is_exported(model):
        raise InvalidInput(f"{model} is an exported file already; name the run or model folder that it came from")
    names = table.chosen(tuple(formats), int8=int8)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InvalidInput(f"--out {out} exists and is not empty; name a new folder")
    network, card = open_model(model, "concat")
    if not card.classes:
        raise InvalidInput(f"{model} has no classifier to export; train one from its weights: --init {model}")
    images = images_for(model, card, None if data is None else str(data), data_folder(data_dir), needed=int8)
    passport = Metadata(_public(model, card).model_dump(mode="json"), preprocess)
    try:
        with atomic.fresh_folder(out) as folder, TemporaryDirectory(prefix="densekit-export-") as scratch:
            work = _Export(network, card, passport, images, folder, Path(scratch), say)
            report = work.int8(names, calibration, max_drop) if int8 else work.float32(names)
            atomic.write(folder / REPORT, strict_json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise BadData(f"cannot write {out}: {error.strerror or error}; name another --out") from error
    return ExportedModel(out, {name: out / work.path_of(name) for name in names}, report)


def _public(model: str | Path, card: ModelCard) -> ModelCard:
    """A card without folders of this machine, by which evaluation still finds the test split in the same images."""
    public, _ = without_paths(card)
    found = {} if public.data == card.data else fingerprints_in(model_folder(model))
    if not found:
        return public
    return public.model_copy(update={"provenance": {**public.provenance, FINGERPRINTS: found}})


class _Export:
    """One export under way."""

    def __init__(
        self,
        network: ImageClassifier,
        card: ModelCard,
        passport: Metadata,
        images: Real | None,
        folder: Path,
        scratch: Path,
        say: Callable[[str], None],
    ) -> None:
        self.network = network
        self.card = card
        self.task = task_of(card)
        self.passport = passport
        self.images = images
        self.folder = folder
        self.scratch = scratch
        self.say = say
        self.name = triton.model_name(card.model.name)
        pixels = images.pixels(images.held_out, parity.IMAGES) if images else made_up(card.preprocessing)
        self.reference = parity.Reference(network, pixels, card.preprocessing)

    def path_of(self, name: str) -> Path:
        """Of a format, below the folder."""
        return Path(table.FORMATS[name].file, *([self.name] if name == "triton" else []))

    def float32(self, names: Sequence[str]) -> dict[str, Any]:
        """Writes and proves each; returns the report."""
        program = self._program()
        onnx_file = self.scratch / "float32.onnx"
        if set(names) - {"torch"}:
            self.say("writing the ONNX graph")
            writers.write_onnx(program, self.passport, onnx_file)
        files = []
        for name in names:
            self.say(f"writing and proving {name}")
            path = self._write(name, onnx_file, program, self.passport)
            files.append(self._facts(name, path) | self._proved(open_file(path), str(self.path_of(name))))
        return self._report(files)

    def int8(self, names: Sequence[str], calibration: int, max_drop: float) -> dict[str, Any]:
        """Writes the float graph, proves it, quantises it, and measures what that costs and gains."""
        assert self.images is not None
        onnx_file, small = self.scratch / "float32.onnx", self.scratch / "int8.onnx"
        self.say("writing and proving the float32 graph")
        writers.write_onnx(self._program(), self.passport, onnx_file)
        proof = self._proved(open_file(onnx_file), "the float32 graph")
        passport = Metadata(self.passport.card, self.passport.inside, "int8")
        train = self.images.train
        self.say(f"calibrating on {min(calibration, len(train)):,} training images")
        quantise(onnx_file, self._inputs(train, calibration), small)
        writers.write_metadata(small, passport)
        self.say(f"measuring accuracy on {len(self.images.held_out):,} images held out")
        before = self._records(open_file(onnx_file), self.passport)
        files = []
        for name in names:
            path = self._write(name, small, None, passport)
            self.say(f"measuring {name} in 8 bits")
            opened = open_file(path)
            self._require_whole(opened, name, passport)
            try:
                after = self._records(opened, passport)
            except NotFinite as error:
                raise ProofFailed(f"{name} in 8 bits is refused: {error}; no file is kept") from error
            drop = quantization_report.cost(name, self.task, before, after, max_drop)
            float_path = onnx_file
            if name == "openvino":
                float_path = self.scratch / "float32.xml"
                writers.write_openvino(onnx_file, self.passport, float_path)
            files.append(self._facts(name, path) | {"int8": drop, "speed": self._race(open_file(float_path), opened)})
        about = {
            "calibration": {"split": "train", "images": min(calibration, len(train))},
            "held_out": {"split": self.images.split, "images": len(self.images.held_out)},
            "max_drop": max_drop,
            "float32": proof,
        }
        return self._report(files) | {"int8": about}

    def _program(self) -> Any:
        inside = self.card.preprocessing if self.passport.inside else None
        self.say("tracing the network")
        example = torch.from_numpy(self.reference.inputs(self.passport.inside)[:2])
        return writers.program_of(Exported(self.network, inside), example)

    def _write(self, name: str, onnx_file: Path, program: Any, passport: Metadata) -> Path:
        path = self.folder / self.path_of(name)
        if name == "triton":
            return model_file(triton.write_repository(onnx_file, passport, self.name, path.parent))
        if name == "torch":
            writers.write_torch(program, passport, path)
        elif name == "openvino":
            writers.write_openvino(onnx_file, passport, path)
        else:
            path.write_bytes(onnx_file.read_bytes())
        return path

    def _proved(self, opened: InferenceSession, name: str) -> dict[str, Any]:
        """Raises ProofFailed."""
        rows = self.reference.compare(opened.run, self.passport.inside)
        parity.require(rows, name)
        self._require_whole(opened, name, self.passport)
        return {"runtime": opened.runtime, "batches": [asdict(row) for row in rows]}

    def _require_whole(self, opened: InferenceSession, name: str, passport: Metadata) -> None:
        """Of any precision. Raises ProofFailed."""
        if opened.passport(name) != passport:
            raise ProofFailed(f"{name} is refused: its classes and preprocessing came back changed; no file is kept")
        difference = parity.by_company(opened.run, self.reference.inputs(self.passport.inside))
        if not difference <= parity.COMPANY:
            raise ProofFailed(
                f"{name} is refused: an image's logits differ by {difference:.1e} of the largest between batches of "
                f"{', '.join(map(str, parity.BATCHES))}; no file is kept"
            )

    def _facts(self, name: str, path: Path) -> dict[str, Any]:
        files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
        digests = {f.relative_to(self.folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
        return {"format": name, "bytes": sum(f.stat().st_size for f in files), "sha256": digests}

    def _report(self, files: list[dict[str, Any]]) -> dict[str, Any]:
        real = self.images
        return {
            "format": 1,
            "densekit": __version__,
            "torch": torch.__version__,
            "model": self.card.model.name,
            "preprocessing": "inside" if self.passport.inside else "outside",
            "images": f"{real.data.name}, {real.split}" if real else "synthetic",
            "factor": parity.FACTOR,
            "floor": parity.FLOOR,
            "files": files,
        }

    def _inputs(self, images: Images, count: int) -> Iterator[NDArray[Any]]:
        assert self.images is not None
        pixels = self.images.pixels(images, count)
        for part in torch.split(pixels, BATCH):
            inside = self.passport.inside
            whole = part.permute(0, 2, 3, 1) if inside else parity.scaled(part, self.card.preprocessing, torch.float32)
            yield whole.contiguous().numpy()

    def _records(self, opened: InferenceSession, passport: Metadata) -> Records:
        """What it answers on the images held out, one record each."""
        assert self.images is not None
        loader = self.images.loader(self.images.held_out, passport.outside)
        names = (self.name, self.images.data.name, self.images.split)
        network, skipped = ExportedNetwork(opened, passport), self.images.data.skipped
        return evaluate(network, loader, task=self.task, names=names, skipped=skipped)[1]

    def _race(self, before: InferenceSession, after: InferenceSession) -> list[dict[str, Any]]:
        images = self.reference.inputs(self.passport.inside)
        rows = []
        for batch in _RACES:
            times = speed.race({"float32": before.run, "int8": after.run}, images, batch)
            rows.append({"batch": batch, "runtime": after.runtime, "milliseconds": times})
        return rows
