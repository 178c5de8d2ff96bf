"""What a function or module returns, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

SEED = 20
"""What the numbers that weigh outputs are drawn by, and what is drawn inside."""


def floating(outputs: Any) -> list[Tensor]:
    """Return the floating tensors in any nesting of outputs."""
    found: list[Tensor] = []
    apply_to_collection(outputs, Tensor, found.append)
    return [t for t in found if t.is_floating_point()]


def differentiable(outputs: Any) -> list[Tensor]:
    """Return those tensors of outputs that backward can start from."""
    return [t for t in floating(outputs) if t.requires_grad]


def weights_of(outputs: Any) -> list[Tensor]:
    """Return the fixed random numbers that weigh outputs, in float64."""
    return [
        torch.randn(o.shape, generator=torch.Generator().manual_seed(SEED + i), dtype=torch.float64).to(o.device)
        for i, o in enumerate(floating(outputs))
    ]


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of all numbers of all terms; raises ValueError without any."""
    if not terms:
        raise ValueError("there is no floating-point output to differentiate: give a loss=, or return a tensor.")
    return torch.stack([t.sum() for t in terms]).sum()
