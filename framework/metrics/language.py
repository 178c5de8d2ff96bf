"""Metrics of token predictions: logits (B, T, V) with tokens (B, T)."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.metrics.quotient import Quotient
from framework.metrics.shapes import IGNORED, rows
from framework.metrics.tasks import check_task
from framework.registry import metric


@metric("perplexity")
def perplexity(task: str, outputs: int) -> Quotient:
    """Perplexity: e to the mean cross-entropy of a token, in nats; a guess among V tokens has perplexity V.

    exp(−(1/N) Σ log pₙ) over the N tokens that are not ignored. Source: Jelinek et al. (1977), Perplexity, a Measure
    of the Difficulty of Speech Recognition Tasks.
    """
    check_task("perplexity", task)
    adapt = rows(outputs)

    def surprise(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        scores, tokens = adapt(prediction, target)
        kept = tokens.ne(IGNORED)
        # by way of log-probabilities, finite where a probability rounds to 0
        picked = scores.log_softmax(-1).gather(-1, tokens.where(kept, 0).unsqueeze(-1)).squeeze(-1)
        return -picked.where(kept, 0).sum(), kept.sum()

    return Quotient(surprise, higher_is_better=False, finish=torch.exp)
