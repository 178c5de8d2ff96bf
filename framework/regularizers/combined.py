"""All regularizers of a run as one, with hooks that nobody implements left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from framework.batching.sets import Batch
from framework.regularizers.base import NamedParams, Regularizer

if TYPE_CHECKING:
    from framework.objective import Objective


class Combined:
    """Calls each hook of each regularizer that overrides it, in the order given."""

    def __init__(self, regularizers: Sequence[Regularizer]) -> None:
        def overriding(hook: str) -> list[Regularizer]:
            return [r for r in regularizers if getattr(type(r), hook) is not getattr(Regularizer, hook)]

        self.regularizers = regularizers
        self.of_objectives = overriding("objective")
        self.of_batches = overriding("on_batch")
        self.recomputing = overriding("second_pass")
        self.of_weights = overriding("penalty")
        self.of_gradients = overriding("on_gradients")
        self.projecting = overriding("project")

    def prepare(self, model: nn.Module) -> None:
        """Let each look at the model."""
        for regularizer in self.regularizers:
            regularizer.prepare(model)

    def objective(self, objective: Objective) -> Objective:
        """Return what training minimises."""
        for regularizer in self.of_objectives:
            objective = regularizer.objective(objective)
        return objective

    def on_batch(self, batch: Batch) -> Batch:
        """Return the batch to train on."""
        for regularizer in self.of_batches:
            batch = regularizer.on_batch(batch)
        return batch

    def second_pass(self, model: nn.Module, params: NamedParams, recompute: Callable[[], None]) -> None:
        """Let each compute the gradients again; statistics such as batch norm's stay those of the first pass."""

        def recompute_only_gradients() -> None:
            buffers = list(model.buffers())
            before = [buffer.clone() for buffer in buffers]
            recompute()
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)

        with torch.no_grad():
            for regularizer in self.recomputing:
                regularizer.second_pass(params, recompute_only_gradients)

    def add_penalties(self, model: nn.Module, params: NamedParams) -> Tensor | None:
        """Add the penalties' gradients to the parameters' and return their sum, or None without any.

        Not through backward: the penalty is the same on every rank, so nothing is to be reduced.
        """
        if not self.of_weights:
            return None
        penalty = torch.stack([r.penalty(model) for r in self.of_weights]).sum()
        gradients = torch.autograd.grad(penalty, list(params.values()), allow_unused=True)
        for param, gradient in zip(params.values(), gradients, strict=True):
            if gradient is not None:
                param.grad = gradient if param.grad is None else param.grad.add_(gradient)
        return penalty

    def on_gradients(self, params: NamedParams, step: int) -> None:
        """Let each change the gradients of a step."""
        for regularizer in self.of_gradients:
            regularizer.on_gradients(params, step)

    def project(self, params: NamedParams, optimizer: torch.optim.Optimizer) -> None:
        """Let each change the updated weights."""
        if not self.projecting:
            return
        rates = {p: float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
        lr = {name: rates.get(p, 0.0) for name, p in params.items()}
        with torch.no_grad():
            for regularizer in self.projecting:
                regularizer.project(params, lr)
