"""A model's tensors by canonical names, out of it and into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from framework.checkpoint.folder import read_model
from framework.checkpoint.snapshot import MODEL, on_cpu
from framework.errors import ConfigError
from framework.parameters import bare_model, canonical_name, named_tensors


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copy a model's tensors to the CPU, by canonical name; one that has several names (tied weights) comes once."""
    return {name: on_cpu(tensor) for name, tensor in named_tensors(model).items()}


def load_model(model: nn.Module, folder: Path) -> None:
    """Load the weights of a checkpoint's folder into a model.

    Raises ConfigError where they are damaged or belong to another model.
    """
    tensors = read_model(folder)
    try:
        copy_into(model, tensors)
    except ConfigError as error:
        raise ConfigError(f"{folder / MODEL} belongs to another model: {error}") from None


def copy_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors by canonical name into a model; raises ConfigError, naming a difference, where they don't fit."""
    own = {canonical_name(name): tensor for name, tensor in bare_model(model).state_dict().items()}
    held = {own[name].data_ptr() for name in tensors if name in own}
    wrong = [
        f"{name} is {_form(tensor, own.get(name))}, the model's is {_form(own.get(name), tensor)}."
        for name, tensor in tensors.items()
        if name not in own or own[name].shape != tensor.shape or own[name].dtype != tensor.dtype
    ]
    # a tied weight is saved under one of its names
    wrong += [f"{n} is missing." for n, t in own.items() if n not in tensors and t.data_ptr() not in held]
    if wrong:
        raise ConfigError(f"{wrong[0]} ({len(wrong)} differences)")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _form(tensor: Tensor | None, other: Tensor | None) -> str:
    """Return a tensor's shape, or its dtype where that alone tells it from another."""
    if tensor is None:
        return "absent"
    same = other is not None and tensor.shape == other.shape
    return str(tensor.dtype).removeprefix("torch.") if same else str(tuple(tensor.shape))
