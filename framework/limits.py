"""When a run evaluates, and what ends it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from framework.errors import ConfigError
from framework.history import Progress


@dataclass(frozen=True)
class Every:
    """A period in epochs or steps."""

    count: int
    unit: Literal["epochs", "steps"]

    @classmethod
    def parse(cls, text: int | str) -> Every:
        """Read 2 (epochs), "2 epochs" or "500 steps"; raises ConfigError for anything else."""
        value = str(text).strip()
        digits = value[: len(value) - len(value.lstrip("0123456789"))]
        unit = value[len(digits) :].strip().removesuffix("s") or "epoch"
        if not digits or int(digits) < 1 or unit not in ("epoch", "step"):
            raise ConfigError(
                f"trainer.evaluate_every must be a number of epochs or steps, such as 1 or '500 steps', got {text!r}."
            )
        return cls(int(digits), "steps" if unit == "step" else "epochs")

    def due(self, unit: str, count: int) -> bool:
        """Return whether a period ends at this count of this unit."""
        return unit == self.unit and count % self.count == 0


DEFAULT_EPOCHS = 40
"""Where no limit is given."""


@dataclass
class Limits:
    """The limits of a run; `max_time` is in seconds from its start. Without any, it is `DEFAULT_EPOCHS` long."""

    max_epochs: int | None = None
    max_steps: int | None = None
    max_time: float | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not (self.max_epochs or self.max_steps or self.max_time):
            self.max_epochs = DEFAULT_EPOCHS

    def steps(self, per_epoch: int | None) -> int | None:
        """Return the optimizer steps that the limits allow, or None where nobody knows."""
        by_epochs = self.max_epochs * per_epoch if self.max_epochs and per_epoch else None
        return min((n for n in (self.max_steps, by_epochs) if n), default=None)

    def reached(self, progress: Progress) -> str:
        """Return the name of the limit that the counters have reached, or nothing."""
        if self.max_epochs and progress.epoch >= self.max_epochs:
            return "max_epochs"
        return "max_steps" if self.max_steps and progress.step >= self.max_steps else ""

    def out_of_time(self) -> bool:
        """Return whether `max_time` has passed."""
        return self.max_time is not None and time.monotonic() - self.started >= self.max_time
