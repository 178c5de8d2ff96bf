"""Linear decay over a budget."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from framework.errors import ConfigError
from framework.registry import Count, Fraction, scheduler
from framework.schedulers import Clocked, Unit


@scheduler("budgeted_linear")
@dataclass(frozen=True)
class BudgetedLinear(Clocked):
    """A straight line from 1 to `minimum` at the end of the budget, however long the run is.

    minimum + (1 − minimum)·(1 − min(step/T, 1)), T the optimizer steps of `budget` units, or of the run where that is
    null. Li, Yumer and Ramanan (2020), arXiv:1905.04753: whatever can be spent on training, let the rate fall linearly
    to 0 over just that. With a budget of its own the schedule is the same for a run that is cut short, prolonged, or
    has no limit in steps, and stays at `minimum` after it. `steps_per_epoch` is needed where the budget is in epochs.
    Raises ConfigError where there is neither a budget nor an end of the run.
    """

    total_steps: int | None = None
    steps_per_epoch: int | None = None
    _: KW_ONLY
    budget: Count | None = None
    minimum: Fraction = 0.0
    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        """Refuse a budget of unknown length."""
        if self.budget is not None:
            super().__post_init__()
        elif self.total_steps is None or self.total_steps < 1:
            raise ConfigError(
                f"the scheduler BudgetedLinear needs an end, a total of at least 1 step, got {self.total_steps}: set "
                f"scheduler.budget, trainer.max_epochs or trainer.max_steps."
            )

    @property
    def budget_steps(self) -> int:
        """The optimizer steps of the budget."""
        if self.budget is not None:
            return self.budget * self.unit_steps
        assert self.total_steps is not None
        return self.total_steps

    def __call__(self, step: int) -> float:
        """Return minimum + (1 − minimum)·(1 − min(step/T, 1))."""
        return self.minimum + (1 - self.minimum) * (1 - min(step / self.budget_steps, 1.0))
