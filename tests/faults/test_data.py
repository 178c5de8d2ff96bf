"""Examples that raise, and loader workers that die."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty import Keep, blobs, small_model, trainer, weights
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from framework import Callback, ConfigError
from framework.batching import BatchOptions
from framework.batching.order import epoch_order
from framework.errors import DataError

ORDER = epoch_order(60, seed=0, epoch=0, sampling="shuffled").tolist()


class Faulty(Dataset[Any]):
    """Examples of which some raise."""

    def __init__(self, *bad: int) -> None:
        self.inputs, self.target = blobs()
        self.bad = bad

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        if index in self.bad:
            raise OSError(f"image-{index}.png is truncated\nsecond line")
        return self.inputs[index], self.target[index]


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "skipped.jsonl").read_text().splitlines()]


def fitted(dataset: Any, *, on_error: str = "skip", workers: int = 0, batch_size: int = 10, **settings: Any) -> Any:
    kept = Keep()
    ours = trainer(max_epochs=1, callbacks=[kept], optimizer=torch.optim.SGD, **settings)
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=workers)
    ours.fit(ours.batches(loader, BatchOptions(on_error=on_error)))
    return ours


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_example_that_raises_is_left_out_of_its_batch(tmp_path, workers, accumulate):
    bad = {ORDER[3], ORDER[25], ORDER[26]}
    ours = fitted(Faulty(*bad), workers=workers, accumulate=accumulate, directory=tmp_path)
    hand = small_model()
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.05)
    inputs, target = blobs()
    size = 10 * accumulate
    for start in range(0, 60, size):
        index = [i for i in ORDER[start : start + size] if i not in bad]
        optimizer.zero_grad()
        nn.functional.cross_entropy(hand(inputs[index]), target[index]).backward()
        optimizer.step()
    torch.testing.assert_close(weights(ours.model), weights(hand))
    found = lines(tmp_path)
    assert [(line["step"], line["positions"]) for line in found] == [
        (ORDER.index(i) // size, [i]) for i in sorted(bad, key=ORDER.index)
    ]
    assert all(line["reason"] == "data" and line["of"] == "training set" for line in found)
    assert found[0]["what"] == f"OSError: image-{ORDER[3]}.png is truncated"


class Search(Callback):
    """Takes an epoch's steps, and takes them back."""

    def on_fit_start(self, trainer) -> None:
        snapshot = trainer.snapshot()
        for window in trainer.train_batches.windows(0):
            trainer.step(window)
        trainer.restore(snapshot)


def test_what_steps_that_are_taken_back_left_out_is_noted_once(tmp_path):
    bad = sorted({ORDER[3], ORDER[25]}, key=ORDER.index)
    ours = trainer(max_epochs=1, callbacks=[Search()], optimizer=torch.optim.SGD, directory=tmp_path)
    ours.fit(ours.batches(DataLoader(Faulty(*bad), batch_size=10, shuffle=True), BatchOptions(on_error="skip")))
    assert [line["positions"] for line in lines(tmp_path)] == [[i] for i in bad]


def test_a_dataset_that_fetches_batches_and_a_step_without_any_example(tmp_path):
    class Together(Faulty):
        def __getitems__(self, indices):
            return [self[i] for i in indices]

    ours = fitted(Subset(Together(*ORDER[10:20]), range(60)), directory=tmp_path)
    before, after = ours.callbacks[0].weights[:2]
    assert torch.equal(before, after)
    assert [line["positions"] for line in lines(tmp_path)] == [[i] for i in ORDER[10:20]]
    with pytest.raises(DataError, match=f"no example of the first batch can be loaded, such as example {ORDER[0]}"):
        fitted(Faulty(*ORDER[:10]))


@pytest.mark.parametrize("workers", [0, 2])
def test_by_default_the_run_ends_and_says_which_example(tmp_path, workers):
    bad = ORDER[25]
    with pytest.raises(DataError) as caught:
        fitted(Faulty(bad), on_error="stop", workers=workers, directory=tmp_path)
    expected = f"example {bad} cannot be loaded: OSError: image-{bad}.png is truncated; data.on_error=skip"
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"


def test_a_plain_dataset_has_the_option_too(tmp_path):
    ours = trainer(max_epochs=1, directory=tmp_path)
    ours.fit(ours.batches(Faulty(7), BatchOptions(batch_size=10, on_error="skip")))
    assert lines(tmp_path)[0]["positions"] == [7]


def test_an_evaluation_leaves_it_out_with_a_warning():
    ours = trainer()
    batches = ours.batches(DataLoader(Faulty(7), batch_size=10), BatchOptions(on_error="skip"))
    with pytest.warns(UserWarning, match="example 7 is left out of an evaluation: OSError: image-7.png"):
        score = ours.evaluate(batches)
    inputs, target = blobs()
    rest = [i for i in range(60) if i != 7]
    assert score["loss"] == pytest.approx(nn.functional.cross_entropy(ours.model(inputs[rest]), target[rest]).item())


def test_streams_cannot_go_on_and_say_where_they_were():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from (TensorDataset(*blobs())[i] for i in range(25))
            raise OSError("the disk is gone")

    with pytest.raises(ConfigError, match=r"data\.on_error=skip cannot go on after an error of a DataLoader over"):
        trainer().batches(DataLoader(Stream(), batch_size=10), BatchOptions(on_error="skip"))
    with pytest.raises(DataError, match="after 20 examples of epoch 0: OSError: the disk is gone"):
        trainer(max_epochs=1).fit(DataLoader(Stream(), batch_size=10))


class Deadly(Faulty):
    """Kills the worker that reads an example, the first few times."""

    def __init__(self, victim: int, note: Path, times: int) -> None:
        super().__init__()
        self.victim, self.note, self.times = victim, note, times

    def __getitem__(self, index: int) -> Any:
        if index == self.victim:
            deaths = len(self.note.read_text()) if self.note.exists() else 0
            if deaths < self.times:
                self.note.write_text("x" * (deaths + 1))
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_dead_worker_is_replaced_with_nothing_lost_or_repeated(tmp_path):
    handler = signal.getsignal(signal.SIGCHLD)
    ours = fitted(Deadly(ORDER[25], tmp_path / "deaths", 1), workers=2)
    assert (tmp_path / "deaths").read_text() == "x"
    assert torch.equal(weights(ours.model), weights(fitted(Faulty(), workers=2).model))
    assert ours.progress.samples == 60
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_a_worker_that_dies_twice_at_one_place_ends_the_run(tmp_path):
    with pytest.raises(DataError) as caught:
        fitted(Deadly(ORDER[25], tmp_path / "deaths", 9), workers=1)
    message = str(caught.value)
    assert message.startswith(f"a worker of the DataLoader died twice at the examples [{ORDER[20]}, ")
    assert "it may have run out of memory; try fewer workers, or num_workers=0" in message
    assert 2 <= len((tmp_path / "deaths").read_text()) <= 3
