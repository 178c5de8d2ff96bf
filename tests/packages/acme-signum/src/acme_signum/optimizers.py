"""Sign descent."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.optimizers import Group, Optimizer, ParamsT, State, Tensors, slots
from framework.registry import NonNegative, optimizer

from .options import Momentum


@optimizer("signum")
class Signum(Optimizer):
    """Steps of one size, by the sign of the momentum.

    m ← βm + (1 − β)g, w ← w − η(sign m + λw) from m = 0; η is `lr`, β is `beta`, λ is `weight_decay`.
    Source: Bernstein et al. (2018), arXiv:1802.04434, algorithm 2.
    """

    def __init__(
        self, params: ParamsT, *, lr: NonNegative = 1e-3, beta: Momentum = 0.9, weight_decay: NonNegative = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay})

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Change the parameters of a group in place."""
        momenta = slots("momentum", params, states)
        torch._foreach_lerp_(momenta, grads, 1 - group["beta"])
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, torch._foreach_sign(momenta), alpha=-group["lr"])
