"""Learning rate range test."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from framework import Callback, ConfigError, callback
from framework.callbacks import note
from framework.registry import Positive, Probability, Range

if TYPE_CHECKING:
    from framework import Trainer
    from framework.batching import Window

Steps = Annotated[int, Range(3)]
Multiple = Annotated[float, Range(1, bounds="()")]


@callback("lr_finder")
class LRFinder(Callback):
    """Learning rate range test before the first step (Smith, 2017): the rate at which the loss falls fastest.

    Takes up to `steps` steps whose rates grow from `low` to `high` by equal factors, until the loss, smoothed with the
    factor `smoothing`, is more than `stop_at` times its lowest, or no finite number. Then all is as it was, and with
    `apply` the first group's base rate is the one found, the others' in proportion. The curve is in lr_finder.json in
    the run's folder. A resumed run keeps the rate that was found. The first group's lr must be > 0. Raises ConfigError
    for low ≥ high, and with `apply` for a scheduler of torch's.
    """

    every_rank = True
    changes_training = True

    def __init__(
        self,
        *,
        low: Positive = 1e-7,
        high: Positive = 10.0,
        steps: Steps = 100,
        smoothing: Probability = 0.9,
        stop_at: Multiple = 4.0,
        apply: bool = True,
    ) -> None:
        if low >= high:
            raise ConfigError(f"lr_finder.low must be below lr_finder.high={high:g}, got {low:g}.")
        self.low, self.high, self.steps = low, high, steps
        self.smoothing, self.stop_at, self.apply = smoothing, stop_at, apply
        self.found: float | None = None
        """The rate at which the loss fell fastest; None where it did not fall."""
        self._resumed = False

    def on_fit_start(self, trainer: Trainer) -> None:
        """Find the rate in a new run; take it up in a resumed one."""
        if not self._resumed:
            assert trainer.rate is not None
            if self.apply:
                trainer.rate.rebase(trainer.rate.base[0])  # refused before anything is tried
            rates, losses = self._try(trainer)
            smooth = smoothed(losses, self.smoothing)
            self.found = steepest(rates, smooth, round(1 / (1 - self.smoothing)))
            if trainer.ranks.is_main:
                self._tell(trainer, rates, losses, smooth)
        self._resumed = False
        if self.apply and self.found is not None:
            assert trainer.rate is not None
            trainer.rate.rebase(self.found)
            if trainer.progress.step:
                trainer.rate.set(trainer.progress.step - 1)  # what is logged before the next step is the last one's

    def on_fit_end(self, trainer: Trainer, result: Any) -> None:
        """Forget that the run was resumed: the next may not be."""
        self._resumed = False

    def state(self) -> dict[str, Any]:
        """Return the rate found."""
        return {"found": self.found}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        self.found, self._resumed = state["found"], True

    def _try(self, trainer: Trainer) -> tuple[list[float], list[float]]:
        """Take steps at growing rates and take them back; return the rates and losses, all finite."""
        assert trainer.rate is not None
        factor = (self.high / self.low) ** (1 / (self.steps - 1))
        snapshot, scheduler, first = trainer.snapshot(), trainer.rate.scheduler, trainer.rate.base[0]
        bases = [group["lr"] for group in trainer.rate.groups]
        trainer.rate.scheduler = lambda step: self.low * factor**step / first
        losses: list[float] = []
        try:
            for window, _ in zip(_windows(trainer), range(self.steps), strict=False):
                losses.append(_mean_loss(trainer, window))
                smooth = smoothed(losses, self.smoothing)
                if not math.isfinite(losses[-1]) or smooth[-1] > self.stop_at * min(smooth):
                    break
        finally:
            trainer.rate.scheduler = scheduler
            trainer.restore(snapshot)
            for group, lr in zip(trainer.rate.groups, bases, strict=True):
                group["lr"] = lr
        if losses and not math.isfinite(losses[-1]):
            losses.pop()
        return [self.low * factor**step for step in range(len(losses))], losses

    def _tell(self, trainer: Trainer, rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float]) -> None:
        """Write the curve to the run's folder, and say what was found."""
        if trainer.directory is not None:
            curve = {"found": self.found, "lr": rates, "loss": losses, "smoothed": smooth}
            (Path(trainer.directory) / "lr_finder.json").write_text(json.dumps(curve), encoding="utf-8")
        if self.found is None:
            note(
                f"lr_finder: the loss did not fall at {len(rates)} rates from {self.low:g} on: the optimizer keeps its "
                f"lr; look at lr_finder.low and lr_finder.high."
            )
        else:
            done = "which is the optimizer's lr now" if self.apply else "which is not applied"
            note(f"lr_finder: the loss falls fastest at lr={self.found:.3g}, {done}.")


def smoothed(values: Sequence[float], factor: float) -> list[float]:
    """Return exponential moving averages, each the mean of the n values so far with weights factorⁿ⁻ⁱ."""
    means: list[float] = []
    for count, value in enumerate(values, start=1):
        mean = means[-1] if means else value
        means.append(mean + (1 - factor) / (1 - factor**count) * (value - mean))
    return means


def steepest(rates: Sequence[float], losses: Sequence[float], skip: int = 1) -> float | None:
    """Return the rate where the loss over log rate falls fastest, by central differences; None where it never does.

    The first `skip` losses, at most half of them, are left out: the mean of so few is noise.
    """
    first = max(1, min(skip, len(losses) // 2))
    slopes = {losses[k + 1] - losses[k - 1]: rates[k] for k in reversed(range(first, len(losses) - 1))}
    return slopes[min(slopes)] if slopes and min(slopes) < 0 else None


def _windows(trainer: Trainer) -> Iterator[Window]:
    """Yield the training set's windows, epoch after epoch."""
    while True:
        yield from trainer.train_batches.windows(trainer.progress.epoch, trainer.progress.offset)
        if not trainer.progress.offset:
            return
        trainer.progress.end_epoch()


def _mean_loss(trainer: Trainer, window: Window) -> float:
    """Take a step and return its mean loss over all ranks."""
    total, count = trainer.ranks.sum(trainer.step(window).sums(trainer.mixed.wide)).tolist()
    return total / count if count else math.nan
