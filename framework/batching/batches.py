"""From examples to the windows of micro-batches that optimizer steps are taken on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from framework.batching.options import BatchOptions
from framework.batching.order import epoch_order, generator_for
from framework.batching.sets import Batch, ExampleSet
from framework.batching.streams import rows_of

CPU = torch.device("cpu")

BATCHES_AT_ONCE = 16
"""Batches whose positions are made int64 by one call."""


@dataclass(frozen=True)
class Layout:
    """Where batches go: the device, this rank among its peers, micro-batches a step, and the seed."""

    device: torch.device = CPU
    rank: int = 0
    ranks: int = 1
    accumulate: int = 1
    seed: int = 0


@dataclass(slots=True)
class Window:
    """The micro-batches that one rank contributes to one optimizer step.

    Iterating yields (slot, batch). A step's batch is cut into slots = micro-batches x ranks, and a slot's number
    is the same however they are spread, so that what is drawn in it is too. `rows` counts the examples over all
    ranks. An `idle` rank has no example of its own: it computes with another's, which counts nothing. `last` says
    that the epoch ends with it, where that is known. `positions` are those of its examples over all ranks, in the
    training set or, of a stream, in its epoch, and None where nobody knows. Each part is loaded whole and cut into so
    many `pieces`. `lost` are the examples of this rank's that could not be had, each with its cause.
    """

    rows: int
    slots: Sequence[int]
    parts: Sequence[Any]
    load: Callable[[Any], Batch]
    whole: bool = True
    idle: bool = False
    last: bool = False
    positions: Sequence[int] | Tensor | None = None
    of: Literal["training set", "epoch"] = "training set"
    pieces: int = 1
    lost: Sequence[tuple[int, str]] = ()

    def __len__(self) -> int:
        return len(self.parts) * self.pieces

    def share(self, mean: Tensor, weight: Tensor | float) -> Tensor:
        """Return a micro-batch's part of the step's loss, up to the factor rows / total weight, known at the end."""
        return mean if self.whole else mean * weight / self.rows

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        for slot, part in zip(self.slots, self.parts, strict=True):
            if self.pieces == 1:
                yield slot, self.load(part)
            else:
                yield from enumerate(in_pieces(self.load(part), self.pieces), start=slot * self.pieces)


def in_pieces(batch: Batch, count: int) -> Iterator[Batch]:
    """Yield a batch's examples in at most `count` batches; tensors that do not count them go with each."""
    rows = rows_of(batch)
    for part in torch.arange(rows).tensor_split(min(count, rows)):
        first, end = int(part[0]), int(part[-1]) + 1
        yield apply_to_collection(
            batch, Tensor, lambda t, first=first, end=end: t[first:end] if t.ndim and t.shape[0] == rows else t
        )


class Batches(Protocol):
    """A source of windows for training, and of batches in order for evaluation."""

    @property
    def steps(self) -> int | None:
        """Optimizer steps in an epoch, or None where nobody knows."""
        ...

    def windows(self, epoch: int, offset: int = 0) -> Iterator[Window]:
        """Yield the windows of one epoch after its first `offset` examples, over all ranks.

        Their order is a function of (seed, epoch), whatever the batch size and the number of ranks.
        """
        ...

    def in_order(self, limit: int | None = None) -> Iterator[Batch]:
        """Yield this rank's share of the set, in its order, none twice; with a limit, of a fixed sample of it."""
        ...

    @property
    def examples(self) -> int | None:
        """The number of examples, or None where nobody knows."""
        ...


def cut(index: Sequence[int] | Tensor, layout: Layout) -> tuple[list[int], list[Any], bool]:
    """Cut one step's positions into slots; return this rank's slot numbers, its parts, and whether it is idle."""
    count = layout.accumulate * layout.ranks
    size, extra = divmod(len(index), count)
    starts = [s * size + min(s, extra) for s in range(count + 1)]
    own = [s for s in range(layout.rank, count, layout.ranks) if starts[s] < starts[s + 1]]
    if not own:
        return [layout.rank], [index[:1]], True
    return own, [index[starts[s] : starts[s + 1]] for s in own], False


def end_of_epoch(examples: int, size: int, offset: int, *, drop_last: bool) -> int:
    """Return where an epoch ends whose first `offset` examples are taken, with or without a ragged batch."""
    return examples - (examples - offset) % size if drop_last else examples


def sample(size: int, limit: int | None, seed: int) -> Tensor:
    """Return the positions of all of a set, or of `limit` of them drawn by seed, in ascending order."""
    if limit is None or limit >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=generator_for(seed, "sample"))[:limit].sort().values


def _in_batches(order: Tensor, size: int) -> Iterator[Tensor]:
    """Yield an order's positions, `size` at a time, in int64: kept in int32 an order of a long set takes half of it."""
    for part in order.split(size * BATCHES_AT_ONCE) if len(order) else ():
        yield from part.long().split(size)


class MemoryBatches:
    """Batches of a set in memory, each one gather from tensors on the device."""

    def __init__(self, examples: ExampleSet, options: BatchOptions, layout: Layout) -> None:
        self.set = examples.to(layout.device)
        self.options = options
        self.layout = layout
        self.size = options.batch_size or len(examples)

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self.set)

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return len(self.set) // self.size if self.options.drop_last else -(-len(self.set) // self.size)

    def windows(self, epoch: int, offset: int = 0) -> Iterator[Window]:
        """Yield the windows of one epoch after its first `offset` examples; none before them is gathered."""
        order = epoch_order(
            len(self.set),
            seed=self.layout.seed,
            epoch=epoch,
            sampling=self.options.sampling,
            labels=self.set.labels,
        )
        order = order.to(self.layout.device, torch.int32 if len(order) <= torch.iinfo(torch.int32).max else None)
        alone = self.layout.accumulate * self.layout.ranks == 1
        end = end_of_epoch(len(order), self.size, offset, drop_last=self.options.drop_last)
        taken = offset
        for index in _in_batches(order[offset:end], self.size):
            taken += len(index)
            last = taken == end
            if alone:
                yield Window(len(index), (0,), (index,), self.set.gather, last=last, positions=index)
            else:
                slots, parts, idle = cut(index, self.layout)
                whole = False
                yield Window(len(index), slots, parts, self.set.gather, whole, idle, last, positions=index)

    def in_order(self, limit: int | None = None) -> Iterator[Batch]:
        """Yield this rank's share of the set, in its order, none twice; with a limit, of a fixed sample of it."""
        index = sample(len(self.set), limit, self.layout.seed).to(self.layout.device)
        size = self.options.evaluation_batch_size
        for start in range(self.layout.rank * size, len(index), self.layout.ranks * size):
            yield self.set.gather(index[start : start + size])
