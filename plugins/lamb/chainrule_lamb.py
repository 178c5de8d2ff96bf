"""LAMB."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.optimizers import Group, Optimizer, ParamsT, State, Tensors, count_step, slots
from framework.registry import NonNegative, Probability, optimizer


@optimizer("lamb")
class Lamb(Optimizer):
    """Adam whose step is scaled, tensor by tensor, to the size of the weights: for large batches.

    m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², u = m̂/(√v̂ + ε) + λw, w ← w − η·(‖w‖/‖u‖)·u, with m̂ = m/(1−β₁ᵗ),
    v̂ = v/(1−β₂ᵗ). Where ‖w‖ or ‖u‖ is 0 the ratio is 1, so that what starts at zero can leave it. You et al. (2020),
    arXiv:1904.00962, algorithm 2, with φ(z) = z.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: NonNegative = 1e-3,
        betas: tuple[Probability, Probability] = (0.9, 0.999),
        eps: NonNegative = 1e-6,
        weight_decay: NonNegative = 1e-2,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Take the step w ← w − η·(‖w‖/‖u‖)·u, u = m̂/(√v̂ + ε) + λw."""
        beta1, beta2 = group["betas"]
        means = slots("exp_avg", params, states)
        squares = slots("exp_avg_sq", params, states)
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        steps = count_step(states)
        updates = torch._foreach_div(means, [1 - beta1**t for t in steps])
        scales = torch._foreach_div(squares, [1 - beta2**t for t in steps])
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, group["eps"])
        torch._foreach_div_(updates, scales)
        if group["weight_decay"] != 0:
            torch._foreach_add_(updates, params, alpha=group["weight_decay"])
        torch._foreach_mul_(updates, _trust_ratios(params, updates))
        torch._foreach_add_(params, updates, alpha=-group["lr"])


def _trust_ratios(params: list[Tensor], updates: Tensors) -> list[Tensor]:
    """Return ‖w‖/‖u‖ of each parameter, 1 where either is 0; no value leaves the device."""
    weights, steps = torch.stack(torch._foreach_norm(params)), torch.stack(torch._foreach_norm(updates))
    return list(torch.where((weights > 0) & (steps > 0), weights / steps, 1.0).unbind())
