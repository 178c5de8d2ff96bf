"""The focal loss on logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from framework.functions.contract import Call, Function, hand_written, to_float32_in_autocast
from framework.functions.opaque import opaque
from framework.functions.reduction import Reduction, check_elements, reduce
from framework.functions.tiles import elements_at_once


class Focal(Function):
    """L = α_y q^γ b, with b = −[y log p + (1 − y) log(1 − p)], p = σ(x), q = y (1 − p) + (1 − y) p.

    ∂L/∂x = α_y q^γ [(p − y) + γ b (1 − 2y) p (1 − p) / q], which for y = 1 is −α q^γ (q + γ (1 − q) (−log p)):
    no power below 0 is taken, so that nothing is infinite at q = 0 for γ < 1. log p is the logsigmoid of x and
    1 − p is σ(−x), so that neither saturates. α_y = α y + (1 − α) (1 − y), or 1. x, y of one shape, any; the backward
    keeps these two alone. Source: Lin et al. (2017), arXiv:1708.02002, equation 5 and appendix B.
    """

    @staticmethod
    def forward(logits: Tensor, target: Tensor, gamma: float, alpha: float | None, total: bool) -> Tensor:
        losses: Tensor = _losses(logits, target, gamma, alpha, total)
        return losses

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, target, *ctx.settings = inputs
        ctx.save_for_backward(logits, target)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[0]:
            return (None,) * 5
        logits, target = ctx.saved_tensors
        if torch.is_grad_enabled():
            dtype = delta.dtype
            gradient = delta * _slope(logits.to(dtype), target.to(dtype), *ctx.settings[:2])
            return gradient.to(logits.dtype), None, None, None, None
        return _gradient(delta, logits, target, *ctx.settings[:2]), None, None, None, None


def _fake_losses(logits: Tensor, target: Tensor, gamma: float, alpha: float | None, total: bool) -> Tensor:
    return logits.new_empty(() if total else logits.shape, dtype=torch.promote_types(logits.dtype, torch.float32))


@opaque(
    "focal_losses(Tensor logits, Tensor target, float gamma, float? alpha, bool total) -> Tensor", fake=_fake_losses
)
def _losses(logits: Tensor, target: Tensor, gamma: float, alpha: float | None, total: bool) -> Tensor:
    losses = _fake_losses(logits, target, gamma, alpha, total)
    if total:
        losses.zero_()
    for tile, x, y in _tiles(logits, target, losses.dtype):
        tile_losses = torch.lerp(x.sigmoid(), x.neg().sigmoid(), y).pow_(gamma).mul_(_cross_entropy(x, y))
        if alpha is not None:
            tile_losses.mul_(_class_weight(y, alpha))
        if total:
            losses.add_(tile_losses.sum())
        else:
            losses.view(-1)[tile] = tile_losses
    return losses


def _fake_gradient(delta: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@opaque(
    "focal_gradient(Tensor delta, Tensor logits, Tensor target, float gamma, float? alpha) -> Tensor",
    fake=_fake_gradient,
)
def _gradient(delta: Tensor, logits: Tensor, target: Tensor, gamma: float, alpha: float | None) -> Tensor:
    gradient = _fake_gradient(delta, logits)
    delta = delta.expand(logits.shape).reshape(-1)
    for tile, x, y in _tiles(logits, target, delta.dtype):
        gradient.view(-1)[tile] = _slope(x, y, gamma, alpha).mul_(delta[tile])
    return gradient


def _tiles(logits: Tensor, target: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor, Tensor]]:
    logits, target = logits.reshape(-1), target.reshape(-1)
    step = elements_at_once(logits.device)
    for start in range(0, len(logits), step):
        tile = slice(start, start + step)
        yield tile, logits[tile].to(dtype), target[tile].to(dtype)


def _slope(x: Tensor, y: Tensor, gamma: float, alpha: float | None) -> Tensor:
    """Return ∂L/∂x of each element, in operations that can be differentiated."""
    p, not_p = x.sigmoid(), x.neg().sigmoid()
    q = torch.lerp(p, not_p, y).clamp(min=torch.finfo(x.dtype).tiny)
    slope = _cross_entropy(x, y) * (gamma * (1 - 2 * y)) * (p * not_p / q) + torch.lerp(p, -not_p, y)
    slope = slope * q**gamma
    return slope if alpha is None else slope * _class_weight(y, alpha)


def _cross_entropy(x: Tensor, y: Tensor) -> Tensor:
    return -torch.lerp(logsigmoid(-x), logsigmoid(x), y)


def _class_weight(y: Tensor, alpha: float) -> Tensor:
    return y * (2 * alpha - 1) + (1 - alpha)


def _reference(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float | None = None, reduction: str = "mean"
) -> Tensor:
    target = target.to(logits.dtype)
    p = torch.sigmoid(logits)
    losses = binary_cross_entropy_with_logits(logits, target, reduction="none")
    losses = losses * (1 - (p * target + (1 - p) * (1 - target))) ** gamma
    if alpha is not None:
        losses = (alpha * target + (1 - alpha) * (1 - target)) * losses
    return reduce(losses, reduction)


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    hard, soft = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (2, 3, 2)))
    return {
        "mean": Call((draw(3, 4), hard < 0.5)),
        "class weights": Call((draw(3, 4), (hard < 0.3).double()), {"alpha": 0.25, "reduction": "sum"}),
        "soft targets": Call((draw(2, 3, 2), soft), {"gamma": 0.5, "reduction": "none"}),
        "no focus": Call((draw(3, 4), (hard < 0.5).long()), {"gamma": 0.0}),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    logits = torch.randn(512, 256, generator=generator).requires_grad_()
    return Call((logits, torch.rand(512, 256, generator=generator) < 0.1)), logits.numel()


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=5)
def focal(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Return the focal loss of independent yes-or-no decisions: the cross-entropy of each times (its mistake)^gamma.

    Logits and target of one shape -> 0-d, or that shape with reduction="none". Targets are in [0, 1]; as booleans
    they cost the backward one byte each, as floats four. `alpha` is what a 1 counts, and 1 − alpha what a 0 does.
    ValueError where shapes differ, for a target that requires a gradient, and for options out of range.
    """
    check_elements("focal", logits, target, reduction)
    if target.requires_grad:
        raise ValueError("focal: the target is a constant here, got one that requires a gradient: detach it.")
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"focal: gamma must be at least 0 and finite, got {gamma}.")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"focal: alpha must be None or in [0, 1], got {alpha}.")
    given = logits.dtype
    (wide,) = to_float32_in_autocast(logits)
    losses: Tensor = Focal.apply(wide, target, gamma, alpha, reduction != "none")
    return (losses / logits.numel() if reduction == "mean" else losses).to(given)
