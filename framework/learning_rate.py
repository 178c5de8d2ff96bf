"""One face for every kind of scheduler: ours, torch's, and those that follow a score."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


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
        """Return the scheduler's state where it has one."""
        return self.scheduler.state_dict() if hasattr(self.scheduler, "state_dict") else None
