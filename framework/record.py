"""The record of a run: scalars to TensorBoard and listeners, checkpoints and result.json to its folder."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework.callbacks.base import Callback
from framework.checkpoint import (
    Checkpoints,
    Snapshot,
    clear,
    copy_into,
    load_model,
    read,
    write_json,
)
from framework.errors import ConfigError
from framework.evaluation_weights import tensors_to_save
from framework.history import Result
from framework.meters import Means, Measured, Meter
from framework.tensorboard import TensorBoard

if TYPE_CHECKING:
    from framework.trainer import Trainer


class Record:
    """Keeps what a trainer measures. On ranks other than the main one it measures, and writes nothing."""

    def __init__(self, trainer: Trainer, directory: Path | None, callbacks: Sequence[Callback]) -> None:
        self.trainer = trainer
        self.directory = directory
        self.means = Means(trainer.ranks)
        self.meter = Meter(trainer.metrics)
        heard = [c for c in callbacks if trainer.ranks.is_main or c.every_rank]
        self.listeners = {
            hook: [getattr(c, hook) for c in heard if getattr(type(c), hook) is not base]
            for hook, base in vars(Callback).items()
            if hook.startswith("on_")
        }
        self.board: TensorBoard | None = None
        self.checkpoints: Checkpoints | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.saved = (0, time.monotonic())
        self.interval = (time.monotonic(), 0, 0)
        self.first_void = 0
        self.logged: list[tuple[int, dict[str, float]]] = []

    def claim(self, *, overwrite: bool, resume: bool) -> Snapshot | None:
        """Take the folder for this run alone, and return the newest snapshot of one that is to be resumed.

        Raises ConfigError where the folder has a run, unless that is to go or to go on.
        """
        if self.directory is None:
            return None
        if self.trainer.ranks.is_main:
            if overwrite and not resume:
                clear(self.directory)
            self.checkpoints = Checkpoints(
                self.directory, self.trainer.checkpoint, mode=self.trainer.mode, resume=resume
            )
        return self._newest() if resume else None

    def _newest(self) -> Snapshot | None:
        """Return the newest snapshot that the main rank finds whole: the same on every rank."""
        assert self.directory is not None
        found = self.checkpoints.newest() if self.checkpoints else None
        if self.trainer.ranks.count == 1:
            return found
        count = int(self.trainer.ranks.sum(torch.tensor(found.step + 1 if found else 0, device=self.trainer.place)))
        return found or (read(self.directory / "checkpoints" / f"step-{count - 1}") if count else None)

    def open(self) -> None:
        """Begin: the writer of events, void from the first step on that is still to be taken."""
        if self.directory is not None and self.trainer.ranks.is_main:
            (self.directory / "result.json").unlink(missing_ok=True)
            self.board = TensorBoard(self.directory, purge_step=self.first_void)
            if not self.first_void:
                self.board.layout(("loss", *self.trainer.metrics))
        self.tell("on_fit_start")

    def state(self) -> dict[str, Any]:
        """Return this rank's part of the running interval."""
        started, step, samples = self.interval
        interval = {"seconds": time.monotonic() - started, "step": step, "samples": samples}
        return {"interval": interval, "means": self.means.state(), "meter": self.meter.state()}

    def load_state(self, state: Mapping[str, Any], logged: Sequence[tuple[int, dict[str, float]]]) -> None:
        """Take up the running interval, and the intervals logged since the last evaluation."""
        interval, step = state["interval"], self.trainer.progress.step
        self.interval = (time.monotonic() - interval["seconds"], interval["step"], interval["samples"])
        # a step within an interval has no event but what an interrupted run has logged of it
        self.first_void = step + (interval["step"] == step)
        self.saved = (step, time.monotonic())
        self.means.load_state(state["means"], self.trainer.place)
        self.meter.load_state(state["meter"], self.trainer.place)
        self.logged = [(samples, scalars) for samples, scalars in logged]

    def tell(self, hook: str, *arguments: Any) -> None:
        """Call the listeners that implement a hook."""
        for listener in self.listeners[hook]:
            listener(self.trainer, *arguments)

    @property
    def at_start_of_interval(self) -> bool:
        """Whether no step has been taken since the last was logged."""
        return self.interval[1] == self.trainer.progress.step

    def measure(self, window: Measured, bad: bool | Tensor) -> None:
        """Take in a step's losses, their weights, and its outputs for the metrics; of a bad step nothing."""
        for mean, weight in zip(window.means, window.weights, strict=True):
            if isinstance(bad, Tensor):
                weight = torch.where(bad, 0.0, weight)
            self.means.add("loss/train", mean, 0.0 if bad is True else weight, shared=True)
        if bad is not True:
            for output in window.outputs:
                self.meter.add(output)

    def compiled(self, seconds: float) -> None:
        """Log how long a compilation took: the time belongs to no interval."""
        moment, step, samples = self.interval
        self.interval = (moment + seconds, step, samples)
        self._write({"compile_seconds": seconds})

    def end_interval(self) -> None:
        """Log the steps since the last call by one copy to the host and one event; nothing without a step."""
        progress, (started, step, samples) = self.trainer.progress, self.interval
        if progress.step == step:
            return
        scalars = self.means.close(self.trainer.place)
        scalars |= {f"{name}/train": value for name, value in self.meter.compute().items()}
        scalars |= self.trainer.guard.notice()
        now = time.monotonic()
        assert self.trainer.rate is not None
        scalars["lr"] = self.trainer.rate.current
        scalars["samples_per_second"] = (progress.samples - samples) / max(now - started, 1e-9)
        scalars |= {f"time/{name}": share for name, share in self.trainer.shares.since_mark().items()}
        scalars |= {"epoch": float(progress.epoch), "samples": float(progress.samples)}
        self.interval = (now, progress.step, progress.samples)
        self.logged.append((progress.samples - samples, scalars))
        self._write(scalars)
        self.tell("on_logged", scalars)

    def end_period(self) -> dict[str, float]:
        """Return loss/train and each metric's since the last call: the intervals' means, by their samples."""
        self.end_interval()
        sums: dict[str, tuple[float, int]] = {}
        for samples, scalars in self.logged:
            for name in (n for n in scalars if n.endswith("/train")):
                total, count = sums.get(name, (0.0, 0))
                sums[name] = (total + samples * scalars[name], count + samples)
        self.logged.clear()
        return {name: total / count for name, (total, count) in sums.items()}

    def evaluated(self, scores: Mapping[str, float]) -> None:
        """Log the scores of an evaluation; the time that it took belongs to no interval."""
        self._write({name: value for name, value in scores.items() if not name.endswith("/train")})
        self.tell("on_evaluated", scores)
        _, step, samples = self.interval
        self.interval = (time.monotonic(), step, samples)

    def save_is_due(self, *, may_agree: bool) -> bool:
        """Return whether a checkpoint is due at this step; by the clock only where the ranks may agree on it."""
        trainer, (step, moment) = self.trainer, self.saved
        options = trainer.checkpoint
        if self.directory is None or step == trainer.progress.step:
            return False
        if options.every_n_steps is not None and trainer.progress.step % options.every_n_steps == 0:
            return True
        if options.every_minutes is None or not may_agree:
            return False
        own = trainer.ranks.is_main and time.monotonic() - moment >= 60 * options.every_minutes
        return trainer.ranks.any(own)[0]

    def save(self, *, best: bool, score: float | None = None) -> None:
        """Keep the weights of this moment, unless they are spoilt: in the folder, or without one in memory."""
        trainer = self.trainer
        trainer.guard.notice()
        if trainer.guard.reason:
            return
        self.saved = (trainer.progress.step, time.monotonic())
        if self.directory is not None:
            snapshot = trainer.snapshot()
            if self.checkpoints is not None:
                with self._writing():
                    # a board that the disk refused begins again
                    self.board = self.board or TensorBoard(self.directory, purge_step=trainer.progress.step)
                    self.board.flush()  # the curves up to a checkpoint are on disk before it is
                self.checkpoints.save(snapshot, best=best, score=score)
            self.tell("on_saved")
        elif best:
            self.best_weights, _ = tensors_to_save(trainer)

    def newest(self) -> Snapshot:
        """Return the newest snapshot, for a run that goes back to it; raises ConfigError where none is whole."""
        snapshot = self._newest()
        if snapshot is None:
            raise ConfigError("trainer.on_nonfinite=rewind: no checkpoint is left to go back to.")
        return snapshot

    def reopen(self) -> None:
        """Go on where a snapshot was taken up: the events after it are void."""
        if self.board is not None and self.directory is not None:
            self.board.close()
            self.board = TensorBoard(self.directory, purge_step=self.first_void)

    def restore_best(self) -> None:
        """Give the model its best weights back; without any saved it keeps those it has, unless they are no numbers."""
        if self.checkpoints is not None:
            self.checkpoints.wait()
        self.trainer.ranks.barrier()
        if self.directory is not None and (self.directory / "best").exists():
            load_model(self.trainer.model, self.directory / "best")
        elif self.best_weights is not None:
            copy_into(self.trainer.model, self.best_weights)
        else:
            self.trainer.guard.restore_first()

    def close(self, result: Result) -> None:
        """End: result.json, the verdict, and everything flushed."""
        self.trainer.guard.close()
        try:
            if self.checkpoints is not None:
                self.checkpoints.close()
            with self._writing():
                if self.directory is not None and self.trainer.ranks.is_main:
                    write_json(self.directory / "result.json", result.to_json())
                if self.board is not None:
                    self.board.text("verdict", result.verdict or f"{result.status}: {result.reason}.")
                    self.board.finish(result.status != "failed")
                    self.board.close()
        finally:
            self.tell("on_fit_end", result)

    def _write(self, scalars: Mapping[str, float]) -> None:
        if self.checkpoints is not None:
            self.checkpoints.report()
        with self._writing():
            if self.board is not None:
                self.board.scalars(self.trainer.progress.step, scalars)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Go on where the disk does not take what is written inside: a warning, and no curves until the next save."""
        try:
            yield
        except OSError as error:
            self.board = None
            step, reason = self.trainer.progress.step, error.strerror or error
            warnings.warn(f"{self.directory} takes no curves or results at step {step}: {reason}.", stacklevel=3)
