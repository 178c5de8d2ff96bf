"""Annealed gradient noise."""

from __future__ import annotations

import torch

from framework.registry import NonNegative, regularizer
from framework.regularizers.base import NamedParams, Regularizer


@regularizer("gradient_noise")
class GradientNoise(Regularizer):
    """Adds Gaussian noise to the gradients that fades with the steps.

    g ← g + N(0, σ²ₜ) with σ²ₜ = η / (1 + t)^γ at optimizer step t, from 0; η is `scale`, γ is `decay`.
    Source: Neelakantan et al. (2015), arXiv:1511.06807, which took η from 0.01, 0.3 and 1, and γ = 0.55.
    """

    def __init__(self, *, scale: NonNegative = 0.01, decay: NonNegative = 0.55) -> None:
        self.scale = scale
        self.decay = decay

    @torch.no_grad()
    def on_gradients(self, params: NamedParams, step: int) -> None:
        """Add the noise of a step."""
        deviation = (self.scale / (1 + step) ** self.decay) ** 0.5
        for param in params.values():
            if param.grad is not None:
                param.grad.add_(torch.randn_like(param.grad), alpha=deviation)
