"""How much work to do at once."""

from __future__ import annotations

import torch


def elements_at_once(device: torch.device) -> int:
    """Return how many elements of work to hold: what every core's own cache holds, or what fills a GPU."""
    return 2**15 * torch.get_num_threads() if device.type == "cpu" else 2**24
