"""Lion against its formula, element by element."""

import math
from pathlib import Path

import pytest
import torch
from chainrule_lion import Lion
from torch import nn

from framework import ConfigError, plugins, run
from framework.config import parse


def test_follows_the_formula_element_by_element():
    weights = [nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in ([1.0, -2.0, 0.5], [[3.0], [-0.1]])]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.0, "lr": 0.03}]
    mine = Lion(groups, lr=0.05, betas=(0.8, 0.95), weight_decay=0.4)
    expected = [[1.0, -2.0, 0.5], [3.0, -0.1]]
    means = [[0.0] * 3, [0.0] * 2]
    for step in range(25):
        rates = [0.05 / (1 + step), 0.03 / (1 + step)]
        for group, rate in zip(mine.param_groups, rates, strict=True):
            group["lr"] = rate
        for w in weights:
            w.grad = w.detach() ** 3 - 0.2 * step
        mine.step()
        for values, m, rate, decay in zip(expected, means, rates, (0.4, 0.0), strict=True):
            for i, w in enumerate(values):
                g = w**3 - 0.2 * step
                values[i] = w - rate * (math.copysign(1, 0.8 * m[i] + 0.2 * g) + decay * w)
                m[i] = 0.95 * m[i] + 0.05 * g
    for w, values in zip(weights, expected, strict=True):
        torch.testing.assert_close(w.detach().flatten(), torch.tensor(values, dtype=torch.float64), rtol=1e-12, atol=0)


def test_moves_each_weight_by_the_rate_and_rests_without_gradient():
    weight, idle = nn.Parameter(torch.tensor([1.0, 1.0, 1.0])), nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1e-6, -5.0, 0.0])
    mine = Lion([weight, idle], lr=0.25, weight_decay=0.0)
    mine.step()
    assert weight.tolist() == [0.75, 1.25, 1.0]
    assert idle.tolist() == [1.0, 1.0]
    assert set(mine.state) == {weight}


def test_bad_options_are_refused():
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ConfigError, match=r"optimizer 'lion': betas\[1\] must be >= 0 and < 1, got 1"):
        Lion([weight], betas=(0.9, 1.0))
    with pytest.raises(ConfigError, match="optimizer 'lion': lr must be >= 0, got -1"):
        Lion([weight], lr=-1.0)


def test_trains_digits_by_name(tmp_path):
    plugins.discover(Path(__file__).parents[1])
    mapping = {
        "model": {"name": "mlp", "widths": [32]},
        "data": {"name": "digits", "batch_size": 32},
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "lion", "lr": 0.003},
        "scheduler": {"name": "constant"},
        "metric": {"accuracy": {}},
        "trainer": {"max_epochs": 1, "device": "cpu"},
    }
    result = run.train(parse(mapping), tmp_path, [])
    assert result.status == "finished", result
    assert result.test["accuracy"] > 0.8
