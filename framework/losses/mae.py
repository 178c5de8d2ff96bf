"""Mean absolute error."""

from __future__ import annotations

from torch import Tensor

from framework.losses.base import ElementLoss
from framework.registry import loss


@loss("mae")
class MAE(ElementLoss):
    """Mean absolute error, for regression that outliers must not rule.

    L = (1/n) Σ |yᵢ − ŷᵢ| over all n elements, with gradient 0 where they are equal; prediction and target of
    one shape, else ValueError. Source: Hastie, Tibshirani and Friedman (2009), The Elements of Statistical
    Learning, section 10.6.
    """

    def elements(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return |y − ŷ|."""
        return (prediction - target).abs()
