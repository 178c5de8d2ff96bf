"""What every initializer does: find the weights, fill them, zero the biases, and say which."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_WEIGHTED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
)


class Initializer:
    """Draws anew the weights of a module's linear, convolutional and embedding layers, in place.

    `gain` multiplies what a subclass draws: `framework.initializers.gain(activation)`. Biases of the same
    layers become zero unless `zero_bias` is false; normalisation layers keep their values, an embedding's
    padding row stays zero, and a weight that two layers share is drawn once. A weight that is computed from
    others (torch's parametrizations) is left alone.
    """

    def __init__(self, gain: float = 1.0, *, zero_bias: bool = True) -> None:
        self.gain = gain
        self.zero_bias = zero_bias

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> list[str]:
        """Initialise the module and return the names of the parameters it changed."""
        touched: dict[nn.Parameter, str] = {}
        for prefix, layer in module.named_modules():
            weight = getattr(layer, "weight", None)
            if not isinstance(layer, _WEIGHTED) or not isinstance(weight, nn.Parameter):
                continue
            dot = f"{prefix}." if prefix else ""
            if weight not in touched:
                self.fill(weight)
                touched[weight] = f"{dot}weight"
                if isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
                    weight[layer.padding_idx].zero_()
            bias = getattr(layer, "bias", None)
            if self.zero_bias and isinstance(bias, nn.Parameter):
                bias.zero_()
                touched.setdefault(bias, f"{dot}bias")
        return list(touched.values())

    def fill(self, weight: Tensor) -> None:
        """Overwrite one weight of at least two dimensions; called without gradients."""
        raise NotImplementedError


def fans(weight: Tensor) -> tuple[int, int]:
    """Return a weight's (fan in, fan out), counted from its shape as torch.nn.init does.

    A weight (out, in, *kernel) feeds in · |kernel| inputs to each output, and each input to
    out · |kernel| outputs.
    """
    receptive = math.prod(weight.shape[2:])
    return weight.shape[1] * receptive, weight.shape[0] * receptive
