"""Digests of what training and inference compute: equal before and after a change that is to change no bit.

`python -m tests.ops.digests [--quick]` prints one JSON object, a sha256 for each case, computed on one thread. A case
is some training steps (losses, input gradients, parameters and buffers) or an inference of a network on a plan.
DENSEKIT_KERNELS=avx2 (or baseline, or none) gives the digests of another build of the kernels. Equal digests are
promised on one machine alone: torch's own operators round differently on others.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from densekit import create_model

PLANS = ("concat", "checkpoint", "shared")
STEPS = 8
Change = Callable[[nn.Module], object]


def digest(tensors: Iterable[Tensor]) -> str:
    """sha256 of all bits, in order."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def network(name: str, size: int, plan: str, **settings: object) -> nn.Module:
    """Fixed weights; batch norm statistics and factors that are not 0 and 1."""
    torch.manual_seed(0)
    model = create_model(name, plan=plan, num_classes=10, image_size=size, **settings)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return model.to(memory_format=torch.channels_last)


def images(count: int, size: int, seed: int) -> Tensor:
    """(count, 3, size, size), normally distributed."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def training(make: Callable[[], nn.Module], batch: int, size: int, steps: int = STEPS, penalty: float = 0.0) -> str:
    """Digest of some steps of SGD with momentum; `penalty` is a factor of the input gradient's square in the loss."""
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    dtype = next(model.parameters()).dtype
    seen: list[Tensor] = []
    for step in range(steps):
        x = images(batch, size, step).to(dtype).requires_grad_()
        loss = nn.functional.cross_entropy(model(x), torch.arange(batch) % 10)
        if penalty:
            (slope,) = torch.autograd.grad(loss, x, create_graph=True)
            loss = loss + penalty * slope.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert x.grad is not None
        seen += [loss, x.grad]
    return digest([*seen, *model.parameters(), *model.buffers()])


def inference(make: Callable[[], nn.Module], batch: int, size: int) -> str:
    """Digest of the logits of two batches, the second by weights that are folded already, and of features."""
    model = make().eval()
    with torch.inference_mode():
        found = [model(images(batch, size, seed)) for seed in (100, 101)]
        return digest([*found, model.forward_features(images(1, size, 102))])


def without_fused_end(model: nn.Module) -> None:
    """Blocks are called by `features`, one by one."""
    model.forward_features = model.features.forward


def freeze_every_third(model: nn.Module) -> None:
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 == 0)


# What the two networks do not reach.
VARIANTS: dict[str, tuple[str, dict[str, object], Change, float]] = {
    "without bottleneck": ("densenet_22_7", {}, nn.Module.train, 0),
    "without bottleneck, dropout": ("densenet_22_7", {"dropout_rate": 0.3}, nn.Module.train, 0),
    "without bottleneck, fixed statistics": ("densenet_22_7", {}, nn.Module.eval, 0),
    "dropout": ("densenet_bc_22_12", {"dropout_rate": 0.3}, nn.Module.train, 0),
    "convolution before pooling": ("densenet_bc_22_12", {"pool_first": False}, nn.Module.train, 0),
    "float64": ("densenet_bc_22_12", {}, nn.Module.double, 0),
    "fixed statistics": ("densenet_bc_22_12", {}, nn.Module.eval, 0),
    "contiguous weights": ("densenet_bc_22_12", {}, lambda m: m.to(memory_format=torch.contiguous_format), 0),
    "features alone": ("densenet_bc_22_12", {}, without_fused_end, 0),
    "features alone, fixed statistics": ("densenet_bc_22_12", {}, lambda m: without_fused_end(m.eval()), 0),
    "partly frozen": ("densenet_bc_22_12", {}, freeze_every_third, 0),
    "gradient penalty": ("densenet_bc_22_12", {"dropout_rate": 0.3}, nn.Module.train, 0.1),
}


def cases(quick: bool) -> dict[str, Callable[[], str]]:
    """Names, and what computes their digests; of a quick run the shared plan of one network, and the variants."""
    networks = {"densenet_bc_40_12": (8, 32)} if quick else {"densenet_bc_40_12": (8, 32), "densenet121": (2, 64)}
    found: dict[str, Callable[[], str]] = {}
    for name, (batch, size) in networks.items():
        for plan in ("shared",) if quick else PLANS:
            make = partial(network, name, size, plan)
            found[f"{name} {plan} training"] = partial(training, make, batch, size)
            found[f"{name} {plan} inference"] = partial(inference, make, batch, size)
    for variant, (name, settings, change, penalty) in VARIANTS.items():

        def changed(name: str = name, settings: dict[str, object] = settings, change: Change = change) -> nn.Module:
            model = network(name, 13, "shared", **settings)
            change(model)
            return model

        found[f"{name} shared training, {variant}"] = partial(training, changed, 3, 13, 2, penalty)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the shared plan of densenet_bc_40_12, and the variants")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(json.dumps({name: compute() for name, compute in cases(quick).items()}, indent=1))


if __name__ == "__main__":
    main()
