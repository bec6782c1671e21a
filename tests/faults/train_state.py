"""A small training under way, to be saved and restored."""

import torch

from densekit import create_model
from densekit.training.state import Progress, TrainState


def state(step: int) -> TrainState:
    """After one step, with momentum; another for another number."""
    torch.manual_seed(step)
    model = create_model("densenet_bc_10_4", num_classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainState(model, model, optimizer, None, scaler, Progress(step=step))
