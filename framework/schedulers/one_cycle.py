"""One cycle up and down."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

from framework.registry import Range, scheduler
from framework.schedulers.base import Bounded


@scheduler("one_cycle")
@dataclass(frozen=True)
class OneCycle(Bounded):
    """Up from 1/div_factor to 1 over the fraction `pct_start`, then down to 1/(div_factor·final_div_factor).

    As torch's `OneCycleLR` with `max_lr` the base learning rate and momentum left alone: the peak is at step
    pct_start·total − 1, the end at total − 1, and between two of them a half cosine or a straight line.
    Smith and Topin (2019), "Super-convergence", arXiv:1708.07120.
    """

    total_steps: int
    _: KW_ONLY
    pct_start: Annotated[float, Range(0, 1, "()")] = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    div_factor: Annotated[float, Range(1)] = 25.0
    final_div_factor: Annotated[float, Range(1)] = 1e4

    def __call__(self, step: int) -> float:
        """Return the way up, then the way down."""
        low = 1 / self.div_factor
        last = self.total_steps - 1
        peak = max(self.pct_start * self.total_steps - 1, 0.0)
        if step < peak:
            return self._between(low, 1.0, step / peak)
        fallen = min((step - peak) / (last - peak or 1.0), 1.0)
        return self._between(1.0, low / self.final_div_factor, fallen)

    def _between(self, start: float, end: float, done: float) -> float:
        part = done if self.anneal_strategy == "linear" else (1 - math.cos(math.pi * done)) / 2
        return start + (end - start) * part
