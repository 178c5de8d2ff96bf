"""One face for every kind of scheduler: ours, torch's, and those that follow a score."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from framework.errors import ConfigError


class LearningRate:
    """Sets an optimizer's learning rates before each step.

    Ours are functions of the step giving a multiplier of each group's base rate; torch's are stepped once an
    optimizer step. Those with `observe`, and torch's ReduceLROnPlateau, are shown the monitored score.
    """

    def __init__(self, scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
        self.scheduler = scheduler
        self.groups = optimizer.param_groups
        self.base = [group["lr"] for group in self.groups]

    def set(self, step: int) -> None:
        """Set the rates of optimizer step `step`, from 0; to be called once a step, in order."""
        if isinstance(self.scheduler, LRScheduler):
            if step and not isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step()
        elif self.scheduler is not None:
            multiplier = self.scheduler(step)
            for group, base in zip(self.groups, self.base, strict=True):
                group["lr"] = base * multiplier

    def rebase(self, lr: float) -> None:
        """Make `lr` the first group's base rate, and change the others' in proportion, from the next step on.

        Raises ConfigError for a scheduler of torch's, which keeps base rates of its own.
        """
        if isinstance(self.scheduler, LRScheduler):
            raise ConfigError(
                f"a {type(self.scheduler).__name__} keeps base rates of its own, got a new one of {lr:g}: give the "
                f"optimizer that lr before the scheduler is made, or take one of this package's schedulers."
            )
        first = self.base[0]
        if first <= 0:
            raise ConfigError(f"the optimizer's lr must be > 0 for others to be in proportion, got {first:g}.")
        self.base = [base if lr == first else lr * (base / first) for base in self.base]
        for group, base in zip(self.groups, self.base, strict=True):
            group["lr"] = base

    def observe(self, score: float) -> None:
        """Show the monitored score after an evaluation."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(score)
        elif hasattr(self.scheduler, "observe"):
            self.scheduler.observe(score)

    @property
    def current(self) -> float:
        """The first group's rate."""
        return float(self.groups[0]["lr"])

    def state(self) -> Any:
        """Return the scheduler's state where it has one, without the functions that torch's keep in theirs."""
        if not hasattr(self.scheduler, "state_dict"):
            return None
        return {key: value for key, value in self.scheduler.state_dict().items() if not callable(value)}

    def load_state(self, state: Any) -> None:
        """Take up what `state` returned; the scheduler of before may have been another."""
        if state is not None and hasattr(self.scheduler, "load_state_dict"):
            # torch's puts in whatever it is given: a Counter or a tuple must stay one
            own = vars(self.scheduler)
            kept = {k: type(own[k])(v) if isinstance(own.get(k), Counter | tuple) else v for k, v in state.items()}
            self.scheduler.load_state_dict(kept)
        if isinstance(self.scheduler, LRScheduler):
            # torch warns where it has not seen the optimizer's step that came before its scheduler's
            self.scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]  # torch's own mark

    @property
    def changes_options(self) -> bool:
        """Whether the options of the optimizer's groups are what the scheduler has made of them."""
        return isinstance(self.scheduler, LRScheduler)
