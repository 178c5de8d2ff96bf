"""Decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from framework.registry import NonNegative, regularizer
from framework.regularizers.base import NamedParams
from framework.regularizers.weights import WeightRegularizer


@regularizer("weight_decay")
class WeightDecay(WeightRegularizer):
    """Decoupled weight decay, w ← w − ηλw after each update, for optimizers that have none.

    η is the parameter's current learning rate and λ is `strength`. AdamW's own decay acts on the weights before the
    update, which differs in the second order of η. With `exempt`, biases and normalisation parameters are spared.
    Source: Loshchilov and Hutter (2019), arXiv:1711.05101, Algorithm 2.
    """

    expected_failures: ClassVar[dict[str, str]] = {
        "project_is_idempotent": "each update shrinks the weights: a step, not a projection"
    }

    def __init__(self, *, strength: NonNegative = 1e-2, exempt: bool = True) -> None:
        super().__init__(strength=strength, exempt=exempt)

    @torch.no_grad()
    def project(self, params: NamedParams, lr: Mapping[str, float]) -> None:
        """Shrink the weights by the factor 1 − ηλ."""
        for name, param in self.chosen(params).items():
            param.mul_(1 - lr[name] * self.strength)
