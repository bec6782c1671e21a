"""A network whose gradients add up."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from densekit.data.loader import Batch
from densekit.training import trainer
from densekit.training.setup import TrainContext
from densekit.training.step import train_step
from tests.narrow import not_none


class Linear(nn.Module):
    """(N, C, H, W) -> (N, outputs). Without batch norm, whose statistics are each piece's own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


def first_gradient(prepared: TrainContext, model: Linear) -> tuple[Tensor, Batch]:
    """That of the weights after a step on the first batch, by a learning rate of 0; and the batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    state = replace(trainer.start(prepared), model=model, network=model, optimizer=optimizer, average=None)
    batch = next(prepared.loader("train", prepared.recipe.augment).epoch(0))
    train_step(state, batch, prepared, 0.0, [len(batch.samples)])
    return not_none(model.head.weight.grad), batch
