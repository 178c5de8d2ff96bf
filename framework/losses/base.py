"""What losses share."""

from __future__ import annotations

from torch import Tensor, nn


class ElementLoss(nn.Module):
    """A loss whose mean is over the elements of a target that has the prediction's shape."""

    def __init__(self) -> None:
        super().__init__()

    def elements(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each element."""
        raise NotImplementedError

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean over all elements, 0-d; raise ValueError where the shapes differ."""
        check_same_shape(self, prediction, target)
        return self.elements(prediction, target).mean()

    def weight(self, target: Tensor) -> int:
        """Return the number of elements."""
        return target.numel()


def check_same_shape(loss: nn.Module, prediction: Tensor, target: Tensor) -> None:
    """Raise ValueError where the shapes differ: (N, 1) against (N,) would broadcast to (N, N)."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"{type(loss).__name__}: prediction and target must have the same shape, got {tuple(prediction.shape)} "
            f"and {tuple(target.shape)}: reshape one of them."
        )
