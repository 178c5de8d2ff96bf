"""The nonlinearities, by name, and the initial weights that suit them."""

from __future__ import annotations

from typing import Literal

from torch import nn

from framework.errors import ConfigError, nearest
from framework.initializers import HeNormal, XavierUniform, gain

Activation = Literal["sigmoid", "tanh", "relu", "gelu", "silu"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def activation_layer(activation: str) -> nn.Module:
    """Return the layer of a name; raises ConfigError for an unknown one."""
    if activation not in ACTIVATIONS:
        raise ConfigError(f"activation '{activation}' does not exist: {nearest(activation, ACTIVATIONS)}")
    return ACTIVATIONS[activation]()


def initialize(layers: nn.Sequential, activation: str) -> None:
    """Give a model of linear and convolutional layers its initial weights.

    He normal for relu, gelu and silu, Xavier uniform for the others, with the activation's gain; the last
    layer, which no activation follows, with gain 1; biases zero.
    """
    rule = HeNormal if activation in ("relu", "gelu", "silu") else XavierUniform
    rule(gain(activation))(layers[:-1])
    rule(1.0)(layers[-1])
