"""Stochastic depth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from framework.errors import ConfigError
from framework.registry import Probability, regularizer
from framework.regularizers import Regularizer


@regularizer("stochastic_depth")
class StochasticDepth(Regularizer):
    """Leaves out residual branches at random in training, later ones more often, so that depth is learned in parts.

    h ← h + m f(h) / (1 − p) with m ~ Bernoulli(1 − p) for each example and branch in training, and h ← h + f(h) in
    evaluation; p = `rate` · l / L for the branch l of L, counted from 1. The branches are the model's
    `residual_branches`, a property that returns the modules f in order, whose output (N, ...) is added to their input.
    Source: Huang et al. (2016), arXiv:1603.09382, section 3, equation 4, whose p_L is 1 − `rate` here, taken per
    example and with the scale in training instead of evaluation.
    """

    def __init__(self, *, rate: Probability = 0.1) -> None:
        self.rate = rate

    def prepare(self, model: nn.Module) -> None:
        """Set the branches' rates; raise ConfigError where the model names no branch."""
        branches = getattr(model, "residual_branches", None)
        if not branches:
            raise ConfigError(
                f"regularizer.stochastic_depth: {type(model).__name__} has no residual_branches: choose a model that "
                f"has, such as transformer, or give it a property residual_branches that returns the list of modules "
                f"whose output is added to their input."
            )
        for number, branch in enumerate(branches, start=1):
            _drop_of(branch).rate = self.rate * number / len(branches)


class Drop:
    """The forward hook that drops a branch's output of some examples."""

    rate = 0.0

    def __call__(self, branch: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Return the output with some examples' set to 0 and the rest scaled, in training."""
        if not (branch.training and self.rate):
            return None
        kept = torch.empty(len(output), *[1] * (output.ndim - 1), dtype=output.dtype, device=output.device)
        return output * kept.bernoulli_(1 - self.rate).div_(1 - self.rate)


def _drop_of(branch: nn.Module) -> Drop:
    """Return the one hook of a branch, which may be there from a training before."""
    for hook in branch._forward_hooks.values():
        if isinstance(hook, Drop):
            return hook
    drop = Drop()
    branch.register_forward_hook(drop)
    return drop
