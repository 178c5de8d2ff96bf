"""Max-norm constraint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from framework.parameters import exempt_from_decay, named_parameters
from framework.registry import Positive, regularizer
from framework.regularizers.base import NamedParams, Regularizer

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@regularizer("max_norm")
class MaxNorm(Regularizer):
    """Keeps the norm of each unit's incoming weights at or below a limit.

    w ← w · min(1, c / ‖w‖₂) after each update, for the vector w of all weights into one unit; c is `limit`. Units are
    counted by a weight's first dimension (a transposed convolution's by its second). Biases, normalisation parameters
    and embeddings, which no unit's inputs are multiplied by, are left alone.
    Source: Srivastava et al. (2014), JMLR 15:1929-1958, section 5.1.
    """

    def __init__(self, *, limit: Positive = 3.0) -> None:
        self.limit = limit
        self.groups: dict[str, int] = {}

    def prepare(self, model: nn.Module) -> None:
        """Find the weights, and the groups of transposed convolutions, which have units in their second dimension."""
        layers = {id(p): module for module in model.modules() for p in module.parameters(recurse=False)}
        spared = exempt_from_decay(model)
        for name, param in named_parameters(model).items():
            layer = layers[id(param)]
            if name not in spared and param.ndim > 1 and not isinstance(layer, nn.Embedding):
                self.groups[name] = layer.groups if isinstance(layer, TRANSPOSED) else 0

    @torch.no_grad()
    def project(self, params: NamedParams, lr: Mapping[str, float]) -> None:
        """Shorten the vectors that are too long."""
        for name, groups in self.groups.items():
            weight: Tensor = params[name]
            units: tuple[int, ...] = (0,)
            if groups:
                weight, units = weight.view(groups, -1, *weight.shape[1:]), (0, 2)
            inputs = [d for d in range(weight.ndim) if d not in units]
            norm = torch.linalg.vector_norm(weight, dim=inputs, keepdim=True)
            weight.mul_(torch.where(norm > self.limit, self.limit / norm, 1.0))
