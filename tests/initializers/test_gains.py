"""Gains keep the second moment of what an activation puts out."""

import numpy as np
import pytest
import torch
from torch import nn

from framework.errors import ConfigError
from framework.initializers import HeNormal, gain


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_second_moment_is_one(name):
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    weights = weights / weights.sum()
    outputs = getattr(nn.functional, name)(torch.from_numpy(nodes)).numpy()
    assert gain(name) ** 2 * weights @ outputs**2 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["linear", "sigmoid", "tanh", "relu"])
def test_conventional_values_are_torchs(name):
    assert gain(name) == nn.init.calculate_gain(name)


def test_none_is_linear():
    assert gain("none") == gain("linear") == 1


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_signal_keeps_its_size_through_a_layer(name):
    torch.manual_seed(0)
    layer = nn.Linear(1000, 1000)
    HeNormal(gain(name))(layer)
    with torch.no_grad():
        signal = layer(getattr(nn.functional, name)(torch.randn(500, 1000)))
    assert signal.square().mean().item() == pytest.approx(1, rel=0.02)


def test_unknown_name_gives_the_nearest():
    with pytest.raises(ConfigError, match="no gain is known for activation 'gleu': did you mean 'gelu'"):
        gain("gleu")
