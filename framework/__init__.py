"""Chainrule: the textbook's training loop for PyTorch, from pluggable parts."""

from __future__ import annotations

import gc
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.callbacks import Callback
    from framework.checkpoint import CheckpointOptions
    from framework.errors import ConfigError
    from framework.objective import Objective
    from framework.parameters import parameter_groups
    from framework.registry import (
        callback,
        data,
        initializer,
        loss,
        metric,
        model,
        optimizer,
        regularizer,
        scheduler,
    )
    from framework.regularizers import Regularizer
    from framework.run import load
    from framework.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "CheckpointOptions",
    "ConfigError",
    "Objective",
    "Regularizer",
    "Trainer",
    "callback",
    "data",
    "initializer",
    "load",
    "loss",
    "metric",
    "model",
    "optimizer",
    "parameter_groups",
    "regularizer",
    "scheduler",
]

_HOMES = {
    "Callback": "callbacks",
    "CheckpointOptions": "checkpoint",
    "ConfigError": "errors",
    "Objective": "objective",
    "Regularizer": "regularizers",
    "Trainer": "trainer",
    "load": "run",
    "parameter_groups": "parameters",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import framework` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'framework' has no attribute '{name}'")
    collects = gc.isenabled()
    gc.disable()  # one collection among torch's objects takes 0.1 s, and an import makes no garbage
    try:
        return getattr(importlib.import_module(f"framework.{_HOMES.get(name, 'registry')}"), name)
    finally:
        if collects:
            gc.enable()
