"""A model that is its layers, one after the other."""

from __future__ import annotations

from torch import Tensor, nn


class Layered(nn.Module):
    """A model whose forward pass is that of `layers`, and nothing else: it can be trained by hand, without autograd."""

    layers: nn.Sequential

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the last layer."""
        outputs: Tensor = self.layers(inputs)
        return outputs
