"""Cosine annealing, once or over and over."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from framework.registry import Count, Fraction, scheduler
from framework.schedulers.base import Bounded, Clocked, Unit


def half_cosine(done: float, minimum: float) -> float:
    """Return minimum + (1 − minimum)·(1 + cos π·done)/2: 1 at done = 0, the minimum at 1."""
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * done)) / 2


@scheduler("cosine")
@dataclass(frozen=True)
class Cosine(Bounded):
    """Half a cosine from 1 to `minimum`: minimum + (1 − minimum)·(1 + cos(π·step/total))/2.

    Loshchilov and Hutter (2017), arXiv:1608.03983, equation 5, without restarts; torch's
    `CosineAnnealingLR`; the chapter's "cosine annealing".
    """

    total_steps: int
    _: KW_ONLY
    minimum: Fraction = 0.0

    def __call__(self, step: int) -> float:
        """Return minimum + (1 − minimum)·(1 + cos(π·step/total))/2."""
        return half_cosine(min(step / self.total_steps, 1.0), self.minimum)


@scheduler("cosine_restarts")
@dataclass(frozen=True)
class CosineRestarts(Clocked):
    """Half cosines, each `growth` times as long as the one before: SGDR.

    minimum + (1 − minimum)·(1 + cos(π·t/T))/2, t steps since the last restart, T = period·growthⁿ after n
    restarts. Loshchilov and Hutter (2017), arXiv:1608.03983, equation 5; torch's
    `CosineAnnealingWarmRestarts`. `period` is in units, `steps_per_epoch` is needed where they are epochs.
    """

    steps_per_epoch: int | None = None
    _: KW_ONLY
    period: Count = 10
    growth: Count = 1
    minimum: Fraction = 0.0
    unit: Unit = "epochs"

    def __call__(self, step: int) -> float:
        """Return minimum + (1 − minimum)·(1 + cos(π·t/T))/2."""
        length = self.period * self.unit_steps
        if self.growth == 1:
            return half_cosine(step % length / length, self.minimum)
        while step >= length:
            step -= length
            length *= self.growth
        return half_cosine(step / length, self.minimum)

    def discontinuities(self, end: int) -> list[int]:
        """Return the steps below `end` that begin after a restart."""
        found: list[int] = []
        step = length = self.period * self.unit_steps
        while step < end:
            found.append(step)
            length *= self.growth
            step += length
        return found
