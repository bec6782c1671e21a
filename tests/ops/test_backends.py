"""Which backend computes a block; and one added from outside, with nothing else edited."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from densekit import create_model, train
from densekit.api import resume
from densekit.errors import InvalidInput, UnknownName
from densekit.ops import backends
from densekit.ops.backends.base import (
    BnRelu,
    Call,
    Conv1x1Gradients,
    Conv3x3Gradients,
    KernelBackend,
    Moments,
    PendingNorm,
    PendingNormBackward,
    Precision,
    Size,
)
from densekit.ops.backends.cpu import library
from densekit.ops.backends.cpu.backend import CpuKernels
from densekit.ops.backends.reference import Reference
from tests.faults.command import train_until
from tests.ops.test_plans import assert_same, everything, images, network, with_plan


class Counting(Reference):
    """A toy: torch's operators by another formula, for one kind of call."""

    name = "counting"
    fused = True

    def __init__(self) -> None:
        self.calls = 0

    def serves(self, call: Call) -> bool:
        """float64 on a CPU, which no other backend but the reference does."""
        return call.dtype == torch.float64 and call.device.type == "cpu" and call.autocast is None

    def conv1x1(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, pending: PendingNorm | None = None, *, moments: bool
    ) -> tuple[Tensor, Moments]:
        self.calls += 1
        if pending is not None:
            self.normalise(pending, x[:, x.shape[1] - pending.maps.shape[1] :])
        h = torch.einsum("mc,nc->mn", (x * prologue.scale + prologue.shift).clamp_min(0), weight)
        return h, Moments(*self.statistics(h)) if moments else Moments(None, None)


class Bfloat16(Reference):
    """A toy that stores matrices in bfloat16, sums and parameters in float32, and multiplies rounded factors."""

    name = "bfloat16"

    def precision(self, call: Call) -> Precision:
        return Precision(torch.bfloat16, torch.float32, torch.float32)

    def conv1x1(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, pending: PendingNorm | None = None, *, moments: bool
    ) -> tuple[Tensor, Moments]:
        assert x.dtype == torch.bfloat16
        assert weight.dtype == prologue.scale.dtype == torch.float32
        return super().conv1x1(x, prologue, rounded(weight), pending, moments=moments)

    def conv1x1_backward(self, *arguments: object) -> Conv1x1Gradients:
        found = super().conv1x1_backward(*arguments)
        assert found.weight.dtype == found.scale.dtype == torch.float32
        return found

    def conv3x3_backward(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, dy: Tensor | PendingNormBackward, size: Size
    ) -> Conv3x3Gradients:
        assert x.dtype == torch.bfloat16
        return super().conv3x3_backward(x, prologue, rounded(weight), dy, size)


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float()


@pytest.fixture
def counting() -> Iterator[Counting]:
    """A toy, registered for the test."""
    backend = Counting()
    backends.register(backend)
    yield backend
    backends.unregister(backend.name)


@pytest.mark.parametrize("backend", [Reference(), CpuKernels(), Counting()], ids=lambda backend: backend.name)
def test_backends_have_what_the_protocol_asks_for(backend):
    assert [name for name in dir(KernelBackend) if not (name.startswith("_") or hasattr(backend, name))] == []


def test_a_registered_backend_computes_the_calls_that_it_serves(counting):
    """A whole network, forward and backward, against the plain form; training and evaluation."""
    for training in (True, False):
        assert_same(network().train(training), "shared", images().requires_grad_())
    layers = 3 * sum(isinstance(module, nn.BatchNorm2d) for module in network().features.denseblock1.modules()) // 2
    assert counting.calls == 2 * layers


def test_it_is_what_plan_auto_takes_and_can_be_asked_for_by_name(counting):
    assert counting.name in backends.names()
    x = images()
    for kernels, called in (("auto", True), (counting.name, True), ("reference", False)):
        counting.calls = 0
        create_model("densenet_bc_10_4", num_classes=3, plan="auto", kernels=kernels).double()(x)
        assert (counting.calls > 0) is called, kernels


def test_calls_that_it_does_not_serve_are_left_to_others(counting):
    model = with_plan(network(dtype=torch.float32), "shared")
    model(images(dtype=torch.float32)).sum().backward()
    assert counting.calls == 0
    model.use_kernels(counting.name)
    model(images(dtype=torch.float32)).sum().backward()  # module by module
    assert counting.calls == 0


def test_a_backend_may_serve_some_shapes_alone(counting, monkeypatch):
    monkeypatch.setattr(Counting, "serves", lambda self, call: call.dtype == torch.float64 and call.shape[0] > 1)
    model = with_plan(network(), "shared").eval()
    for count, called in ((1, False), (2, True)):
        counting.calls = 0
        torch.testing.assert_close(
            model(images(count, 3, 8, 8)), with_plan(model, "concat")(images(count, 3, 8, 8)), rtol=1e-9, atol=1e-9
        )
        assert (counting.calls > 0) is called


def test_a_backend_stores_less_precisely_than_it_accumulates(used):
    """What a network's gradients lose by it is of the size of the rounding, and all of them are float32."""
    model, x = network(dtype=torch.float32), images(dtype=torch.float32)
    truth = everything(with_plan(model, "concat"), x.clone().requires_grad_())
    twin = with_plan(model, "shared")
    with backends.use(Bfloat16()):
        found = everything(twin, x.clone().requires_grad_())
    assert len(used) == 3
    error = (found["output"] - truth["output"]).norm() / truth["output"].norm()
    assert 1e-4 < error < 0.1
    for name, parameter in twin.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all(), name
    gradient = torch.cat([p.grad.flatten() for p in twin.parameters()])
    expected = torch.cat([truth[f"grad {name}"].flatten() for name, _ in twin.named_parameters()])
    assert torch.nn.functional.cosine_similarity(gradient, expected, dim=0) > 0.9


@pytest.mark.skipif(not library.available(), reason="no compiler was there at installation")
def test_an_override_goes_before_a_network_s_own_kernels_and_ends(used):
    model, x = with_plan(network(dtype=torch.float32), "shared"), images(dtype=torch.float32)
    model.use_kernels("cpu")
    outputs = [model(x)]
    with backends.use("reference"):
        outputs.append(model(x))
        with backends.use("cpu"):
            outputs.append(model(x))
        outputs.append(model(x))
    outputs.append(model(x))
    assert len(used) == 15
    cpu, reference = outputs[0], outputs[1]
    assert not torch.equal(cpu, reference)
    assert torch.equal(outputs[2], cpu)
    assert torch.equal(outputs[3], reference)
    assert torch.equal(outputs[4], cpu)


def test_weights_folded_for_one_backend_are_not_given_to_another(used):
    model, x = with_plan(network(dtype=torch.float32), "shared").eval(), images(dtype=torch.float32)
    with torch.no_grad():
        expected = model(x)
        with backends.use("reference"):
            torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(model(x), expected)
    assert not used  # all of it was inference


@pytest.mark.skipif(not library.available(), reason="no compiler was there at installation")
def test_kernels_that_are_not_there_or_not_known_are_refused(monkeypatch):
    with pytest.raises(UnknownName, match="refernce"):
        create_model("densenet_bc_10_4", kernels="refernce")
    monkeypatch.setattr(library, "load", lambda: None)
    with pytest.raises(InvalidInput, match="kernels=cpu cannot run here; choose from auto, reference"):
        create_model("densenet_bc_10_4", kernels="cpu")
    with pytest.raises(InvalidInput, match="cannot run here"), backends.use("cpu"):
        pass


def test_a_run_records_the_kernels_that_were_asked_for(tmp_path: Path, used):
    settings = {"kernels": "reference", "plan": "shared", "data.limit": 60, "batch_size": 20}
    run = train("digits", model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["kernels"] == "reference"
    assert used


def test_the_resolver_is_asked_with_all_that_it_may_depend_on():
    x = torch.zeros(2, 3, 4, 5)
    assert backends.call_of(x) == Call(x.device, torch.float32, None, (2, 3, 4, 5))
    with torch.autocast("cpu", torch.bfloat16):
        assert backends.call_of(x).autocast == torch.bfloat16
        assert backends.resolve(backends.call_of(x)) is None


def test_plan_auto_passes_over_backends_that_are_slower_than_modules_or_cannot_run() -> None:
    class Slower(Reference):
        name = "slower"

    class Absent(CpuKernels):
        name = "absent"

        def available(self) -> bool:
            return False

        def serves(self, call: Call) -> bool:
            return True

    call = backends.call_of(torch.zeros(2, 3, 4, 5))
    best = backends.resolve(call, fused=True)
    for backend in (Slower(), Absent()):
        backends.register(backend)
    try:
        found = backends.resolve(call)
        assert found is not None
        assert found.name == "slower"
        assert backends.resolve(call, fused=True) is best
    finally:
        for name in ("slower", "absent"):
            backends.unregister(name)
    with pytest.raises(InvalidInput, match="kernels=absent cannot run here"), backends.use(Absent()):
        pass


def test_a_network_refuses_kernels_that_are_not_known() -> None:
    with pytest.raises(UnknownName, match="refernce"):
        create_model("densenet_bc_10_4").use_kernels("refernce")


def test_a_run_is_resumed_on_other_kernels_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"plan": "shared", "data.limit": 60, "batch_size": 20}
    train_until(2, "digits", out=tmp_path / "run", model="densenet_bc_10_4", epochs=1, settings=settings)
    resume(tmp_path / "run", settings={"kernels": "reference"})
    assert "kernels: auto -> reference" in capsys.readouterr().err
