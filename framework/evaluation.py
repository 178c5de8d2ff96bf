"""Loss and metrics over a whole set, by sums and counts; and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from framework.batching import Batches
from framework.distributed import Ranks
from framework.errors import ConfigError
from framework.meters import Meter, weighed
from framework.objective import Objective, predict
from framework.precision import Precision

if TYPE_CHECKING:
    from torchmetrics import Metric


@dataclass(frozen=True)
class Evaluator:
    """Runs a model over sets in evaluation mode."""

    model: nn.Module
    network: nn.Module
    """The model, compiled or not."""
    objective: Objective
    metrics: Mapping[str, Metric]
    precision: Precision
    ranks: Ranks

    def score(self, batches: Batches, limit: int | None = None) -> dict[str, float]:
        """Return `loss`, the mean over every term of the set or of `limit` of its examples, and each metric."""
        self.ranks.align_buffers(self.network)
        wide = self.precision.wide
        totals = torch.zeros(2, dtype=wide, device=self.precision.device)
        meter = Meter(self.metrics)
        with evaluating(self.network):
            for batch in batches.in_order(limit):
                with self.precision.autocast():
                    mean, weight, outputs = self.objective(self.network, batch)
                weight = torch.as_tensor(weight, dtype=wide, device=self.precision.device)
                totals += torch.stack([weighed(mean.to(wide), weight), weight])
                meter.add(outputs)
            loss, weight = self.ranks.sum(totals).tolist()
            return {"loss": loss / weight if weight else float("nan"), **meter.compute()}

    def compare(self, train: Batches, validation: Batches) -> dict[str, float]:
        """Return the scores of the validation set and, where the sets have an order, of a slice of the training set.

        The gap compares like with like: both losses without penalties, on as many examples.
        """
        scores = _suffixed(self.score(validation), "val")
        if validation.examples and train.examples:
            scores |= _suffixed(self.score(train, validation.examples), "train_slice")
            scores["gap/loss"] = scores["loss/val"] - scores["loss/train_slice"]
        return scores

    def rehearse(self, batches: Batches) -> None:
        """Take one example through model and loss, so that what does not fit shows before anything is written."""
        batch = next(iter(batches.in_order(1)), None) if batches.examples else None
        if batch is None:
            return
        with evaluating(self.model), self.precision.autocast():
            try:
                self.objective(self.model, batch)
            except RuntimeError as error:
                kind, reason = type(self.model).__name__, str(error).splitlines()[0]
                raise ConfigError(f"{kind} and its loss cannot take this data: {reason}") from error

    def predict(self, batches: Batches) -> Tensor:
        """Return the model's outputs in the order of the set, on the CPU; one process can."""
        if self.ranks.count > 1:
            raise ConfigError(f"predict runs in one process, and this is one of {self.ranks.count}.")
        with evaluating(self.network), self.precision.autocast():
            return torch.cat([predict(self.network, batch).cpu() for batch in batches.in_order()])


def _suffixed(scores: Mapping[str, float], part: str) -> dict[str, float]:
    return {f"{name}/{part}": value for name, value in scores.items()}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, without gradients, and back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
