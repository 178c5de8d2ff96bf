"""Lion."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.optimizers import Group, Optimizer, ParamsT, State, Tensors, decay_weights, slots
from framework.registry import NonNegative, Probability, optimizer


@optimizer("lion")
class Lion(Optimizer):
    """Evolved sign momentum: every weight moves by the learning rate, up or down.

    c = β₁m + (1−β₁)g, w ← w − η(sign(c) + λw), then m ← β₂m + (1−β₂)g, from m = 0. Chen et al. (2023),
    arXiv:2302.06675, program 1. Its steps are larger than Adam's: their section 5 takes a learning rate 3 to 10 times
    smaller, and a weight decay larger by as much.
    """

    flat = True

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: NonNegative = 1e-4,
        betas: tuple[Probability, Probability] = (0.9, 0.99),
        weight_decay: NonNegative = 0.1,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Take the step w ← w − η(sign(β₁m + (1−β₁)g) + λw), m ← β₂m + (1−β₂)g."""
        beta1, beta2 = group["betas"]
        means = slots("exp_avg", params, states)
        directions = torch._foreach_lerp(means, grads, 1 - beta1)
        torch._foreach_sign_(directions)
        decay_weights(group, params)
        torch._foreach_add_(params, directions, alpha=-group["lr"])
        torch._foreach_lerp_(means, grads, 1 - beta2)
