"""Products of matrices whose sums are of a wider type than their factors."""

from __future__ import annotations

import torch
from torch import Tensor


def multiply(a: Tensor, b: Tensor, out: Tensor, bias: Tensor | None = None) -> None:
    """Write a b + bias, summed in the type of `out` where the device can."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    elif a.is_cuda and out.dtype == torch.float32:
        torch.mm(a, b, out_dtype=torch.float32, out=out)
    else:
        out.copy_(a.mm(b))
    if bias is not None:
        out.add_(bias)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a b to `total`, summed in its type where the device can."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda and total.dtype == torch.float32:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.add_(a.mm(b))
