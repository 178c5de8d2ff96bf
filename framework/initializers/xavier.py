"""Weights scaled by the mean of fan in and fan out."""

from __future__ import annotations

import math

from torch import Tensor

from framework.initializers.base import Initializer, fans
from framework.registry import initializer


@initializer("xavier_normal")
class XavierNormal(Initializer):
    """Normal weights that balance the sizes of the forward signal and of the gradient.

    W ~ N(0, gain² · 2 / (fan_in + fan_out)), Glorot & Bengio (2010), eq. 12.
    """

    def fill(self, weight: Tensor) -> None:
        """Overwrite one weight."""
        weight.normal_(0, self.gain * math.sqrt(2 / sum(fans(weight))))


@initializer("xavier_uniform")
class XavierUniform(Initializer):
    """Uniform weights that balance the sizes of the forward signal and of the gradient.

    W ~ U(-a, a) with a = gain · √(6 / (fan_in + fan_out)), Glorot & Bengio (2010), eq. 16.
    """

    def fill(self, weight: Tensor) -> None:
        """Overwrite one weight."""
        bound = self.gain * math.sqrt(6 / sum(fans(weight)))
        weight.uniform_(-bound, bound)
