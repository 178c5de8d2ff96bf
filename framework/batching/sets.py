"""Data that fits in memory: a batch is one gather from tensors on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

Batch = Any
"""Any nesting of tensors; (inputs, targets) unless the objective says otherwise."""


class ExampleSet(Protocol):
    """Examples that can be had by position, many at a time."""

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def gather(self, index: Tensor) -> Batch:
        """Return the batch of the examples at the 1-D positions `index`."""
        ...

    def subset(self, index: Tensor) -> ExampleSet:
        """Return the set of only these examples, in this order."""
        ...

    def to(self, device: torch.device) -> ExampleSet:
        """Return the same set held on a device."""
        ...

    @property
    def labels(self) -> Tensor | None:
        """Class of each example, 1-D, for stratified splits and balanced sampling, or None."""
        ...


class TensorSet:
    """Examples held as tensors whose first dimension counts them.

    `tensors` is any nesting of tensors. `transform` makes a gathered batch ready for the model, such as
    uint8 pixels to normalised floats; it must treat each example alike and draw nothing.
    Raises ValueError where the tensors disagree on the number of examples, or there is none.
    """

    def __init__(self, tensors: Batch, transform: Callable[[Batch], Batch] | None = None) -> None:
        sizes: list[int] = []
        apply_to_collection(tensors, Tensor, lambda t: sizes.append(t.shape[0] if t.ndim else -1))
        if len(set(sizes)) != 1 or sizes[0] < 1:
            raise ValueError(
                f"every tensor of a set must have the same first dimension, at least 1, got {sizes or 'no tensor'}."
            )
        self.tensors = tensors
        self.transform = transform
        self._size = sizes[0]
        plain = type(tensors) is tuple and all(isinstance(t, Tensor) for t in tensors)
        self.pair: tuple[Tensor, ...] | None = tensors if plain else None
        """The tensors where they are a plain tuple, which takes less time to go through."""

    def __len__(self) -> int:
        """Return the number of examples."""
        return self._size

    def gather(self, index: Tensor) -> Batch:
        """Return the batch of the examples at the 1-D positions `index`."""
        if self.pair is not None:
            batch: Batch = tuple(t.index_select(0, index.to(t.device)) for t in self.pair)
        else:
            batch = apply_to_collection(self.tensors, Tensor, lambda t: t.index_select(0, index.to(t.device)))
        return self.transform(batch) if self.transform else batch

    def subset(self, index: Tensor) -> TensorSet:
        """Return the set of only these examples, in this order."""
        picked = apply_to_collection(self.tensors, Tensor, lambda t: t.index_select(0, index.to(t.device)))
        return TensorSet(picked, self.transform)

    def to(self, device: torch.device) -> TensorSet:
        """Return the same set held on a device."""
        return TensorSet(apply_to_collection(self.tensors, Tensor, lambda t: t.to(device)), self.transform)

    @property
    def labels(self) -> Tensor | None:
        """Class of each example: the second of a pair, where it is a 1-D tensor of integers."""
        if isinstance(self.tensors, tuple | list) and len(self.tensors) == 2:
            target = self.tensors[1]
            if isinstance(target, Tensor) and target.ndim == 1 and not target.dtype.is_floating_point:
                return target
        return None
