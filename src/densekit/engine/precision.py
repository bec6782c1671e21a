"""Lower precision by autocast, and the scaled loss that float16's narrow range needs."""

import torch

_LOWER = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Of a recipe's precision; float32 changes nothing."""
    return torch.autocast(device.type, _LOWER.get(precision), enabled=precision in _LOWER)


def scaler_for(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """It passes gradients through but for float16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")
