"""Stochastic weight averaging."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from framework import Callback, ConfigError, callback
from framework.parameters import canonical_name, named_parameters
from framework.registry import Count, Fraction, Size

if TYPE_CHECKING:
    from framework import Trainer

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
STATISTICS = ("running_mean", "running_var")


@callback("swa")
class SWA(Callback):
    """Mean of the weights at the ends of late epochs, evaluated and saved in their place (Izmailov et al., 2018).

    The first are those of the first epoch that ends at `start`, a fraction of the run's steps, or later; or with
    `start_epoch`, those after that many epochs. From there every `every`-th epoch's end counts. Batch norms get the
    statistics that the averaged weights have on the training set, by a pass over it before an evaluation or a
    checkpoint of a new average. Raises ConfigError where the number of steps is unknown and `start_epoch` isn't given.
    """

    every_rank = True
    kit_options = {"start_epoch": 1}  # noqa: RUF012  # a fraction is another moment in a run that is made longer

    def __init__(self, *, start: Fraction = 0.75, start_epoch: Size | None = None, every: Count = 1) -> None:
        self.start, self.start_epoch, self.every = start, start_epoch, every
        self._averages: dict[str, Tensor] = {}
        self._statistics: dict[str, Tensor] = {}
        self._count, self._epochs = 0, 0

    def on_fit_start(self, trainer: Trainer) -> None:
        """Begin anew in a new run, or one made so long that `start` lies ahead; refuse one where it is no moment."""
        if self.start_epoch is None and trainer.total_steps is None:
            raise ConfigError(
                f"swa.start={self.start:g} is a fraction of a run whose number of steps is not known: set "
                f"swa.start_epoch, or trainer.max_steps."
            )
        if trainer.ranks.count > 1 and any(isinstance(m, nn.SyncBatchNorm) for m in trainer.model.modules()):
            raise ConfigError(
                f"swa computes batch norm's statistics on each of {trainer.ranks.count} devices by itself, which a "
                f"SyncBatchNorm does not: use BatchNorm."
            )
        if trainer.progress.step == 0 or not self._begun(trainer):
            self._averages, self._statistics, self._count, self._epochs = {}, {}, 0, 0

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Take the weights into the average, where that is due."""
        if not self._begun(trainer):
            return
        if self._epochs % self.every == 0:
            self._average(named_parameters(trainer.model))
        self._epochs += 1

    def evaluation_weights(self, trainer: Trainer) -> Mapping[str, Tensor] | None:
        """Return the averages, and their statistics for batch norms, once there are any."""
        if not self._averages:
            return None
        norms = _batch_norms(trainer.model)
        if norms and not self._statistics:
            self._statistics = self._measure(trainer, norms)
        return {**self._averages, **self._statistics}

    def state(self) -> dict[str, Any]:
        """Return the averages, their statistics where they were computed, and the counts."""
        tensors = {"averages": self._averages, "statistics": self._statistics}
        return {"count": self._count, "epochs": self._epochs, **tensors}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        self._count, self._epochs = state["count"], state["epochs"]
        self._averages = {name: tensor.clone() for name, tensor in state["averages"].items()}
        self._statistics = {name: tensor.clone() for name, tensor in state["statistics"].items()}

    def _begun(self, trainer: Trainer) -> bool:
        if self.start_epoch is not None:
            return trainer.progress.epoch >= max(self.start_epoch, 1)
        return trainer.total_steps is not None and trainer.progress.step >= round(self.start * trainer.total_steps)

    def _average(self, params: Mapping[str, nn.Parameter]) -> None:
        """Take weights in: mean ← mean + (weights − mean) / n, in float32 where they are narrower."""
        live = {n: p.detach().to(torch.promote_types(p.dtype, torch.float32)) for n, p in params.items()}
        kept = self._averages or live
        self._averages = {n: kept[n].to(w.device, copy=not self._averages) for n, w in live.items()}
        self._count += 1
        torch._foreach_lerp_(list(self._averages.values()), list(live.values()), 1 / self._count)
        self._statistics = {}

    @torch.no_grad()
    def _measure(self, trainer: Trainer, norms: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return batch norms' statistics with the averaged weights: the mean of the training batches'."""
        with _averaged(trainer.model, self._averages, list(norms.values())):
            for batch in trainer.train_batches.in_order():
                if _rows(batch) != 1:  # one value has no variance
                    with trainer.mixed.autocast():
                        trainer.goal(trainer.model, batch)
            found = {
                f"{name}.{key}".lstrip("."): trainer.ranks.sum(getattr(norm, key) * norm.num_batches_tracked)
                / trainer.ranks.sum(norm.num_batches_tracked)
                for name, norm in norms.items()
                for key in STATISTICS
            }
        return {name: tensor for name, tensor in found.items() if bool(tensor.isfinite().all())}


def _batch_norms(model: nn.Module) -> dict[str, Any]:
    """Return the batch norms that keep statistics, by canonical name."""
    return {
        canonical_name(name): module
        for name, module in model.named_modules()
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None
    }


@contextmanager
def _averaged(model: nn.Module, averages: Mapping[str, Tensor], norms: Sequence[Any]) -> Iterator[None]:
    """Give a model averaged weights and evaluation mode, with batch norms that gather statistics; and all back."""
    params = named_parameters(model)
    held: list[Tensor] = [*params.values(), *(b for norm in norms for b in norm.buffers(recurse=False))]
    before = [tensor.clone() for tensor in held]
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    try:
        for name, param in params.items():
            param.copy_(averages[name])
        model.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # every batch counts the same
        yield
    finally:
        for tensor, old in zip(held, before, strict=True):
            tensor.copy_(old)
        for module, training in modes:
            module.training = training
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _rows(batch: Any) -> int:
    """Return how many examples a batch has."""
    while isinstance(batch, Mapping | list | tuple):
        batch = next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0]
    return len(batch)
