"""Derivatives from values alone, and what they say of a derivative that was computed otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

STEP = 1e-2
"""The distance between the points of the stencil along a unit direction: rounding error falls with it, truncation
error grows as its fourth power."""
STEPS = (STEP, 1e-3, 1e-4, 1e-5, 1e-6)
"""What is tried where a function bends too sharply for the step before: the nearer the points, the fewer kinks lie
between them."""
RELATIVE = 1e-8
"""The relative error up to which two derivatives are the same, at full precision."""
ROUNDING = 1e-13
"""The error of a value of size 1 in float64, with room for the sums that it comes from."""

Verdict = Literal["ok", "wrong", "kink"]


def derivative(value_at: Callable[[float], float], step: float = STEP) -> float:
    """Return f'(0) from four values: (f(−2h) − 8f(−h) + 8f(h) − f(2h)) / 12h, exact for polynomials of degree 4.

    The error is h⁴ f⁽⁵⁾/30. Source: Fornberg (1988), Generation of Finite Difference Formulas on Arbitrarily Spaced
    Grids, table 1.
    """
    far = value_at(-2 * step) - value_at(2 * step)
    near = value_at(step) - value_at(-step)
    return (far + 8 * near) / (12 * step)


@dataclass(frozen=True)
class Tolerance:
    """When a and n are the same: |a − n| <= relative (|a| + |n|) + rounding max(1, |value|) / h."""

    value: float
    relative: float = RELATIVE
    rounding: float = ROUNDING

    def floor(self, step: float) -> float:
        """Return the largest derivative that values at this step cannot tell from none."""
        return self.rounding * max(1.0, abs(self.value)) / step

    def limit(self, analytic: float, numeric: float, step: float) -> float:
        """Return the largest difference that still counts as none."""
        return self.relative * (abs(analytic) + abs(numeric)) + self.floor(step)


@dataclass(frozen=True)
class Judgement:
    """What values say of a derivative: `ok`, `wrong`, or `kink` where the function has no derivative to compare with.

    `step` is the one that settled it; `tried` are those before it, at which the function was not smooth.
    """

    verdict: Verdict
    analytic: float
    numeric: float
    step: float
    tried: tuple[float, ...] = ()
    floor: float = 0.0

    @property
    def error(self) -> float:
        """The difference relative to the larger of both; 0 where neither can be told from 0."""
        scale = max(abs(self.analytic), abs(self.numeric))
        return abs(self.analytic - self.numeric) / scale if scale > self.floor else 0.0


def judge(
    value_at: Callable[[float], float], analytic: float, tolerance: Tolerance, steps: Sequence[float] = STEPS
) -> Judgement:
    """Compare a derivative with the stencil at h, h/2 and h/4, for smaller and smaller h until they tell.

    Numeric values that agree with the derivative prove it. They refute it only where they converge as h⁴, and to the
    same number at two steps: where the function is not smooth between the points they do not. A kink at 0 itself, where
    central differences converge to the mean of both slopes, shows in a second difference that does not vanish with h.
    """
    values = cache(value_at)

    def judged(verdict: Verdict, numeric: float, step: float, tried: int) -> Judgement:
        return Judgement(verdict, analytic, numeric, step, tuple(steps[:tried]), tolerance.floor(step))

    settled: tuple[float, float] | None = None
    numeric = math.nan
    for position, step in enumerate(steps):
        coarse, fine, finer = math.nan, math.nan, math.nan
        for part in (1, 2, 4):
            coarse, fine, finer = fine, finer, derivative(values, step / part)
            if abs(analytic - finer) <= tolerance.limit(analytic, finer, step / part):
                return judged("ok", finer, step / part, position)
        numeric = finer + (finer - fine) / 15  # what h⁴ convergence leaves taken away
        limit = tolerance.limit(analytic, finer, step / 4)
        spread = abs(finer - fine)
        if abs(analytic - numeric) <= limit + spread / 15 and spread <= abs(fine - coarse) / 8:
            return judged("ok", numeric, step, position)
        if spread > max(limit, abs(fine - coarse) / 8) or not math.isfinite(numeric):
            settled = None
            continue
        if settled is not None and abs(numeric - settled[0]) <= limit + settled[1] + spread:
            return judged("kink" if _bends_at_zero(values, step, limit) else "wrong", numeric, step, position - 1)
        settled = numeric, spread
    return judged("kink", numeric, steps[-1], len(steps))


def _bends_at_zero(values: Callable[[float], float], step: float, limit: float) -> bool:
    """Tell whether the slopes on both sides of 0 differ however near: (f(h) − 2 f(0) + f(−h)) / h does not vanish."""

    def gap(h: float) -> float:
        return abs(values(h) - 2 * values(0.0) + values(-h)) / h

    near = gap(step / 8)
    return near > max(10 * limit, 0.5 * gap(step))
