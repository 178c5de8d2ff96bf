"""An epoch taken up at a position: no example before it is read, none is lost, none comes twice."""

import itertools
import os
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

from framework.batching import BatchOptions, Layout, TensorSet, as_batches
from framework.batching.order import epoch_order


class Counted(Dataset):
    """Numbers, and which of them were read."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        return torch.tensor(float(index)), torch.tensor(index % 2)


class CountedSet(TensorSet):
    """Numbers in memory, and which of them were gathered."""

    def __init__(self, count: int) -> None:
        super().__init__((torch.arange(count).float(), torch.arange(count) % 2))
        self.read: list[int] = []

    def to(self, device):
        return self

    def gather(self, index):
        self.read += index.tolist()
        return super().gather(index)


def chained(lists) -> list[float]:
    return list(itertools.chain.from_iterable(lists))


def taken(source, offset: int = 0, size: int = 5, steps: int | None = None, drop_last: bool = False, **layout):
    """Return the numbers of each window over all ranks."""
    ranks = layout.get("ranks", 1)
    options = BatchOptions(batch_size=size, drop_last=drop_last)
    if isinstance(source, Dataset):
        source = DataLoader(source, batch_size=size, shuffle=True, drop_last=drop_last)
    shares = [as_batches(source, options, Layout(rank=r, **layout)).windows(3, offset) for r in range(ranks)]
    found = []
    for windows in zip(*shares, strict=True):
        parts = [(slot, x.tolist()) for w in windows for slot, (x, _) in w if not w.idle]
        found.append([number for _, part in sorted(parts) for number in part])
        assert {w.rows for w in windows} == {len(found[-1])}
        assert len({w.last for w in windows}) == 1
        if len(found) == steps:
            break
    else:
        assert not found or windows[0].last
    return found


@pytest.mark.parametrize("make", [Counted, CountedSet])
@pytest.mark.parametrize("offset", [0, 5, 10, 23])
def test_windows_from_a_position_read_nothing_before_it(make, offset):
    everything = chained(taken(make(23)))
    source = make(23)
    assert chained(taken(source, offset)) == everything[offset:]
    assert sorted(source.read) == sorted(everything[offset:])


@pytest.mark.parametrize("make", [Counted, CountedSet])
@pytest.mark.parametrize(
    "then", [{"size": 3}, {"size": 8}, {"accumulate": 3}, {"ranks": 2}, {"ranks": 3, "accumulate": 2, "size": 4}]
)
def test_another_batch_size_or_number_of_ranks_goes_on_at_the_same_example(make, then):
    everything = chained(taken(make(23)))
    first = chained(taken(make(23), steps=2))
    rest = chained(taken(make(23), len(first), **then))
    assert first + rest == everything


@pytest.mark.parametrize("make", [Counted, CountedSet])
def test_a_ragged_last_batch_is_dropped_from_where_the_epoch_goes_on(make):
    assert [len(w) for w in taken(make(23), 10, drop_last=True)] == [5, 5]
    assert [len(w) for w in taken(make(23), 10, size=4, drop_last=True)] == [4, 4, 4]
    assert taken(make(23), 20, drop_last=True) == []


class Drawing(Dataset):
    """Examples that draw from every generator."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


class DrawingTogether(Drawing):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


@pytest.mark.parametrize("dataset", [Drawing(), DrawingTogether()])
def test_what_a_worker_draws_is_a_function_of_the_batch(dataset):
    def windows(workers: int, offset: int):
        loader = DataLoader(dataset, batch_size=2, shuffle=True, num_workers=workers)
        return [
            batch for window in as_batches(loader, BatchOptions(), Layout()).windows(1, offset) for _, batch in window
        ]

    everything = torch.cat(windows(1, 0))
    assert torch.equal(torch.cat(windows(2, 4)), everything[4:])
    assert len(set(everything[:, 1].tolist())) == 12


class Process(Dataset):
    """Examples that say which process read them."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor([index, os.getpid()])


@pytest.mark.parametrize("persistent", [True, False])
def test_workers_that_persist_read_every_epoch(persistent):
    batches = as_batches(
        DataLoader(Process(), batch_size=2, shuffle=True, num_workers=1, persistent_workers=persistent),
        BatchOptions(),
        Layout(),
    )
    epochs = [torch.cat([b for w in batches.windows(e) for _, b in w]) for e in range(2)]
    for epoch, read in enumerate(epochs):
        assert read[:, 0].tolist() == epoch_order(8, seed=0, epoch=epoch, sampling="shuffled").tolist()
    assert (epochs[0][0, 1] == epochs[1][0, 1]).item() is persistent
    # an evaluation amid an epoch, and an epoch begun anew, read what they should
    windows = batches.windows(0)
    first = next(iter(next(windows)))[1]
    assert torch.cat(list(batches.in_order()))[:, 0].tolist() == list(range(8))
    rest = [b for w in windows for _, b in w]
    assert torch.equal(torch.cat([first, *rest])[:, 0], epochs[0][:, 0])
    next(batches.windows(1))
    assert torch.equal(torch.cat([b for w in batches.windows(0) for _, b in w])[:, 0], epochs[0][:, 0])


class Stream(IterableDataset):
    def __iter__(self):
        yield from torch.arange(10).float()


class StatefulStream(IterableDataset):
    """Numbers from where its state says, and which of them were made."""

    def __init__(self) -> None:
        self.next, self.made = 0, []

    def __iter__(self):
        while self.next < 10:
            self.next += 1
            self.made.append(self.next - 1)
            yield torch.tensor(float(self.next - 1))
        self.next = 0

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


def batches_of(source):
    return as_batches(DataLoader(source, batch_size=3), BatchOptions(), Layout())


def numbers(window):
    return [x for _, batch in window for x in batch.tolist()]


def test_a_stream_with_a_state_starts_there():
    before = batches_of(StatefulStream())
    windows = before.windows(0)
    assert [numbers(next(windows)) for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]
    source = StatefulStream()
    after = batches_of(source)
    after.load_state(before.state())
    assert [numbers(w) for w in after.windows(0, 6)] == [numbers(w) for w in windows] == [[6, 7, 8], [9]]
    assert source.made == [6, 7, 8, 9]


@pytest.mark.parametrize("size", [3, 4])
def test_a_stream_without_is_read_over_with_a_warning(size):
    after = as_batches(DataLoader(Stream(), batch_size=size), BatchOptions(), Layout())
    with pytest.warns(UserWarning, match=r"read over .* 6 examples .* StatefulDataLoader"):
        found = chained(numbers(w) for w in after.windows(0, 6))
    assert found == [6, 7, 8, 9]


@pytest.mark.parametrize("generator", [None, 7])
def test_a_sampler_of_the_user_s_draws_the_same_again(generator):
    def loader():
        own = None if generator is None else torch.Generator().manual_seed(generator)
        return DataLoader(torch.arange(50), batch_size=4, sampler=WeightedRandomSampler([1.0] * 50, 20, generator=own))

    before = as_batches(loader(), BatchOptions(), Layout())
    for _ in before.windows(0):
        torch.rand(1)
    windows = before.windows(1)
    first = [numbers(next(windows)) for _ in range(2)]
    state = before.state()
    rest = [numbers(w) for w in windows]
    torch.manual_seed(99)
    random_then = torch.random.get_rng_state()
    after = as_batches(loader(), BatchOptions(), Layout())
    after.load_state(state)
    again = after.windows(1, 8)
    with pytest.warns(UserWarning, match="read over"):
        next_one = numbers(next(again))
    assert next_one == rest[0]
    assert torch.equal(torch.random.get_rng_state(), random_then), "what is drawn next is not of the replay"
    assert [numbers(w) for w in again] == rest[1:]
    assert len(first) == 2
