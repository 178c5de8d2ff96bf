"""Triangular cycles against torch's CyclicLR."""

from pathlib import Path

import pytest
import torch
from chainrule_triangular import Triangular
from torch.optim.lr_scheduler import CyclicLR

from framework import ConfigError, plugins, run
from framework.config import parse


def torchs(steps, **options):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = CyclicLR(optimizer, max_lr=1.0, cycle_momentum=False, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize(("half", "minimum"), [(1, 0.25), (7, 0.0), (50, 0.5)])
def test_goes_as_torchs(mode, half, minimum):
    mine = Triangular(step_size=half, minimum=minimum, mode=mode, gamma=0.99, unit="steps")
    expected = torchs(400, base_lr=minimum, step_size_up=half, mode=mode, gamma=0.99)
    assert [mine(step) for step in range(400)] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_epochs_are_their_steps():
    assert [Triangular(10, step_size=3)(s) for s in range(200)] == [
        Triangular(step_size=30, unit="steps")(s) for s in range(200)
    ]


def test_by_hand():
    mine = Triangular(step_size=2, minimum=0.2, mode="triangular2", unit="steps")
    assert [mine(step) for step in range(9)] == pytest.approx([0.2, 0.6, 1.0, 0.6, 0.2, 0.4, 0.6, 0.4, 0.2])


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="Triangular counts epochs and needs steps_per_epoch >= 1, got None"):
        Triangular()
    with pytest.raises(ConfigError, match="scheduler 'triangular': minimum must be >= 0 and <= 1, got 2"):
        Triangular(10, minimum=2.0)


def test_trains_digits_by_name(tmp_path):
    plugins.discover(Path(__file__).parents[1])
    mapping = {
        "model": {"name": "mlp", "widths": [32]},
        "data": {"name": "digits", "batch_size": 32},
        "loss": {"name": "cross_entropy"},
        "scheduler": {"name": "triangular", "step_size": 10, "unit": "steps"},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "metric": {"accuracy": {}},
        "trainer": {"max_epochs": 1, "device": "cpu"},
    }
    result = run.train(parse(mapping), tmp_path, [])
    assert result.status == "finished", result
    assert result.test["accuracy"] > 0.8
