"""Metrics of values: prediction and target of one shape, where (N,) and (N, 1) are the same."""

from __future__ import annotations

from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, R2Score

from framework.metrics.shapes import adapted, values
from framework.metrics.tasks import check_task
from framework.registry import metric


@metric("mean_squared_error")
def mean_squared_error(task: str) -> Metric:
    """Mean squared error over all values: (1/n) Σ (y − ŷ)². Source: the chapter; torchmetrics."""
    check_task("mean_squared_error", task)
    return adapted(MeanSquaredError, values)()


@metric("mean_absolute_error")
def mean_absolute_error(task: str) -> Metric:
    """Mean absolute error over all values: (1/n) Σ |y − ŷ|. Source: torchmetrics."""
    check_task("mean_absolute_error", task)
    return adapted(MeanAbsoluteError, values)()


@metric("r2")
def r2(task: str) -> Metric:
    """Coefficient of determination: 1 − Σ (y − ŷ)² / Σ (y − ȳ)², the mean over outputs. Source: torchmetrics."""
    check_task("r2", task)
    return adapted(R2Score, values)()
