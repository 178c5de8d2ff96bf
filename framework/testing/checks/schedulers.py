"""Schedulers: a multiplier for every step, which depends on nothing but the step."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any
from unittest import SkipTest

from framework.testing import parts, trials
from framework.testing.conformance import CheckError, Subject, check

EPOCHS = 10
FINE = 10_000
"""Steps of a run whose every smooth schedule changes little from step to step."""

FINER = 100
"""How many times as many steps a run has in which what is no jump is at most half as large."""

LEAST_JUMP = 0.01
"""The part of the largest multiplier that a change between two steps must exceed to be a jump."""

RAMP = 4
"""How many times as large as the same step's neighbours' a change must be to be a jump rather than part of a ramp."""


def _scheduler(subject: Subject, total: int) -> Any:
    """Make one for a run of 10 epochs, or of as many as there are steps."""
    steps_per_epoch = max(total // EPOCHS, 1)
    return subject.build(*parts.arguments(subject, total_steps=total, steps_per_epoch=steps_per_epoch))


@check(
    "scheduler",
    rule="the multiplier of a step is the same whatever was asked before (without `observe`), and of another instance",
    mend="compute it from the step and the options alone; what a score changes belongs into `observe`",
)
def scheduler_is_pure(subject: Subject) -> None:
    """Ask in order, twice over, in another order, and a fresh one."""
    one, other = _scheduler(subject, 100), _scheduler(subject, 100)
    first = [one(step) for step in range(120)]
    for step in (*range(120), *_shuffled(120)):
        for asked, who in ((one, "again"), (other, "of another instance")):
            if not trials.same(found := asked(step), first[step]):
                raise CheckError(f"step {step} of 100 has {first[step]!r}, and asked {who} {found!r}")


def _shuffled(count: int) -> list[int]:
    """Return the numbers below one that 37 does not divide, in an order of little order."""
    return [37 * place % count for place in range(count)]


@check(
    "scheduler",
    rule="every multiplier, beyond the end of training too, is a finite number >= 0",
    mend="hold the fraction of the run that is done to at most 1, as in min(step / total_steps, 1.0)",
)
def multipliers_are_finite(subject: Subject) -> None:
    """Ask for every step of runs of some lengths, to twice their ends; after scores that are no numbers too."""
    for total in (2, 3, 7, 100, 1000):
        scheduler = _scheduler(subject, total)
        for step in (*range(2 * total + 2), 100 * total):
            _expect_number(scheduler(step), f"step {step} of {total}")
        if hasattr(scheduler, "observe"):
            for score in (1.0, 2.0, math.nan, math.inf, -math.inf, *(float(s) for s in range(30))):
                scheduler.observe(score)
                _expect_number(scheduler(0), f"after the score {score:g} it")


def _expect_number(value: Any, where: str) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise CheckError(f"{where} has {value!r}")


@check(
    "scheduler",
    rule="a run of one step has a multiplier",
    mend="look for a division by total_steps - 1, or by the length of a warmup that came out as 0",
)
def runs_one_step(subject: Subject) -> None:
    """Make one for a total of 1."""
    try:
        value = _scheduler(subject, 1)(0)
    except ArithmeticError as error:
        raise CheckError(f"with a total of 1 step, step 0 raises {type(error).__name__}: {error}") from error
    _expect_number(value, "step 0 of 1")


@check(
    "scheduler",
    rule="the multiplier jumps at the steps that `discontinuities(end)` returns only",
    mend="mend the place where two pieces of the schedule meet, or declare the jump, if it is meant, by a method "
    "`discontinuities(self, end: int) -> Collection[int]` that returns the steps below `end` that begin after a jump",
)
def jumps_only_where_declared(subject: Subject) -> None:
    """Look at a run of 10,000 steps for changes that no neighbour is part of."""
    scheduler, finer = _scheduler(subject, FINE), _scheduler(subject, FINER * FINE)
    end = FINE + FINE // EPOCHS
    declared = set(scheduler.discontinuities(end)) if hasattr(scheduler, "discontinuities") else set()
    values = [float(scheduler(step)) for step in range(end)]
    for step in _jumps(values):
        if step not in declared and _stays(finer, step, abs(values[step] - values[step - 1])):
            raise CheckError(
                f"of {FINE} steps, step {step - 1} has {values[step - 1]:.4g} and step {step} {values[step]:.4g}, "
                f"with {f'{len(declared)} other jumps' if declared else 'no jump'} declared"
            )


def _stays(finer: Any, step: int, size: float) -> bool:
    """Return whether a run of more steps has a jump there too, by the step or by the part of the run, half as large."""
    places = (range(step - 1, step + 1), range(FINER * (step - 1), FINER * step + 1))
    return any(abs(finer(a + 1) - finer(a)) > size / 2 for place in places for a in place[:-1])


def _jumps(values: list[float]) -> list[int]:
    """Return the steps whose change is large, and no part of a ramp: no neighbour's goes the same way as far."""
    changes = [0.0, *(after - before for before, after in itertools.pairwise(values)), 0.0]
    least = LEAST_JUMP * max(values)
    return [
        step
        for step in range(1, len(values))
        if abs(change := changes[step]) > least
        and all(RAMP * neighbour * change < change * change for neighbour in (changes[step - 1], changes[step + 1]))
    ]


@check(
    "scheduler",
    rule="one that observes scores gives its state as plain values, and a fresh one that takes it up goes on the same",
    mend="write state_dict() and load_state_dict(state) with everything that `observe` changes",
)
def scheduler_resumes(subject: Subject) -> None:
    """Observe, save, load, and observe the same in both."""
    one, fresh = _scheduler(subject, 100), _scheduler(subject, 100)
    if not hasattr(one, "observe"):
        raise SkipTest("it observes no score")
    if not (hasattr(one, "state_dict") and hasattr(one, "load_state_dict")):
        raise CheckError("it has observe, and no state_dict and load_state_dict")
    scores = itertools.cycle(_shuffled(101))
    for split in range(0, 60, 7):
        for score in itertools.islice(scores, split):
            one.observe(score)
        fresh.load_state_dict(json.loads(json.dumps(one.state_dict())))
        for after in range(30):
            if one(after) != fresh(after):
                raise CheckError(
                    f"{after} scores after resuming the multiplier is {fresh(after)!r}, not {one(after)!r}"
                )
            score = next(scores)
            one.observe(score)
            fresh.observe(score)
