"""What a dataset draws in a worker, as a function of the batch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from framework.batching.guarded import GuardedDataset, Lost, Task
from framework.batching.order import seed_for


class SeededDataset(GuardedDataset):
    """A guarded dataset before each of whose batches the generators are seeded by (seed, purpose, epoch, first index).

    A worker's own stream would depend on how many batches it has had. Seeding takes 15 µs, several times what a small
    example does.
    """

    def __init__(self, dataset: Any, parts: tuple[object, ...]) -> None:
        super().__init__(dataset)
        self.parts = parts

    def __getitems__(self, task: Task) -> tuple[Any, list[Lost]]:
        """Return the examples of a batch, drawn with a seed of its own."""
        epoch, indices = task
        seed = seed_for(*self.parts, epoch, indices[0])
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        return super().__getitems__(task)
