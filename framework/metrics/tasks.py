"""Which metric fits which task."""

from __future__ import annotations

from framework.errors import ConfigError, nearest

FITTING = {
    "classification": ("accuracy", "auroc", "f1", "precision", "recall", "top_k_accuracy"),
    "regression": ("mean_absolute_error", "mean_squared_error", "r2"),
    "language": ("accuracy", "perplexity", "top_k_accuracy"),
}


def check_task(name: str, task: str) -> None:
    """Raise ConfigError where a metric does not measure a task, naming those that do."""
    if task not in FITTING:
        raise ConfigError(f"metric '{name}': task {task!r} does not exist: {nearest(task, FITTING)}")
    if name not in FITTING[task]:
        raise ConfigError(f"metric '{name}' does not fit a {task} task: choose one of: {', '.join(FITTING[task])}.")
