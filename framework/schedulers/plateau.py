"""Decay where a score stops getting better."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Any, Literal

from framework.registry import Fraction, NonNegative, Range, Size, scheduler


@scheduler("plateau")
@dataclass
class Plateau:
    """A factor whenever the score was not better for more than `patience` evaluations; the one with a state.

    `observe` is to be called with the monitored score after each evaluation. Better means below
    best − threshold·|best| for mode min, above best + threshold·|best| for max. After a decay, `cooldown`
    evaluations don't count. The multiplier never falls below `minimum`. As torch's `ReduceLROnPlateau` with
    its relative threshold, but for |best|: there a threshold loosens where scores are negative.
    """

    _: KW_ONLY
    factor: Annotated[float, Range(0, 1, "()")] = 0.1
    patience: Size = 10
    threshold: NonNegative = 1e-4
    cooldown: Size = 0
    minimum: Fraction = 0.0
    mode: Literal["min", "max"] = "min"
    multiplier: float = field(init=False, default=1.0)
    best: float | None = field(init=False, default=None)
    waited: int = field(init=False, default=0)
    cooling: int = field(init=False, default=0)

    def __call__(self, step: int) -> float:
        """Return the current multiplier."""
        return self.multiplier

    def observe(self, value: float) -> None:
        """Take note of the score of one evaluation."""
        if self._is_better(value):
            self.best = value
            self.waited = 0
        else:
            self.waited += 1
        if self.cooling > 0:
            self.cooling -= 1
            self.waited = 0
        if self.waited > self.patience:
            self.multiplier = max(self.multiplier * self.factor, self.minimum)
            self.cooling = self.cooldown
            self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers."""
        return {
            "multiplier": self.multiplier,
            "best": self.best,
            "waited": self.waited,
            "cooling": self.cooling,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.multiplier = state["multiplier"]
        self.best = state["best"]
        self.waited = state["waited"]
        self.cooling = state["cooling"]

    def _is_better(self, value: float) -> bool:
        if self.best is None:
            return math.isfinite(value)
        margin = self.threshold * abs(self.best)
        return value < self.best - margin if self.mode == "min" else value > self.best + margin
