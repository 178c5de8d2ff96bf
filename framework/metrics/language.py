"""Metrics of token predictions: logits (B, T, V) with tokens (B, T)."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.text import Perplexity

from framework.metrics.shapes import IGNORED, adapted, rows
from framework.metrics.tasks import check_task
from framework.registry import metric


class LogPerplexity(Perplexity):
    """Perplexity by way of log-probabilities, finite where a probability rounds to 0; logits (N, V), tokens (N,)."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add up −log p of each token that is not ignored."""
        kept = target.ne(IGNORED)
        picked = preds.log_softmax(-1).gather(-1, target.where(kept, 0).unsqueeze(-1)).squeeze(-1)
        self.total_log_probs -= picked.where(kept, 0).sum()
        self.count += kept.sum()


@metric("perplexity")
def perplexity(task: str, outputs: int) -> Metric:
    """Perplexity: e to the mean cross-entropy of a token, in nats; a guess among V tokens has perplexity V.

    exp(−(1/N) Σ log pₙ) over the N tokens that are not ignored. Source: Jelinek et al. (1977), Perplexity, a Measure
    of the Difficulty of Speech Recognition Tasks.
    """
    check_task("perplexity", task)
    return adapted(LogPerplexity, rows(outputs))()
