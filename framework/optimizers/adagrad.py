"""Adagrad."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.optimizers.base import Group, Optimizer, ParamsT, State, Tensors, add_l2, add_ratios, count_update, slots
from framework.registry import NonNegative, optimizer


@optimizer("adagrad")
class Adagrad(Optimizer):
    """Gradient over the root of the sum of all its squares so far, as `torch.optim.Adagrad`.

    s ← s + g², w ← w − ηₜg/(√s + ε), ηₜ = η/(1 + (t−1)·lr_decay), with g ← g + λw for weight decay λ, from
    s = `initial_accumulator_value`. Duchi, Hazan and Singer (2011), JMLR 12:2121-2159, figure 1 (diagonal).
    """

    flat = True

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: NonNegative = 1e-2,
        lr_decay: NonNegative = 0.0,
        weight_decay: NonNegative = 0.0,
        initial_accumulator_value: NonNegative = 0.0,
        eps: NonNegative = 1e-10,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Take the step s ← s + g², w ← w − ηₜg/(√s + ε)."""
        grads = add_l2(group, params, grads)
        sums = slots("sum", params, states, group["initial_accumulator_value"])
        torch._foreach_addcmul_(sums, grads, grads)
        scales = torch._foreach_sqrt(sums)
        torch._foreach_add_(scales, group["eps"])
        rates = [-group["lr"] / (1 + (t - 1) * group["lr_decay"]) for t in count_update(group, states)]
        add_ratios(params, grads, scales, rates)
