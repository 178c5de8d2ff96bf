"""From a model's raw outputs to what metrics take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric

IGNORED = -100
"""Class index of targets that are not measured, as in the losses."""

Adapter = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def adapted(kind: type[Metric], adapt: Adapter) -> type[Metric]:
    """Return the metric with an `update(prediction, target)` that adapts its arguments first."""

    def update(self: Metric, prediction: Tensor, target: Tensor) -> None:
        kind.update(self, *adapt(prediction, target))

    return type(kind.__name__, (kind,), {"update": update, "__doc__": kind.__doc__})


def rows(outputs: int) -> Adapter:
    """Adapt to scores (N, C) and class indices (N,); of probabilities as target, the likeliest class counts.

    The classes may be the last dimension of the prediction or the second. Raises ValueError for other shapes.
    """

    def adapt(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        soft = target.is_floating_point()
        for dim in (prediction.ndim - 1, 1):
            if not 0 <= dim < prediction.ndim or prediction.shape[dim] != outputs:
                continue
            without = prediction.shape[:dim] + prediction.shape[dim + 1 :]
            if target.shape == (prediction.shape if soft else without):
                index = target.argmax(dim) if soft else target.long()
                return prediction.movedim(dim, -1).reshape(-1, outputs), index.reshape(-1)
        raise _mismatch(prediction, target, f"(..., {outputs}) with class indices (...), or probabilities of one shape")

    return adapt


def probability_rows(outputs: int) -> Adapter:
    """Adapt as `rows` does, with probabilities in place of logits."""
    inner = rows(outputs)

    def adapt(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        scores, index = inner(prediction, target)
        return scores.softmax(-1), index

    return adapt


def best_of(outputs: int, k: int) -> Adapter:
    """Adapt to class indices: the target's class where it is among the k highest scores, else the highest."""
    inner = rows(outputs)

    def adapt(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        scores, index = inner(prediction, target)
        highest = scores.topk(k).indices
        found = (highest == index.unsqueeze(-1)).any(-1)
        return torch.where(found, index, highest[:, 0]), index

    return adapt


def binary(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Adapt one logit an example to probabilities (N,) and classes 0 and 1 (N,); a target of at least ½ is 1."""
    logit, target = values(prediction, target)
    index = (target >= 0.5).long() if target.is_floating_point() else target.long()
    return logit.reshape(-1).sigmoid(), index.reshape(-1)


def values(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Adapt to one shape: (N, 1) and (N,) are the same; other differences raise ValueError."""
    prediction, target = _column(prediction), _column(target)
    if prediction.shape != target.shape:
        raise _mismatch(prediction, target, "of one shape")
    return prediction.flatten(1) if prediction.ndim > 2 else prediction, target.flatten(
        1
    ) if target.ndim > 2 else target


def _column(tensor: Tensor) -> Tensor:
    return tensor.squeeze(1) if tensor.ndim == 2 and tensor.shape[1] == 1 else tensor


def _mismatch(prediction: Tensor, target: Tensor, rule: str) -> ValueError:
    return ValueError(
        f"metric: prediction and target must be {rule}, got {tuple(prediction.shape)} and "
        f"{target.dtype} {tuple(target.shape)}."
    )
