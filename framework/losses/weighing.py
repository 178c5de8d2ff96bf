"""What the mean of a loss is over, for any loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from framework.losses.cross_entropy import row_weights

OVER_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
OVER_ELEMENTS = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)


def weigh(loss: Callable[..., Any], target: Any) -> Tensor | float:
    """Return the number of terms that `loss(prediction, target)` is the mean over.

    That is the loss's own `weight(target)`; for torch's losses, what they divide by; for any other callable, the
    rows of the target. Raises ValueError for a loss whose `reduction` is not a mean.
    """
    own = getattr(loss, "weight", None)
    if callable(own):
        weight: Tensor | float = own(target)
        return weight
    reduction = getattr(loss, "reduction", "mean")
    if reduction not in ("mean", "batchmean"):
        raise ValueError(f"loss {_name(loss)}: reduction must be 'mean', got {reduction!r}: leave it at its default.")
    if isinstance(loss, OVER_CLASSES):
        return _over_classes(loss, target)
    if isinstance(loss, OVER_ELEMENTS):
        return target.numel()  # type: ignore[no-any-return]  # these take one tensor
    return _rows(target)


def announce(loss: Callable[..., Any]) -> str | None:
    """Return the sentence that says that rows are counted, where the loss itself does not say what to count."""
    if callable(getattr(loss, "weight", None)) or isinstance(loss, OVER_CLASSES + OVER_ELEMENTS):
        return None
    return (
        f"loss {_name(loss)} does not say what its mean is over, so rows are counted; "
        f"if it is over anything else, give it a method weight(target) that returns the number of terms."
    )


def announce_cut(loss: Callable[..., Any], parts: int) -> str | None:
    """Return the sentence that says what becomes of a loss with `additive = False` when a step's batch is cut."""
    if parts == 1 or getattr(loss, "additive", True):
        return None
    return (
        f"loss {_name(loss)} is no mean over examples (additive = False): each of the {parts} parts of a step's batch "
        f"is taken by itself, which is not the loss of the whole batch."
    )


def _over_classes(loss: nn.CrossEntropyLoss | nn.NLLLoss, target: Tensor) -> Tensor | float:
    """Return the sum of the weights of the targets that torch does not ignore, or the rows of probabilities."""
    if target.is_floating_point():
        return target.numel() // target.shape[1 if target.ndim > 1 else 0]
    return row_weights(target, loss.ignore_index, loss.weight).sum()


def _rows(target: Any) -> int:
    """Return the first dimension of the first tensor in any nesting; 1 for a scalar."""
    tensors: list[Tensor] = []
    apply_to_collection(target, Tensor, tensors.append)
    if not tensors:
        raise ValueError(f"a target must hold a tensor whose rows can be counted, got {type(target).__name__}.")
    return tensors[0].shape[0] if tensors[0].ndim else 1


def _name(loss: Callable[..., Any]) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))
