"""Mean squared error."""

from __future__ import annotations

from torch import Tensor

from framework.losses.base import ElementLoss
from framework.registry import loss


@loss("mse")
class MSE(ElementLoss):
    """Mean squared error, for regression.

    L = (1/n) Σ (yᵢ − ŷᵢ)² over all n elements; prediction and target of one shape, else ValueError.
    Source: the chapter, "Mean Squared Error".
    """

    def elements(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return (y − ŷ)²."""
        return (prediction - target).square()
