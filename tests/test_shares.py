"""What a run's time went to, by a clock of the test's own."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from framework import Trainer, shares
from framework.shares import Shares

NAMES = ["data", "step", "evaluation", "overhead"]


@pytest.fixture
def clock(monkeypatch):
    """Return a clock of seconds that passes only where a test says so."""

    class Clock:
        now = 100.0

        def pass_by(self, seconds: float) -> None:
            self.now += seconds

    hands = Clock()
    monkeypatch.setattr(shares, "perf_counter", lambda: hands.now)
    return hands


def test_each_second_counts_once(clock):
    def windows():
        for _ in range(3):
            clock.pass_by(2)
            yield object()
        clock.pass_by(1)  # the wait that finds the end

    counted = Shares()
    for _ in counted.windows(windows()):
        clock.pass_by(5)
        counted.end_step()
        clock.pass_by(1)
    with counted.evaluating():
        clock.pass_by(10)
    # 7 of waiting, 15 of steps, 10 of evaluation, 3 of the rest
    expected = {"data": 7 / 35, "step": 15 / 35, "evaluation": 10 / 35, "overhead": 3 / 35}
    assert counted.in_all() == pytest.approx(expected)
    assert counted.since_mark() == pytest.approx(expected)
    clock.pass_by(4)
    assert counted.since_mark() == {"data": 0, "step": 0, "evaluation": 0, "overhead": 1}
    assert counted.in_all()["overhead"] == pytest.approx(7 / 39)


def test_an_evaluation_that_fails_is_counted(clock):
    counted = Shares()

    def fail() -> None:
        with counted.evaluating():
            clock.pass_by(3)
            raise ValueError("shape")

    with pytest.raises(ValueError, match="shape"):
        fail()
    assert counted.in_all() == {"data": 0, "step": 0, "evaluation": 1, "overhead": 0}


def test_no_time_at_all_has_no_shares(clock):
    assert Shares().in_all() == dict.fromkeys(NAMES, 0.0)


class Slow(nn.Module):
    """A model whose every forward pass takes a second of the test's clock in training, and ten in evaluation."""

    def __init__(self, clock) -> None:
        super().__init__()
        self.layer, self.clock = nn.Linear(3, 1), clock

    def forward(self, inputs):
        self.clock.pass_by(1 if self.training else 10)
        return self.layer(inputs)


def test_a_run_reports_its_shares(clock, tmp_path):
    model = Slow(clock)
    data = (torch.randn(40, 3), torch.randn(40, 1))
    trainer = Trainer(
        model,
        loss=nn.MSELoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        directory=tmp_path,
        max_epochs=2,
        log_every=4,
        device="cpu",
    )
    result = trainer.fit(data, data, batch_size=10)
    # of each epoch 4 steps, and the validation set and the slice of the training set in one batch each; the rehearsal
    # before the first step is one pass more in evaluation mode
    assert result.time == pytest.approx({"data": 0, "step": 8 / 58, "evaluation": 40 / 58, "overhead": 10 / 58})
    assert json.loads((tmp_path / "result.json").read_text())["time"] == result.time
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    curves = {name: [(s.step, s.value) for s in events.Scalars(f"time/{name}")] for name in NAMES}
    # an evaluation belongs to the interval after it
    assert curves["step"] == [(4, pytest.approx(4 / 14)), (8, pytest.approx(4 / 24))]
    assert curves["evaluation"] == [(4, 0), (8, pytest.approx(20 / 24))]
