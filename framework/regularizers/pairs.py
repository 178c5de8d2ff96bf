"""What regularizers of batches share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from framework.batching.sets import Batch


def as_pair(batch: Batch, who: str) -> tuple[Any, Any]:
    """Return (inputs, target), or raise ValueError for another kind of batch."""
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ValueError(
            f"regularizer '{who}' changes batches of (inputs, target), got a {type(batch).__name__}: "
            f"leave it out, or give such batches."
        )
    return batch[0], batch[1]


def as_numbers(target: Tensor, outputs: int) -> Tensor:
    """Return a target that can be mixed: class indices (N,) as probabilities (N, outputs), other integers as floats."""
    if target.is_floating_point():
        return target
    if target.ndim == 1 and outputs > 1:
        target = one_hot(target.long(), outputs)
    return target.to(torch.get_default_dtype())
