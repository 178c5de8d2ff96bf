"""The seam under the loss: from a model and a batch to a mean, its weight, and outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from framework.batching.sets import Batch
from framework.losses.weighing import weigh

Loss = Callable[[Any, Any], Tensor]
"""(prediction, target) -> the mean over the batch, a 0-d tensor."""


class Objective(Protocol):
    """What training minimises, as any callable: it may be called more than once a step.

    Returns the mean loss (0-d), the number of terms the mean is over, and (prediction, target) for the metrics,
    or None where there is nothing to measure.
    """

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | float, Any]:
        """Return mean, weight and outputs."""
        ...


class Supervised:
    """The default objective: `loss(model(inputs), target)` over batches of (inputs, target)."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | float, Any]:
        """Return mean, weight and (prediction, target)."""
        inputs, target = inputs_and_target(batch)
        prediction = model(inputs)
        return self.loss(widened(prediction), target), weigh(self.loss, target), (prediction, target)


def widened(prediction: Any) -> Any:
    """Return a prediction for a loss: in float32 where it is of 16 bits, which would leave a loss three digits.

    CUDA's autocast widens what goes into torch's losses by itself, a CPU's does not.
    """
    narrow = isinstance(prediction, Tensor) and prediction.dtype in (torch.bfloat16, torch.float16)
    return prediction.float() if narrow else prediction


def inputs_and_target(batch: Batch) -> tuple[Any, Any]:
    """Return the two parts of a batch; raise ValueError for another kind of batch."""
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ValueError(
            f"a batch must be (inputs, target), got {_shape(batch)}: pass objective=, a function of "
            f"(model, batch) that returns (mean, weight, outputs)."
        )
    return batch[0], batch[1]


def _shape(batch: Batch) -> str:
    kind = type(batch).__name__
    if isinstance(batch, dict):
        return f"a {kind} with keys {sorted(map(str, batch))}"
    return f"a {kind} of {len(batch)}" if isinstance(batch, tuple | list) else f"a {kind}"


def predict(model: nn.Module, batch: Batch) -> Any:
    """Return the model's output for a batch of inputs, or of (inputs, target); mappings become keywords."""
    if isinstance(batch, dict):
        return model(**batch)
    return model(batch[0] if isinstance(batch, tuple | list) else batch)
