"""Noise on the inputs."""

from __future__ import annotations

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from framework.batching.sets import Batch
from framework.registry import NonNegative, regularizer
from framework.regularizers.base import Regularizer
from framework.regularizers.pairs import as_pair


@regularizer("input_noise")
class InputNoise(Regularizer):
    """Adds Gaussian noise to the inputs of each training batch.

    x ← x + N(0, s²) for every floating-point input; s is `std`, in the inputs' own unit, after any normalisation.
    Raises ValueError for batches other than (inputs, target), and for inputs without floating-point values.
    Source: Bishop (1995), Training with Noise is Equivalent to Tikhonov Regularization.
    """

    def __init__(self, *, std: NonNegative = 0.1) -> None:
        self.std = std

    def on_batch(self, batch: Batch) -> Batch:
        """Return the batch with noisy inputs."""
        inputs, target = as_pair(batch, "input_noise")
        noised: list[torch.dtype] = []

        def add_noise(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            noised.append(tensor.dtype)
            return tensor + self.std * torch.randn_like(tensor)

        inputs = apply_to_collection(inputs, Tensor, add_noise)
        if not noised:
            raise ValueError("regularizer 'input_noise' needs floating-point inputs, got none: leave it out.")
        return inputs, target
