"""The L2 penalty."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written


class L2(Function):
    """R = λ Σ w² over all weights; with δ = ∂L/∂R: ∂L/∂w = 2λ δ w. Weights of any shapes.

    The weights themselves are what is kept. Source: the chapter, "L2 Regularization".
    """

    @staticmethod
    def forward(strength: float, *weights: Tensor) -> Tensor:
        return strength * torch.stack([weight.square().sum() for weight in weights]).sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.strength = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        scale = 2 * ctx.strength * delta
        weights = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return None, *(scale * weight if needed else None for weight, needed in weights)


def _examples(generator: Generator) -> dict[str, Call]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "one": Call((draw(4, 3),), {"strength": 0.3}),
        "several": Call((draw(4, 3), draw(2), draw()), {"strength": 0.01}),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    weights = [nn.Parameter(torch.randn(256, 512, generator=generator)) for _ in range(2)]
    return Call(tuple(weights), {"strength": 0.01}), sum(weight.numel() for weight in weights)


def _reference(*weights: Tensor, strength: float) -> Tensor:
    return strength * torch.stack([weight.square().sum() for weight in weights]).sum()


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=0)
def l2(*weights: Tensor, strength: float) -> Tensor:
    """Return `strength` times the sum of the squares of all weights, 0-d; raises ValueError where there are none."""
    if not weights:
        raise ValueError("l2: give at least one tensor of weights, got none.")
    penalty: Tensor = L2.apply(strength, *weights)
    return penalty
