"""What a scheduler is, and what several share."""

from __future__ import annotations

from typing import Literal, Protocol

from framework.errors import ConfigError

Unit = Literal["steps", "epochs"]
"""What a scheduler counts: optimizer steps or whole epochs."""


class Scheduler(Protocol):
    """A multiplier of the base learning rate, finite and >= 0; a pure function of the step.

    One with a method `observe(score)` is shown the monitored score after each evaluation, and depends on those too: it
    has `state_dict()` and `load_state_dict(state)`, of plain values, for exact resume. One whose multiplier jumps where
    more, finer steps would not smooth it says so by a method `discontinuities(end: int) -> Collection[int]`: the steps
    below `end` that begin after a jump.
    """

    def __call__(self, step: int) -> float:
        """Return the multiplier for the update that comes after `step` updates."""
        ...


class Bounded:
    """A scheduler that must know where training ends: after `total_steps` updates."""

    total_steps: int

    def __post_init__(self) -> None:
        """Refuse a run without an end."""
        if self.total_steps is None or self.total_steps < 1:
            raise ConfigError(
                f"the scheduler {type(self).__name__} needs a limit, a total of at least 1 step, "
                f"got {self.total_steps}: set trainer.max_epochs or trainer.max_steps."
            )


class Clocked:
    """A scheduler that counts optimizer steps or epochs, by its `unit`."""

    steps_per_epoch: int | None
    unit: Unit

    def __post_init__(self) -> None:
        """Refuse to count epochs of unknown length."""
        if self.unit == "epochs" and (self.steps_per_epoch is None or self.steps_per_epoch < 1):
            raise ConfigError(
                f"the scheduler {type(self).__name__} counts epochs and needs steps_per_epoch >= 1, "
                f"got {self.steps_per_epoch}: set scheduler.unit=steps."
            )

    @property
    def unit_steps(self) -> int:
        """The optimizer steps of one unit."""
        return self.steps_per_epoch if self.unit == "epochs" and self.steps_per_epoch else 1
