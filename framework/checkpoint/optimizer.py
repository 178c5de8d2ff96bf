"""An optimizer's state as tensors and plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from framework.checkpoint.snapshot import on_cpu
from framework.errors import ConfigError


def optimizer_parts(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copy an optimizer's state to the CPU: tensors, named `<parameter's place in the groups>.<key>`, and values."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = on_cpu(value)
            else:
                values[f"{index}.{key}"] = value
    groups = [
        {k: v.item() if isinstance(v, Tensor) else v for k, v in group.items()} for group in state["param_groups"]
    ]
    return tensors, {"values": values, "param_groups": groups}


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any], *, hyperparameters: bool
) -> None:
    """Give an optimizer the state that `optimizer_parts` took, bit for bit, by the parameters' places.

    With `hyperparameters` its groups get the options (lr, …) of then, without they keep their own. Raises ConfigError
    where the groups are of other sizes.
    """
    saved = values["param_groups"]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != [len(group["params"]) for group in saved]:
        then = [len(group["params"]) for group in saved]
        raise ConfigError(f"the optimizer has groups of {sizes} parameters, the checkpoint's has groups of {then}.")
    places = {
        str(index): (param, own)
        for group, own in zip(saved, optimizer.param_groups, strict=True)
        for index, param in zip(group["params"], own["params"], strict=True)
    }
    optimizer.state.clear()
    for name, value in {**values["values"], **tensors}.items():
        place, _, key = name.partition(".")
        if place not in places:
            raise ConfigError(f"the checkpoint's optimizer has '{name}', and there is no parameter {place}.")
        param, own = places[place]
        if isinstance(value, Tensor):
            # torch's own rule: a count of steps is on the CPU unless a kernel reads it
            on_host = key == "step" and not (own.get("capturable") or own.get("fused"))
            value = value.to("cpu" if on_host else param.device, copy=True)
        optimizer.state[param][key] = value
    if hyperparameters:
        for group, own in zip(saved, optimizer.param_groups, strict=True):
            for key in group.keys() - {"params", "param_names"}:
                _set(own, key, group[key])


def _set(group: dict[str, Any], key: str, value: Any) -> None:
    """Set an option of a group in the form that it has there: a tensor stays that tensor, a tuple a tuple."""
    before = group.get(key)
    if isinstance(before, Tensor):
        before.fill_(value)
    else:
        group[key] = tuple(value) if isinstance(before, tuple) else value
