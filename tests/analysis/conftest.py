"""Trained networks, plain and bottlenecked, and images to look at them with."""

import copy
from pathlib import Path

import pytest
import torch

from densekit.analysis.connectivity import blocks_of
from densekit.analysis.image_sample import Sample
from densekit.models import DenseNet
from densekit.weights import ModelCard, load_model, model_folder
from tests.narrow import expect_type

Trained = tuple[DenseNet, ModelCard]


def _run(parent: Path, model: str) -> Path:
    from densekit import train

    settings = {"data.limit": 300, "batch_size": 50}
    return train("digits", model=model, epochs=2, out=parent / model, settings=settings).folder


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers a block, without bottlenecks and compression, after two epochs on a part of the digits."""
    return _run(tmp_path_factory.mktemp("runs"), "densenet_10_6")


@pytest.fixture(scope="session")
def bc_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with both."""
    return _run(tmp_path_factory.mktemp("runs"), "densenet_bc_16_6")


def densenet_in(run: Path) -> Trained:
    """The network of a run, which must be a DenseNet."""
    model, card = load_model(model_folder(run))
    return expect_type(model, DenseNet), card


@pytest.fixture(params=["plain", "bottlenecked"])
def trained(request: pytest.FixtureRequest, plain_run: Path, bc_run: Path) -> Trained:
    """(network, card): DenseNets that have learned a little."""
    return densenet_in(plain_run if request.param == "plain" else bc_run)


def zeroed(model: DenseNet, number: int, source: int, r: int) -> DenseNet:
    """A copy whose weights for that connection are zero."""
    model = copy.deepcopy(model)
    block = blocks_of(model)[number]
    with torch.no_grad():
        block.readers[r].linear.weight[:, block.sources[source]] = 0
    return model


@pytest.fixture
def digits() -> Sample:
    """Noise of the digits' shape, under labels that mean nothing."""
    generator = torch.Generator().manual_seed(0)
    return Sample(torch.randn(24, 1, 8, 8, generator=generator), torch.randint(0, 10, (24,), generator=generator))
