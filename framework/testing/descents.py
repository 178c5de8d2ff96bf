"""Small weights for optimizers to be tried on, and steps on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from framework.testing import trials
from framework.testing.conformance import Subject
from framework.testing.parts import arguments, groups_of, takes


class Weights(nn.Module):
    """A matrix and a vector with a name each, float32."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 3, generator=generator).to(dtype))
        self.bias = nn.Parameter(torch.randn(3, generator=generator).to(dtype))


def optimizer_of(
    subject: Subject, model: nn.Module, *, decay: float = 0.0, lr: float | None = 0.1, **options: Any
) -> torch.optim.Optimizer:
    """Make one that holds all of a model, in the groups that the framework makes; `lr` None leaves the default."""
    if takes(subject, "weight_decay"):
        options["weight_decay"] = decay
    if lr is not None and takes(subject, "lr"):
        options["lr"] = lr
    return from_groups(subject, model, groups_of(subject, model, options), options)


def from_groups(
    subject: Subject, model: nn.Module, groups: list[dict[str, Any]], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Make one that holds these groups."""
    built: torch.optim.Optimizer = subject.build(*arguments(subject, params=groups, model=model), **options)
    return built


def take_step(optimizer: torch.optim.Optimizer, gradients: Mapping[nn.Parameter, Tensor | None]) -> None:
    """Take a step along these gradients; None is none."""
    for param, gradient in gradients.items():
        param.grad = None if gradient is None else gradient.clone()
    optimizer.step()


def random_gradients(model: nn.Module, step: int) -> dict[nn.Parameter, Tensor | None]:
    """Return a gradient for each parameter, by the number of the step."""
    generator = torch.Generator().manual_seed(step + 1)
    return {p: torch.randn(p.shape, generator=generator).to(p.dtype) for p in model.parameters()}


def zero_gradients(model: nn.Module) -> dict[nn.Parameter, Tensor | None]:
    """Return a gradient of zero for each parameter."""
    return {p: torch.zeros_like(p) for p in model.parameters()}


def walk(optimizer: torch.optim.Optimizer, model: nn.Module, steps: range) -> dict[str, Tensor]:
    """Take steps along gradients of their own, and return the weights."""
    for step in steps:
        take_step(optimizer, random_gradients(model, step))
    return trials.weights(model)


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a parameter's state."""
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}
