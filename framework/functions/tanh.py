"""The hyperbolic tangent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from framework.functions.contract import Call, Function, hand_written


class Tanh(Function):
    """y = tanh z; with δ = ∂L/∂y: ∂L/∂z = δ (1 − y²). Any shape.

    The output is what is kept, as the next layer keeps it too. Source: the chapter, "Activation Functions".
    """

    @staticmethod
    def forward(inputs: Tensor) -> Tensor:
        return torch.tanh(inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        # δ (1 − y²) in one pass over memory
        of_inputs: Tensor = torch.ops.aten.tanh_backward.default(delta, output)
        return of_inputs


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(scale: float, *shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    return {"rows": Call((draw(1.0, 4, 3),)), "saturated": Call((draw(20.0, 9),)), "scalar": Call((draw(1.0),))}


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(256, 512, generator=generator).requires_grad_()
    return Call((inputs,)), inputs.numel()


@hand_written(reference=torch.tanh, examples=_examples, large=_large, saved_bytes=4)
def tanh(inputs: Tensor) -> Tensor:
    """Return tanh z of each element, in the inputs' shape."""
    output: Tensor = Tanh.apply(inputs)
    return output
