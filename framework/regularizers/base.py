"""What a regularizer may do: any of seven hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from framework.batching.sets import Batch

if TYPE_CHECKING:
    from framework.objective import Objective

NamedParams = Mapping[str, nn.Parameter]
"""Trainable parameters by their canonical names."""


class Regularizer:
    """Constrains training; override only the hooks needed, since the others are never called.

    Every hook runs in training only. What a hook draws is seeded by the trainer from (seed, step). One that remembers
    something from step to step may have a pair of methods for exact resume: `state()` returns it, as nested mappings
    and lists of tensors and plain values, and `load_state(state)` takes it back, after `prepare`.
    """

    def prepare(self, model: nn.Module) -> None:
        """Look at the model, or change its layers, once before training."""

    def objective(self, objective: Objective) -> Objective:
        """Return what training minimises in place of the objective, once before training; evaluation keeps its own.

        An objective, `objective(model, batch) -> mean, weight, outputs`, may be called more than once a step.
        """
        return objective

    def on_batch(self, batch: Batch) -> Batch:
        """Return the batch to train on in place of a micro-batch."""
        return batch

    def penalty(self, model: nn.Module) -> Tensor:
        """Return a 0-d tensor to be added to the loss, once a step."""
        raise NotImplementedError

    def second_pass(self, params: NamedParams, recompute: Callable[[], None]) -> None:
        """Change the gradients by computing them again with other weights, before penalties and `on_gradients`.

        `recompute()` replaces every gradient with that of the same micro-batches, with the same draws, at the weights
        as they are then; it may be called several times. Weights that were changed are to be given back as they were.
        """

    def on_gradients(self, params: NamedParams, step: int) -> None:
        """Change the gradients of optimizer step `step` (from 0) in place, before clipping."""

    def project(self, params: NamedParams, lr: Mapping[str, float]) -> None:
        """Change the weights in place after the update; `lr` is each one's current learning rate."""
