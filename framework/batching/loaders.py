"""Users' own DataLoaders."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from framework.batching.batches import Layout, Window, cut, sample
from framework.batching.order import epoch_order, seed_for
from framework.batching.sets import Batch
from framework.errors import ConfigError


def rows_of(batch: Batch) -> int:
    """Return how many examples a batch has: the first dimension of its first tensor; 1 without any."""
    sizes: list[int] = []
    apply_to_collection(batch, Tensor, lambda t: sizes.append(t.shape[0] if t.ndim else 1))
    return sizes[0] if sizes else 1


class LoaderBatches:
    """Windows of `accumulate` consecutive batches of a DataLoader, moved to the device.

    A map-style loader that shuffles or goes in order keeps its dataset, collate function and workers, and is
    given the order of (seed, epoch); its batches are split over the ranks. A loader with a sampler of its own,
    or over an iterable, is used as it is; several ranks cannot share one.
    """

    def __init__(self, loader: DataLoader[Any], layout: Layout) -> None:
        self.loader = loader
        self.layout = layout
        self.indexed = (
            type(loader).__iter__ is DataLoader.__iter__
            and not isinstance(loader.dataset, IterableDataset)
            and type(loader.sampler) in (RandomSampler, SequentialSampler)
            and loader.batch_size is not None
            and not getattr(loader.sampler, "replacement", False)
            and getattr(loader.sampler, "_num_samples", None) is None
        )
        if layout.ranks > 1 and not self.indexed:
            raise ConfigError(
                f"{layout.ranks} devices cannot share a DataLoader over an iterable or with a sampler of its own: "
                f"give a map-style dataset with shuffle=True or False, or shard it by rank yourself."
            )

    @property
    def examples(self) -> int | None:
        """The number of examples, or None where nobody knows."""
        return len(self.loader.dataset) if self.indexed else None  # type: ignore[arg-type]  # map-style has a length

    @property
    def steps(self) -> int | None:
        """Optimizer steps in an epoch, or None where nobody knows."""
        try:
            return -(-len(self.loader) // self.layout.accumulate)
        except TypeError:
            return None

    def windows(self, epoch: int) -> Iterator[Window]:
        """Yield the windows of one epoch."""
        groups = self._reordered(epoch) if self.indexed else self._as_it_is()
        for rows, slots, parts, idle in groups:
            whole = self.layout.accumulate * self.layout.ranks == 1
            yield Window(rows, slots, parts, self._move, whole=whole, idle=idle)

    def in_order(self, limit: int | None = None) -> Iterator[Batch]:
        """Yield this rank's share of the set, in its order, none twice; with a limit, of a fixed sample of it."""
        if self.examples is None:
            return map(self._move, self.loader)
        size = self.loader.batch_size or 1
        index = sample(self.examples, limit, self.layout.seed).tolist()
        starts = range(self.layout.rank * size, len(index), self.layout.ranks * size)
        return map(self._move, self._load([index[s : s + size] for s in starts], 0))

    def _move(self, batch: Batch) -> Batch:
        if self.layout.device.type == "cpu":
            return batch
        return apply_to_collection(batch, Tensor, lambda t: t.to(self.layout.device, non_blocking=True))

    def _reordered(self, epoch: int) -> Iterator[tuple[int, list[int], list[Batch], bool]]:
        size, count = self.loader.batch_size or 1, self.examples or 0
        shuffled = isinstance(self.loader.sampler, RandomSampler)
        order = epoch_order(
            count, seed=self.layout.seed, epoch=epoch, sampling="shuffled" if shuffled else "sequential"
        ).tolist()
        end = count - count % size if self.loader.drop_last else count
        batches = [order[start : start + size] for start in range(0, end, size)]
        plans: list[tuple[int, list[int], bool]] = []
        own: list[list[int]] = []
        one = Layout(rank=self.layout.rank, ranks=self.layout.ranks)
        for group in _grouped(batches, self.layout.accumulate):
            slots: list[int] = []
            shares = [cut(batch, one) for batch in group]
            busy = [i for i, (_, _, idle) in enumerate(shares) if not idle] or [0]
            for i in busy:
                slots.append(i * self.layout.ranks + self.layout.rank)
                own.extend(shares[i][1])
            plans.append((sum(map(len, group)), slots, shares[busy[0]][2]))
        loaded = iter(self._load(own, epoch))
        for rows, slots, idle in plans:
            yield rows, slots, list(itertools.islice(loaded, len(slots))), idle

    def _as_it_is(self) -> Iterator[tuple[int, list[int], list[Batch], bool]]:
        for group in _grouped(self.loader, self.layout.accumulate):
            yield sum(map(rows_of, group)), list(range(len(group))), group, False

    def _load(self, batches: list[list[int]], epoch: int) -> DataLoader[Any]:
        loader = self.loader
        generator = torch.Generator().manual_seed(seed_for(self.layout.seed, "loader", epoch, self.layout.rank))
        workers: dict[str, Any] = {}
        if loader.num_workers:
            workers = {
                "prefetch_factor": loader.prefetch_factor,
                "multiprocessing_context": loader.multiprocessing_context,
            }
        return DataLoader(
            loader.dataset,
            batch_sampler=batches,
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            generator=generator,
            **workers,
        )


def _grouped(items: Any, size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group
