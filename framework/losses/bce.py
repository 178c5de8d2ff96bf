"""Binary cross-entropy, on probabilities and on logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from framework.losses.base import ElementLoss
from framework.registry import Positive, loss

LOG_FLOOR = -100.0
"""The logarithm of a probability of 0, so that one certain mistake does not make the loss infinite."""


@loss("bce")
class BCE(ElementLoss):
    """Binary cross-entropy on probabilities; prefer `bce_logits`, which stays exact where these saturate.

    L = −[y log ŷ + (1 − y) log(1 − ŷ)], its mean over all elements, each logarithm at least −100. Prediction and
    target of one shape, else ValueError, with values in [0, 1]; a prediction outside gives NaN.
    Source: the chapter, "Binary Cross-Entropy"; the floor is torch.nn.BCELoss's.
    """

    def elements(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of each element."""
        return -(target * _log(prediction) + (1 - target) * _log(1 - prediction))


def _log(p: Tensor) -> Tensor:
    """Return log p, at least LOG_FLOOR; the gradient is 0, not NaN, where p is 0."""
    vanished = (p >= 0) & (p < torch.finfo(p.dtype).tiny)
    return torch.where(vanished, LOG_FLOOR, torch.where(vanished, 1.0, p).log()).clamp(min=LOG_FLOOR)


@loss("bce_logits")
class BCELogits(ElementLoss):
    """Binary cross-entropy on logits, exact however large they are.

    L = −[P y log σ(x) + (1 − y) log(1 − σ(x))], its mean over all elements, computed as
    (1 − y) x − (1 + (P − 1) y) log σ(x), in which nothing overflows. `pos_weight` is P, what a positive example
    counts; null is 1. Prediction and target of one shape, else ValueError. Source: the chapter, "Binary
    Cross-Entropy", with ŷ = σ(x).
    """

    def __init__(self, *, pos_weight: Positive | None = None) -> None:
        super().__init__()
        self.pos_weight = pos_weight

    def elements(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of each element."""
        log_sigmoid = logsigmoid(prediction)
        if self.pos_weight is not None:
            log_sigmoid = (1 + (self.pos_weight - 1) * target) * log_sigmoid
        return (1 - target) * prediction - log_sigmoid
