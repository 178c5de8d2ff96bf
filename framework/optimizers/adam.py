"""Adam, with weight decay in the gradient or beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.optimizers.base import (
    Group,
    Optimizer,
    ParamsT,
    State,
    Tensors,
    add_l2,
    add_ratios,
    advance,
    count_update,
    decay_weights,
    slots,
)
from framework.registry import NonNegative, Probability, optimizer


@optimizer("adam")
class Adam(Optimizer):
    """Adaptive moment estimation with bias correction, as `torch.optim.Adam`.

    m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ), w ← w − ηm̂/(√v̂ + ε), with
    g ← g + λw for weight decay λ; t counts each parameter's own updates. Kingma and Ba (2015),
    arXiv:1412.6980, algorithm 1; the chapter's "Adam". `amsgrad` takes the largest v so far for v (Reddi et
    al., 2018, arXiv:1904.09237).
    """

    flat = True

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: NonNegative = 1e-3,
        betas: tuple[Probability, Probability] = (0.9, 0.999),
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Take Adam's step, with g ← g + λw."""
        adam_step(group, params, add_l2(group, params, grads), states)


@optimizer("adamw")
class AdamW(Optimizer):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`.

    w ← w − ηλw, then Adam's step, whose moments see nothing of λ. Loshchilov and Hutter (2019),
    arXiv:1711.05101, algorithm 2.
    """

    flat = True

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: NonNegative = 1e-3,
        betas: tuple[Probability, Probability] = (0.9, 0.999),
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Take w ← w − ηλw, then Adam's step."""
        decay_weights(group, params)
        adam_step(group, params, grads, states)


def adam_step(group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
    """Take the step m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², w ← w − ηm̂/(√v̂ + ε).

    The group's `lr`, `betas`, `eps`, and `amsgrad` where it has one.
    """
    beta1, beta2 = group["betas"]
    means = slots("exp_avg", params, states)
    squares = slots("exp_avg_sq", params, states)
    alike = params[0].dtype == means[0].dtype == grads[0].dtype
    if alike and params[0].device.type == "cpu" and not isinstance(group["lr"], Tensor):
        _move_fused(group, params, grads, means, squares, states)
        return
    torch._foreach_lerp_(means, grads, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
    if group.get("amsgrad"):
        largest = slots("max_exp_avg_sq", params, states)
        torch._foreach_maximum_(largest, squares)
        squares = largest
    scales = torch._foreach_sqrt(squares)
    # With c = √(1−β₂ᵗ), m̂/(√v̂ + ε) = m/(1−β₁ᵗ) · c/(√v + εc): the corrections cost no pass of their own.
    corrections = [(1 - beta1**t, (1 - beta2**t) ** 0.5) for t in count_update(group, states)]
    torch._foreach_add_(scales, [group["eps"] * c for _, c in corrections])
    add_ratios(params, means, scales, [-group["lr"] * c / b for b, c in corrections])


def _move_fused(
    group: Group, params: list[Tensor], grads: Tensors, means: list[Tensor], squares: list[Tensor], states: list[State]
) -> None:
    """Take the same step by torch's kernel, which goes through memory once where the formula goes six times."""
    beta1, beta2 = group["betas"]
    torch._fused_adam_(
        params,
        list(grads),
        means,
        squares,
        slots("max_exp_avg_sq", params, states) if group.get("amsgrad") else [],
        advance(states),
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=0.0,
        eps=group["eps"],
        amsgrad=group.get("amsgrad", False),
        maximize=False,
    )
