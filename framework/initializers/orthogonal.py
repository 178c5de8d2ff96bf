"""Weights that rotate."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.initializers.base import Initializer
from framework.registry import initializer


@initializer("orthogonal")
class Orthogonal(Initializer):
    """Weights with orthonormal rows or columns, whichever are fewer, times the gain.

    W = gain · Q of the QR decomposition of a normal matrix, its columns' signs such that diag(R) > 0, which
    makes Q uniform over the orthogonal matrices. Saxe et al. (2014, arXiv:1312.6120), section 3. A weight
    (out, in, *kernel) counts as a matrix (out, in · |kernel|).
    """

    def fill(self, weight: Tensor) -> None:
        """Overwrite one weight."""
        dtype = torch.promote_types(weight.dtype, torch.float32)  # half precision has no QR
        matrix = torch.randn(weight.flatten(1).shape, device=weight.device, dtype=dtype)
        wide = matrix.shape[0] < matrix.shape[1]
        q, r = torch.linalg.qr(matrix.T if wide else matrix)
        q *= r.diagonal().sign()
        weight.copy_((q.T if wide else q).reshape(weight.shape)).mul_(self.gain)
