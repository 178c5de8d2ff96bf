"""Huber's loss."""

from __future__ import annotations

from torch import Tensor

from framework.losses.base import ElementLoss
from framework.registry import Positive, loss


@loss("huber")
class Huber(ElementLoss):
    """Huber's loss: squared for errors up to delta, absolute beyond.

    With d = ŷ − y, the mean over all elements of ½d² where |d| ≤ δ and δ(|d| − ½δ) elsewhere; prediction and
    target of one shape, else ValueError. Source: Huber (1964), Robust Estimation of a Location Parameter,
    doi:10.1214/aoms/1177703732.
    """

    def __init__(self, *, delta: Positive = 1.0) -> None:
        super().__init__()
        self.delta = delta

    def elements(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return c(|d| − ½c) with c = min(|d|, δ), which is both branches."""
        error = (prediction - target).abs()
        clipped = error.clamp(max=self.delta)
        return clipped * (error - 0.5 * clipped)
