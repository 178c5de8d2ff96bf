"""LAMB against its algorithm, written a second time in float64."""

from pathlib import Path

import pytest
import torch
from chainrule_lamb import Lamb
from torch import nn

from framework import ConfigError, plugins, run
from framework.config import parse

BETAS = (0.8, 0.95)
EPS = 1e-4


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def algorithm_2(weight, gradients, rates, decay):
    """Return the weights after each step, one tensor being one layer."""
    m, v, trajectory = torch.zeros_like(weight), torch.zeros_like(weight), []
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g**2
        r = (m / (1 - BETAS[0] ** t)) / ((v / (1 - BETAS[1] ** t)).sqrt() + EPS)
        u = r + decay * weight
        size, length = weight.norm().item(), u.norm().item()
        ratio = size / length if size > 0 and length > 0 else 1.0
        weight = weight - rate * ratio * u
        trajectory.append(weight)
    return trajectory


def test_follows_the_algorithm_layer_by_layer():
    starts = [numbers(4, 3), numbers(5, seed=1), torch.zeros(6, dtype=torch.float64), torch.tensor(2.0).double()]
    decays = [0.3, 0.0, 0.3, 0.3]
    weights = [nn.Parameter(start.clone()) for start in starts]
    groups = [{"params": [w], "weight_decay": decay} for w, decay in zip(weights[:2], decays[:2], strict=True)]
    mine = Lamb([*groups, {"params": weights[2:]}], betas=BETAS, eps=EPS, weight_decay=0.3)
    rates = [0.1 / (1 + step) for step in range(12)]
    gradients = [[numbers(*w.shape, seed=100 * i + step) for step in range(12)] for i, w in enumerate(starts)]
    expected = [algorithm_2(*layer) for layer in zip(starts, gradients, [rates] * 4, decays, strict=True)]
    for step, rate in enumerate(rates):
        for group in mine.param_groups:
            group["lr"] = rate
        for w, own in zip(weights, gradients, strict=True):
            w.grad = own[step]
        mine.step()
        for w, trajectory in zip(weights, expected, strict=True):
            torch.testing.assert_close(w.detach(), trajectory[step], rtol=1e-12, atol=1e-14)


def test_step_has_the_size_of_the_weights_or_one_where_a_norm_is_zero():
    usual, from_zero, still = (nn.Parameter(torch.full((4,), v)) for v in (3.0, 0.0, 3.0))
    for w, slope in zip((usual, from_zero, still), (0.1, 0.1, 0.0), strict=True):
        w.grad = torch.full((4,), slope)
    Lamb([usual, from_zero, still], lr=0.01, weight_decay=0.0).step()
    assert (3 - usual.detach()).norm() == pytest.approx(0.01 * 6, rel=1e-4)
    # at first m = (1-b)g, so that the step of an element is 1 before it is scaled
    assert from_zero.detach().numpy() == pytest.approx(-0.01, rel=1e-4)
    assert still.tolist() == [3.0] * 4


def test_scale_of_the_loss_does_not_matter():
    ends = []
    for scale in (1.0, 1000.0):
        w = nn.Parameter(numbers(8))
        mine = Lamb([w], lr=0.1, eps=0.0, weight_decay=0.0)
        for step in range(5):
            w.grad = scale * numbers(8, seed=step)
            mine.step()
        ends.append(w.detach())
    torch.testing.assert_close(*ends, rtol=1e-10, atol=0)


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match=r"optimizer 'lamb': betas\[0\] must be >= 0 and < 1, got -0.1"):
        Lamb([nn.Parameter(torch.ones(2))], betas=(-0.1, 0.9))
    with pytest.raises(ConfigError, match="optimizer 'lamb': eps must be >= 0, got -1"):
        Lamb([nn.Parameter(torch.ones(2))], eps=-1.0)


def test_trains_digits_by_name(tmp_path):
    plugins.discover(Path(__file__).parents[1])
    mapping = {
        "model": {"name": "mlp", "widths": [32]},
        "data": {"name": "digits", "batch_size": 32},
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "lamb", "lr": 0.02},
        "scheduler": {"name": "constant"},
        "metric": {"accuracy": {}},
        "trainer": {"max_epochs": 1, "device": "cpu"},
    }
    result = run.train(parse(mapping), tmp_path, [])
    assert result.status == "finished", result
    assert result.test["accuracy"] > 0.8
