"""The softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from framework.functions.contract import Call, Function, hand_written, to_float32_in_autocast


class Softmax(Function):
    """yᵢ = exp(zᵢ) / Σⱼ exp(zⱼ) along one dimension; with δ = ∂L/∂y: ∂L/∂zᵢ = yᵢ (δᵢ − Σⱼ δⱼ yⱼ). Any shape.

    The Jacobian ∂yⱼ/∂zᵢ = yⱼ (1[i = j] − yᵢ), applied without being formed. A z of −∞ has y = 0 and gradient 0.
    Source: the chapter, "Categorical Cross-Entropy"; Bridle (1990), doi:10.1007/978-3-642-76153-9_28.
    """

    @staticmethod
    def forward(inputs: Tensor, dim: int) -> Tensor:
        return torch.softmax(inputs, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.dim = inputs[1]

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        (output,) = ctx.saved_tensors
        # the formula above in one pass over memory, with its sum in float32 or better
        return torch.ops.aten._softmax_backward_data.default(delta, output, ctx.dim, output.dtype), None


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    far = 20 * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    return {
        "rows": Call((draw(4, 3),)),
        "columns": Call((draw(2, 4, 3),), {"dim": 1}),
        "saturated": Call((far.requires_grad_(),)),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(256, 512, generator=generator).requires_grad_()
    return Call((inputs,)), inputs.numel()


def _reference(inputs: Tensor, dim: int = -1) -> Tensor:
    return torch.softmax(inputs, dim)


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=4)
def softmax(inputs: Tensor, dim: int = -1) -> Tensor:
    """Return exp(z) over its sum along `dim`, in the inputs' shape."""
    (inputs,) = to_float32_in_autocast(inputs)
    output: Tensor = Softmax.apply(inputs, dim)
    return output
