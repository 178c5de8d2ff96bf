"""Binary cross-entropy on logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written, to_float32_in_autocast
from framework.functions.reduction import Reduction, check_elements, of_each, reduce


class BCELogits(Function):
    """L = −[P y log ŷ + (1 − y) log(1 − ŷ)] with ŷ = σ(z) of each element, reduced. Any shape.

    As log(1 − ŷ) = log ŷ − z, L = (1 − y) z − (1 + (P − 1) y) log σ(z), in which nothing overflows. With
    δ = ∂L/∂(each) and P = 1 the sigmoid's slope cancels to ∂L/∂z = δ (ŷ − y), which is never 0 for a wrong answer;
    else ∂L/∂z = δ ((1 + (P − 1) y) ŷ − P y). ∂L/∂y = −δ (z + (P − 1) log σ(z)). The positive weight P is a constant.
    Source: the chapter, "Binary Cross-Entropy".
    """

    @staticmethod
    def forward(logits: Tensor, target: Tensor, pos_weight: Tensor | None, reduction: str) -> Tensor:
        log_sigmoid = nn.functional.logsigmoid(logits)
        if pos_weight is not None:
            log_sigmoid = (1 + (pos_weight - 1) * target) * log_sigmoid
        return reduce((1 - target) * logits - log_sigmoid, reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.reduction = inputs[3]

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, pos_weight = ctx.saved_tensors
        of_logits, of_target = ctx.needs_input_grad[:2]
        delta = of_each(delta, ctx.reduction, target.numel())
        gradient = by_target = None
        if of_logits:
            error = torch.sigmoid(logits)
            if pos_weight is None:
                error = error - target
            else:
                error = (1 + (pos_weight - 1) * target) * error - pos_weight * target
            gradient = error * delta
        if of_target:
            slope = logits
            if pos_weight is not None:
                slope = slope + (pos_weight - 1) * nn.functional.logsigmoid(logits)
            by_target = slope * -delta
        return gradient, by_target, None, None


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(4, 3, generator=generator, dtype=torch.float64)).requires_grad_()

    labels = (draw() > 0).double()
    soft = torch.rand(4, 3, generator=generator, dtype=torch.float64)
    return {
        "mean": Call((draw(), labels)),
        "sum": Call((draw(), labels), {"reduction": "sum"}),
        "none": Call((draw(), soft), {"reduction": "none"}),
        "saturated": Call((draw(30.0), labels)),
        "positive weight": Call((draw(), labels), {"pos_weight": 3.5}),
        "positive weights": Call((draw(), soft, torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64))),
        "target too": Call((draw(), soft.clone().requires_grad_())),
        "target too, weighted": Call((draw(), soft.clone().requires_grad_()), {"pos_weight": 3.5}),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    logits, target = torch.randn(256, 512, generator=generator), torch.rand(256, 512, generator=generator)
    return Call((logits.requires_grad_(), target)), target.numel()


def _reference(
    logits: Tensor, target: Tensor, pos_weight: float | Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    if isinstance(pos_weight, float):
        pos_weight = logits.new_tensor(pos_weight)
    return nn.functional.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight, reduction=reduction)


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=8)
def bce_logits(
    logits: Tensor, target: Tensor, pos_weight: float | Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Return the cross-entropy of σ(z) with y, its mean or sum: 0-d unless "none".

    `pos_weight` is what a positive example counts: a number, or a tensor that broadcasts to the logits' shape. Raises
    ValueError where shapes do not fit, or for a `pos_weight` that requires a gradient.
    """
    check_elements("bce_logits", logits, target, reduction)
    if isinstance(pos_weight, Tensor):
        if pos_weight.requires_grad:
            raise ValueError("bce_logits: pos_weight is a constant, got one that requires a gradient: detach it.")
        sides = zip(reversed(pos_weight.shape), reversed(logits.shape), strict=False)
        if pos_weight.ndim > logits.ndim or any(side not in (1, size) for side, size in sides):
            raise ValueError(
                f"bce_logits: pos_weight must broadcast to the logits' shape {tuple(logits.shape)}, got "
                f"{tuple(pos_weight.shape)}."
            )
    elif pos_weight is not None:
        pos_weight = torch.full((), pos_weight, dtype=logits.dtype, device=logits.device)
    logits, target, pos_weight = to_float32_in_autocast(logits, target, pos_weight)
    loss: Tensor = BCELogits.apply(logits, target, pos_weight, reduction)
    return loss
