"""A small convolutional network for images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from framework.errors import ConfigError
from framework.models.activations import Activation, activation_layer, initialize
from framework.models.layered import Layered
from framework.models.layers import Linear
from framework.models.norms import Norm, norm_layers
from framework.registry import Count, Probability, Size, model


@model("convnet")
class ConvNet(Layered):
    """Convolutional network: conv, [norm], activation, 2×2 max pooling for each stage, then linear layers.

    images (N, C, H, W), or (N, H, W) for an `input_shape` (H, W) -> logits (N, outputs), as LeCun et al.
    (1998) arrange them, in `layers`. Convolutions have `channels` output channels and are padded by
    kernel // 2; a pooling halves height and width, rounded down. The head has one hidden layer, or none at
    `hidden` 0; dropout stands before each of its linear layers (Krizhevsky et al., 2012, section 4.2).
    Initial weights: `framework.models.activations.initialize`.

    Raises ConfigError for an input_shape that is no image's, or too small for so many poolings.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int,
        *,
        channels: Sequence[Count] = (32, 64),
        kernel: Count = 3,
        activation: Activation = "relu",
        norm: Norm = "none",
        dropout: Probability = 0.0,
        hidden: Size = 128,
    ) -> None:
        super().__init__()
        self.activation: str = activation
        depth, height, width = _image(input_shape)
        layers: list[nn.Module] = [nn.Unflatten(1, (1, height))] if len(input_shape) == 2 else []
        for stage, channel in enumerate(channels):
            layers += [
                nn.Conv2d(depth, channel, kernel, padding=kernel // 2),
                *norm_layers(norm, channel, image=True),
                activation_layer(activation),
                nn.MaxPool2d(2),
            ]
            depth, height, width = channel, _pooled(height, kernel), _pooled(width, kernel)
            if min(height, width) < 1:
                raise ConfigError(
                    f"model 'convnet': {len(channels)} poolings leave nothing of an image {input_shape}; "
                    f"give at most {stage} channels, such as model.channels={list(channels[:stage])}."
                )
        layers.append(nn.Flatten())
        features = depth * height * width
        if hidden:
            layers += [nn.Dropout(dropout), Linear(features, hidden), activation_layer(activation)]
            features = hidden
        self.layers = nn.Sequential(*layers, nn.Dropout(dropout), Linear(features, outputs))
        initialize(self.layers, activation)


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return an image's (channels, height, width)."""
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    raise ConfigError(
        f"model 'convnet' needs images (C, H, W) or (H, W), got inputs of shape {tuple(shape)}; "
        f"use model=mlp for other shapes."
    )


def _pooled(size: int, kernel: int) -> int:
    """Return a side's length after a padded convolution and a 2×2 pooling."""
    return (size + 2 * (kernel // 2) - kernel + 1) // 2
