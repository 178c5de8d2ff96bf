"""Pixels made ready for a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalize:
    """Transform of a batch (pixels, targets): pixels to (pixels / scale - mean) / std, in floats.

    Pixels have any shape and any number type; `mean` and `std` are those of pixels / scale.
    """

    scale: float
    mean: float
    std: float

    def __call__(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the batch with its pixels normalised."""
        pixels, targets = batch
        floats = pixels.to(torch.get_default_dtype())
        shift = torch.full((), -self.mean / self.std, dtype=floats.dtype, device=floats.device)
        own = None if floats is pixels else floats
        return torch.add(shift, floats, alpha=1 / (self.scale * self.std), out=own), targets
