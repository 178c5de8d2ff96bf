"""What regularizers of batches share."""

from __future__ import annotations

from typing import Any

from framework.batching.sets import Batch


def as_pair(batch: Batch, who: str) -> tuple[Any, Any]:
    """Return (inputs, target), or raise ValueError for another kind of batch."""
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ValueError(
            f"regularizer '{who}' changes batches of (inputs, target), got a {type(batch).__name__}: "
            f"leave it out, or give such batches."
        )
    return batch[0], batch[1]
