"""Where a loader stands whose order is its own."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from framework.batching.random_state import load_random_state, random_state
from framework.batching.sets import Batch


class Stream:
    """The batches of a loader as it is, from where its state says, or by reading over those already taken.

    The state is the loader's own (`state_dict`, such as torchdata's StatefulDataLoader has), or without workers its
    iterable dataset's; else it is the state of every generator at the epoch's start, from which to read again.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.owner: Any = next((o for o in (loader, _own_dataset(loader)) if _keeps_state(o)), None)
        self.taken = 0
        """Batches taken in the running epoch."""
        self.start: dict[str, Any] = {}
        self.restored: dict[str, Any] = {}

    @property
    def at_end(self) -> bool:
        """Whether the epoch's last batch is taken, as far as the loader knows its length."""
        try:
            return self.taken == len(self.loader)
        except TypeError:
            return False

    def state(self) -> dict[str, Any]:
        """Return where the stream stands."""
        own = self.owner.state_dict() if self.owner is not None else None
        return {"taken": self.taken, "own": own, "start": self.start}

    def load_state(self, state: dict[str, Any]) -> None:
        """Stand, from the next epoch begun, where the state says."""
        self.restored = state

    def batches(self, offset: int) -> Iterator[Batch]:
        """Yield the batches of an epoch after its first `offset` examples."""
        restored, self.restored = self.restored, {}
        if self.owner is not None and restored.get("own") is not None:
            self.owner.load_state_dict(restored["own"])
            self.taken = restored["taken"] if offset else 0
            yield from self._counted(iter(self.loader))
        elif not offset:
            self.start = {"random": random_state(), "generators": [g.get_state() for g in self._generators()]}
            self.taken = 0
            yield from self._counted(iter(self.loader))
        else:
            yield from self._replayed(offset, restored)

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.taken += 1
            yield batch

    def _replayed(self, offset: int, restored: dict[str, Any]) -> Iterator[Batch]:
        warnings.warn(
            f"the data is read over to where the run stood, {offset:,} examples into the epoch: a loader that has "
            f"state_dict and load_state_dict, such as torchdata's StatefulDataLoader, would start there.",
            stacklevel=2,
        )
        self.start, self.taken = restored.get("start", {}), 0
        before = random_state()
        if self.start:
            load_random_state(self.start["random"])
            for generator, state in zip(self._generators(), self.start["generators"], strict=False):
                generator.set_state(state)
        batches = self._counted(iter(self.loader))
        left, rest = offset, []
        while left > 0 and (batch := next(batches, None)) is not None:
            rows = rows_of(batch)
            if rows > left:
                rest = [_after(batch, left, rows)]
            left -= rows
        load_random_state(before)
        yield from rest
        yield from batches

    def _generators(self) -> list[torch.Generator]:
        """Return the generators that the loader and its sampler draw from, beside the global ones."""
        found = [getattr(o, "generator", None) for o in (self.loader, self.loader.sampler)]
        return list({id(g): g for g in found if g is not None}.values())


def grouped(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of `size` consecutive items, the last of them maybe shorter."""
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group


def rows_of(batch: Batch) -> int:
    """Return how many examples a batch has: the first dimension of its first tensor; 1 without any."""
    sizes: list[int] = []
    apply_to_collection(batch, Tensor, lambda t: sizes.append(t.shape[0] if t.ndim else 1))
    return sizes[0] if sizes else 1


def _after(batch: Batch, taken: int, rows: int) -> Batch:
    """Return a batch of `rows` examples without its first `taken`."""
    return apply_to_collection(batch, Tensor, lambda t: t[taken:] if t.ndim and t.shape[0] == rows else t)


def _own_dataset(loader: DataLoader[Any]) -> Any:
    return loader.dataset if isinstance(loader.dataset, IterableDataset) and loader.num_workers == 0 else None


def _keeps_state(owner: Any) -> bool:
    return hasattr(owner, "state_dict") and hasattr(owner, "load_state_dict")
