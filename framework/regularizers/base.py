"""What a regularizer may do: any of five hooks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from framework.batching.sets import Batch

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

    def on_batch(self, batch: Batch) -> Batch:
        """Return the batch to train on in place of a micro-batch."""
        return batch

    def penalty(self, model: nn.Module) -> Tensor:
        """Return a 0-d tensor to be added to the loss, once a step."""
        raise NotImplementedError

    def on_gradients(self, params: NamedParams, step: int) -> None:
        """Change the gradients of optimizer step `step` (from 0) in place, before clipping."""

    def project(self, params: NamedParams, lr: Mapping[str, float]) -> None:
        """Change the weights in place after the update; `lr` is each one's current learning rate."""
