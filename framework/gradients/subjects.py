"""From what a user has to a problem of its own: copies in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from framework.gradients.problem import Problem


def of_function(
    name: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    loss: Callable[..., Tensor] | None,
    target: Any,
) -> Problem:
    """Return the problem of a function, with copies in float64 of its floating arguments."""
    taken, named = _copied((tuple(args), dict(kwargs)))
    criterion = _in_float64(loss)
    modules = {"loss.": criterion} if isinstance(criterion, nn.Module) else {}
    return Problem(name, function, taken, named, modules, criterion, _constants(target))


def of_module(
    module: nn.Module,
    args: Sequence[Any],
    loss: Callable[..., Tensor] | None,
    target: Any,
    penalties: Mapping[str, Callable[[nn.Module], Tensor]],
) -> Problem:
    """Return the problem of a copy of a module in float64, its loss's parameters included."""
    inputs = _copied(tuple(args))
    copied, criterion = (_in_float64(part) for part in (module, loss))
    modules = {"": copied}
    if isinstance(criterion, nn.Module):
        modules["loss."] = criterion
    return Problem(type(module).__name__, copied, inputs, {}, modules, criterion, _constants(target), penalties)


def name_of(function: Callable[..., Any]) -> str:
    """Return what a function is called; `apply` by the class that it is of."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return owner.__name__
    return getattr(function, "__name__", type(function).__name__)


def _copied(arguments: Any) -> Any:
    """Copy every tensor, floating ones in float64; those that require a gradient, or else all floating ones, will."""
    found: list[Tensor] = []
    apply_to_collection(arguments, Tensor, found.append)
    chosen = {id(t) for t in found if t.requires_grad} or {id(t) for t in found if t.is_floating_point()}

    def copied(tensor: Tensor) -> Tensor:
        new = tensor.detach().clone()
        new = new.double() if new.is_floating_point() else new
        return new.requires_grad_(id(tensor) in chosen)

    return apply_to_collection(arguments, Tensor, copied)


def _constants(arguments: Any) -> Any:
    return apply_to_collection(arguments, Tensor, lambda t: t.detach().double() if t.is_floating_point() else t)


def _in_float64(part: Any) -> Any:
    return copy.deepcopy(part).double() if isinstance(part, nn.Module) else part
