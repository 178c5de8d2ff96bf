"""Pixels made ready for a model."""

from __future__ import annotations

import functools
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
        shift = _number(-self.mean / self.std, floats.dtype, floats.device)
        own = None if floats is pixels else floats
        return torch.add(shift, floats, alpha=1 / (self.scale * self.std), out=own), targets


@functools.lru_cache(maxsize=16)
def _number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a number as a 0-d tensor, whose making takes as long as half of a small batch's normalising."""
    with torch.inference_mode(mode=False):
        return torch.full((), value, dtype=dtype, device=device)
