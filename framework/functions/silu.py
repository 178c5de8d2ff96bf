"""The sigmoid linear unit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written


class SiLU(Function):
    """y = z σ(z); with δ = ∂L/∂y: ∂L/∂z = δ σ(z) (1 + z (1 − σ(z))). Any shape.

    Source: Elfwing, Uchibe and Doya (2017), arXiv:1702.03118, equations 1 and 2.
    """

    @staticmethod
    def forward(inputs: Tensor) -> Tensor:
        return nn.functional.silu(inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            gate = torch.sigmoid(inputs)
            of_inputs: Tensor = delta * gate * (1 + inputs * (1 - gate))
        else:  # the same in one pass over memory, which cannot be differentiated
            of_inputs = torch.ops.aten.silu_backward.default(delta, inputs)
        return of_inputs


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(scale: float, *shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    return {"rows": Call((draw(1.0, 4, 3),)), "tails": Call((draw(20.0, 12),))}


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(256, 512, generator=generator).requires_grad_()
    return Call((inputs,)), inputs.numel()


@hand_written(reference=nn.functional.silu, examples=_examples, large=_large, saved_bytes=4)
def silu(inputs: Tensor) -> Tensor:
    """Return z σ(z) of each element, in the inputs' shape."""
    output: Tensor = SiLU.apply(inputs)
    return output
