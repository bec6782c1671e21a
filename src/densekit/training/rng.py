"""Random numbers with an address: a step's dropout depends on seed, step and process, and on nothing before it."""

import numpy as np
import torch


def reseed(*address: int) -> None:
    """Sets torch's generators, of all devices, by that address."""
    words = np.random.SeedSequence(address).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 31 ^ int(words[1]))
