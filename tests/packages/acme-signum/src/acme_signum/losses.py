"""A loss between cross-entropy and the absolute error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.registry import loss

from .options import Exponent


@loss("generalized_cross_entropy")
class GeneralizedCrossEntropy(nn.Module):
    """Cross-entropy that wrong labels pull at less.

    L = (1/N) Σ (1 − pᵢ^q)/q, pᵢ the softmax probability of example i's class: cross-entropy as q → 0, 1 − p at q = 1.
    prediction (N, C) logits, target (N,) class indices -> 0-d. Source: Zhang and Sabuncu (2018), arXiv:1805.07836,
    equation 6.
    """

    def __init__(self, *, q: Exponent = 0.7) -> None:
        super().__init__()
        self.q = q

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the examples."""
        log_p = prediction.log_softmax(-1).gather(-1, target.unsqueeze(-1))
        return -((self.q * log_p).expm1() / self.q).mean()

    def weight(self, target: Tensor) -> int:
        """Return the number of examples."""
        return target.numel()

    @staticmethod
    def examples(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return logits of 8 examples, and their classes of 5."""
        return torch.randn(8, 5, generator=generator), torch.randint(5, (8,), generator=generator)
