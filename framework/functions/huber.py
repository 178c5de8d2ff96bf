"""Huber's loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written, to_float32_in_autocast
from framework.functions.reduction import Reduction, check_elements, of_each, reduce


class Huber(Function):
    """L = c (|d| − ½c) of each element with d = ŷ − y and c = min(|d|, t), reduced. Any shape.

    That is ½d² up to the threshold t and t (|d| − ½t) beyond. With δ = ∂L/∂(each), ∂L/∂ŷ = δ clamp(d, −t, t) =
    −∂L/∂y. The inputs are what is kept: the layer before keeps ŷ where it is an activation, and the batch holds y.
    Source: Huber (1964), Robust Estimation of a Location Parameter, doi:10.1214/aoms/1177703732.
    """

    @staticmethod
    def forward(prediction: Tensor, target: Tensor, threshold: float, reduction: str) -> Tensor:
        error = (prediction - target).abs()
        clipped = error.clamp(max=threshold)
        return reduce(clipped * (error - 0.5 * clipped), reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.threshold, ctx.reduction = inputs[2:]

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        prediction, target = ctx.saved_tensors
        of_prediction, of_target = ctx.needs_input_grad[:2]
        clipped = (prediction - target).clamp(-ctx.threshold, ctx.threshold)
        gradient = clipped * of_each(delta, ctx.reduction, target.numel())
        return gradient if of_prediction else None, -gradient if of_target else None, None, None


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(delta: float) -> tuple[Tensor, Tensor]:
        target, error = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
        near = (error.abs() - delta).abs() < 0.05
        return (target + torch.where(near, 1.2 * error, error)).requires_grad_(), target

    prediction, target = draw(1.0)
    return {
        "mean": Call(draw(1.0)),
        "sum": Call(draw(0.4), {"delta": 0.4, "reduction": "sum"}),
        "none": Call(draw(0.4), {"delta": 0.4, "reduction": "none"}),
        "target too": Call((prediction, target.requires_grad_())),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    prediction, target = (torch.randn(256, 512, generator=generator) for _ in range(2))
    return Call((prediction.requires_grad_(), target)), target.numel()


def _reference(prediction: Tensor, target: Tensor, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    return nn.functional.huber_loss(prediction, target, reduction, delta)


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=8)
def huber(prediction: Tensor, target: Tensor, delta: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    """Return Huber's loss with threshold `delta`, its mean or sum: 0-d unless "none".

    Raises ValueError where the shapes differ or delta is not positive.
    """
    check_elements("huber", prediction, target, reduction)
    if not delta > 0:
        raise ValueError(f"huber: delta must be positive, got {delta}: it is the error from which the loss is linear.")
    prediction, target = to_float32_in_autocast(prediction, target)
    loss: Tensor = Huber.apply(prediction, target, delta, reduction)
    return loss
