"""Schedulers that break a rule each."""

import itertools
import random
from dataclasses import KW_ONLY, dataclass

from framework.registry import Positive, scheduler
from framework.schedulers import Plateau


@scheduler("counts_calls")
class CountsCalls:
    breaks = ("scheduler_is_pure",)

    def __init__(self) -> None:
        self.calls = itertools.count(1)

    def __call__(self, step: int) -> float:
        return 1 / next(self.calls)


@scheduler("drawn_once")
class DrawnOnce:
    breaks = ("scheduler_is_pure",)

    def __init__(self) -> None:
        self.value = random.random()

    def __call__(self, step: int) -> float:
        return self.value


@scheduler("below_zero")
@dataclass(frozen=True)
class BelowZero:
    total_steps: int
    breaks = ("multipliers_are_finite",)

    def __call__(self, step: int) -> float:
        return 1 - step / self.total_steps


@scheduler("follows_nan")
class FollowsNan(Plateau):
    breaks = ("multipliers_are_finite",)

    def __init__(self) -> None:
        super().__init__()

    def observe(self, value: float) -> None:
        self.multiplier = value


@scheduler("no_single_step")
@dataclass(frozen=True)
class NoSingleStep:
    total_steps: int
    breaks = ("runs_one_step",)

    def __call__(self, step: int) -> float:
        return min(step / (self.total_steps - 1), 1.0)


@scheduler("drops")
@dataclass(frozen=True)
class Drops:
    total_steps: int
    _: KW_ONLY
    factor: Positive = 0.5
    breaks = ("jumps_only_where_declared",)

    def __call__(self, step: int) -> float:
        return 1.0 if step < self.total_steps / 2 else self.factor


@scheduler("says_another_step")
@dataclass(frozen=True)
class SaysAnotherStep(Drops):
    total_steps: int
    breaks = ("jumps_only_where_declared",)

    def discontinuities(self, end: int) -> list[int]:
        return [self.total_steps // 2 + 1]


@scheduler("alternates")
class Alternates:
    breaks = ("jumps_only_where_declared",)

    def __call__(self, step: int) -> float:
        return 1.0 if step % 2 else 0.5


@scheduler("forgets_the_wait")
class ForgetsTheWait(Plateau):
    breaks = ("scheduler_resumes",)

    def __init__(self) -> None:
        super().__init__()

    def load_state_dict(self, state) -> None:
        super().load_state_dict({**state, "waited": 0})


@scheduler("has_no_state")
class HasNoState:
    breaks = ("scheduler_resumes",)

    def __call__(self, step: int) -> float:
        return 1.0

    def observe(self, score: float) -> None:
        pass
