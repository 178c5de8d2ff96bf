"""The model without hidden layers."""

from __future__ import annotations

import math

from torch import nn

from framework.models import layers
from framework.models.activations import initialize
from framework.models.layered import Layered
from framework.registry import model


@model("linear")
class Linear(Layered):
    """Linear (for classes, logistic) regression: logits = W x + b.

    inputs (N, *input_shape), flattened -> logits (N, outputs). Weights start Xavier uniform, biases zero.
    """

    activation = "linear"

    def __init__(self, input_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), layers.Linear(math.prod(input_shape), outputs))
        initialize(self.layers, self.activation)
