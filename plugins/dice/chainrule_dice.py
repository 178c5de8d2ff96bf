"""The soft Dice loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framework.losses import ClassLoss
from framework.registry import Positive, loss


@loss("dice")
class Dice(ClassLoss):
    """One minus the overlap of predicted and true regions, for segmentation where most of an image is background.

    L = 1 − (2 Σ p y + s) / (Σ p + Σ y + s), s being `smooth`, with sums over the whole batch, which makes it no mean
    over examples. `activation` softmax: p = softmax(x) of logits (..., C) or (N, C, d₁, ...), y class indices taken
    one-hot, those equal to `ignore_index` left out, or probabilities of the same shape; the overlap is the mean of the
    classes'. sigmoid: p = σ(x) of logits of any shape, y 0 to 1 of the same shape, one region. Shapes are in ClassLoss;
    those that do not fit raise ValueError. Sources: Milletari et al. (2016), arXiv:1606.04797, who square the terms of
    the denominator; without squares, Sudre et al. (2017), arXiv:1707.03237.
    """

    additive = False

    def __init__(
        self,
        *,
        smooth: Positive = 1.0,
        activation: Literal["softmax", "sigmoid"] = "softmax",
        ignore_index: int = -100,
        class_dim: Literal["inferred", "last", "second"] = "inferred",
    ) -> None:
        super().__init__(ignore_index=ignore_index, class_dim=class_dim)
        self.smooth = smooth
        self.activation = activation

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of the batch, 0-d."""
        logits = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        if self.activation == "sigmoid":
            if prediction.shape != target.shape:
                raise ValueError(
                    f"Dice: with activation='sigmoid' prediction and target must have the same shape, got "
                    f"{tuple(prediction.shape)} and {tuple(target.shape)}: reshape one, or take 'softmax' for classes."
                )
            return 1 - self._overlap(logits.sigmoid().flatten(), target.flatten().to(logits.dtype))
        dim = self.find_classes(prediction, target)
        if prediction.shape[dim] == 1:
            raise ValueError("Dice: softmax over one class is always 1: take activation='sigmoid' for one region.")
        p, y = logits.softmax(dim), target
        if not target.is_floating_point():
            counted = (target != self.ignore_index).unsqueeze(dim)
            index = torch.where(counted, target.unsqueeze(dim).long(), 0)
            y = torch.zeros_like(p).scatter_(dim, index, 1.0) * counted
            p = p * counted
        return 1 - self._overlap(p.movedim(dim, 0).flatten(1), y.movedim(dim, 0).flatten(1)).mean()

    def _overlap(self, p: Tensor, y: Tensor) -> Tensor:
        """Return the overlap of each region: sums are over the last dimension."""
        return (2 * (p * y).sum(-1) + self.smooth) / (p.sum(-1) + y.sum(-1) + self.smooth)

    def weight(self, target: Tensor) -> Tensor | int:
        """Return the number of targets: of class indices those that are not ignored, of probabilities the rows."""
        return target.numel() if self.activation == "sigmoid" else super().weight(target)
