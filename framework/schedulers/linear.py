"""Straight lines and powers of them."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from framework.registry import Fraction, NonNegative, Positive, scheduler
from framework.schedulers.base import Bounded


@scheduler("linear")
@dataclass(frozen=True)
class Linear(Bounded):
    """A straight line: start + (end − start)·min(step/total, 1), as torch's `LinearLR`."""

    total_steps: int
    _: KW_ONLY
    start_factor: NonNegative = 1.0
    end_factor: NonNegative = 0.0

    def __call__(self, step: int) -> float:
        """Return start + (end − start)·min(step/total, 1)."""
        done = min(step / self.total_steps, 1.0)
        return self.start_factor * (1 - done) + self.end_factor * done


@scheduler("polynomial")
@dataclass(frozen=True)
class Polynomial(Bounded):
    """A power of the time left: minimum + (1 − minimum)·(1 − min(step/total, 1))^power.

    Chen et al. (2017), DeepLab, arXiv:1606.00915, the "poly" policy, with power 0.9; torch's
    `PolynomialLR`.
    """

    total_steps: int
    _: KW_ONLY
    power: Positive = 0.9
    minimum: Fraction = 0.0

    def __call__(self, step: int) -> float:
        """Return minimum + (1 − minimum)·(1 − min(step/total, 1))^power."""
        left = 1 - min(step / self.total_steps, 1.0)
        return self.minimum + (1 - self.minimum) * math.pow(left, self.power)
