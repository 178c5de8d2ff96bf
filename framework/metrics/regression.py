"""Metrics of values: prediction and target of one shape, where (N,) and (N, 1) are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from framework.metrics.quotient import Quotient
from framework.metrics.shapes import adapted, values
from framework.metrics.tasks import check_task
from framework.registry import metric

if TYPE_CHECKING:
    from torchmetrics import Metric


def _mean_error(size: Callable[[Tensor], Tensor]) -> Quotient:
    def errors(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        prediction, target = values(prediction, target)
        return size(prediction - target).sum(), torch.tensor(target.numel())

    return Quotient(errors, higher_is_better=False)


@metric("mean_squared_error")
def mean_squared_error(task: str) -> Quotient:
    """Mean squared error over all values: (1/n) Σ (y − ŷ)². Source: the chapter."""
    check_task("mean_squared_error", task)
    return _mean_error(torch.square)


@metric("mean_absolute_error")
def mean_absolute_error(task: str) -> Quotient:
    """Mean absolute error over all values: (1/n) Σ |y − ŷ|."""
    check_task("mean_absolute_error", task)
    return _mean_error(torch.abs)


@metric("r2")
def r2(task: str) -> Metric:
    """Coefficient of determination: 1 − Σ (y − ŷ)² / Σ (y − ȳ)², the mean over outputs. Source: torchmetrics."""
    check_task("r2", task)
    from torchmetrics import R2Score

    return adapted(R2Score, values)()
