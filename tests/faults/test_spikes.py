"""Losses that leap: against the formula in numpy, and in a run."""

import json

import numpy as np
import pytest
import torch
from faulty import Keep, blobs, trainer, without_steps
from torch import nn

from framework.batching.order import epoch_order
from framework.faults.spikes import DECAY, WARM_UP, Spikes

ORDER = epoch_order(600, seed=0, epoch=0, sampling="shuffled").tolist()


def by_hand(losses: np.ndarray, k: float) -> list[bool]:
    """The docstring's formula, a number at a time."""
    mean = variance = 0.0
    found = []
    for number, loss in enumerate(losses, start=1):
        limit = k * variance**0.5
        spike = number > WARM_UP and loss - mean > limit
        found.append(bool(spike))
        deviation = min(loss - mean, limit) if number > WARM_UP else loss - mean
        a = max(1 / number, 1 - DECAY)
        mean, variance = mean + a * deviation, (1 - a) * (variance + a * deviation**2)
    return found


def test_spikes_are_those_of_the_formula():
    losses = 1.0 + 0.1 * np.random.default_rng(0).standard_normal(400)
    losses[[10, 120, 300]] = 9.0
    spikes = Spikes(4.0, torch.device("cpu"), torch.float64)
    found = [bool(spikes.observe(torch.tensor(loss))) for loss in losses]
    assert found == by_hand(losses, 4.0)
    assert [i for i in np.flatnonzero(found) if losses[i] == 9.0] == [120, 300]


def test_warm_up_statistics_are_the_plain_ones_and_nan_changes_nothing():
    losses = np.random.default_rng(0).standard_normal(WARM_UP)
    spikes = Spikes(4.0, torch.device("cpu"), torch.float64)
    for loss in losses:
        assert not spikes.observe(torch.tensor(loss))
        before = spikes.state.clone()
        assert not spikes.observe(torch.tensor(float("nan")))
        assert torch.equal(spikes.state, before)
    mean, variance, count = spikes.state.tolist()
    assert (mean, variance, count) == pytest.approx((losses.mean(), losses.var(), WARM_UP))


def test_a_lasting_change_of_level_is_soon_the_usual_one():
    noise = 0.1 * np.random.default_rng(0).standard_normal(400)
    spikes = Spikes(4.0, torch.device("cpu"), torch.float64)
    found = [bool(spikes.observe(torch.tensor(value + (i >= 200) * 10))) for i, value in enumerate(noise)]
    assert found[200]
    assert 5 < sum(found[200:300]) < 60
    assert not any(found[300:])


def leaping() -> tuple[torch.Tensor, torch.Tensor]:
    """Clouds of which the example that comes at step 55 is far out and wrong."""
    inputs, target = blobs(600)
    example = ORDER[555]
    inputs[example] *= 1e3
    target[example] = (target[example] + 1) % 3
    return inputs, target


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_spike_is_skipped_like_a_number_that_is_none(decided_on, tmp_path, accumulate):
    kept, expected = Keep(), Keep()
    settings = {"max_epochs": 1, "accumulate": accumulate}
    ours = trainer(
        linear(), spike_deviations=20.0, on_nonfinite="skip", directory=tmp_path, callbacks=[kept], **settings
    )
    ours.fit(leaping(), batch_size=10)
    (line,) = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert (line["step"], line["reason"], line["positions"]) == (55, "spike", ORDER[550:560])
    assert line["what"].endswith("a spike above its running mean")
    without_steps(trainer(linear(), callbacks=[expected], **settings), {55}).fit(leaping(), batch_size=10)
    assert all(torch.equal(a, b) for a, b in zip(kept.weights, expected.weights, strict=True))


def test_a_spike_stops_only_where_it_is_asked_for():
    assert trainer(linear(), max_epochs=1).fit(leaping(), batch_size=10).status == "finished"
    result = trainer(linear(), max_epochs=1, spike_deviations=20.0).fit(leaping(), batch_size=10)
    assert (result.status, result.reason, result.steps) == ("failed", "spike", 56)
    assert "try a lower optimizer.lr" in result.error


def test_what_spikes_are_measured_by_is_resumed(tmp_path):
    kept = []
    for resumed in (False, True):
        settings = {"spike_deviations": 20.0, "on_nonfinite": "skip", "directory": tmp_path / str(resumed)}
        if resumed:
            trainer(linear(), max_steps=53, **settings).fit(leaping(), batch_size=10)
        ours = trainer(linear(), max_epochs=1, **settings)
        ours.fit(leaping(), batch_size=10, resume=resumed)
        assert ours.guard.skipped == 1
        kept.append(ours.guard.spikes.state)
    assert torch.equal(*kept)
