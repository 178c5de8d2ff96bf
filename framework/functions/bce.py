"""Binary cross-entropy on probabilities."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn

from framework.functions.contract import Call, Function, hand_written, to_float32_in_autocast
from framework.functions.reduction import Reduction, check_elements, of_each, reduce

LOG_FLOOR = -100.0
"""The logarithm of a probability of 0, so that one certain mistake does not make the loss infinite."""


class BCE(Function):
    """L = −[y log p + (1 − y) log(1 − p)] of each element, reduced. Any shape.

    With δ = ∂L/∂(each): ∂L/∂p = δ ((1 − y)/(1 − p) − y/p) and ∂L/∂y = δ (log(1 − p) − log p). Each logarithm is
    at least −100, and where it is held there its term has gradient 0. The inputs are what is kept: the sigmoid
    before keeps p, and the batch holds y, so that nothing is added.
    Source: the chapter, "Binary Cross-Entropy"; the floor is torch.nn.BCELoss's.
    """

    @staticmethod
    def forward(probabilities: Tensor, target: Tensor, reduction: str) -> Tensor:
        cross = target * _log(probabilities) + (1 - target) * _log(1 - probabilities)
        return reduce(-cross, reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.reduction = inputs[2]

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        probabilities, target = ctx.saved_tensors
        of_probabilities, of_target = ctx.needs_input_grad[:2]
        delta = of_each(delta, ctx.reduction, target.numel())
        rest = 1 - probabilities
        slope = (1 - target) / _divisor(rest) - target / _divisor(probabilities) if of_probabilities else None
        return (
            slope * delta if slope is not None else None,
            (_log(rest) - _log(probabilities)) * delta if of_target else None,
            None,
        )


def _vanished(p: Tensor) -> Tensor:
    """Return where a probability is 0, a number below the normal ones, or has a logarithm below the floor."""
    return (p >= 0) & (p < max(torch.finfo(p.dtype).tiny, math.exp(LOG_FLOOR)))


def _log(p: Tensor) -> Tensor:
    return torch.where(_vanished(p), LOG_FLOOR, p.log())


def _divisor(p: Tensor) -> Tensor:
    """Return p, and ∞ where the floor holds: dividing by it gives the gradient 0, and 0 again when differentiated."""
    return p.masked_fill(_vanished(p), math.inf)


def _examples(generator: Generator) -> dict[str, Call]:
    def draw() -> Tensor:
        return 0.05 + 0.9 * torch.rand(4, 3, generator=generator, dtype=torch.float64)

    labels = (draw() > 0.5).double()
    return {
        "mean": Call((draw().requires_grad_(), labels)),
        "sum": Call((draw().requires_grad_(), labels), {"reduction": "sum"}),
        "none": Call((draw().requires_grad_(), draw()), {"reduction": "none"}),
        "target too": Call((draw().requires_grad_(), draw().requires_grad_())),
    }


def _large(generator: Generator) -> tuple[Call, int]:
    probabilities, target = (torch.rand(256, 512, generator=generator) for _ in range(2))
    return Call((probabilities.requires_grad_(), target)), target.numel()


def _reference(probabilities: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    return nn.functional.binary_cross_entropy(probabilities, target, reduction=reduction)


@hand_written(reference=_reference, examples=_examples, large=_large, saved_bytes=8)
def bce(probabilities: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return the cross-entropy of p with y, both in [0, 1], its mean or sum: 0-d unless "none".

    Raises ValueError where the shapes differ; a probability outside [0, 1] gives NaN. `bce_logits` stays exact where
    probabilities saturate.
    """
    check_elements("bce", probabilities, target, reduction)
    probabilities, target = to_float32_in_autocast(probabilities, target)
    loss: Tensor = BCE.apply(probabilities, target, reduction)
    return loss
