"""Mixup."""

from __future__ import annotations

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.distributions import Beta

from framework.batching.sets import Batch
from framework.registry import Positive, regularizer
from framework.regularizers.base import Regularizer
from framework.regularizers.pairs import as_numbers, as_pair


@regularizer("mixup")
class Mixup(Regularizer):
    """Trains on mixtures of pairs of examples and of their targets.

    x ← λx + (1 − λ)x', y ← λy + (1 − λ)y', with (x', y') the same batch in random order and one λ ~ Beta(α, α) a
    batch. Class indices (N,) become probabilities (N, `outputs`), which cross_entropy takes; with one output, they
    become numbers. Raises ValueError for batches other than (inputs, target), and for inputs that are no
    floating-point numbers. Source: Zhang et al. (2018), arXiv:1710.09412.
    """

    def __init__(self, outputs: int, *, alpha: Positive = 0.2) -> None:
        self.outputs = outputs
        self.share = Beta(alpha, alpha, validate_args=False)

    def on_batch(self, batch: Batch) -> Batch:
        """Return the mixed batch."""
        inputs, target = as_pair(batch, "mixup")
        kept = self.share.sample()  # 0-d, on the CPU: a scalar to every device
        order = torch.randperm(target.shape[0], device=target.device)

        def mix(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                raise ValueError(f"regularizer 'mixup' needs floating-point inputs, got {tensor.dtype}: leave it out.")
            return kept * tensor + (1 - kept) * tensor[order]

        return apply_to_collection(inputs, Tensor, mix), mix(as_numbers(target, self.outputs))
