"""Schedule-free AdamW."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from framework.optimizers import Group, Optimizer, ParamsT, State, Tensors, slots
from framework.registry import NonNegative, Probability, Range, Size, optimizer


@optimizer("schedule_free_adamw")
class ScheduleFreeAdamW(Optimizer):
    """AdamW with averaging in place of a learning rate schedule: no length of training need be known.

    z goes the way of AdamW with steps γₜ = η·√(1−β₂ᵗ)·min(1, t/warmup_steps), x is the average of all z with weights
    tʳ·γₜᵖ, and the gradients g are those at y, between the two:

        v ← β₂v + (1−β₂)g², z ← z − γₜ(g/(√v + ε) + λy), x ← (1−c)x + cz, y ← (1−β₁)z + β₁x, c = tʳγₜᵖ / Σ iʳγᵢᵖ

    with p = `weight_lr_power`. The parameters are y while training; evaluations and the model's checkpoints take x, by
    `evaluation_weights`. Defazio et al. (2024), arXiv:2405.15682, algorithm 1, where r = 0 and p = 2. To be used with
    `scheduler=constant`: what a schedule does to η also counts in the average's weights.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: NonNegative = 2.5e-3,
        betas: tuple[Annotated[float, Range(0, 1, "()")], Probability] = (0.9, 0.999),
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 0.0,
        warmup_steps: Size = 0,
        r: NonNegative = 0.0,
        weight_lr_power: NonNegative = 2.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
        }
        super().__init__(params, defaults)

    def update(self, group: Group, params: list[Tensor], grads: Tensors, states: list[State]) -> None:
        """Take the step for y and d = z − y: y ← y + cd − γ(1 − β₁(1−c))u, d ← (1−c)(d − β₁γu), u = g/(√v + ε) + λy.

        It is the recursion with x put in as y + (1 − 1/β₁)d, which then needs no memory; and d begins at zero.
        """
        beta1, beta2 = group["betas"]
        gaps = slots("gap", params, states)
        squares = slots("exp_avg_sq", params, states)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        scales = torch._foreach_sqrt(squares)
        torch._foreach_add_(scales, group["eps"])
        rates, shares = _count(group, states)
        along_y = [rate * (1 - beta1 * (1 - c)) for rate, c in zip(rates, shares, strict=True)]
        along_d = [beta1 * rate for rate in rates]
        nearer = torch._foreach_mul(gaps, shares)
        if decay := group["weight_decay"]:
            torch._foreach_sub_(gaps, torch._foreach_mul(params, [decay * rate for rate in along_d]))
            torch._foreach_mul_(params, [1 - decay * rate for rate in along_y])
        torch._foreach_add_(params, nearer)
        torch._foreach_addcdiv_(params, grads, scales, [-rate for rate in along_y])
        torch._foreach_addcdiv_(gaps, grads, scales, [-rate for rate in along_d])
        torch._foreach_mul_(gaps, [1 - c for c in shares])

    @torch.no_grad()
    def evaluation_weights(self) -> dict[nn.Parameter, Tensor]:
        """Return x of every parameter that has moved: y + (1 − 1/β₁)(z − y)."""
        return {
            param: param.add(self.state[param]["gap"], alpha=1 - 1 / group["betas"][0])
            for group in self.param_groups
            for param in group["params"]
            if "gap" in self.state.get(param, {})
        }


def _count(group: Group, states: list[State]) -> tuple[list[float], list[float]]:
    """Count each parameter's step; return its γ, and c, the share of the new z in the average.

    `step` holds the count and the sum of the weights: a state of that name stays on the CPU, in its own type, wherever
    it is loaded.
    """
    for state in states:
        if "step" not in state:
            state["step"] = torch.zeros(2, dtype=torch.float64, device="cpu")
    rates: list[float] = []
    shares: list[float] = []
    weights: list[float] = []
    steps = [state["step"] for state in states]
    for before, total in torch.stack(steps).tolist():
        t = before + 1
        rate = group["lr"] * math.sqrt(1 - group["betas"][1] ** t) * min(1.0, t / max(group["warmup_steps"], 1))
        weight = t ** group["r"] * rate ** group["weight_lr_power"]
        rates.append(rate)
        weights.append(weight)
        shares.append(weight / (total + weight) if weight else 0.0)
    added = torch.tensor([[1.0, weight] for weight in weights], dtype=torch.float64, device="cpu")
    torch._foreach_add_(steps, list(added.unbind()))
    return rates, shares
