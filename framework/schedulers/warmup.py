"""A rise, then a decay to the end of training.

The rise is a straight line that reaches 1 after w = `warmup_steps` updates: (step + 1)/(w + 1). So the first
update already moves, and no multiplier comes twice.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from framework.errors import ConfigError
from framework.registry import Count, Fraction, Size, scheduler
from framework.schedulers.base import Bounded
from framework.schedulers.cosine import half_cosine


class Warmed(Bounded):
    """A bounded scheduler that starts with a rise; null takes a tenth of the total."""

    warmup_steps: int | None

    def __post_init__(self) -> None:
        """Refuse a rise that leaves nothing for the rest."""
        super().__post_init__()
        if self.warmup >= self.total_steps:
            raise ConfigError(
                f"scheduler.warmup_steps must be below the total of {self.total_steps} steps, got "
                f"{self.warmup_steps}: set it lower, or trainer.max_epochs or trainer.max_steps higher."
            )

    @property
    def warmup(self) -> int:
        """The number of updates that the rise takes."""
        return self.total_steps // 10 if self.warmup_steps is None else self.warmup_steps

    def risen(self, step: int) -> float:
        """Return how far the rise is, 1 from its end on."""
        return min((step + 1) / (self.warmup + 1), 1.0)

    def done(self, step: int) -> float:
        """Return the fraction of the time after the rise that is over."""
        return min(max(step - self.warmup, 0) / (self.total_steps - self.warmup), 1.0)


@scheduler("warmup_cosine")
@dataclass(frozen=True)
class WarmupCosine(Warmed):
    """A linear rise over `warmup_steps` (null: a tenth of the total), then half a cosine to `minimum`.

    (step + 1)/(w + 1) for step < w, then minimum + (1 − minimum)·(1 + cos(π·(step − w)/(total − w)))/2.
    The rise: Goyal et al. (2017), arXiv:1706.02677, section 2.2; the cosine: Loshchilov and Hutter (2017),
    arXiv:1608.03983, equation 5; both: GPT-3 (Brown et al., 2020, arXiv:2005.14165, appendix B).
    """

    total_steps: int
    _: KW_ONLY
    warmup_steps: Size | None = None
    minimum: Fraction = 0.0

    def __call__(self, step: int) -> float:
        """Return the rise, then the half cosine."""
        return self.risen(step) if step < self.warmup else half_cosine(self.done(step), self.minimum)


@scheduler("warmup_linear")
@dataclass(frozen=True)
class WarmupLinear(Warmed):
    """A linear rise over `warmup_steps` (null: a tenth of the total), then a straight line to `minimum`.

    (step + 1)/(w + 1) for step < w, then 1 − (1 − minimum)·(step − w)/(total − w). Devlin et al. (2019),
    BERT, arXiv:1810.04805, appendix A.2; the chapter's "warmup + decay".
    """

    total_steps: int
    _: KW_ONLY
    warmup_steps: Size | None = None
    minimum: Fraction = 0.0

    def __call__(self, step: int) -> float:
        """Return the rise, then the straight line."""
        return self.risen(step) if step < self.warmup else 1 - (1 - self.minimum) * self.done(step)


@scheduler("warmup_stable_decay")
@dataclass(frozen=True)
class WarmupStableDecay(Warmed):
    """A linear rise, a plateau at 1, and a decay over the last `decay_steps`, to `minimum`.

    With u the fraction of the decay that is over: minimum + (1 − minimum)·(1 − u) for shape linear, or
    (1 − √u) for sqrt. Null takes a tenth of the total for either length. Hu et al. (2024), MiniCPM,
    arXiv:2404.06395; the shapes: Hägele et al. (2024), arXiv:2405.18392, section 3. Raises
    ConfigError where rise and decay don't fit into the total.
    """

    total_steps: int
    _: KW_ONLY
    warmup_steps: Size | None = None
    decay_steps: Count | None = None
    shape: Literal["linear", "sqrt"] = "linear"
    minimum: Fraction = 0.0

    def __post_init__(self) -> None:
        """Refuse a rise and a decay that overlap."""
        super().__post_init__()
        if self.warmup + self.decay > self.total_steps:
            raise ConfigError(
                f"scheduler.warmup_steps + decay_steps must be at most the total of {self.total_steps} "
                f"steps, got {self.warmup} + {self.decay}: shorten one of them."
            )

    @property
    def decay(self) -> int:
        """The number of updates that the decay takes."""
        return max(self.total_steps // 10, 1) if self.decay_steps is None else self.decay_steps

    def __call__(self, step: int) -> float:
        """Return the rise, then 1, then the decay."""
        left = max(self.total_steps - step, 0)
        if left >= self.decay:
            return self.risen(step)
        over = 1 - left / self.decay
        fallen = over if self.shape == "linear" else math.sqrt(over)
        return 1 - (1 - self.minimum) * fallen
