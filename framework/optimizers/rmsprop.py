"""RMSProp."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.optimizers.base import Group, Optimizer, ParamsT, State, Tensors, add_l2, add_ratios, add_scaled, slots
from framework.registry import Fraction, NonNegative, optimizer


@optimizer("rmsprop")
class RMSprop(Optimizer):
    """Gradient over its running root mean square, as `torch.optim.RMSprop`.

    s ← αs + (1−α)g², w ← w − ηg/(√s + ε), with g ← g + λw for weight decay λ (Hinton, 2012, lecture 6e; the
    chapter's "RMSProp", whose β is α). `centered` takes √(s − a²) for √s, with a ← αa + (1−α)g (Graves, 2013,
    arXiv:1308.0850, equations 38 to 41). `momentum` μ: b ← μb + g/(√s + ε), w ← w − ηb.
    """

    flat = True

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: NonNegative = 1e-2,
        alpha: Fraction = 0.99,
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 0.0,
        momentum: NonNegative = 0.0,
        centered: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Take the step s ← αs + (1−α)g², w ← w − ηg/(√s + ε)."""
        lr, alpha = group["lr"], group["alpha"]
        grads = add_l2(group, params, grads)
        squares = slots("square_avg", params, states)
        torch._foreach_mul_(squares, alpha)
        torch._foreach_addcmul_(squares, grads, grads, 1 - alpha)
        if group["centered"]:
            means = slots("grad_avg", params, states)
            torch._foreach_lerp_(means, grads, 1 - alpha)
            scales = torch._foreach_addcmul(squares, means, means, -1)
            torch._foreach_sqrt_(scales)
        else:
            scales = torch._foreach_sqrt(squares)
        torch._foreach_add_(scales, group["eps"])
        if group["momentum"] != 0:
            buffers = slots("momentum_buffer", params, states)
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_addcdiv_(buffers, grads, scales)
            add_scaled(params, buffers, -lr)
        else:
            add_ratios(params, grads, scales, [-lr] * len(params))
