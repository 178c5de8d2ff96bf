"""Dropout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written


class Dropout(Function):
    """y = m x / (1 − p); with δ = ∂L/∂y: ∂L/∂x = m δ / (1 − p). Any shape.

    m is 1 where an element is kept and 0 where it is silenced; it is kept as truth values, a byte each. For p = 1 all
    is 0. Source: Srivastava et al. (2014), JMLR 15:1929-1958, in the inverted form of its section 10.
    """

    @staticmethod
    def forward(inputs: Tensor, mask: Tensor, rate: float) -> Tensor:
        return inputs * _scale(mask, rate, inputs.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.rate = inputs[2]

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return delta * _scale(mask, ctx.rate, delta.dtype), None, None


def draw_mask(inputs: Tensor, rate: float) -> Tensor:
    """Return which elements to keep, each with probability 1 − rate.

    Of contiguous inputs on a CPU they are those that torch's dropout keeps.
    """
    if rate == 1:
        return torch.zeros(inputs.shape, dtype=torch.bool, device=inputs.device)
    return torch.bernoulli(torch.empty(inputs.shape, dtype=torch.bool, device=inputs.device), 1 - rate)


def _scale(mask: Tensor, rate: float, dtype: torch.dtype) -> Tensor:
    """Return m / (1 − p), in the type and so with the rounding of torch's dropout."""
    return mask.to(dtype).div_(1 - rate if rate < 1 else 1)


def _examples(generator: Generator) -> dict[str, Call]:
    def draw() -> Tensor:
        return torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "half": Call((draw(), 0.5)),
        "rate 0.3": Call((draw(), 0.3)),
        "all": Call((draw(), 1.0)),
        "evaluation": Call((draw(), 0.5), {"training": False}),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(256, 512, generator=generator).requires_grad_()
    return Call((inputs, 0.3)), inputs.numel()


@hand_written(reference=nn.functional.dropout, examples=_examples, large=_large, saved_bytes=1)
def dropout(inputs: Tensor, rate: float, training: bool = True) -> Tensor:
    """Return inputs with each element silenced with probability `rate` and the others divided by 1 − rate.

    They are returned as they are where not `training`, or at rate 0. Raises ValueError for a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"dropout: rate must be a probability in [0, 1], got {rate}.")
    if not training or rate == 0:
        return inputs
    output: Tensor = Dropout.apply(inputs, draw_mask(inputs, rate), rate)
    return output
