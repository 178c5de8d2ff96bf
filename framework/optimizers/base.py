"""What every optimizer shares: the walk over groups and parameters, state, and counting."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

__all__ = ["Group", "Optimizer", "ParamsT", "State", "Tensors", "add_l2", "count_step", "decay_weights", "slots"]

Tensors = list[Tensor] | tuple[Tensor, ...]
Group = dict[str, Any]
"""A parameter group: its options by name."""
State = dict[str, Tensor]
"""What an optimizer remembers of one parameter; tensors only, so that any checkpoint can hold it."""


class Optimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` that is one formula: write `update` over lists of tensors.

    Parameters without a gradient are left out, with their state. A group's `maximize` negates its gradients.
    """

    # Torch wraps these against torch.compile; the wrapper's first call imports torch._dynamo, taking 1 s.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Change a group's parameters in place, by `torch._foreach_*` functions.

        The lists have one entry a parameter. `grads` may be the parameters' own `grad`: don't change them.
        """
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or with `set_to_none` off make them 0."""
        for group in self.param_groups:
            for param in group["params"]:
                if set_to_none or param.grad is None:
                    param.grad = None
                else:
                    param.grad = torch.zeros_like(param.grad)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; return what `closure`, called before, returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                grads: Tensors = [p.grad for p in params]
                if group.get("maximize"):
                    grads = torch._foreach_neg(grads)
                self.update(group, params, grads, [self.state[p] for p in params])
        return loss


def add_l2(group: Group, params: list[Tensor], grads: Tensors) -> Tensors:
    """Return g + λw, the gradients with that of λ/2·‖w‖² added; λ is the group's `weight_decay`."""
    if group["weight_decay"] == 0:
        return grads
    return torch._foreach_add(grads, params, alpha=group["weight_decay"])


def decay_weights(group: Group, params: list[Tensor]) -> None:
    """Make w ← w − ηλw, weight decay beside the gradient; λ is the group's `weight_decay`, η its `lr`."""
    if group["weight_decay"] != 0:
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])


def slots(name: str, params: list[Tensor], states: list[State], initial: float = 0.0) -> list[Tensor]:
    """Return each parameter's tensor `name` of its state, filled with `initial` where it is new."""
    for param, state in zip(params, states, strict=True):
        if name not in state:
            state[name] = torch.full_like(param, initial)
    return [state[name] for state in states]


def count_step(states: list[State]) -> list[float]:
    """Add 1 to each parameter's own `step`, the count of its updates, and return the counts.

    The counts live on the CPU, so that reading them waits for no device.
    """
    for state in states:
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
    steps = [state["step"] for state in states]
    torch._foreach_add_(steps, 1)
    counts: list[float] = torch.stack(steps).tolist()
    return counts
