"""Stochastic gradient descent, and its two forms of momentum."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.errors import ConfigError
from framework.optimizers.base import Group, Optimizer, ParamsT, State, Tensors, add_l2, add_scaled, slots
from framework.registry import Fraction, NonNegative, Probability, optimizer


@optimizer("sgd")
class SGD(Optimizer):
    """Stochastic gradient descent with momentum and Nesterov's, as `torch.optim.SGD`.

    g ← g + λw, b ← μb + (1−τ)g (b ← g at first), w ← w − ηb, or w − η(g + μb) with `nesterov`; momentum μ,
    dampening τ, weight decay λ. Sutskever et al. (2013), "On the importance of initialization and momentum in
    deep learning", section 2; the chapter's "Gradient Descent". Raises ConfigError for `nesterov` without
    momentum or with dampening.
    """

    flat = True

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: NonNegative = 1e-3,
        momentum: NonNegative = 0.0,
        dampening: Fraction = 0.0,
        weight_decay: NonNegative = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        if nesterov and (momentum == 0 or dampening != 0):
            raise ConfigError(
                f"optimizer 'sgd': nesterov needs momentum > 0 and dampening 0, "
                f"got momentum {momentum:g} and dampening {dampening:g}; set momentum=0.9 dampening=0."
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Take the step w ← w − ηg, with g replaced by its momentum."""
        momentum = group["momentum"]
        grads = add_l2(group, params, grads)
        if momentum != 0:
            buffers = _accumulate(momentum, group["dampening"], grads, states)
            grads = torch._foreach_add(grads, buffers, alpha=momentum) if group["nesterov"] else buffers
        add_scaled(params, grads, -group["lr"])


def _accumulate(momentum: float, dampening: float, grads: Tensors, states: list[State]) -> list[Tensor]:
    """Make b ← μb + (1−τ)g, or b ← g where a parameter has none yet."""
    known = [(s["momentum_buffer"], g) for s, g in zip(states, grads, strict=True) if "momentum_buffer" in s]
    if known:
        buffers = [buffer for buffer, _ in known]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, [grad for _, grad in known], alpha=1 - dampening)
    for state, grad in zip(states, grads, strict=True):
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = grad.clone()
    return [state["momentum_buffer"] for state in states]


@optimizer("momentum")
class Momentum(Optimizer):
    """Gradient descent with a velocity that the learning rate is inside of: the chapter's form.

    v ← βv + ηg, w ← w − v, from v = 0, with g ← g + λw for weight decay λ (the chapter's "SGD with Momentum";
    Rumelhart, Hinton and Williams, 1986, equation 9). At a constant learning rate it is SGD's momentum; when
    the rate changes, the steps already in the velocity keep the rate they were made with.
    """

    flat = True

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: NonNegative = 1e-2,
        beta: Probability = 0.9,
        weight_decay: NonNegative = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay})

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Take the step v ← βv + ηg, w ← w − v."""
        grads = add_l2(group, params, grads)
        velocities = slots("velocity", params, states)
        torch._foreach_mul_(velocities, group["beta"])
        add_scaled(velocities, grads, group["lr"])
        torch._foreach_sub_(params, velocities)
