"""The rectified linear unit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from framework.functions.contract import Call, Function, hand_written


class ReLU(Function):
    """y = max(0, z); with δ = ∂L/∂y: ∂L/∂z = δ where y > 0, else 0, so that the slope at 0 is 0. Any shape.

    The output is what is kept, as the next layer keeps it too. Source: the chapter, "Activation Functions".
    """

    @staticmethod
    def forward(inputs: Tensor) -> Tensor:
        return torch.relu(inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        # δ where y > 0 in one pass over memory; a product δ (y > 0) takes four times as long
        of_inputs: Tensor = torch.ops.aten.threshold_backward.default(delta, output, 0)
        return of_inputs


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (inputs + 0.1 * inputs.sign()).requires_grad_()

    return {"rows": Call((draw(4, 3),)), "scalar": Call((draw(),))}


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(256, 512, generator=generator).requires_grad_()
    return Call((inputs,)), inputs.numel()


@hand_written(reference=torch.relu, examples=_examples, large=_large, saved_bytes=4)
def relu(inputs: Tensor) -> Tensor:
    """Return max(0, z) of each element, in the inputs' shape."""
    output: Tensor = ReLU.apply(inputs)
    return output
