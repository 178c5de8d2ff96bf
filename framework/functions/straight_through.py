"""The straight-through estimator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from framework.functions.contract import Call, Function, hand_written


class StraightThrough(Function):
    """y = q, some rounding of x; with δ = ∂L/∂y: ∂L/∂x = δ, as if y were x. Any shape.

    A surrogate: the derivative of a rounding is 0 wherever there is one. Nothing is kept.
    Source: Bengio, Léonard and Courville (2013), arXiv:1308.3432, section 3.2.
    """

    @staticmethod
    def forward(inputs: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        return delta, None


def _examples(generator: Generator) -> dict[str, Call]:
    rows = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return {
        "rounded": Call((rows.clone().requires_grad_(), rows.round())),
        "signs": Call((rows.clone().requires_grad_(), rows.sign())),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    inputs = torch.randn(256, 512, generator=generator)
    return Call((inputs.clone().requires_grad_(), inputs.sign())), inputs.numel()


def _reference(inputs: Tensor, value: Tensor) -> Tensor:
    return inputs + (value - inputs).detach()


def _identity(inputs: Tensor, value: Tensor) -> Tensor:
    return inputs


@hand_written(
    reference=_reference,
    examples=_examples,
    large=_large,
    saved_bytes=0,
    nature="surrogate",
    surrogate=_identity,
)
def straight_through(inputs: Tensor, value: Tensor) -> Tensor:
    """Return `value`, such as `inputs.round()`, with the gradient of `inputs`; raises ValueError where shapes differ.

    No gradient goes to what `value` was computed from.
    """
    if inputs.shape != value.shape:
        raise ValueError(
            f"straight_through: inputs and value must have the same shape, got {tuple(inputs.shape)} and "
            f"{tuple(value.shape)}."
        )
    output: Tensor = StraightThrough.apply(inputs, value)
    return output
