"""Which evaluation is the best, and whether the scores say to stop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from framework.errors import ConfigError, nearest
from framework.history import Evaluation

Mode = Literal["min", "max"]


@dataclass
class Monitor:
    """Follows one score. `best` is its best evaluation, whatever `min_delta`, which only patience minds."""

    name: str
    mode: Mode
    patience: int | None = None
    min_delta: float = 0.0
    target: float | None = None
    best: Evaluation | None = None
    reference: float = math.nan
    waited: int = 0

    def anew(self) -> Monitor:
        """Return a monitor of the same score that has observed nothing."""
        return Monitor(self.name, self.mode, self.patience, self.min_delta, self.target)

    def check(self, names: Iterable[str]) -> None:
        """Raise ConfigError where the monitored score is not among these."""
        known = list(names)
        if self.name not in known:
            raise ConfigError(f"trainer.monitor: there is no score {self.name!r}: {nearest(self.name, known)}")

    def check_direction(self, metrics: Mapping[str, Any], scheduler: Any) -> None:
        """Raise ConfigError where a metric, or a scheduler that follows the score, has the other direction."""
        higher = getattr(metrics.get(self.name.partition("/")[0]), "higher_is_better", None)
        if higher is not None and higher != (self.mode == "max"):
            raise ConfigError(f"{self.name} is better {'higher' if higher else 'lower'}: set trainer.mode so.")
        own = getattr(scheduler, "mode", None)
        if own in get_args(Mode) and own != self.mode:
            raise ConfigError(f"the scheduler's mode is {own} and trainer.mode is {self.mode}: set one.")

    def observe(self, evaluation: Evaluation) -> bool:
        """Take in an evaluation and return whether it is the best so far; a score of nan never is."""
        score = evaluation.scores[self.name]
        if self._better(score, self.reference, self.min_delta):
            self.reference, self.waited = score, 0
        else:
            self.waited += 1
        if self._better(score, self.best.scores[self.name] if self.best else math.nan, 0.0):
            self.best = evaluation
            return True
        return False

    def reason_to_stop(self, evaluation: Evaluation) -> str:
        """Return the reason to stop after an evaluation: `target`, `patience` or nothing."""
        score = evaluation.scores[self.name]
        if self.target is not None and (score == self.target or self._better(score, self.target, 0.0)):
            return "target"
        return "patience" if self.patience is not None and self.waited >= self.patience else ""

    def _better(self, score: float, than: float, by: float) -> bool:
        if math.isnan(score):
            return False
        if math.isnan(than):
            return True
        return score < than - by if self.mode == "min" else score > than + by
