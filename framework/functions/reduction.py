"""What the losses over elements share: the check of their arguments, the mean or sum, and its gradient."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def check_elements(name: str, prediction: Tensor, target: Tensor, reduction: str) -> None:
    """Raise ValueError where the shapes differ, (N, 1) against (N,) would broadcast, or for another reduction."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"{name}: prediction and target must have the same shape, got {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}: reshape one of them."
        )
    check_reduction(name, reduction)


def check_reduction(name: str, reduction: str) -> None:
    """Raise ValueError where the reduction is none that there is."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"{name}: reduction must be one of {', '.join(get_args(Reduction))}, got {reduction!r}.")


def reduce(elements: Tensor, reduction: str) -> Tensor:
    """Return the mean of all elements, their sum, or the elements."""
    if reduction == "mean":
        return elements.mean()
    return elements.sum() if reduction == "sum" else elements


def of_each(delta: Tensor, reduction: str, count: int, factor: float = 1.0) -> Tensor:
    """Return `factor` times the gradient by each of `count` elements, given δ, that by their reduction."""
    if reduction == "mean":
        factor /= max(count, 1)
    return delta if factor == 1 else delta * factor
