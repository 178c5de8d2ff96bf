"""The registered metrics: each factory returns one with torchmetrics' interface that takes a model's raw outputs."""

from framework.metrics.classification import accuracy, auroc, f1, precision, recall, top_k_accuracy
from framework.metrics.language import perplexity
from framework.metrics.regression import mean_absolute_error, mean_squared_error, r2

__all__ = [
    "accuracy",
    "auroc",
    "f1",
    "mean_absolute_error",
    "mean_squared_error",
    "perplexity",
    "precision",
    "r2",
    "recall",
    "top_k_accuracy",
]
