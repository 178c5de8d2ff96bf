"""Mean squared error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written, to_float32_in_autocast
from framework.functions.reduction import Reduction, check_elements, of_each, reduce


class MSE(Function):
    """L = (ŷ − y)² of each element, reduced; with δ = ∂L/∂(each): ∂L/∂ŷ = 2δ (ŷ − y) = −∂L/∂y. Any shape.

    The inputs are what is kept: the layer before keeps ŷ where it is an activation, and the batch holds y, so
    that nothing is added. Source: the chapter, "Mean Squared Error".
    """

    @staticmethod
    def forward(prediction: Tensor, target: Tensor, reduction: str) -> Tensor:
        return reduce((prediction - target).square(), reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.reduction = inputs[2]

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        prediction, target = ctx.saved_tensors
        of_prediction, of_target = ctx.needs_input_grad[:2]
        gradient = (prediction - target) * of_each(delta, ctx.reduction, target.numel(), 2.0)
        return gradient if of_prediction else None, -gradient if of_target else None, None


def _examples(generator: Generator) -> dict[str, Call]:
    def draw() -> Tensor:
        return torch.randn(4, 3, generator=generator, dtype=torch.float64)

    return {
        "mean": Call((draw().requires_grad_(), draw())),
        "sum": Call((draw().requires_grad_(), draw()), {"reduction": "sum"}),
        "none": Call((draw().requires_grad_(), draw()), {"reduction": "none"}),
        "target too": Call((draw().requires_grad_(), draw().requires_grad_())),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    prediction, target = (torch.randn(256, 512, generator=generator) for _ in range(2))
    return Call((prediction.requires_grad_(), target)), target.numel()


@hand_written(reference=nn.functional.mse_loss, examples=_examples, large=_large, saved_bytes=8)
def mse(prediction: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return (ŷ − y)², its mean or sum: 0-d unless "none"; raises ValueError where the shapes differ."""
    check_elements("mse", prediction, target, reduction)
    prediction, target = to_float32_in_autocast(prediction, target)
    loss: Tensor = MSE.apply(prediction, target, reduction)
    return loss
