"""The Gaussian error linear unit."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written


class GELU(Function):
    """y = z Φ(z); with δ = ∂L/∂y: ∂L/∂z = δ (Φ(z) + z φ(z)). Any shape.

    Φ and φ are the standard normal's distribution and density. The approximation "tanh" is y = ½z (1 + t) with
    t = tanh u and u = √(2/π) (z + 0.044715 z³); then ∂L/∂z = δ (½(1 + t) + ½z (1 − t²) u′) with
    u′ = √(2/π) (1 + 3 · 0.044715 z²). Source: Hendrycks and Gimpel (2016), arXiv:1606.08415, section 2.
    """

    @staticmethod
    def forward(inputs: Tensor, approximate: str) -> Tensor:
        return nn.functional.gelu(inputs, approximate=approximate)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.approximate = inputs[1]

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        # the formula above in one pass over memory: of torch's operations it would take seven
        return torch.ops.aten.gelu_backward.default(delta, inputs, approximate=ctx.approximate), None


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(scale: float, *shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    return {
        "rows": Call((draw(1.0, 4, 3),)),
        "tails": Call((draw(5.0, 12),)),
        "tanh": Call((draw(1.0, 4, 3),), {"approximate": "tanh"}),
        "tanh's tails": Call((draw(5.0, 12),), {"approximate": "tanh"}),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(256, 512, generator=generator).requires_grad_()
    return Call((inputs,)), inputs.numel()


@hand_written(reference=nn.functional.gelu, examples=_examples, large=_large, saved_bytes=4)
def gelu(inputs: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """Return z Φ(z) of each element, in the inputs' shape; raises ValueError for another approximation."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}.")
    output: Tensor = GELU.apply(inputs, approximate)
    return output
