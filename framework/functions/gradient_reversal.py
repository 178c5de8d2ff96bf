"""Gradient reversal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from framework.functions.contract import Call, Function, hand_written


class GradientReversal(Function):
    """y = x; with δ = ∂L/∂y: ∂L/∂x = −λ δ. Any shape.

    What comes before it climbs the loss that what comes after it descends. A surrogate: the gradient is that of −λ x.
    Nothing is kept. Source: Ganin and Lempitsky (2015), arXiv:1409.7495, equations 7 and 8.
    """

    @staticmethod
    def forward(inputs: Tensor, strength: float) -> Tensor:
        return inputs.view_as(inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.strength = inputs[1]

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        return -ctx.strength * delta, None


def _examples(generator: Generator) -> dict[str, Call]:
    def draw() -> Tensor:
        return torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()

    return {"reversed": Call((draw(),)), "halved": Call((draw(), 0.5))}


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(256, 512, generator=generator).requires_grad_()
    return Call((inputs,)), inputs.numel()


def _reference(inputs: Tensor, strength: float = 1.0) -> Tensor:
    return (1 + strength) * inputs.detach() - strength * inputs


def _surrogate(inputs: Tensor, strength: float = 1.0) -> Tensor:
    return -strength * inputs


@hand_written(
    reference=_reference,
    examples=_examples,
    large=_large,
    saved_bytes=0,
    nature="surrogate",
    surrogate=_surrogate,
)
def gradient_reversal(inputs: Tensor, strength: float = 1.0) -> Tensor:
    """Return the inputs, with their gradient multiplied by −`strength`; raises ValueError for a negative strength."""
    if not strength >= 0:
        raise ValueError(f"gradient_reversal: strength must not be negative, got {strength}: it is reversed here.")
    output: Tensor = GradientReversal.apply(inputs, strength)
    return output
