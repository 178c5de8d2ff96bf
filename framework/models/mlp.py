"""The feedforward network of the textbook."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from framework.models.activations import Activation, activation_layer, initialize
from framework.models.layered import Layered
from framework.models.layers import Linear
from framework.models.norms import Norm, norm_layers
from framework.registry import Count, Probability, model


@model("mlp")
class MLP(Layered):
    """Multilayer perceptron: h ← dropout(f(norm(W h + b))) for each hidden width, then logits = W h + b.

    inputs (N, *input_shape), flattened -> logits (N, outputs). The chapter's forward pass, z = W a + b and
    a = f(z), layer by layer in `layers`: Flatten, then Linear, [norm], activation, Dropout for each of
    `widths` (there may be none), then Linear. Dropout (Srivastava et al., 2014) stands there at rate 0 too.
    Initial weights: `framework.models.activations.initialize`.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int,
        *,
        widths: Sequence[Count] = (512, 256),
        activation: Activation = "relu",
        norm: Norm = "none",
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        self.activation: str = activation
        layers: list[nn.Module] = [nn.Flatten()]
        features = math.prod(input_shape)
        for width in widths:
            layers += [
                Linear(features, width),
                *norm_layers(norm, width, image=False),
                activation_layer(activation),
                nn.Dropout(dropout),
            ]
            features = width
        self.layers = nn.Sequential(*layers, Linear(features, outputs))
        initialize(self.layers, activation)
