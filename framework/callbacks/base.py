"""A listener to the loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from framework.history import Result
    from framework.trainer import Trainer


class Callback:
    """Hears what the loop does; override what is needed, the rest is never called.

    The trainer shows `trainer.progress` (epoch, step, micro, samples), `trainer.total_steps`,
    `trainer.history`, `trainer.model`, `trainer.directory`, and `trainer.log(name, tensor)` keeps a scalar on
    the device until the interval ends. Only the main rank's callbacks are called, but for those with `every_rank` set.

    One that tries steps before the first keeps `trainer.snapshot()`, takes them by `trainer.step(window)` of
    `trainer.train_batches.windows(epoch, offset)`, and goes back by `trainer.restore(snapshot)`. The other callbacks
    hear such steps. `trainer.rate.rebase(lr)` changes the base rates.

    One that remembers something may have a pair of methods for exact resume: `state()` returns it, as nested mappings
    and lists of tensors and plain values, and `load_state(state)` takes it back, before `on_fit_start`.
    """

    every_rank = False
    """Whether every rank's is called, not only the main one's."""
    changes_training = False
    """Whether training goes another way with it, which a listener does not do: a learning-rate finder's does."""

    def evaluation_weights(self, trainer: Trainer) -> Mapping[str, Tensor] | None:
        """Return the weights, by canonical name, that are evaluated and saved as the model's in place of the trained.

        Those left out stay the trained ones; None: all of them. Asked before each evaluation and checkpoint, on every
        rank, so a callback that has any sets `every_rank`.
        """
        return None

    def on_fit_start(self, trainer: Trainer) -> None:
        """The first step is next."""

    def on_step_end(self, trainer: Trainer) -> None:
        """One optimizer step was taken."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """An epoch ended, and is counted; its evaluation, where one is due, is next."""

    def on_logged(self, trainer: Trainer, scalars: Mapping[str, float]) -> None:
        """An interval of `log_every` steps ended: loss/train, lr, grad_norm, samples_per_second, ..."""

    def on_evaluated(self, trainer: Trainer, scalars: Mapping[str, float]) -> None:
        """An evaluation ended: loss/val, gap/loss, accuracy/val, ..."""

    def on_saved(self, trainer: Trainer) -> None:
        """A checkpoint was taken, and is being written; flush what belongs to it."""

    def on_fit_end(self, trainer: Trainer, result: Result) -> None:
        """The loop ended, however it did."""
