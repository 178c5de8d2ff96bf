"""A trace of some steps, operation by operation."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from framework.callbacks.base import Callback
from framework.callbacks.notes import note

if TYPE_CHECKING:
    from framework.history import Result
    from framework.trainer import Trainer

WARM_UP = 5
"""Steps before the first that is traced: allocations, caches and kernels are chosen in them."""

LARGE = 16 * 2**20
"""Bytes above which a trace is compressed, as its viewers take it, too."""


class Profiler(Callback):
    """Writes a Chrome trace of so many steps, with what lies between them, into the run's folder."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.heard = 0
        self.profile: torch.profiler.profile | None = None

    def on_step_end(self, trainer: Trainer) -> None:
        """Begin after the first steps, and end when enough are traced."""
        self.heard += 1
        if self.heard == WARM_UP:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it prints on the terminal that it starts and stops
            self.profile = torch.profiler.profile()
            self.profile.start()
        elif self.heard == WARM_UP + self.steps:
            self._write(trainer)

    def on_fit_end(self, trainer: Trainer, result: Result) -> None:
        """Write what there is, where the run was shorter."""
        if self.profile is not None:
            self._write(trainer)
        elif self.heard < WARM_UP:
            note(f"profile: no trace, since the first {WARM_UP} steps are not traced and {self.heard} were taken")

    def _write(self, trainer: Trainer) -> None:
        assert self.profile is not None
        self.profile.stop()
        path = Path(trainer.directory or ".") / "trace.json"
        for old in (path, path.with_name("trace.json.gz")):
            old.unlink(missing_ok=True)
        self.profile.export_chrome_trace(str(path))
        self.profile = None
        if path.stat().st_size > LARGE:
            path = _compressed(path)
        traced = min(self.heard - WARM_UP, self.steps)
        note(f"profile: {traced} steps in {path}: open it at https://ui.perfetto.dev or chrome://tracing")


def _compressed(path: Path) -> Path:
    target = path.with_name(f"{path.name}.gz")
    with path.open("rb") as source, gzip.open(target, "wb", compresslevel=6) as copy:
        shutil.copyfileobj(source, copy)
    path.unlink()
    return target
