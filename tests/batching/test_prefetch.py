"""Prefetching changes when a batch is copied, and nothing else: which, in what order, and what an error says."""

import contextlib
import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from framework import Trainer
from framework.batching import BatchOptions, Layout, Window, as_batches
from framework.batching.loaders import LoaderBatches
from framework.batching.prefetch import Prefetch, one_ahead
from framework.errors import DataError

CPU = torch.device("cpu")


class Noted(Prefetch):
    """Notes what happens, in order, in a list that a test may write to, too."""

    def __init__(self, device=CPU) -> None:
        super().__init__(device)
        self.notes: list[str] = []

    def _copy(self, batch):
        self.notes.append(f"copy {int(batch[0])}")
        return super()._copy(batch)


def windows(*groups, notes=None):
    """Yield a window for each group of numbers, whose parts are tensors of one number."""
    for group in groups:
        if notes is not None:
            notes.append(f"get {group[0]}")
        yield Window(len(group), range(len(group)), [torch.tensor([n]) for n in group], lambda part: part)


def test_the_next_window_is_had_and_one_batch_begun_while_one_is_worked_on():
    prefetch = Noted()
    for window in prefetch.windows(windows([0], [1], [2], notes=prefetch.notes), ahead=True):
        for _, batch in window:
            prefetch.notes.append(f"step {int(batch)}")
    expected = "get 0, get 1, copy 0, copy 1, step 0, get 2, copy 2, step 1, step 2"
    assert ", ".join(prefetch.notes) == expected


def test_of_a_window_of_several_parts_one_is_begun_at_a_time():
    prefetch = Noted()
    for window in prefetch.windows(windows([0, 1, 2], [3, 4]), ahead=True):
        for _, batch in window:
            prefetch.notes.append(f"use {int(batch)}")
    expected = "copy 0, copy 1, use 0, copy 2, use 1, copy 3, use 2, copy 4, use 3, use 4"
    assert ", ".join(prefetch.notes) == expected


def test_without_looking_ahead_no_window_is_had_before_its_turn():
    prefetch = Noted()
    for window in prefetch.windows(windows([0, 1], [2], notes=prefetch.notes), ahead=False):
        for _, batch in window:
            prefetch.notes.append(f"use {int(batch)}")
    assert ", ".join(prefetch.notes) == "get 0, copy 0, copy 1, use 0, use 1, get 2, copy 2, use 2"


def test_a_window_may_be_gone_through_again_or_left_out():
    prefetch = Noted()
    found = []
    for number, window in enumerate(prefetch.windows(windows([0, 1], [2], [3], [4]), ahead=True)):
        if number != 1:
            found += [int(batch) for _ in range(2) for _, batch in window]
    assert found == [0, 1, 0, 1, 3, 3, 4, 4]
    assert prefetch.notes.count("copy 4") == 2  # begun once ahead, and once for the second time through
    assert prefetch.begun is None
    assert not prefetch.expected


def test_batches_are_nestings_on_the_device_in_their_order():
    given = [{"inputs": torch.full((2,), float(n)), "name": str(n)} for n in range(4)]
    for ahead in (False, True):
        found = list(Prefetch(torch.device("meta")).batches(iter(given), ahead=ahead))
        assert [batch["name"] for batch in found] == ["0", "1", "2", "3"]
        assert {batch["inputs"].device.type for batch in found} == {"meta"}
        assert list(Prefetch(CPU).batches(iter(given), ahead=ahead)) == given
    assert not list(Prefetch(CPU).batches(iter(()), ahead=True))


def test_an_error_is_raised_in_its_items_turn():
    def items():
        yield 0
        yield 1
        raise DataError("example 7 cannot be loaded")

    seen: list[int] = []
    ahead = one_ahead(items(), seen.append)
    assert next(ahead) == 0
    assert next(ahead) == 1  # the error is known by now
    with pytest.raises(DataError, match="example 7 cannot be loaded"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)
    with pytest.raises(DataError, match="at once"):
        next(one_ahead(iter(lambda: (_ for _ in ()).throw(DataError("at once")), None), seen.append))


def test_closing_closes_what_it_reads_from():
    closed: list[str] = []

    def items():
        try:
            yield from range(5)
        finally:
            closed.append("closed")

    ahead = one_ahead(items(), lambda item: None)
    next(ahead)
    ahead.close()
    assert closed == ["closed"]


class FakeStream:
    """Stands for a CUDA stream, and notes what it is asked."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes, self.events = name, notes, 0

    def record_event(self):
        self.events += 1
        self.notes.append(f"{self.name} records {self.events}")
        return self.events

    def wait_event(self, event) -> None:
        self.notes.append(f"{self.name} waits for {event}")


def test_the_steps_stream_waits_for_the_batch_it_takes_and_for_no_other(monkeypatch):
    """By stand-ins for streams, since the order of what they are asked is what matters."""
    prefetch = Noted()
    notes = prefetch.notes
    prefetch.stream, own = FakeStream("side", notes), FakeStream("own", notes)

    @contextlib.contextmanager
    def on(stream):
        notes.append(f"on {stream.name}")
        yield

    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: own)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, s: notes.append(f"{s.name} uses {int(t)}"))
    batches = prefetch.batches(iter([torch.tensor([0]), torch.tensor([1])]), ahead=True)
    next(batches)
    begun = [line for n in (0, 1) for line in ("on side", f"copy {n}", f"side records {n + 1}")]
    assert notes == [*begun, "own waits for 1", "own uses 0"]
    next(batches)
    assert notes[len(begun) + 2 :] == ["own waits for 2", "own uses 1"]


class Faulty(Dataset):
    """Numbers with noise drawn as they are read; some cannot be had."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 44

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError(f"image-{index}.png is truncated")
        return torch.full((3,), float(index)) + torch.randn(3), torch.tensor([index / 44])


@pytest.fixture
def prefetching(monkeypatch):
    """Have loaders prefetch to the CPU, or not, as a test says."""
    return lambda on: monkeypatch.setattr(LoaderBatches, "_prefetch", lambda self: Prefetch(CPU) if on else None)


def trained(dataset, workers: int, *, on_error="skip", resume=False, **settings):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    trainer = Trainer(
        model,
        loss=nn.MSELoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-4),
        device="cpu",
        log_every=2,
        **{"max_epochs": 2, **settings},
    )
    loader = DataLoader(dataset, batch_size=4, shuffle=True, num_workers=workers)
    result = trainer.fit(trainer.batches(loader, BatchOptions(on_error=on_error)), resume=resume)
    return result.samples, model.weight.detach().clone(), model.bias.detach().clone()


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_bitwise_what_it_is_without(prefetching, tmp_path, workers):
    found = []
    for on in (False, True):
        prefetching(on)
        found.append(trained(Faulty(3, 17), workers, accumulate=3, directory=tmp_path / f"{on}"))
    # cut in an epoch's midst and resumed: what was had ahead is had again
    trained(Faulty(3, 17), workers, accumulate=3, max_steps=6, directory=tmp_path / "cut")
    found.append(trained(Faulty(3, 17), workers, accumulate=3, directory=tmp_path / "cut", resume=True))
    for other in found[1:]:
        assert other[0] == found[0][0]
        assert all(map(torch.equal, other[1:], found[0][1:]))
    one, two = ((tmp_path / f"{on}" / "skipped.jsonl").read_text() for on in (False, True))
    assert one == two
    assert "image-17.png" in one


@pytest.mark.parametrize("workers", [0, 2])
def test_an_example_that_cannot_be_loaded_ends_the_run_at_its_step(prefetching, tmp_path, workers):
    steps = []
    for on in (False, True):
        prefetching(on)
        with pytest.raises(DataError, match=r"example 17 cannot be loaded: OSError: image-17.png is truncated"):
            trained(Faulty(17), workers, on_error="stop", directory=tmp_path / f"{on}")
        steps.append(json.loads((tmp_path / f"{on}" / "result.json").read_text())["steps"])
    assert steps[0] == steps[1] > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_reach_a_cuda_device_whole(workers):
    inputs = torch.arange(4096.0 * 64).view(4096, 64)
    loader = DataLoader(TensorDataset(inputs), batch_size=64, num_workers=workers, pin_memory=True)
    batches = as_batches(loader, BatchOptions(), Layout(torch.device("cuda", 0)))
    found = [batch[0] * 1 for window in batches.windows(0) for _, batch in window]
    assert torch.equal(torch.cat(found).cpu(), inputs)
