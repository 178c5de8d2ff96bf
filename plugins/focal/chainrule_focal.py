"""The focal loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from framework import functions
from framework.losses import ClassLoss
from framework.registry import Fraction, NonNegative, loss


@loss("focal")
class Focal(ClassLoss):
    """Cross-entropy of sigmoid outputs in which well-classified ones count little, for rare classes.

    L = −α_y (1 − p_y)^γ log p_y of each output, its mean over all of them, where p_y is σ(x) for y = 1 and 1 − σ(x)
    for y = 0; α_y is `alpha` for y = 1 and 1 − `alpha` for y = 0, or 1 where it is null; γ is `gamma`. Logits are of
    any shape, targets 0 to 1 of the same shape; or logits are (..., C) or (N, C, d₁, ...) and targets class indices,
    which are taken one-hot. Integers equal to `ignore_index` are left out (0 where nothing is left). Other shapes raise
    ValueError.
    Source: Lin et al. (2017), arXiv:1708.02002, equation 5; their best were γ = 2, α = 0.25.
    """

    def __init__(
        self,
        *,
        gamma: NonNegative = 2.0,
        alpha: Fraction | None = None,
        ignore_index: int = -100,
        class_dim: Literal["inferred", "last", "second"] = "inferred",
    ) -> None:
        super().__init__(ignore_index=ignore_index, class_dim=class_dim)
        self.gamma = gamma
        self.alpha = alpha

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean, 0-d."""
        if prediction.shape == target.shape:
            decisions = target
            counted = None if target.is_floating_point() else target != self.ignore_index
        else:
            dim = self.find_classes(prediction, target)
            if prediction.shape[dim] == 1:
                raise ValueError("Focal: one output is a yes or no: give the target the prediction's shape.")
            counted = (target != self.ignore_index).unsqueeze(dim)
            index = torch.where(counted, target.unsqueeze(dim).long(), 0)
            decisions = torch.zeros_like(prediction, dtype=torch.bool).scatter_(dim, index, 1)
            counted = counted.expand_as(prediction)
        return self._mean(prediction, decisions, counted)

    def _mean(self, logits: Tensor, decisions: Tensor, counted: Tensor | None) -> Tensor:
        if counted is None:
            total = functions.focal(logits, decisions, gamma=self.gamma, alpha=self.alpha, reduction="sum")
            return total / max(logits.numel(), 1)
        decisions = torch.where(counted, decisions, 0)
        losses = functions.focal(logits, decisions, gamma=self.gamma, alpha=self.alpha, reduction="none")
        return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp(min=1)

    def weight(self, target: Tensor) -> Tensor | int:
        """Return the number of targets that are not ignored; class indices have as many outputs each."""
        return target.numel() if target.is_floating_point() else (target != self.ignore_index).sum()

    @staticmethod
    def examples(generator: Generator) -> tuple[Tensor, Tensor]:
        """Return logits (12, 4) and class indices (12,); targets beyond 0 to 1 have no focal loss."""
        return 2 * torch.randn(12, 4, generator=generator), torch.randint(4, (12,), generator=generator)
