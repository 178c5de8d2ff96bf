"""Cyclical learning rates."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from framework.registry import Count, Fraction, scheduler
from framework.schedulers import Clocked, Unit


@scheduler("triangular")
@dataclass(frozen=True)
class Triangular(Clocked):
    """Straight up from `minimum` to 1 in `step_size` units and straight down again, over and over.

    minimum + (1 − minimum)·(1 − |x|)·h, where x goes from −1 to 1 in each cycle of 2·step_size units, as torch's
    `CyclicLR` with `max_lr` the base learning rate. The height h of cycle n, from 0: 1 for mode `triangular`, 2⁻ⁿ for
    `triangular2`, gamma^step for `exp_range`. Smith (2017), arXiv:1506.01186, section 3, who has 2 to 10 epochs up
    and a minimum of a third or a quarter. `steps_per_epoch` is needed where `unit` is epochs.
    """

    steps_per_epoch: int | None = None
    _: KW_ONLY
    step_size: Count = 2
    minimum: Fraction = 0.25
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: Fraction = 0.9999
    unit: Unit = "epochs"

    def __call__(self, step: int) -> float:
        """Return minimum + (1 − minimum)·(1 − |x|)·h."""
        half = self.step_size * self.unit_steps
        cycle, place = divmod(step, 2 * half)
        return self.minimum + (1 - self.minimum) * (1 - abs(place / half - 1)) * self._height(cycle, step)

    def _height(self, cycle: int, step: int) -> float:
        if self.mode == "triangular2":
            return 0.5**cycle
        return float(self.gamma**step) if self.mode == "exp_range" else 1.0
