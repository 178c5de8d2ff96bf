"""Weights scaled by the fan in alone."""

from __future__ import annotations

import math

from torch import Tensor

from framework.initializers.base import Initializer, fans
from framework.registry import initializer


@initializer("he_normal")
class HeNormal(Initializer):
    """Normal weights that keep the forward signal's size.

    W ~ N(0, gain² / fan_in), He et al. (2015, arXiv:1502.01852), eq. 10, where gain² = 2 for relu.
    """

    def fill(self, weight: Tensor) -> None:
        """Overwrite one weight."""
        weight.normal_(0, self.gain / math.sqrt(fans(weight)[0]))


@initializer("he_uniform")
class HeUniform(Initializer):
    """Uniform weights that keep the forward signal's size.

    W ~ U(-a, a) with a = gain · √(3 / fan_in), which has the variance of He et al. (2015, arXiv:1502.01852),
    eq. 10.
    """

    def fill(self, weight: Tensor) -> None:
        """Overwrite one weight."""
        bound = self.gain * math.sqrt(3 / fans(weight)[0])
        weight.uniform_(-bound, bound)
