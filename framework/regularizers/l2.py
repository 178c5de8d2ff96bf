"""L2 regularization."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.registry import regularizer
from framework.regularizers.weights import WeightRegularizer


@regularizer("l2")
class L2(WeightRegularizer):
    """Adds λ Σ w² to the loss, which keeps weights small.

    λ is `strength`; the gradient it adds is 2λw, so λ is half of what torch.optim.SGD calls weight_decay. With
    `exempt`, biases and normalisation parameters are spared. Source: the chapter, "L2 Regularization".
    """

    def penalty(self, model: nn.Module) -> Tensor:
        """Return λ Σ w²."""
        return self.strength * torch.stack([w.square().sum() for w in self.weights(model)]).sum()
