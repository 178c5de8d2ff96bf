"""No weights at all."""

from __future__ import annotations

from torch import Tensor

from framework.initializers.base import Initializer
from framework.registry import initializer


@initializer("zeros")
class Zeros(Initializer):
    """Zero weights: W = 0, from which hidden layers cannot learn, since all their units stay alike."""

    def __init__(self, *, zero_bias: bool = True) -> None:
        super().__init__(zero_bias=zero_bias)

    def fill(self, weight: Tensor) -> None:
        """Overwrite one weight."""
        weight.zero_()
