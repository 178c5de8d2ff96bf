"""The weighted sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd import forward_ad

from framework.functions.contract import Call, Function, hand_written, to_autocast_dtype
from framework.functions.products import input_gradient, prefers_onednn, weight_gradient, weighted_sum


class Linear(Function):
    """z = a Wᵀ + b; with δ = ∂L/∂z: ∂L/∂a = δ W, ∂L/∂W = Σ δᵀ a and ∂L/∂b = Σ δ over the rows.

    I inputs, O outputs: a (..., I), W (O, I), b (O,) or None. Source: the chapter, "The Chain Rule, Concretely":
    ∂z/∂a = w and ∂z/∂w = a.
    """

    @staticmethod
    def forward(inputs_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        return weighted_sum(inputs_NI, weight_OI, bias_O)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        of_inputs, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(inputs[0] if of_weight else None, inputs[1] if of_inputs else None)

    @staticmethod
    def backward(ctx: Any, delta_NO: Tensor) -> tuple[Tensor | None, ...]:
        inputs_NI, weight_OI = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        _, into_weight, into_bias = getattr(ctx, "destinations", ()) or (None, None, None)
        shape = delta_NO.shape
        if len(shape) != 2:
            delta_NO = delta_NO.reshape(-1, shape[-1])
            inputs_NI = inputs_NI.reshape(-1, inputs_NI.shape[-1]) if of_weight else None
        of_inputs_NI = input_gradient(delta_NO, weight_OI) if of_inputs else None
        if of_inputs_NI is not None and len(shape) != 2:
            of_inputs_NI = of_inputs_NI.reshape(*shape[:-1], weight_OI.shape[1])
        return (
            of_inputs_NI,
            weight_gradient(delta_NO, inputs_NI, into_weight) if of_weight else None,
            torch.sum(delta_NO, 0, out=into_bias) if of_bias else None,
        )


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "bias": Call((draw(5, 4), draw(3, 4), draw(3))),
        "no bias": Call((draw(5, 4), draw(3, 4))),
        "three dimensions": Call((draw(2, 5, 4), draw(3, 4), draw(3))),
        "one example": Call((draw(4), draw(3, 4), draw(3))),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(512, 256, generator=generator).requires_grad_()
    weight = nn.Parameter(torch.randn(128, 256, generator=generator))
    return Call((inputs, weight, nn.Parameter(torch.zeros(128)))), inputs.numel()


@hand_written(reference=nn.functional.linear, examples=_examples, large=_large, saved_bytes=4)
def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a Wᵀ + b: (..., I), (O, I) and (O,) -> (..., O); raises ValueError where the shapes do not fit."""
    if weight.ndim != 2 or inputs.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"linear: inputs must be (..., I) and weight (O, I), got {tuple(inputs.shape)} and {tuple(weight.shape)}."
        )
    inputs, weight, bias = to_autocast_dtype(inputs, weight, bias)
    output: Tensor = Linear.apply(inputs, weight, bias)
    return output


def faster_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return torch.nn.functional.linear, by the hand-written function where that has a faster kernel."""
    if (
        prefers_onednn(inputs, weight, bias)
        and not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0  # which goes by torch's operations alone
    ):
        output: Tensor = Linear.apply(inputs, weight, bias)
        return output
    return nn.functional.linear(inputs, weight, bias)
