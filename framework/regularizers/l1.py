"""L1 regularization."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.registry import regularizer
from framework.regularizers.weights import WeightRegularizer


@regularizer("l1")
class L1(WeightRegularizer):
    """Adds λ Σ |w| to the loss, which drives weights to exactly nothing.

    λ is `strength`; the gradient it adds is λ sign(w). With `exempt`, biases and normalisation parameters are spared.
    Source: Tibshirani (1996), Regression Shrinkage and Selection via the Lasso.
    """

    def penalty(self, model: nn.Module) -> Tensor:
        """Return λ Σ |w|."""
        return self.strength * torch.stack([w.abs().sum() for w in self.weights(model)]).sum()
