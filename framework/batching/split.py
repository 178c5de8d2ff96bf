"""Holding examples out: a disjoint, complete division of a set by seed."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.batching.order import generator_for
from framework.batching.sets import ExampleSet
from framework.errors import ConfigError


def split(examples: ExampleSet, fraction: float, seed: int) -> tuple[ExampleSet, ExampleSet]:
    """Divide a set into (the rest, the held-out fraction), stratified where the examples have classes.

    Raises ConfigError where either side would be empty.
    """
    rest, held_out = split_indices(len(examples), fraction, seed, examples.labels)
    return examples.subset(rest), examples.subset(held_out)


def split_indices(size: int, fraction: float, seed: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the positions of (the rest, the held-out fraction) of `size` examples, each in ascending order.

    m = round(fraction * size) are held out. With `labels`, the class of each example, a class of n examples
    gives n * m / size of them, rounded up or down: classes are laid end to end, shuffled within and among
    themselves, and every (size / m)-th example is taken (systematic sampling; Cochran, Sampling Techniques,
    3rd ed., chapter 8). Raises ConfigError where either side would be empty.
    """
    held = round(fraction * size)
    if not 0 < held < size:
        raise ConfigError(
            f"holding out {fraction:g} of {size} examples gives {held} held out and {size - held} left: "
            "both sides need at least one; change the fraction."
        )
    generator = generator_for(seed, "split")
    order = torch.randperm(size, generator=generator)
    if labels is not None:
        assert len(labels) == size, (len(labels), size)
        classes, member = labels.cpu().unique(return_inverse=True)
        place = torch.randperm(len(classes), generator=generator)[member]
        order = order[place[order].argsort(stable=True)]
    taken = (torch.arange(size + 1) * held // size).diff() > 0
    return order[~taken].sort().values, order[taken].sort().values
