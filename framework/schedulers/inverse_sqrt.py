"""Decay by the square root of the step."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from framework.registry import Count, scheduler


@scheduler("inverse_sqrt")
@dataclass(frozen=True)
class InverseSqrt:
    """A linear rise to 1 over `warmup_steps`, then decay by 1/√t: min(t/w, √(w/t)), t = step + 1.

    Vaswani et al. (2017), arXiv:1706.03762, equation 3, scaled to a peak of 1 (they took w = 4000). It knows
    no end of training.
    """

    _: KW_ONLY
    warmup_steps: Count = 100

    def __call__(self, step: int) -> float:
        """Return min(t/w, √(w/t)), t = step + 1."""
        t = step + 1
        return min(t / self.warmup_steps, math.sqrt(self.warmup_steps / t))
