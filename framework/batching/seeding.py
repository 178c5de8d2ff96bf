"""What a dataset draws in a worker, as a function of the example."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from framework.batching.order import seed_for


class SeededDataset(Dataset[Any]):
    """A dataset before each of whose examples the generators are seeded by (seed, purpose, epoch, index).

    A worker's own stream would depend on how many examples it has had. Every other attribute is the dataset's.
    """

    def __init__(self, dataset: Any, parts: tuple[object, ...]) -> None:
        self.dataset = dataset
        self.parts = parts
        if hasattr(dataset, "__getitems__"):
            self.__getitems__ = self._fetch

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the dataset."""
        if name.startswith("__") or "dataset" not in vars(self):  # while it is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        """Return an example, drawn with a seed of its own."""
        self._seed(index)
        return self.dataset[index]

    def _fetch(self, indices: list[int]) -> Any:
        self._seed(indices[0])
        return self.dataset.__getitems__(indices)

    def _seed(self, index: int) -> None:
        seed = seed_for(*self.parts, index)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
