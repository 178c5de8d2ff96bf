"""Users' own DataLoaders."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from framework.batching.batches import Layout, Window, cut, end_of_epoch, sample
from framework.batching.guarded import GuardedCollate, GuardedDataset, Lost, Task, cause_of, dead, is_death, load
from framework.batching.order import epoch_order, seed_for
from framework.batching.prefetch import Prefetch, side_stream
from framework.batching.seeding import SeededDataset
from framework.batching.sets import Batch
from framework.batching.streams import Stream, grouped, rows_of
from framework.errors import ConfigError, DataError


class Tasks(list[Task]):
    """The batches of an epoch, as a loader's batch sampler."""


class LoaderBatches:
    """Windows of `accumulate` consecutive batches of a DataLoader, moved to the device; to CUDA while a step runs.

    A map-style loader that shuffles or goes in order keeps its dataset, collate function and workers, and is
    given the order of (seed, epoch); its batches are split over the ranks. A loader with a sampler of its own,
    or over an iterable, is used as it is; several ranks cannot share one. An example that raises ends the run with a
    DataError, or is left out (`on_error` skip), which a loader used as it is cannot do.
    """

    def __init__(self, loader: DataLoader[Any], layout: Layout, on_error: Literal["stop", "skip"] = "stop") -> None:
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
        self.stream = Stream(loader)
        self.on_error = on_error
        self.kept: dict[str, tuple[Tasks, DataLoader[Any]]] = {}
        """Loaders by use, whose workers go on from one epoch to the next, since the user's do."""
        self.spare: Batch = None
        """A batch for a step whose examples are all lost: it counts nothing."""
        if on_error == "skip" and not self.indexed:
            raise ConfigError(
                "data.on_error=skip cannot go on after an error of a DataLoader over an iterable or with a sampler of "
                "its own: give a map-style dataset with shuffle=True or False."
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

    def windows(self, epoch: int, offset: int = 0) -> Iterator[Window]:
        """Yield the windows of one epoch after its first `offset` examples.

        Of a map-style loader none before them is read. Another starts from the state that `load_state` was given, or
        is read over from the epoch's start, with a warning.
        """
        windows = self._reordered(epoch, offset) if self.indexed else self._as_it_is(epoch, offset)
        prefetch = self._prefetch()
        return windows if prefetch is None else prefetch.windows(windows, ahead=self.ahead)

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs beside the offset: nothing for a map-style loader in our order."""
        return {} if self.indexed else self.stream.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned; to be called before `windows`."""
        if not self.indexed and state:
            self.stream.load_state(state)

    def in_order(self, limit: int | None = None) -> Iterator[Batch]:
        """Yield this rank's share of the set, in its order, none twice; with a limit, of a fixed sample of it."""
        if self.examples is None:
            return self._moved(iter(self.loader))
        size = self.loader.batch_size or 1
        index = sample(self.examples, limit, self.layout.seed).tolist()
        starts = range(self.layout.rank * size, len(index), self.layout.ranks * size)
        return self._moved(self._evaluated([index[s : s + size] for s in starts]))

    @property
    def ahead(self) -> bool:
        """Whether a batch may be had before the step on the one before it is taken, and all stays as it was.

        It may where workers read it. In this process reading draws from the run's generators, and a loader used as it
        is counts what it has given.
        """
        return self.indexed and self.loader.num_workers > 0

    def _prefetch(self) -> Prefetch | None:
        device = self.layout.device
        return Prefetch(device, side_stream(device)) if device.type == "cuda" else None

    def _moved(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        prefetch = self._prefetch()
        return map(self._move, batches) if prefetch is None else prefetch.batches(batches, ahead=self.ahead)

    def _move(self, batch: Batch) -> Batch:
        if self.layout.device.type == "cpu":
            return batch
        return apply_to_collection(batch, Tensor, lambda t: t.to(self.layout.device, non_blocking=True))

    def _evaluated(self, batches: list[list[int]]) -> Iterator[Batch]:
        for batch, lost in self._load(batches, 0, "evaluation"):
            for index, cause in lost:
                warnings.warn(f"example {index} is left out of an evaluation: {cause}", stacklevel=2)
            if batch is not None:
                yield batch

    def _reordered(self, epoch: int, offset: int) -> Iterator[Window]:
        size, count = self.loader.batch_size or 1, self.examples or 0
        shuffled = isinstance(self.loader.sampler, RandomSampler)
        order = epoch_order(
            count, seed=self.layout.seed, epoch=epoch, sampling="shuffled" if shuffled else "sequential"
        ).tolist()
        end = end_of_epoch(count, size, offset, drop_last=self.loader.drop_last)
        batches = [order[start : min(start + size, end)] for start in range(offset, end, size)]
        plans: list[tuple[list[int], list[int], bool]] = []
        own: list[list[int]] = []
        one = Layout(rank=self.layout.rank, ranks=self.layout.ranks)
        for group in grouped(batches, self.layout.accumulate):
            slots: list[int] = []
            shares = [cut(batch, one) for batch in group]
            busy = [i for i, (_, _, idle) in enumerate(shares) if not idle] or [0]
            for i in busy:
                slots.append(i * self.layout.ranks + self.layout.rank)
                own.extend(shares[i][1])
            plans.append((list(itertools.chain(*group)), slots, shares[busy[0]][2]))
        loaded = self._load(own, epoch, "training")
        whole = self.layout.accumulate * self.layout.ranks == 1
        for number, (positions, slots, idle) in enumerate(plans, start=1):
            pairs = list(itertools.islice(loaded, len(slots)))
            parts = {slot: batch for slot, (batch, _) in zip(slots, pairs, strict=True) if batch is not None}
            lost = [one for _, some in pairs for one in some]
            if not parts:
                parts, idle = {slots[0]: self._take_spare(lost)}, True
            self.spare = next(iter(parts.values()))
            yield Window(
                len(positions),
                list(parts),
                list(parts.values()),
                self._move,
                whole=whole and not idle,
                idle=idle,
                last=number == len(plans),
                positions=positions,
                lost=lost,
            )

    def _take_spare(self, lost: list[Lost]) -> Batch:
        """Return the batch that an idle step computes with; raises DataError where there is none yet."""
        if self.spare is None:
            index, cause = lost[0]
            raise DataError(f"no example of the first batch can be loaded, such as example {index}: {cause}.")
        return self.spare

    def _as_it_is(self, epoch: int, offset: int) -> Iterator[Window]:
        whole, start = self.layout.accumulate == 1, offset
        groups = grouped(self.stream.batches(offset), self.layout.accumulate)
        while True:
            try:
                group = next(groups, None)
            except Exception as error:
                where = f"after {start:,} examples of epoch {epoch}"
                message = f"the DataLoader failed {where}: {cause_of(error)}."
                raise DataError(dead(where, error) if is_death(error) else message) from error
            if group is None:
                return
            rows = sum(map(rows_of, group))
            positions, slots, last = range(start, start + rows), range(len(group)), self.stream.at_end
            yield Window(rows, slots, group, self._move, whole, last=last, positions=positions, of="epoch")
            start += rows

    def _load(self, batches: list[list[int]], epoch: int, use: str) -> Iterator[tuple[Batch, list[Lost]]]:
        """Yield each batch, None where it has no example left, and the examples that were lost."""
        ahead = self.loader.num_workers * (self.loader.prefetch_factor or 1)
        for batch, lost in load(lambda rest, careful: self._loader(rest, epoch, use, careful), batches, ahead):
            if lost and self.on_error == "stop":
                index, cause = lost[0]
                raise DataError(f"example {index} cannot be loaded: {cause}; data.on_error=skip leaves such out.")
            yield batch, lost

    def _loader(self, batches: list[list[int]], epoch: int, use: str, careful: bool) -> DataLoader[Any]:
        """Return a loader of these batches: the one kept for its use, where workers persist and none has died."""
        tasks = Tasks((epoch, indices) for indices in batches)
        if careful:
            self.kept.pop(use, None)
            return self._made(tasks, epoch, careful=True)
        if not self.loader.persistent_workers:
            return self._made(tasks, epoch)
        if use not in self.kept:
            own = Tasks()
            self.kept[use] = own, self._made(own, epoch)
        kept, loader = self.kept[use]
        kept[:] = tasks
        return loader

    def _made(self, tasks: Tasks, epoch: int, *, careful: bool = False) -> DataLoader[Any]:
        loader = self.loader
        generator = torch.Generator().manual_seed(seed_for(self.layout.seed, "loader", epoch, self.layout.rank))
        dataset: GuardedDataset = GuardedDataset(loader.dataset)
        workers: dict[str, Any] = {}
        if loader.num_workers:
            dataset = SeededDataset(loader.dataset, (self.layout.seed, "batch"))
            workers = {
                "prefetch_factor": 1 if careful else loader.prefetch_factor,
                "multiprocessing_context": loader.multiprocessing_context,
                "persistent_workers": loader.persistent_workers and not careful,
            }
        return DataLoader(
            dataset,
            batch_sampler=tasks,  # type: ignore[arg-type]  # what it yields is handed to the dataset as it is
            collate_fn=GuardedCollate(loader.collate_fn),  # type: ignore[arg-type]  # of what our dataset gives
            num_workers=min(loader.num_workers, 1) if careful else loader.num_workers,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            generator=generator,
            **workers,
        )
