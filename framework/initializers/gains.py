"""What to multiply weights by so that an activation keeps the size of its signal."""

from __future__ import annotations

import math

from framework.errors import ConfigError, nearest

_GAINS = {
    "linear": 1.0,
    "none": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    # E[z² Φ(z)²] = 1/3 + 1/(2π√3), by parts twice.
    "gelu": 1 / math.sqrt(1 / 3 + 1 / (2 * math.pi * math.sqrt(3))),
    # E[z² σ(z)²] has no closed form; by quadrature.
    "silu": 1.6765324703310909,
}


def gain(activation: str) -> float:
    """Return the factor by which an activation's weights exceed those of a linear layer.

    For relu, gelu and silu, 1/√E[f(z)²] with z ~ N(0, 1): the second moment of the activation's output times
    the gain's square is 1, which for relu is the √2 of He et al. (2015, arXiv:1502.01852, eq. 10). For tanh
    5/3 and for sigmoid 1, the conventional values that torch.nn.init.calculate_gain has too; 1 for linear
    and none.
    Raises ConfigError for any other name.
    """
    if activation not in _GAINS:
        raise ConfigError(f"no gain is known for activation '{activation}': {nearest(activation, _GAINS)}")
    return _GAINS[activation]
