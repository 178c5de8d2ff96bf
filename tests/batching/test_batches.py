import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from framework.batching import BatchOptions, Layout, TensorSet, as_batches
from framework.batching.batches import cut
from framework.errors import ConfigError


def numbers(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(count).float(), torch.arange(count) % 2


def seen(source, options: BatchOptions, epoch: int = 0, **layout) -> list[list[float]]:
    batches = as_batches(source, options, Layout(**layout))
    return [[v for _, (x, _) in window for v in x.tolist()] for window in batches.windows(epoch)]


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 16])
@pytest.mark.parametrize(("accumulate", "ranks"), [(1, 1), (3, 1), (1, 2), (2, 2), (1, 4)])
def test_slots_partition_a_step_however_it_is_spread(count, accumulate, ranks):
    parts: dict[int, list[int]] = {}
    for rank in range(ranks):
        slots, pieces, idle = cut(list(range(count)), Layout(rank=rank, ranks=ranks, accumulate=accumulate))
        if not idle:
            parts |= dict(zip(slots, pieces, strict=True))
    assert [v for slot in sorted(parts) for v in parts[slot]] == list(range(count))
    alone = cut(list(range(count)), Layout(accumulate=accumulate * ranks))
    assert parts == dict(zip(alone[0], alone[1], strict=True))


@pytest.mark.parametrize("make", [lambda d: d, lambda d: DataLoader(TensorDataset(*d), batch_size=4, shuffle=True)])
def test_ranks_share_the_windows_of_one_device(make):
    options = BatchOptions(batch_size=4)
    whole = seen(make(numbers(18)), options)
    assert sorted(v for window in whole for v in window) == list(range(18))
    shares = [seen(make(numbers(18)), options, rank=r, ranks=3) for r in range(3)]
    for step, window in enumerate(whole):
        together = [v for share in shares for v in share[step]]
        assert sorted(set(together)) == sorted(window)


def test_an_idle_rank_computes_with_an_example_that_counts_nothing():
    batches = as_batches(numbers(5), BatchOptions(batch_size=4, sampling="sequential"), Layout(rank=1, ranks=2))
    last = list(batches.windows(0))[-1]
    assert (last.rows, last.idle, len(last)) == (1, True, 1)


def test_epochs_differ_and_are_functions_of_the_seed():
    options = BatchOptions(batch_size=50)
    first, again, other = (seen(numbers(50), options, epoch=e) for e in (0, 0, 1))
    assert first == again != other
    assert seen(numbers(50), options, seed=1) != first


@pytest.mark.parametrize(
    ("size", "drop", "steps"), [(4, False, 5), (4, True, 4), (1, False, 18), (None, False, 1), (99, False, 1)]
)
def test_steps(size, drop, steps):
    options = BatchOptions(batch_size=size, drop_last=drop)
    batches = as_batches(numbers(18), options, Layout())
    assert batches.steps == steps == len(list(batches.windows(0)))


def test_sequential_and_balanced():
    assert seen(numbers(6), BatchOptions(batch_size=4, sampling="sequential")) == [[0, 1, 2, 3], [4, 5]]
    skewed = (torch.arange(1000).float(), (torch.arange(1000) < 10).long())
    drawn = [v for window in seen(skewed, BatchOptions(sampling="balanced")) for v in window]
    assert len(drawn) == 1000
    assert 400 < sum(v < 10 for v in drawn) < 600


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 10])
@pytest.mark.parametrize("loader", [False, True])
def test_evaluation_visits_every_example_once_over_all_ranks(count, ranks, loader):
    data = numbers(count)
    source = DataLoader(TensorDataset(*data), batch_size=2, shuffle=True) if loader else data
    found: list[float] = []
    for rank in range(ranks):
        batches = as_batches(source, BatchOptions(evaluation_batch_size=2), Layout(rank=rank, ranks=ranks))
        found += [v for x, _ in batches.in_order() for v in x.tolist()]
    assert sorted(found) == list(range(count))
    limited = as_batches(source, BatchOptions(evaluation_batch_size=2), Layout())
    first, again = ([v for x, _ in limited.in_order(3) for v in x.tolist()] for _ in range(2))
    assert first == again == sorted(set(first))
    assert len(first) == min(3, count)


def test_a_sample_is_of_the_whole_set():
    batches = as_batches(numbers(1000), BatchOptions(), Layout())
    (found,) = (x for x, _ in batches.in_order(100))
    assert 350 < found.mean() < 650


def test_a_loader_with_its_own_sampler_is_left_alone_and_cannot_be_shared():
    data = TensorDataset(*numbers(8))
    loader = DataLoader(data, sampler=RandomSampler(data, replacement=True, num_samples=4), batch_size=2)
    assert as_batches(loader, BatchOptions(), Layout()).examples is None
    with pytest.raises(ConfigError, match="2 devices cannot share"):
        as_batches(loader, BatchOptions(), Layout(ranks=2))


def test_loader_keeps_its_collate_function_and_workers():
    loader = DataLoader(
        TensorDataset(*numbers(8)), batch_size=4, shuffle=True, num_workers=2, collate_fn=lambda items: len(items)
    )
    batches = as_batches(loader, BatchOptions(), Layout())
    assert [part for window in batches.windows(0) for _, part in window] == [4, 4]


def test_sets_and_their_errors():
    pair = TensorSet(numbers(4), transform=lambda batch: (batch[0] * 10, batch[1]))
    assert pair.gather(torch.tensor([3, 1]))[0].tolist() == [30, 10]
    assert pair.subset(torch.tensor([2])).gather(torch.tensor([0]))[0].tolist() == [20]
    assert pair.labels is not None
    assert TensorSet({"x": torch.zeros(3)}).labels is None
    for bad in [(torch.zeros(3), torch.zeros(2)), {}, torch.tensor(1.0), torch.zeros(0, 2)]:
        with pytest.raises(ValueError, match="same first dimension"):
            TensorSet(bad)
    with pytest.raises(TypeError, match="training data must be"):
        as_batches(nn.Linear(1, 1), BatchOptions(), Layout())
