"""What a run has seen: its counters, its evaluations, its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["finished", "stopped_early", "interrupted", "preempted", "failed"]


@dataclass
class Progress:
    """The loop's counters: `micro` forward-backwards, optimizer `step`s, whole `epoch`s, `samples` seen.

    `offset` is the position in the running epoch: its examples already taken, over all ranks.
    """

    epoch: int = 0
    step: int = 0
    micro: int = 0
    samples: int = 0
    offset: int = 0

    def count(self, micro: int, samples: int) -> None:
        """Count one optimizer step of so many micro-batches and samples."""
        self.step += 1
        self.micro += micro
        self.samples += samples
        self.offset += samples

    def end_epoch(self) -> None:
        """Count an epoch; the next one begins."""
        self.epoch += 1
        self.offset = 0


@dataclass(frozen=True)
class Evaluation:
    """The scores of one moment, by name.

    loss/val and each metric's; loss/train over the steps just taken, in training mode; loss/train_slice in
    evaluation mode on a fixed slice of the training set, and gap/loss = loss/val - loss/train_slice.
    """

    step: int
    epoch: int
    scores: Mapping[str, float]


@dataclass
class Result:
    """How a run ended; `to_json` is the content of result.json.

    `reason` says what ended it: max_epochs, max_steps, max_time, patience, target, interrupt, terminate or
    error.
    """

    status: Status
    reason: str
    epochs: int
    steps: int
    samples: int
    seconds: float
    best: Evaluation | None = None
    test: dict[str, float] = field(default_factory=dict)
    verdict: str = ""
    error: str = ""
    time: dict[str, float] = field(default_factory=dict)
    """The shares of this process's time: data, step, evaluation and overhead; they add up to 1."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Result:
        """Take back what `to_json` returned."""
        best = content["best"]
        return cls(**{**content, "best": best and Evaluation(**best)})


RISE = 0.05
"""The share by which validation loss must rise from its lowest to be said to have turned up."""


def verdict(evaluations: list[Evaluation]) -> str:
    """Say in one sentence whether training diverged, or validation loss turned up while training loss went on falling.

    The turn is the evaluation with the lowest validation loss. Empty where neither happened.
    """
    if evaluations and not all(math.isfinite(v) for n, v in evaluations[-1].scores.items() if n.startswith("loss/")):
        lost = next(e for e in evaluations if not all(map(math.isfinite, e.scores.values())))
        return f"Diverged: the loss was no finite number from epoch {lost.epoch} on; a lower learning rate may help."
    curve = [e for e in evaluations if {"loss/val", "loss/train_slice"} <= e.scores.keys()]
    if len(curve) < 3:
        return ""
    turn = min(curve, key=lambda e: e.scores["loss/val"])
    last = curve[-1]
    rose = last.scores["loss/val"] - turn.scores["loss/val"]
    fell = turn.scores["loss/train_slice"] - last.scores["loss/train_slice"]
    if turn is last or rose <= RISE * abs(turn.scores["loss/val"]) or fell <= 0:
        return ""
    return (
        f"Overfitting: validation loss turned up after epoch {turn.epoch} "
        f"({turn.scores['loss/val']:.4g}, then {last.scores['loss/val']:.4g} at epoch {last.epoch}) "
        f"while training loss went on falling "
        f"({turn.scores['loss/train_slice']:.4g} to {last.scores['loss/train_slice']:.4g})."
    )
