"""Whether a model is that of a file of weights, before any memory is taken for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from framework.errors import ConfigError
from framework.parameters import bare_model, canonical_name
from framework.untrusted import read_shapes


def check_fits(build: Callable[[], nn.Module], path: Path) -> None:
    """Raise ConfigError where the model that `build` makes has other tensors than a file of weights.

    It is built without memory for its tensors, and no further than the file's number of them allows, so that a
    configuration from a stranger takes no more memory than the weights that it came with. A model that cannot be
    built so is not checked.
    """
    saved = read_shapes(path)
    left = 2 * len(saved) + 16  # a tied weight registers twice

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ConfigError(f"{path} belongs to another model: it has {len(saved)} tensors, the model has more.")

    handle = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            own = {canonical_name(name): t for name, t in bare_model(build()).state_dict(keep_vars=True).items()}
    except (RuntimeError, NotImplementedError):
        return
    finally:
        handle.remove()
    for name, (_, shape) in saved.items():
        if name not in own or tuple(own[name].shape) != shape:
            held = tuple(own[name].shape) if name in own else "absent"
            raise ConfigError(f"{path} belongs to another model: {name} is {shape}, the model's is {held}.")
    kept = {id(own[name]) for name in saved}
    missing = next((name for name, tensor in own.items() if id(tensor) not in kept), None)
    if missing is not None:
        raise ConfigError(f"{path} belongs to another model: {missing} is missing.")
