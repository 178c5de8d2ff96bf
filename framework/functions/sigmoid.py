"""The logistic sigmoid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from framework.functions.contract import Call, Function, hand_written


class Sigmoid(Function):
    """y = σ(z) = 1/(1 + e⁻ᶻ); with δ = ∂L/∂y: ∂L/∂z = δ y (1 − y). Any shape.

    The output is what is kept, as the next layer keeps it too. Source: the chapter, "Activation Functions":
    σ′ = σ(1 − σ).
    """

    @staticmethod
    def forward(inputs: Tensor) -> Tensor:
        return torch.sigmoid(inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        # δ (1 − y) y in one pass over memory
        of_inputs: Tensor = torch.ops.aten.sigmoid_backward.default(delta, output)
        return of_inputs


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(scale: float, *shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    return {"rows": Call((draw(1.0, 4, 3),)), "saturated": Call((draw(30.0, 9),)), "scalar": Call((draw(1.0),))}


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(256, 512, generator=generator).requires_grad_()
    return Call((inputs,)), inputs.numel()


@hand_written(reference=torch.sigmoid, examples=_examples, large=_large, saved_bytes=4)
def sigmoid(inputs: Tensor) -> Tensor:
    """Return 1/(1 + e⁻ᶻ) of each element, in the inputs' shape."""
    output: Tensor = Sigmoid.apply(inputs)
    return output
