"""Decay by a factor, every so many steps or epochs."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import KW_ONLY, dataclass

from framework.registry import Count, Fraction, Size, scheduler
from framework.schedulers.base import Clocked, Unit


@scheduler("step")
@dataclass(frozen=True)
class Step(Clocked):
    """A factor every `step_size` units: gamma^⌊t / step_size⌋, t whole units so far, as torch's `StepLR`.

    The chapter's "step decay". `steps_per_epoch` is needed where `unit` is epochs.
    """

    steps_per_epoch: int | None = None
    _: KW_ONLY
    step_size: Count = 10
    gamma: Fraction = 0.1
    unit: Unit = "epochs"

    def __call__(self, step: int) -> float:
        """Return gamma^⌊t / step_size⌋."""
        return self.gamma ** (step // self.unit_steps // self.step_size)

    def discontinuities(self, end: int) -> range:
        """Return the steps below `end` from which one factor more counts."""
        period = self.step_size * self.unit_steps
        return range(period, end, period)


@scheduler("multistep")
@dataclass(frozen=True)
class MultiStep(Clocked):
    """A factor at each milestone: gamma^|{m ≤ t}|, t whole units so far, as torch's `MultiStepLR`.

    He et al. (2016), arXiv:1512.03385, section 3.4, divide by 10 whenever the error levels off.
    `steps_per_epoch` is needed where `unit` is epochs.
    """

    steps_per_epoch: int | None = None
    _: KW_ONLY
    milestones: tuple[Size, ...] = (30, 60, 90)
    gamma: Fraction = 0.1
    unit: Unit = "epochs"

    def __call__(self, step: int) -> float:
        """Return gamma^|{m ≤ t}|."""
        return self.gamma ** bisect_right(sorted(self.milestones), step // self.unit_steps)

    def discontinuities(self, end: int) -> list[int]:
        """Return the milestones' steps below `end`."""
        return [step for milestone in self.milestones if 0 < (step := milestone * self.unit_steps) < end]


@scheduler("exponential")
@dataclass(frozen=True)
class Exponential(Clocked):
    """A factor every unit: gamma^t, t whole units so far, as torch's `ExponentialLR`.

    `steps_per_epoch` is needed where `unit` is epochs.
    """

    steps_per_epoch: int | None = None
    _: KW_ONLY
    gamma: Fraction = 0.95
    unit: Unit = "epochs"

    def __call__(self, step: int) -> float:
        """Return gamma^t."""
        return self.gamma ** (step // self.unit_steps)

    def discontinuities(self, end: int) -> range:
        """Return the steps below `end` that begin a unit."""
        return range(self.unit_steps, end, self.unit_steps)
