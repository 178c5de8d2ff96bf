"""What every optimizer shares: the walk over groups and parameters, state, and counting."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.optimizer import _global_optimizer_post_hooks as _post_hooks
from torch.optim.optimizer import _global_optimizer_pre_hooks as _pre_hooks

from framework.optimizers.flat import Flat, State, flat_or_none, release

__all__ = [
    "Group",
    "Optimizer",
    "ParamsT",
    "State",
    "Tensors",
    "add_l2",
    "add_ratios",
    "add_scaled",
    "count_step",
    "count_update",
    "decay_weights",
    "slots",
]

Tensors = list[Tensor] | tuple[Tensor, ...]
Group = dict[str, Any]
"""A parameter group: its options by name."""


class Optimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` that is one formula: write `update` over lists of tensors.

    Parameters without a gradient are left out, with their state. A group's `maximize` negates its gradients.
    """

    # Torch wraps these against torch.compile; the wrapper's first call imports torch._dynamo, taking 1 s.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    flat = False
    """Whether `update` treats every element alike: then a trainer hands it each group as one tensor."""

    vectors: Mapping[int, Flat | None] = {}  # replaced, never written
    """By group: its parameters as one vector."""

    def flatten(self) -> list[Flat]:
        """Make each group's parameters views of one vector, where that can be; return the vectors.

        The parameters keep names, shapes and values; `update` gets one tensor a group, as long as every one has a
        gradient.
        """
        if self.flat:
            self.vectors = {place: flat_or_none(group["params"]) for place, group in enumerate(self.param_groups)}
        return [vector for vector in self.vectors.values() if vector is not None]

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Change a group's parameters in place, by `torch._foreach_*` functions.

        The lists have one entry a parameter. `grads` may be the parameters' own `grad`: don't change them. Where a step
        is one graph, the group's `lr` is a 0-d tensor, that no value may be read of: see `add_scaled`.
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

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; return what `closure`, called before, returned."""
        if self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or _pre_hooks or _post_hooks:
            return _step_with_hooks(self, closure)
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)  # the decorator takes five times as long
        try:
            return self._step(closure)
        finally:
            torch.set_grad_enabled(before)

    # Torch leaves a step that says so as it is; what it puts around the others takes 10 µs.
    step.hooked = True  # type: ignore[attr-defined]  # torch's own mark

    def _step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for place, group in enumerate(self.param_groups):
            if self._update_vector(place, group):
                continue
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                grads: Tensors = [p.grad for p in params]
                if group.get("maximize"):
                    grads = torch._foreach_neg(grads)
                self.update(group, params, grads, [self.state[p] for p in params])
        return loss

    def _update_vector(self, place: int, group: Group) -> bool:
        """Update a group as one vector; return whether it could be, and where it could not, don't try again."""
        vector = self.vectors.get(place)
        if vector is None:
            return False
        if len(group["params"]) != len(vector.params) or not vector.gather() or not vector.take_state(self.state):
            release([self.state[p] for p in group["params"]])
            self.vectors = {**self.vectors, place: None}
            return False
        gradient = -vector.gradient if group.get("maximize") else vector.gradient
        self.update(group, [vector.values], [gradient], [vector.state])
        vector.free_gradient()
        vector.show_state()
        return True


_step_with_hooks = torch.optim.Optimizer.profile_hook_step(torch.no_grad()(Optimizer._step))


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


def add_scaled(tensors: list[Tensor], others: Tensors, factor: float | Tensor) -> None:
    """Make each t ← t + f·o; a factor that is a 0-d tensor is not read."""
    if isinstance(factor, Tensor):
        torch._foreach_add_(tensors, torch._foreach_mul(others, factor))
    else:
        torch._foreach_add_(tensors, others, alpha=factor)


def add_ratios(
    tensors: list[Tensor], numerators: Tensors, denominators: Tensors, factors: list[float] | list[Tensor]
) -> None:
    """Make each t ← t + f·n/d; factors that are 0-d tensors are not read."""
    if isinstance(factors[0], Tensor):
        ratios = torch._foreach_div(numerators, denominators)
        torch._foreach_mul_(ratios, factors)
        torch._foreach_add_(tensors, ratios)
    else:
        torch._foreach_addcdiv_(tensors, numerators, denominators, factors)


def count_update(group: Group, states: list[State]) -> list[float] | list[Tensor]:
    """Count as `count_step`; where the group's `lr` is a tensor, return 0-d tensors and read nothing."""
    if not isinstance(group["lr"], Tensor):
        return count_step(states)
    return [step.double() for step in advance(states)]


def count_step(states: list[State]) -> list[float]:
    """Add 1 to each parameter's own `step`, the count of its updates, and return the counts.

    The counts live on the CPU, so that reading them waits for no device.
    """
    counts: list[float] = torch.stack(advance(states)).tolist()
    return counts


def advance(states: list[State]) -> list[Tensor]:
    """Add 1 to each parameter's own `step`, and return them as they are kept."""
    for state in states:
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
    steps = [state["step"] for state in states]
    torch._foreach_add_(steps, 1)
    return steps
