"""The progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from framework.callbacks.base import Callback
from framework.registry import callback

if TYPE_CHECKING:
    from framework.history import Result
    from framework.trainer import Trainer

INTERVAL = 0.2
"""Seconds between two drawings; one takes about a millisecond of the loop's time."""


@callback("progress")
class ProgressBar(Callback):
    """Shows epoch, step, loss, the first metric, learning rate, steps/s and the time left, on standard error.

    On a terminal two lines, drawn anew a few times a second; elsewhere one line an evaluation. Nothing is
    asked of the device: the step is the host's own counter, the scores are those that were logged last.
    """

    def __init__(self) -> None:
        self._live: Live | None = None

    @cached_property
    def console(self) -> Console:
        """Where it draws; made at first use, since a console holds locks, which cannot be pickled."""
        return Console(stderr=True)

    def on_fit_start(self, trainer: Trainer) -> None:
        """Start the bar, where there is a terminal to draw it on."""
        if not (self.console.is_interactive and self.console.file.isatty()):
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(None),
            MofNCompleteColumn(),
            _Pace(),
            speed_estimate_period=600,  # seconds, so that steps of minutes have a pace
            expand=True,
        )
        step, epoch = trainer.progress.step, trainer.progress.epoch + 1
        self._task: TaskID = self._bar.add_task("", total=trainer.total_steps, completed=step, epoch=epoch)
        self._scores = {"train": "", "val": "", "lr": ""}
        self._drawn = time.monotonic()
        self._live = Live(
            get_renderable=self._draw,
            console=self.console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file stays out of the terminal
        )
        self._live.start(refresh=True)

    def on_step_end(self, trainer: Trainer) -> None:
        """Draw the bar anew, where it is time to."""
        if self._live is not None and time.monotonic() - self._drawn >= INTERVAL:
            self._bar.update(self._task, completed=trainer.progress.step, epoch=trainer.progress.epoch + 1)
            self._live.refresh()
            self._drawn = time.monotonic()

    def on_logged(self, trainer: Trainer, scalars: Mapping[str, float]) -> None:
        """Take in the scores of an interval."""
        if self._live is not None:
            self._scores |= {"train": _describe(scalars, "train"), "lr": f"lr {scalars['lr']:.3g}"}

    def on_evaluated(self, trainer: Trainer, scalars: Mapping[str, float]) -> None:
        """Take in the scores of an evaluation; without a bar, print them."""
        if self._live is not None:
            self._scores["val"] = _describe(scalars, "val")
            return
        progress, total = trainer.progress, trainer.total_steps
        steps = f"{progress.step}/{total}" if total else f"{progress.step}"
        scores = "  ".join(f"{n} {v:.4g}" for n, v in scalars.items() if not n.endswith("/train_slice"))
        line = f"epoch {progress.epoch}  step {steps}  {scores}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_fit_end(self, trainer: Trainer, result: Result) -> None:
        """Draw the bar as it ended and give the terminal back."""
        if self._live is not None:
            self._bar.update(self._task, completed=trainer.progress.step, epoch=trainer.progress.epoch)
            self._bar.stop_task(self._task)
            self._live.stop()
            self._live = None

    def _draw(self) -> Group:
        scores = "   ".join(filter(None, self._scores.values()))
        return Group(self._bar, Text(scores, no_wrap=True, overflow="ellipsis"))


class _Pace(ProgressColumn):
    """Steps per second, and the time that is left, or that it took."""

    def get_table_column(self) -> Column:
        return Column(no_wrap=True)

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        pace = f"{speed:,.0f} steps/s" if speed >= 10 else f"{speed:.2g} steps/s"
        if task.stop_time is not None:
            return Text(f"{pace} in {timedelta(seconds=int(task.elapsed or 0))}")
        left = task.time_remaining
        return Text(pace if left is None else f"{pace}, {timedelta(seconds=int(left))} left")


def _describe(scalars: Mapping[str, float], part: str) -> str:
    """Return the loss and the first metric on a part of the data."""
    names = sorted((n for n in scalars if n.endswith(f"/{part}")), key=lambda name: name != f"loss/{part}")
    scores = [f"{name.removesuffix(f'/{part}')} {scalars[name]:.3g}" for name in names[:2]]
    return " ".join([part, *scores]) if scores else ""
