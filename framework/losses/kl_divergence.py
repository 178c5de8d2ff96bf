"""Kullback-Leibler divergence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.losses.base import check_same_shape
from framework.registry import loss


@loss("kl_divergence")
class KLDivergence(nn.Module):
    """Kullback-Leibler divergence from log-probabilities to target probabilities, as in distillation.

    L = (1/N) Σₙ Σ_c q_nc (log q_nc − ŷ_nc), with ŷ log-probabilities and 0 log 0 = 0; the mean is over the N rows
    of the first dimension, torch.nn.KLDivLoss's "batchmean". Prediction and target of one shape, else ValueError.
    Source: Kullback and Leibler (1951), On Information and Sufficiency, doi:10.1214/aoms/1177729694.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean over rows, 0-d."""
        check_same_shape(self, prediction, target)
        return (torch.xlogy(target, target) - target * prediction).sum() / self.weight(target)

    def weight(self, target: Tensor) -> int:
        """Return the number of rows."""
        return target.shape[0]
