"""Losses that leap above what they have been."""

from __future__ import annotations

import torch
from torch import Tensor

DECAY = 0.98
"""The share of the running mean that a step leaves: it looks back over about 1 / (1 - DECAY) = 50 steps."""

WARM_UP = 50
"""The steps that are only observed."""


class Spikes:
    """Finds steps whose loss is more than k standard deviations above its running mean, on the device.

    With the n-th loss x, m and v the mean and the variance so far, and d = x - m: a spike is d > k √v, from step
    `WARM_UP` on. Then, with a = max(1 / n, 1 - DECAY) and d at most k √v, so that a spike moves little and a lasting
    change of level is the usual one after some tens of steps: m ← m + a d and v ← (1 - a)(v + a d²). A loss that is
    not finite changes neither.
    """

    def __init__(self, deviations: float, device: torch.device, dtype: torch.dtype) -> None:
        self.deviations = deviations
        self.state = torch.zeros(3, device=device, dtype=dtype)
        """Mean, variance, and the number of losses."""

    def observe(self, loss: Tensor) -> Tensor:
        """Return whether a step's loss is a spike (0-d bool), and take it in."""
        mean, variance, count = self.state.unbind()
        deviation = loss.to(self.state.dtype) - mean
        limit = self.deviations * variance.sqrt()
        warm = count >= WARM_UP
        spike = warm & (deviation > limit)
        deviation = torch.where(warm, torch.minimum(deviation, limit), deviation)
        share = (1 / (count + 1)).clamp(min=1 - DECAY)
        new = torch.stack([mean + share * deviation, (1 - share) * (variance + share * deviation.square()), count + 1])
        self.state = torch.where(torch.isfinite(loss), new, self.state)
        return spike
