"""The contrastive loss of two views."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor, nn, randn
from torch.nn.functional import normalize

from framework import functions
from framework.registry import Positive, loss


@loss("info_nce")
class InfoNCE(nn.Module):
    """Cross-entropy of finding each embedding's partner among the whole batch's, for contrastive learning.

    lᵢ = −log(e^sᵢᵢ / Σⱼ e^sᵢⱼ) with sᵢⱼ = aᵢ·bⱼ / τ, its mean over N pairs; where `symmetric`, the mean of that and of
    bᵢ's finding aᵢ. τ is `temperature`; with `normalize` the embeddings are scaled to length 1 first, so that products
    are cosines. Prediction (N, D) and target (N, D), or a model's pair of both as prediction, where the target serves
    for nothing but its N rows. Other shapes raise ValueError. The negatives are those of a micro-batch: cut into parts,
    a batch has fewer. Sources: van den Oord et al. (2018), arXiv:1807.03748, equation 4; both ways and normalized:
    Radford et al. (2021), arXiv:2103.00020, figure 3.
    """

    additive = False

    def __init__(self, *, temperature: Positive = 0.1, symmetric: bool = True, normalize: bool = True) -> None:
        super().__init__()
        self.temperature = temperature
        self.symmetric = symmetric
        self.normalize = normalize

    def forward(self, prediction: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the mean, 0-d."""
        if isinstance(prediction, Tensor):
            first, second = prediction, target
        elif len(prediction) == 2:
            first, second = prediction
        else:
            raise ValueError(f"InfoNCE: a model gives one embedding or a pair of them, got {len(prediction)}.")
        if first.ndim != 2 or first.shape != second.shape or not second.is_floating_point():
            raise ValueError(
                f"InfoNCE: the two views' embeddings must both be floating-point and (N, D), got {first.dtype} "
                f"{tuple(first.shape)} and {second.dtype} {tuple(second.shape)}: give the second view's as the target, "
                f"or have the model return the pair."
            )
        if self.normalize:
            first, second = normalize(first, dim=1), normalize(second, dim=1)
        losses = functions.info_nce(
            first, second, temperature=self.temperature, symmetric=self.symmetric, reduction="sum"
        )
        return losses / max(len(first), 1)

    def weight(self, target: Tensor) -> int:
        """Return the number of pairs."""
        return len(target)

    @staticmethod
    def examples(generator: Generator) -> tuple[Tensor, Tensor]:
        """Return two views' embeddings (8, 5)."""
        return randn(8, 5, generator=generator), randn(8, 5, generator=generator)
