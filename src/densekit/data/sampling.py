"""Balanced sampling: an epoch with equally many images of each class, from a generator that the caller seeds.

A draw is a number: the sample's position, plus N for each time that the epoch has had the sample before. So each
repetition has an address of its own, by which it is augmented.
"""

import torch
from torch import Tensor


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """The draws of one epoch, as many as there are samples.

    Args:
        labels: (N,) int64; or (N, classes), 1, 0, or NaN where not known.
        generator: decides which samples, and their order.

    Returns:
        (N,) int64: `draw % N` is the sample. Each class has the same number of draws, up to one, and within a class
        each sample has. Of several labels, a class is the samples that have a label; those known to have none are one
        more. A sample of which no label is known is not drawn.
    """
    total, members = len(labels), _members(labels)
    quota, more = divmod(total, len(members))
    with_more = set(torch.randperm(len(members), generator=generator)[:more].tolist())
    samples = torch.cat([_draw(of, quota + (i in with_more), generator) for i, of in enumerate(members)])
    return (samples + total * _times_before(samples))[torch.randperm(total, generator=generator)]


def _members(labels: Tensor) -> list[Tensor]:
    """Positions of the samples of each class that has any."""
    if labels.ndim == 1:
        by_class = [labels == index for index in range(int(labels.max()) + 1)]
    else:
        present = labels == 1
        none = ~present.any(1) & ~labels.isnan().all(1)
        by_class = [*present.T, none]
    return [found for mask in by_class if len(found := mask.nonzero()[:, 0])]


def _draw(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of them, each as often as any other, up to once."""
    whole, part = divmod(count, len(members))
    return torch.cat([members.repeat(whole), members[torch.randperm(len(members), generator=generator)[:part]]])


def _times_before(samples: Tensor) -> Tensor:
    """How often each value has been there before."""
    values, order = samples.sort(stable=True)
    places = torch.arange(len(samples))
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    starts = torch.where(first, places, 0).cummax(0).values
    return torch.empty_like(places).scatter_(0, order, places - starts)
