"""The normalisations between a weighted layer and its activation."""

from __future__ import annotations

from typing import Literal

from torch import nn

from framework.errors import ConfigError, nearest

Norm = Literal["none", "batch", "layer"]


def norm_layers(norm: str, features: int, *, image: bool) -> list[nn.Module]:
    """Return the layers of a name, one or none, for (N, features) or for images (N, features, H, W).

    `batch` normalises each feature over the batch (Ioffe & Szegedy, 2015, arXiv:1502.03167, algorithm 1),
    `layer` each example over its features (Ba et al., 2016, arXiv:1607.06450, eq. 3), in images over their
    positions too.
    Raises ConfigError for an unknown name.
    """
    if norm == "none":
        return []
    if norm == "batch":
        return [nn.BatchNorm2d(features) if image else nn.BatchNorm1d(features)]
    if norm == "layer":
        return [nn.GroupNorm(1, features) if image else nn.LayerNorm(features)]
    raise ConfigError(f"norm '{norm}' does not exist: {nearest(norm, ('none', 'batch', 'layer'))}")
