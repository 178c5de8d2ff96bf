"""Which example comes when: a function of (seed, epoch), never the state of an iterator."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

from framework.errors import ConfigError


def seed_for(*parts: object) -> int:
    """Mix plain values, such as (seed, purpose, step), into one 63-bit seed.

    The first 63 bits of BLAKE2b (RFC 7693) over the values' `repr`: the same in every process and on every
    machine, and unrelated for values that differ in the slightest.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(*parts: object) -> torch.Generator:
    """Return a generator of the CPU, seeded by `seed_for`; the global one is left alone."""
    return torch.Generator().manual_seed(seed_for(*parts))


def epoch_order(
    size: int,
    *,
    seed: int,
    epoch: int,
    sampling: Literal["shuffled", "balanced", "sequential"],
    labels: Tensor | None = None,
) -> Tensor:
    """Return the positions of one epoch, `size` int64 numbers on the CPU.

    `shuffled` is a permutation ("Shuffle the training data", the chapter's training loop), `sequential` the
    order of the set. `balanced` draws with replacement: P(i) = 1 / (K * n_c) for example i of class c, which
    has n_c examples, among the K classes that occur in `labels`, the class of each example.
    Raises ConfigError for `balanced` without labels.
    """
    if sampling == "sequential":
        return torch.arange(size)
    generator = generator_for(seed, "order", epoch)
    if sampling == "shuffled":
        return torch.randperm(size, generator=generator)
    if labels is None:
        raise ConfigError(
            "sampling 'balanced' needs examples that have one class each, and these have none: "
            "set data.sampling=shuffled."
        )
    assert len(labels) == size, (len(labels), size)
    _, counts = labels.cpu().unique(return_counts=True)
    by_class = labels.cpu().argsort(stable=True)
    drawn = torch.randint(len(counts), (size,), generator=generator)
    within = torch.rand(size, dtype=torch.float64, generator=generator) * counts[drawn]
    return by_class[(counts.cumsum(0) - counts)[drawn] + within.long()]
