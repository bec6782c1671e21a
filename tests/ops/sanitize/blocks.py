"""Dense blocks as `ops` runs them, forward, backward and in evaluation, on the kernels in the folder argv[1].

Run by tests/ops/test_cpu_sanitizers.py with the sanitizers' libraries preloaded, which see every tensor's end.
"""

import itertools
import sys
from pathlib import Path

import torch

from densekit import create_model
from densekit.ops import inference, shared
from densekit.ops.backends.cpu import library

SHAPES = [(1, 3, 4, 4), (3, 3, 5, 9), (2, 3, 13, 8)]  # the last block sees 1x1, 1x2 and 3x2 maps
# Growth that fills no vector, bottlenecks and transitions that fill none, and blocks without bottleneck.
NETS = ["densenet_bc_16_5", "densenet_b_10_12", "densenet_bc_16_40", "densenet_10_7", "densenet_7_1"]


def run(name: str, threads: int, dropout: float, last: bool) -> None:
    torch.set_num_threads(threads)
    model = create_model(name, plan="shared", num_classes=3, dropout_rate=dropout)
    layout = torch.channels_last if last else torch.contiguous_format
    model.to(memory_format=layout)
    for shape, training in itertools.product(SHAPES, (True, False)):
        x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
        model.train(training)
        # By itself a block has no epilogue, within the model it has one.
        for forward in (model, model.features):
            if training and shape[0] == 1:
                continue
            forward(x).square().sum().backward()
            # Copies come back without the padding that the kernels read.
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().clone(), lambda t: t.clone()):
                loss = forward(x).square().sum()
            loss.backward()
        with torch.inference_mode():
            assert torch.isfinite(model.eval()(x.detach())).all()
            assert torch.isfinite(model.features(x.detach())).all()


if __name__ == "__main__":
    folder = library.FOLDER = Path(sys.argv[1])
    ran = [0, 0]
    for i, module in enumerate((shared, inference)):

        def count(*arguments, i=i, real=module.run):
            ran[i] += 1
            return real(*arguments)

        module.run = count
    for name, dropout, (threads, last) in itertools.product(NETS, (0.0, 0.3), ((1, False), (3, True))):
        torch.manual_seed(0)
        run(name, threads, dropout, last)
    assert min(ran) > 0, ran
    found = library.load()
    assert found is not None
    assert Path(found.handle._name).parent == folder
    print(found.build, *ran)
